r"""Training a linear model: its predictions during and after training, in closed form.

The model is :math:`f(x) = f_0(x) + \psi(x)\cdot(w - w^{(0)})` with kernel
:math:`K = \psi(X)\psi(X)^T`, and the loss :math:`\tfrac12\sum_i (f(x_i)-y_i)^2`, a *sum* over the
data points. (neural-tangents takes half the *mean* over all targets: its time and learning rate are
ours times the number of targets.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _validation as check_that
from ._validation import SingularKernelError


@dataclass(frozen=True)
class Prediction:
    """What the linear model predicts after training.

    Attributes:
        train: at the training points, the shape of the targets, after a leading axis of times
            when these were several.
        test: at the test points, likewise; None without test points.
        eigenvalues: of the training kernel plus ridge, ascending.

    Example:
        >>> K = torch.tensor([4.0, 1.0]).double().diag()
        >>> prediction = nu.gradient_flow(K, torch.ones(2).double())
        >>> prediction.eigenvalues.tolist(), prediction.condition_number, prediction.test
        ([1.0, 4.0], 4.0, None)
    """

    train: Tensor
    test: Tensor | None
    eigenvalues: Tensor

    @property
    def condition_number(self) -> float:
        """The largest eigenvalue over the smallest; infinite when that is not positive."""
        low, high = self.eigenvalues[0].item(), self.eigenvalues[-1].item()
        return high / low if low > 0 else math.inf


def gradient_flow(
    kernel: Tensor,
    targets: Tensor,
    time: float | Tensor = math.inf,
    *,
    initial: Tensor | None = None,
    test_kernel: Tensor | None = None,
    test_initial: Tensor | None = None,
    ridge: float = 0.0,
) -> Prediction:
    r"""Return the predictions after gradient flow :math:`\dot w = -\nabla\mathrm{loss}` for a time.

    .. math:: f_t(x) = f_0(x) - K(x,X)\,K^{-1}(I - e^{-Kt})\,(f_0(X) - y) .

    In neural-tangents:
    ``nt.predict.gradient_descent_mse(K, y)(n·o·t, f0_train, f0_test, K_test)``, where n·o is the
    number of targets.

    Args:
        kernel: the training kernel, shape (n, n), or (n, n, o, o) as :func:`ntkutils.empirical_ntk`
            gives it for o outputs.
        targets: y, shape (n,) or (n, o).
        time: t, at least 0, ``math.inf`` included; a number, or a vector of them.
        initial: f_0 at the training points, shaped as ``targets``; 0 if not given.
        test_kernel: K(test, train), shape (m, n) or (m, n, o, o); no test predictions if not given.
        test_initial: f_0 at the test points; 0 if not given.
        ridge: lambda of a penalty :math:`\tfrac\lambda2|w-w^{(0)}|^2` on the weights, added to the
            kernel's diagonal.

    Raises:
        SingularKernelError: when the kernel plus ridge is singular to the precision of its dtype and
            the time is infinite, or so long that rounding would decide what has been learned.
        TypeError, ValueError: for input that does not fit together, is not finite, or a kernel that is
            not symmetric positive semidefinite.

    Example:
        >>> K = torch.tensor([1.0, 2.0]).double().diag()
        >>> y = torch.ones(2).double()
        >>> log_2 = torch.tensor(2.0).double().log()
        >>> nu.gradient_flow(K, y, time=log_2).train  # 1 - exp(-eigenvalue·t)
        tensor([0.5000, 0.7500], dtype=torch.float64)

    Source: Jacot, Gabriel & Hongler 2018 (arXiv:1806.07572), section 5; Lee et al. 2019
    (arXiv:1902.06720), eqs. 9-11, with a learning rate of 1.
    """
    times = _amounts(time, "time")

    def learned(eigenvalue: Tensor, t: Tensor) -> Tensor:
        return -torch.expm1(-eigenvalue * t)

    return _predict(kernel, targets, times, learned, initial, test_kernel, test_initial, ridge, slope=1.0)


def gradient_descent(
    kernel: Tensor,
    targets: Tensor,
    steps: float | Tensor = math.inf,
    *,
    learning_rate: float,
    initial: Tensor | None = None,
    test_kernel: Tensor | None = None,
    test_initial: Tensor | None = None,
    ridge: float = 0.0,
) -> Prediction:
    r"""Return the predictions after full-batch gradient descent for a number of steps.

    .. math:: f_s(x) = f_0(x) - K(x,X)\,K^{-1}\big(I - (I-\eta K)^s\big)\,(f_0(X) - y) ,

    which converges as s grows if and only if :math:`\eta < 2/\lambda_{\max}`.

    Args:
        kernel: the training kernel, shape (n, n) or (n, n, o, o).
        targets: y, shape (n,) or (n, o).
        steps: s, whole numbers of at least 0, ``math.inf`` included; a number, or a vector of them.
        learning_rate: eta, for the loss with a sum, not a mean, over data points.
        initial: f_0 at the training points; 0 if not given.
        test_kernel: K(test, train); no test predictions if not given.
        test_initial: f_0 at the test points; 0 if not given.
        ridge: lambda of a penalty on the weights, as in :func:`gradient_flow`.

    Raises:
        SingularKernelError, TypeError, ValueError: as :func:`gradient_flow`, and ValueError for
            infinitely many steps at a learning rate that does not converge, or a fraction of a step.

    Example:
        >>> K = torch.tensor([1.0, 2.0]).double().diag()
        >>> y = torch.ones(2).double()
        >>> nu.gradient_descent(K, y, 2, learning_rate=0.25).train  # 1 - (1 - 0.25·eigenvalue)²
        tensor([0.4375, 0.7500], dtype=torch.float64)
    """
    amounts = _amounts(steps, "steps")
    rate = check_that.require_scale(learning_rate, "learning_rate", positive=True)
    finite = amounts[torch.isfinite(amounts)]
    if (finite != finite.round()).any():
        raise ValueError(f"steps: expected whole numbers, got {steps}")

    def learned(eigenvalue: Tensor, s: Tensor) -> Tensor:
        decay = rate * eigenvalue
        if torch.isinf(s):
            if (decay >= 2).any():
                raise ValueError(
                    f"learning_rate: expected below 2/lambda_max = {2 / eigenvalue.max().item():.6g} "
                    f"for infinitely many steps to converge, got {rate:.6g}"
                )
            return torch.ones_like(decay)
        slow = decay < 0.5  # where 1 - (1-decay)^s would cancel
        return torch.where(
            slow, -torch.expm1(s * torch.log1p(-decay.where(slow, 0 * decay))), 1 - (1 - decay) ** s
        )

    return _predict(
        kernel, targets, amounts, learned, initial, test_kernel, test_initial, ridge, slope=rate
    )


def _amounts(value: float | Tensor, name: str) -> Tensor:
    try:
        amounts = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or a vector of numbers, got {value!r}") from error
    if amounts.ndim > 1 or torch.isnan(amounts).any() or (amounts < 0).any():
        raise ValueError(f"{name}: expected a number or a vector of numbers >= 0, got {value}")
    return amounts


def _predict(
    kernel: Tensor,
    targets: Tensor,
    amounts: Tensor,
    learned: Callable[[Tensor, Tensor], Tensor],
    initial: Tensor | None,
    test_kernel: Tensor | None,
    test_initial: Tensor | None,
    ridge: float,
    slope: float,
) -> Prediction:
    """Evaluate f_0 - K(x,X) (K+ridge)^-1 g(K+ridge) (f_0 - y) for g = ``learned``, g'(0) = slope·t."""
    ridge = check_that.require_scale(ridge, "ridge")
    targets = check_that.require_tensor(targets, "targets")
    n, *rest = targets.shape if targets.ndim in (1, 2) else (-1,)
    if n < 1:
        raise ValueError(f"targets: expected shape (n,) or (n, o), got {tuple(targets.shape)}")
    matrix = _matrix(kernel, "kernel", n, n, rest, targets)
    initial = _outputs(initial, "initial", targets, n)
    residual = initial - targets

    eigenvalues, vectors = _eigen(matrix, ridge)
    _require_regular(eigenvalues, slope * amounts.max().item() if amounts.numel() else 0.0)
    per_output = len(matrix) // n  # columns share the kernel unless it couples the outputs
    modes = vectors.T @ (residual.reshape(n * per_output, -1))

    def weights_at(amount: Tensor) -> Tensor:
        """The (K+ridge)^-1 g(K+ridge) (f_0 - y) that multiplies every kernel row."""
        g = learned(eigenvalues, amount.to(eigenvalues))
        tiny = eigenvalues.abs() <= torch.finfo(eigenvalues.dtype).tiny
        ratio = torch.where(
            tiny, slope * amount.to(eigenvalues), g / eigenvalues.where(~tiny, 1 + 0 * eigenvalues)
        )
        return vectors @ (ratio[:, None] * modes)

    alphas = [weights_at(amount) for amount in amounts.reshape(-1)]

    def outputs(f0: Tensor, rows: Tensor) -> Tensor:
        parts = [f0 - (rows @ alpha).reshape(f0.shape) for alpha in alphas]
        if not parts:
            return f0.new_empty(0, *f0.shape)
        return torch.stack(parts) if amounts.ndim else parts[0]

    train, test = outputs(initial, matrix), None
    if test_kernel is not None:
        m = len(test_kernel) if isinstance(test_kernel, Tensor) else -1
        rows = _matrix(test_kernel, "test_kernel", m, n, rest, targets)
        test = outputs(_outputs(test_initial, "test_initial", targets, m), rows)
    elif test_initial is not None:
        raise ValueError("test_initial: expected a test_kernel with it, got none")
    return Prediction(train, test, eigenvalues)


def _matrix(kernel: Tensor, name: str, rows: int, n: int, rest: list[int], like: Tensor) -> Tensor:
    """Return a kernel as a matrix; one that couples outputs has a row for each (point, output)."""
    kernel = check_that.require_tensor(kernel, name)
    check_that.require_alike(kernel, like, name, "targets")
    if kernel.ndim == 4:
        o = rest[0] if rest else 1
        check_that.require_shape(kernel, (rows, n, o, o), name, "points, training points, outputs")
        return kernel.permute(0, 2, 1, 3).reshape(rows * o, n * o)
    check_that.require_shape(kernel, (rows, n), name, f"{n} targets")
    return kernel


def _outputs(values: Tensor | None, name: str, targets: Tensor, rows: int) -> Tensor:
    shape = (rows, *targets.shape[1:])
    if values is None:
        return targets.new_zeros(shape)
    values = check_that.require_tensor(values, name)
    check_that.require_alike(values, targets, name, "targets")
    check_that.require_shape(values, shape, name, "points, and outputs as in targets")
    return values


def _eigen(matrix: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and vectors of the kernel plus ridge, after checking what it is."""
    rounding = 16 * len(matrix) * torch.finfo(matrix.dtype).eps * matrix.abs().max().item()
    skew = (matrix - matrix.T).abs().max().item()
    if skew > rounding:
        raise ValueError(f"kernel: expected a symmetric matrix, got entries that differ by {skew:.3g}")
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.T) / 2 + ridge * eye)
    low = eigenvalues[0].item() - ridge
    if low < -rounding:
        raise ValueError(
            f"kernel: expected eigenvalues of at least 0 (rounding {rounding:.3g}), got {low:.6g}"
        )
    return eigenvalues, vectors


def _require_regular(eigenvalues: Tensor, time: float) -> None:
    """Refuse a time at which an eigenvalue that is only rounding would matter."""
    low, high = eigenvalues[0].item(), eigenvalues[-1].item()
    eps = torch.finfo(eigenvalues.dtype).eps
    floor = len(eigenvalues) * eps * high
    if low <= floor and (math.isinf(time) or floor * time > 1):
        dtype = str(eigenvalues.dtype).removeprefix("torch.")
        raise SingularKernelError(
            f"kernel: expected a smallest eigenvalue above {floor:.3g} (n·eps·lambda_max in {dtype}), "
            f"got {low:.3g} with lambda_max = {high:.6g}; two equal or nearly equal points will do "
            f"this; give ridge=... (for example {eps**0.5 * high:.3g}), or a time below {1 / floor:.3g}"
            if floor
            else "kernel: expected a smallest eigenvalue above 0, got a matrix of zeros; "
            "give ridge=... (for example 1), or a finite time"
        )
