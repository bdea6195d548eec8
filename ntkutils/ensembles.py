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
from . import dynamics
from .dynamics import Flow, Solver
from .recursion import nngp, ntk

Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian law of the outputs at m test points.

    Several outputs are independent and share one covariance.

    Attributes:
        mean: shape (m,), or (m, o) for o outputs; after a leading axis of times when these were several.
        covariance: shape (m, m), likewise. It is symmetric, and its diagonal is not negative; other
            eigenvalues are at least 0 up to rounding.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> law = nu.posterior(x, y, x, depth=1)  # without noise, at the training points
        >>> torch.allclose(law.mean, y), bool(law.covariance.abs().max() < 1e-12)
        (True, True)
    """

    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance at each test point, the covariance's diagonal, shape (m,) or (times, m)."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def std(self) -> Tensor:
        """The standard deviation at each test point, shape (m,) or (times, m)."""
        return self.variance.sqrt()


def trained_ensemble(
    x: Tensor,
    targets: Tensor,
    x_test: Tensor,
    time: float | Tensor = math.inf,
    *,
    learning_rate: float | Tensor | None = None,
    ridge: float | Tensor = 0.0,
    kernels: tuple[Kernel, Kernel] = (ntk, nngp),
    **network: Any,
) -> Gaussian:
    r"""Return mean and covariance, over the random start, of infinitely wide trained networks.

    With :math:`S_t(x) = K(x,X)\,K^{-1}(I - e^{-Kt})`, K the NTK and :math:`\Sigma` the NNGP kernel,
    the mean is :math:`S_t(x)\,y` and the covariance

    .. math:: \Sigma(x,\tilde x) + S_t(x)\,\Sigma(X,X)\,S_t(\tilde x)^T
        - S_t(x)\,\Sigma(X,\tilde x) - \Sigma(x,X)\,S_t(\tilde x)^T .

    It is that of :math:`f_0(x) - S_t(x)f_0(X)`, so positive semidefinite whatever :math:`S_t` is.
    Each of several outputs has this covariance, and they are independent.
    In general it is no posterior, see :func:`posterior`; at infinite time it is one where K is a
    multiple of :math:`\Sigma`, as for a Hermite polynomial and one hidden layer. In neural-tangents:
    ``nt.predict.gradient_descent_mse_ensemble``, whose time is ours times the number n of targets.
    At infinite time :math:`S_t` is the solution of a linear system, by Cholesky; see
    :func:`ntkutils.gradient_flow`, also for derivatives.

    Args:
        x: training points, shape (n, d).
        targets: y, shape (n,), or (n, o) for o outputs.
        x_test: test points, shape (m, d).
        time: of gradient flow on half the *sum* of squares, ``math.inf`` included; a number, or a
            vector of them. With a learning rate: the number of steps of gradient descent.
        learning_rate: of gradient descent; gradient flow if not given.
        ridge: lambda of a penalty :math:`\tfrac\lambda2|w-w^{(0)}|^2` on the weights.
        kernels: K and :math:`\Sigma`, functions of one or two sets of points and the network's
            options. Matrices that were computed before are such functions of indices, see the example.
        network: depth, activation, weight_std, bias_std, as for :func:`ntkutils.ntk`.

    Raises:
        SingularKernelError, DivergedError, TypeError, ValueError: as :func:`ntkutils.gradient_flow`,
            :func:`ntkutils.gradient_descent` and :func:`ntkutils.ntk`.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> start, end = (nu.trained_ensemble(x, y, x, time, depth=1) for time in (0.0, torch.inf))
        >>> torch.allclose(start.covariance, nu.nngp(x, depth=1)), torch.allclose(end.mean, y)
        (True, True)
        >>> K, Sigma = nu.ntk(x, depth=1), nu.nngp(x, depth=1)  # computed before
        >>> def look_up(matrix):
        ...     return lambda i, j=None: matrix[i][:, i if j is None else j]
        >>> kernels, points = (look_up(K), look_up(Sigma)), torch.arange(2)
        >>> torch.equal(nu.trained_ensemble(points, y, points, kernels=kernels).mean, end.mean)
        True

    Source: Lee et al. 2019 (arXiv:1902.06720), eqs. 14-15 and section 2.3.2.
    """
    y = _targets(x, targets)
    training: Flow | dynamics.Descent = Flow()
    if learning_rate is None:
        amounts = dynamics.amounts_of(time, "time")
    else:
        amounts, training = dynamics.steps_of(time, learning_rate)
    ridge = dynamics.number_of(ridge, "ridge")
    K, K_test, _ = _blocks(kernels[0], x, x_test, y, network, prior=False)
    Sigma, Sigma_test, prior = _blocks(kernels[1], x, x_test, y, network)

    def law(solver: Solver) -> list[Tensor]:
        learned = [F_rows.T for F_rows, _ in solver(K_test.T)]
        S = dynamics.together(learned, amounts, K_test)
        cross = S @ Sigma_test.T
        covariance = prior + S @ Sigma @ S.mT - cross - cross.mT

        def rounding() -> Tensor:
            size = prior.diagonal().abs().sqrt() + (S.abs() * Sigma.diagonal().abs().sqrt()).sum(-1)
            return (len(x) + 100) * torch.finfo(S.dtype).eps * size.detach() ** 2

        return [S @ y, _semidefinite(covariance, rounding)]

    solver = Solver(K, ridge, amounts, training)
    results = law(solver)
    dynamics.require_finite(results, solver)
    again = lambda K: law(Solver(K, ridge, amounts, training))  # noqa: E731
    dynamics.require_steady(results, again, K, solver.amplification, _scale(y, prior))
    return Gaussian(*results)


def posterior(
    x: Tensor,
    targets: Tensor,
    x_test: Tensor,
    *,
    kernel: Kernel = nngp,
    noise: float | Tensor = 0.0,
    **network: Any,
) -> Gaussian:
    r"""Return a Gaussian process with mean 0 given the data.

    The mean is :math:`K(x,X)(K+\text{noise}\,I)^{-1}y` and the covariance

    .. math:: K(x,\tilde x) - K(x,X)(K+\text{noise}\,I)^{-1}K(X,\tilde x) .

    Each of several outputs has this covariance, and they are independent.
    With the NNGP kernel it is
    the law of infinitely wide networks given that they fit the data, and of networks whose last
    layer alone is trained; with the NTK it is in general the law of no network. In neural-tangents:
    ``nt.predict.gp_inference``.

    By one Cholesky factorization, :math:`LL^T = K+\text{noise}\,I`, as
    :math:`K(x,\tilde x) - W^TW` with :math:`W = L^{-1}K(X,\tilde x)`. Derivatives of any order, in both
    modes, are followed into the points, the targets and the noise.

    Args:
        x: training points, shape (n, d).
        targets: y, shape (n,), or (n, o) for o outputs.
        x_test: test points, shape (m, d).
        kernel: a function of one or two sets of points and the network's options, such as
            :func:`ntkutils.nngp`.
        noise: variance of the noise in the targets; a number, or a tensor of one to have a
            derivative in it.
        network: depth, activation, weight_std, bias_std, passed on to the kernel.

    Raises:
        SingularKernelError: when the kernel plus noise is singular, or so nearly that rounding decides
            the law, as :func:`ntkutils.gradient_flow` says.
        TypeError, ValueError: for input that does not fit together, and as the kernel.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> law = nu.posterior(x, y, x, depth=0, noise=1.0)  # the kernel is x·x, here the identity
        >>> law.mean, law.variance
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))

    Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eqs. 2.22-2.24 and
    algorithm 2.1.
    """
    y = _targets(x, targets)
    noise = dynamics.number_of(noise, "noise")
    K, rows, prior = _blocks(kernel, x, x_test, y, network)
    dynamics.require_symmetric(K)

    def law(K: Tensor) -> tuple[list[Tensor], float]:
        K = (K + K.T) / 2
        system = dynamics.plus_ridge(K, noise)
        lower, ratio = dynamics.factor(system, K, noise, "noise")
        W, z = torch.linalg.solve_triangular(
            lower, torch.cat([rows.T, y.reshape(len(y), -1)], 1), upper=False
        ).split([len(rows), y[:1].numel()], 1)

        def rounding() -> Tensor:
            B: Tensor = torch.linalg.solve_triangular(lower.detach().T, W.detach(), upper=True)
            size = (B.abs() * system.detach().diagonal().sqrt()[:, None]).sum(0) ** 2
            total: Tensor = prior.detach().diagonal().abs() + size
            return (len(x) + 100) * torch.finfo(K.dtype).eps * total

        mean = (W.T @ z).reshape(len(rows), *y.shape[1:])
        return [mean, _semidefinite(prior - W.T @ W, rounding)], ratio

    results, amplified = law(K)
    dynamics.require_steady(results, lambda K: law(K)[0], K, amplified, _scale(y, prior), "noise")
    return Gaussian(*results)


def _blocks(
    kernel: Kernel, x: Tensor, x_test: Tensor, y: Tensor, network: dict[str, Any], prior: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel of the training points, of test with training points, and of the test points."""
    n, m = len(x), len(x_test)
    blocks = [(kernel(x, **network), (n, n)), (kernel(x_test, x, **network), (m, n))]
    if prior:
        blocks.append((kernel(x_test, **network), (m, m)))
    for block, shape in blocks:
        check_that.require_tensor(block, "kernel")
        check_that.require_alike(block, y, "kernel", "targets")
        check_that.require_shape(block, shape, "kernel", "what it gives for the points")
    K, rows, *test = (block for block, _ in blocks)
    return K, rows, test[0] if test else K[:0]


def _semidefinite(covariance: Tensor, rounding: Callable[[], Tensor]) -> Tensor:
    """A covariance, made exactly symmetric; what is negative on its diagonal by rounding becomes 0.

    Its derivatives stay those of the formula.

    Raises:
        ValueError: where a variance is more negative than ``rounding()`` can make it.
    """
    covariance = (covariance + covariance.mT) / 2
    variance = covariance.detach().diagonal(dim1=-2, dim2=-1)
    if not (variance < 0).any():
        return covariance
    if (variance < -rounding()).any():
        raise ValueError(
            "kernel: expected a positive semidefinite one of training and test points together, "
            f"got a variance of {variance.min().item():.3g}"
        )
    return covariance + torch.diag_embed(-variance.clamp(max=0))


def _scale(y: Tensor, prior: Tensor) -> float:
    """The largest number that a law is made from: an error is small beside it."""
    sizes = (a.detach().abs() for a in (y, prior.diagonal()))
    return max((a.max().item() for a in sizes if a.numel()), default=0.0)


def _targets(x: Tensor, targets: object) -> Tensor:
    if isinstance(x, Tensor) and not len(x):
        raise ValueError("x: expected at least one training point, got none")
    y = check_that.require_tensor(targets, "targets")
    n = len(x)
    if y.ndim not in (1, 2) or len(y) != n or not y.numel():
        raise ValueError(
            f"targets: expected shape ({n},), one a training point, or ({n}, o) for o outputs, "
            f"got {tuple(y.shape)}"
        )
    return y
