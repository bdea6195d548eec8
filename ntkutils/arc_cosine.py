r"""The kernels of ReLU networks without biases, in place: what most people compute most of the time.

Without biases the norms of a ReLU network's inputs factor out, and its kernels are functions of the
angle:
:math:`\Lambda^{(L)} = |x|\,|\tilde x|\,\sigma_w^{2(L+1)}\xi_L` and the same with :math:`\kappa_L` for
the NTK,

.. math::

    \xi_{l+1} = \xi_l + (\sin\theta_l - \theta_l\cos\theta_l)/\pi, \qquad
    \kappa_{l+1} = \xi_{l+1} + (1-\theta_l/\pi)\,\kappa_l, \qquad
    \cos\theta_l = \xi_l, \quad \kappa_0 = \xi_0 .

These are the steps of :func:`ntkutils.recursion.recursion`, to which the tests hold them; but they write
over their own memory, which stays in the processor's cache, and that makes them two to three times as fast.
Source: Cho & Saul 2009 (NIPS 22), eqs. 4-6, 13.
"""

import math

import torch
from torch import Tensor

from . import closed_forms
from .activations import Activation
from .covariance import Covariance


def arc_cosine_takes(phi: Activation, bias_var: float | Tensor) -> bool:
    """Whether :func:`arc_cosine` can take a network: a ReLU's, by whatever name, without biases.

    That is, one of which :func:`ntkutils.recursion.recursion` would ask a ReLU's expectations.
    """
    is_relu = phi.moments is closed_forms.relu and phi.derivative_moments is closed_forms.relu_slopes
    return is_relu and bool(bias_var == 0)


def arc_cosine(
    which: str,
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    """Return the "nngp" or the "ntk", shape (n1, n2), of inputs whose inner products are ``Lambda``.

    Nothing is recorded for automatic differentiation, and ``Lambda``'s angles are used up.
    """
    xi, gap, sine = Lambda.xi, Lambda.gap, Lambda.sin2.sqrt_()
    result = xi.clone() if which == "ntk" else xi  # kappa, or what xi becomes
    theta, one = torch.empty_like(xi), torch.ones_like(xi[:1, :1])
    for layer in range(depth):
        if layer > 0:
            torch.addcmul(gap, gap, xi, out=sine).sqrt_()  # of (1 - xi)(1 + xi)
        torch.atan2(sine, xi, out=theta)
        sine.addcmul_(theta, xi, value=-1)
        # with all its digits, which 1 - xi would lose; below 0 by rounding, where theta < 1e-16
        gap.sub_(sine, alpha=1 / math.pi).clamp_(min=0)
        torch.sub(one, gap, out=xi)
        if which == "ntk":
            result.addcmul_(theta, result, value=-1 / math.pi).add_(xi)
    try:
        scale = weight_var ** ((depth + 1) / 2)
    except OverflowError:
        scale = math.inf
    return result.mul_(scale * Lambda.sd1).mul_(scale * Lambda.sd2)
