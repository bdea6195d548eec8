r"""The kernels of infinitely wide networks: the compositional recursion, as on the page."""

import torch
from torch import Tensor

from . import _validation as check_that
from .activations import Activation, get
from .covariance import Covariance, gram

# The steps of the recursion run over a block of pairs while it is in the processor's cache.
PAIRS_AT_ONCE = 2**17


def recursion(
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Carry :math:`\Lambda^{(0)} = K^{(0)}` through the hidden layers to the NNGP and the NTK."""
    K = Lambda.cov
    for _ in range(depth):
        Lambda_dot = weight_var * phi.derivative_moments(Lambda)
        Lambda = weight_var * phi.moments(Lambda) + bias_var
        K = Lambda.cov + Lambda_dot * K
    return Lambda.cov, K


def _kernels(x1, x2, depth, activation, weight_std, bias_std) -> tuple[Tensor, Tensor]:
    x1, x2 = check_that.require_pair(x1, x2)
    depth = check_that.require_count(depth, "depth", least=0)
    weight_var = check_that.require_scale(weight_std, "weight_std") ** 2
    bias_var = check_that.require_scale(bias_std, "bias_std") ** 2
    return kernels(x1, x2, get(activation), depth, weight_var, bias_var)


def kernels(
    x1: Tensor,
    x2: Tensor,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """The NNGP and the NTK, shape (n1, n2), differentiable in forward mode by the variances."""
    symmetric = x1 is x2
    rows = max(1, PAIRS_AT_ONCE // max(1, len(x2)))
    blocks = []
    for i, part in zip(range(0, max(1, len(x1)), rows), x1.split(rows)):
        done = i if symmetric else 0  # the columns that an earlier block has, as rows
        Lambda = weight_var * gram(part, x2[done:]) + bias_var
        kernels = recursion(Lambda, phi, depth, weight_var, bias_var)
        blocks.append([torch.nn.functional.pad(kernel, (done, 0)) for kernel in kernels])
    nngp, ntk = (torch.cat(kernel) for kernel in zip(*blocks))
    if symmetric:
        nngp, ntk = (kernel.triu() + kernel.triu(1).T for kernel in (nngp, ntk))
    return nngp, ntk


def diagonals(
    x: Tensor, phi: Activation, depth: int, weight_var: float, bias_var: float
) -> tuple[Tensor, Tensor]:
    """The diagonals of the NNGP and the NTK of ``x`` with itself, shape (n,)."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    same = Covariance(norm, norm, torch.ones_like(norm), torch.zeros_like(norm))  # n pairs
    nngp, ntk = recursion(weight_var * same + bias_var, phi, depth, weight_var, bias_var)
    return nngp.squeeze(1), ntk.squeeze(1)


def nngp(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Tensor:
    r"""Return the NNGP kernel of an infinitely wide network, shape (n1, n2).

    The covariance of the outputs :math:`f(x), f(\tilde x)` of :class:`ntkutils.MLP` at
    initialization:
    :math:`\Lambda^{(l)} = \sigma_w^2 E[\phi(u)\phi(v)] + \sigma_b^2` with :math:`(u,v)` Gaussian of
    covariance :math:`\Lambda^{(l-1)}`, from
    :math:`\Lambda^{(0)} = \sigma_w^2\, x\cdot\tilde x + \sigma_b^2`.
    neural-tangents divides the first inner product by d: its kernel at inputs times sqrt(d) is ours.

    Args:
        x1: data points, shape (n1, d), float32 or float64.
        x2: data points, shape (n2, d); ``x1`` if not given.
        depth: the number L of hidden layers; 0 is a linear model.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w, multiplies the weights, which are N(0, 1).
        bias_std: sigma_b, multiplies the biases, which are N(0, 1).

    Raises:
        TypeError, ValueError: for input that is not as above, naming what was expected and what came.

    Source: Lee et al. 2018 (arXiv:1711.00165), eqs. 4-5, in the NTK parameterization.
    """
    return _kernels(x1, x2, depth, activation, weight_std, bias_std)[0]


def ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Tensor:
    r"""Return the neural tangent kernel of an infinitely wide network, shape (n1, n2).

    :math:`K^{(l)} = \Lambda^{(l)} + \sigma_w^2 E[\phi'(u)\phi'(v)]\, K^{(l-1)}` with :math:`(u,v)`
    Gaussian of covariance :math:`\Lambda^{(l-1)}`, and :math:`K^{(0)} = \Lambda^{(0)}`; see
    :func:`nngp` for :math:`\Lambda`, the arguments and the errors.
    neural-tangents divides the first inner product by d: its kernel at inputs times sqrt(d) is ours.

    Source: Jacot, Gabriel & Hongler 2018 (arXiv:1806.07572), Theorem 1, with unit-variance weights.
    """
    return _kernels(x1, x2, depth, activation, weight_std, bias_std)[1]
