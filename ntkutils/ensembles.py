r"""The law of infinitely wide networks after training, and the posteriors it is mistaken for.

An infinitely wide network predicts :math:`f_t(x) = f_0(x) + S_t(x)\,(y - f_0(X))`, linear in the
initial function, which is a Gaussian process with the NNGP kernel. So the trained one is Gaussian.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _validation as check_that
from .dynamics import Prediction, gradient_descent, gradient_flow
from .recursion import nngp, ntk


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian law of the outputs at m test points.

    Attributes:
        mean: shape (m,), after a leading axis of times when these were several.
        covariance: shape (m, m), likewise.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> law = nu.posterior(x, y, x, depth=1)  # without noise, at the training points
        >>> torch.allclose(law.mean, y), bool(law.covariance.abs().max() < 1e-12)
        (True, True)
    """

    mean: Tensor
    covariance: Tensor


def trained_ensemble(
    x: Tensor,
    targets: Tensor,
    x_test: Tensor,
    time: float | Tensor = math.inf,
    *,
    learning_rate: float | None = None,
    ridge: float = 0.0,
    **network: Any,
) -> Gaussian:
    r"""Return mean and covariance, over the random start, of infinitely wide trained networks.

    With :math:`S_t(x) = K(x,X)\,K^{-1}(I - e^{-Kt})`, K the NTK and :math:`\Sigma` the NNGP kernel,
    the mean is :math:`S_t(x)\,y` and the covariance

    .. math:: \Sigma(x,\tilde x) + S_t(x)\,\Sigma(X,X)\,S_t(\tilde x)^T
        - S_t(x)\,\Sigma(X,\tilde x) - \Sigma(x,X)\,S_t(\tilde x)^T .

    It is no posterior, see :func:`posterior`. In neural-tangents:
    ``nt.predict.gradient_descent_mse_ensemble``, whose time is ours times the number n of targets.

    Args:
        x: training points, shape (n, d).
        targets: y, shape (n,).
        x_test: test points, shape (m, d).
        time: of gradient flow on half the *sum* of squares, ``math.inf`` included; a number, or a
            vector of them. With a learning rate: the number of steps of gradient descent.
        learning_rate: of gradient descent; gradient flow if not given.
        ridge: lambda of a penalty :math:`\tfrac\lambda2|w-w^{(0)}|^2` on the weights.
        network: depth, activation, weight_std, bias_std, as for :func:`ntkutils.ntk`.

    Raises:
        SingularKernelError, TypeError, ValueError: as :func:`ntkutils.gradient_flow`,
            :func:`ntkutils.gradient_descent` and :func:`ntkutils.ntk`.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> start, end = (nu.trained_ensemble(x, y, x, time, depth=1) for time in (0.0, torch.inf))
        >>> torch.allclose(start.covariance, nu.nngp(x, depth=1)), torch.allclose(end.mean, y)
        (True, True)

    Source: Lee et al. 2019 (arXiv:1902.06720), eqs. 14-15 and section 2.3.2.
    """
    K, K_test = ntk(x, **network), ntk(x_test, x, **network)
    Sigma, Sigma_test = nngp(x, **network), nngp(x_test, x, **network)
    if learning_rate is None:
        trained = gradient_flow(K, _one_each(x), time, test_kernel=K_test, ridge=ridge)
    else:
        trained = gradient_descent(
            K, _one_each(x), time, learning_rate=learning_rate, test_kernel=K_test, ridge=ridge
        )
    S = _at_test_points(trained)
    cross = S @ Sigma_test.T
    covariance = nngp(x_test, **network) + S @ Sigma @ S.mT - cross - cross.mT
    return Gaussian(S @ _targets(x, targets), covariance)


def posterior(
    x: Tensor,
    targets: Tensor,
    x_test: Tensor,
    *,
    kernel: Callable[..., Tensor] = nngp,
    noise: float = 0.0,
    **network: Any,
) -> Gaussian:
    r"""Return a Gaussian process with mean 0 given the data.

    The mean is :math:`K(x,X)(K+\text{noise}\,I)^{-1}y` and the covariance

    .. math:: K(x,\tilde x) - K(x,X)(K+\text{noise}\,I)^{-1}K(X,\tilde x) .

    With the NNGP kernel it is
    the law of infinitely wide networks given that they fit the data, and of networks whose last
    layer alone is trained; with the NTK it is the law of no network. In neural-tangents:
    ``nt.predict.gp_inference``.

    Args:
        x: training points, shape (n, d).
        targets: y, shape (n,).
        x_test: test points, shape (m, d).
        kernel: a function of two sets of points and the network's options, such as
            :func:`ntkutils.nngp`.
        noise: variance of the noise in the targets.
        network: depth, activation, weight_std, bias_std, passed on to the kernel.

    Raises:
        SingularKernelError, TypeError, ValueError: as :func:`ntkutils.gradient_flow` and the kernel.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> law = nu.posterior(x, y, x, depth=0, noise=1.0)  # the kernel is x·x, here the identity
        >>> law.mean, law.covariance.diagonal()
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eqs. 2.22-2.24.
    """
    K, K_test = kernel(x, **network), kernel(x_test, x, **network)
    B = _at_test_points(gradient_flow(K, _one_each(x), test_kernel=K_test, ridge=noise))
    return Gaussian(B @ _targets(x, targets), kernel(x_test, **network) - B @ K_test.T)


def _one_each(x: Tensor) -> Tensor:
    """Targets that are 1 at one point each: what is learned from them is S or B."""
    if not len(x):
        raise ValueError("x: expected at least one training point, got none")
    return torch.eye(len(x), dtype=x.dtype, device=x.device)


def _at_test_points(prediction: Prediction) -> Tensor:
    assert prediction.test is not None  # since there was a test kernel
    return prediction.test


def _targets(x: Tensor, targets: object) -> Tensor:
    y = check_that.require_tensor(targets, "targets")
    check_that.require_alike(x, y, "x", "targets")
    check_that.require_shape(y, (len(x),), "targets", "one a training point")
    return y
