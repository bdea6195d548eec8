r"""Training a linear model: its predictions during and after training, in closed form.

The model is :math:`f(x) = f_0(x) + \psi(x)\cdot(w - w^{(0)})` with kernel
:math:`K = \psi(X)\psi(X)^T`, and the loss :math:`\tfrac12\sum_i (f(x_i)-y_i)^2`, a *sum* over the
data points. (neural-tangents takes half the *mean* over all targets: its time and learning rate are
ours times the number of targets.)

What is learned is :math:`K F r` with the residual :math:`r` and :math:`F = K^{-1}(I - e^{-Kt})`, or
:math:`K^{-1}(I-(I-\eta K)^s)`. There are three roads to :math:`F r`:

- at the end of training :math:`F` is the inverse: one Cholesky factorization;
- at finite times the eigenvalues and eigenvectors of :math:`K`, once for all times;
- at finite times, where a derivative in :math:`K` is followed: doubling. Training for twice as long
  is training again from where one is, :math:`F_{2t} = 2F_t - F_tKF_t`. These are products of
  matrices only, so all their derivatives exist, where those of eigenvectors do not: at equal
  eigenvalues.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from . import _validation as check_that
from ._validation import SingularKernelError
from .covariance import is_followed

if TYPE_CHECKING:
    from .training import Trace


class DivergedError(FloatingPointError):
    """Training led to numbers that are not finite.

    Attributes:
        trace: of :func:`ntkutils.train`, the :class:`Trace` up to there; otherwise None.

    Example:
        >>> model = nu.MLP(1, width=1, depth=0, dtype=torch.float64)
        >>> one = torch.ones(1).double()
        >>> try:
        ...     nu.train(model, one[:, None], one, learning_rate=1e100, steps=9)
        ... except nu.DivergedError as error:
        ...     print(error.trace.steps.tolist())  # the error has grown by 1e100 in each
        [0, 1, 2, 3]
    """

    def __init__(self, message: str, trace: "Trace | None" = None) -> None:
        super().__init__(message)
        self.trace = trace


@dataclass(frozen=True)
class Prediction:
    """What the linear model predicts after training.

    Attributes:
        train: at the training points, the shape of the targets, after a leading axis of times
            when these were several.
        test: at the test points, likewise; None without test points.
        kernel: the training kernel plus ridge, a matrix; one that couples o outputs has n·o rows.

    Example:
        >>> K = torch.tensor([4.0, 1.0]).double().diag()
        >>> prediction = nu.gradient_flow(K, torch.ones(2).double())
        >>> prediction.eigenvalues.tolist(), prediction.condition_number, prediction.test
        ([1.0, 4.0], 4.0, None)
    """

    train: Tensor
    test: Tensor | None
    kernel: Tensor

    @cached_property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of the training kernel plus ridge, ascending; computed when first asked for."""
        eigenvalues: Tensor = torch.linalg.eigvalsh(self.kernel)
        return eigenvalues

    @property
    def condition_number(self) -> float:
        """The largest eigenvalue over the smallest; infinite when that is not positive."""
        low, high = self.eigenvalues[0].item(), self.eigenvalues[-1].item()
        return high / low if low > 0 else math.inf


@dataclass(frozen=True)
class Flow:
    """Gradient flow: what it has learned at a time."""

    def of_eigenvalues(self, eigenvalues: Tensor, time: Tensor) -> Tensor:
        """(1 - exp(-λt))/λ, which is t at λ = 0."""
        zero = eigenvalues.abs() <= torch.finfo(eigenvalues.dtype).tiny
        learned = -torch.expm1(-eigenvalues * time)
        F = learned / eigenvalues.where(~zero, torch.ones_like(eigenvalues))
        return torch.where(zero, time, F)

    def of_matrix(self, A: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """F = A^-1 (I - exp(-At)) and AF, by doubling a time short enough for a power series."""
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        length = _size(A) * time.item()
        doublings = max(0, math.frexp(2 * length)[1]) if length else 0
        short = time * 0.5**doublings
        series = eye
        for k in range(17, 1, -1):  # I - At/2! + (At)²/3! - ..., where |At| <= 1/2
            series = eye - (short / k) * (A @ series)
        F = short * series
        learned = A @ F
        for _ in range(doublings):
            F, learned = 2 * F - learned @ F, 2 * learned - learned @ learned
        return F, learned


@dataclass(frozen=True)
class Descent:
    """Gradient descent: what it has learned after a number of steps."""

    rate: float | Tensor

    def of_eigenvalues(self, eigenvalues: Tensor, steps: Tensor) -> Tensor:
        """(1 - (1-ηλ)^s)/λ, which is ηs at λ = 0."""
        zero = eigenvalues.abs() <= torch.finfo(eigenvalues.dtype).tiny
        decay = self.rate * eigenvalues
        slow = decay < 0.5  # where 1 - (1-decay)^s would cancel
        learned = torch.where(
            slow,
            -torch.expm1(steps * torch.log1p(-decay.where(slow, torch.zeros_like(decay)))),
            1 - (1 - decay) ** steps,
        )
        divisor = eigenvalues.where(~zero, torch.ones_like(eigenvalues))
        return torch.where(zero, self.rate * steps, learned / divisor)

    def of_matrix(self, A: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """F = A^-1 (I - (I-ηA)^s) and AF, by doubling, and a step more for every binary digit 1."""
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        F, step = self.rate * eye, self.rate * A
        learned = step
        first, *digits = list(f"{int(steps.item()):b}")
        if first == "0":
            return 0 * F, 0 * step
        for digit in digits:
            F, learned = 2 * F - learned @ F, 2 * learned - learned @ learned
            if digit == "1":
                F, learned = F + self.rate * (eye - learned), learned + step - step @ learned
        return F, learned


def gradient_flow(
    kernel: Tensor,
    targets: Tensor,
    time: float | Tensor = math.inf,
    *,
    initial: Tensor | None = None,
    test_kernel: Tensor | None = None,
    test_initial: Tensor | None = None,
    ridge: float | Tensor = 0.0,
) -> Prediction:
    r"""Return the predictions after gradient flow :math:`\dot w = -\nabla\mathrm{loss}` for a time.

    .. math:: f_t(x) = f_0(x) - K(x,X)\,K^{-1}(I - e^{-Kt})\,(f_0(X) - y) .

    In neural-tangents:
    ``nt.predict.gradient_descent_mse(K, y)(n·o·t, f0_train, f0_test, K_test)``, where n·o is the
    number of targets.

    Infinite time is a linear system: one Cholesky factorization, some ten times as fast as the
    eigenvectors that finite times need (once for all of them).
    Derivatives of any order, in both modes, are followed into the kernel, the targets, the initial
    functions, the test kernel, the time and the ridge, whether eigenvalues are equal or not. With a
    kernel that is followed, each finite time takes about 2·log2(λ_max·t) + 20 products of matrices.
    Where the kernel is not quite symmetric, by rounding, its symmetric part is meant.

    Args:
        kernel: the training kernel, shape (n, n), or (n, n, o, o) as :func:`ntkutils.empirical_ntk`
            gives it for o outputs.
        targets: y, shape (n,) or (n, o).
        time: t, at least 0, ``math.inf`` included; a number, or a vector of them.
        initial: f_0 at the training points, shaped as ``targets``; 0 if not given.
        test_kernel: K(test, train), shape (m, n) or (m, n, o, o); no test predictions if not given.
        test_initial: f_0 at the test points; 0 if not given.
        ridge: lambda of a penalty :math:`\tfrac\lambda2|w-w^{(0)}|^2` on the weights, added to the
            kernel's diagonal; a number, or a tensor of one to have a derivative in it.

    Raises:
        SingularKernelError: when the kernel plus ridge is singular, or so nearly that rounding in its
            last digit would change the predictions by more than eps^(1/4) of the largest number
            among them, the targets and the initial functions: 1e-4 in float64, .02 in float32.
        OverflowError: for predictions that the dtype cannot hold.
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
    return _predict(
        kernel, targets, amounts_of(time, "time"), Flow(), initial, test_kernel, test_initial, ridge
    )


def gradient_descent(
    kernel: Tensor,
    targets: Tensor,
    steps: float | Tensor = math.inf,
    *,
    learning_rate: float | Tensor,
    initial: Tensor | None = None,
    test_kernel: Tensor | None = None,
    test_initial: Tensor | None = None,
    ridge: float | Tensor = 0.0,
) -> Prediction:
    r"""Return the predictions after full-batch gradient descent for a number of steps.

    .. math:: f_s(x) = f_0(x) - K(x,X)\,K^{-1}\big(I - (I-\eta K)^s\big)\,(f_0(X) - y) ,

    which converges as s grows if and only if :math:`\eta < 2/\lambda_{\max}`.
    Roads and derivatives are those of :func:`gradient_flow`.

    Args:
        kernel: the training kernel, shape (n, n) or (n, n, o, o).
        targets: y, shape (n,) or (n, o).
        steps: s, whole numbers of at least 0, ``math.inf`` included; a number, or a vector of them.
        learning_rate: eta, for the loss with a sum, not a mean, over data points; a number, or a
            tensor of one to have a derivative in it.
        initial: f_0 at the training points; 0 if not given.
        test_kernel: K(test, train); no test predictions if not given.
        test_initial: f_0 at the test points; 0 if not given.
        ridge: lambda of a penalty on the weights, as in :func:`gradient_flow`.

    Raises:
        DivergedError: where a learning rate above 2/lambda_max has led to numbers that the dtype
            cannot hold. After fewer steps the growing numbers are returned: they are right.
        SingularKernelError, TypeError, ValueError: as :func:`gradient_flow`, and ValueError for
            infinitely many steps at a learning rate that does not converge, or a fraction of a step.

    Example:
        >>> K = torch.tensor([1.0, 2.0]).double().diag()
        >>> y = torch.ones(2).double()
        >>> nu.gradient_descent(K, y, 2, learning_rate=0.25).train  # 1 - (1 - 0.25·eigenvalue)²
        tensor([0.4375, 0.7500], dtype=torch.float64)
    """
    amounts, descent = steps_of(steps, learning_rate)
    return _predict(kernel, targets, amounts, descent, initial, test_kernel, test_initial, ridge)


def amounts_of(value: float | Tensor, name: str) -> Tensor:
    """Times or steps as they came, checked, in float64."""
    try:
        amounts = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or a vector of numbers, got {value!r}") from error
    if amounts.ndim > 1 or torch.isnan(amounts).any() or (amounts < 0).any():
        raise ValueError(f"{name}: expected a number or a vector of numbers >= 0, got {value}")
    return amounts


def steps_of(steps: float | Tensor, learning_rate: float | Tensor) -> tuple[Tensor, Descent]:
    """A number of steps, checked, and the descent that takes them."""
    amounts = amounts_of(steps, "steps")
    rate = number_of(learning_rate, "learning_rate", positive=True)
    finite = amounts[torch.isfinite(amounts)]
    if (finite != finite.round()).any():
        raise ValueError(f"steps: expected whole numbers, got {steps}")
    if isinstance(steps, Tensor) and (steps.requires_grad or unpack_dual(steps).tangent is not None):
        raise ValueError(
            "steps: expected numbers without a derivative, as whole numbers have none; detach()"
        )
    return amounts, Descent(rate)


def number_of(value: float | Tensor, name: str, positive: bool = False) -> float | Tensor:
    """A number that is not negative; as the tensor that it is if a derivative in it is followed."""
    if not isinstance(value, Tensor) or value.ndim:
        return check_that.require_scale(value, name, positive)
    number = check_that.require_scale(value.detach().item(), name, positive)
    return value if _followed(value) else float(number)


def _followed(*values: object) -> bool:
    """Whether a derivative in one of these is followed, now or by a transform of torch.func around."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch._C._are_functorch_transforms_active() or any(map(is_followed, tensors))


class Solver:
    """What training with a kernel does to a residual r, for each of several amounts of training.

    Args:
        kernel: the training kernel, a matrix; its symmetric part is meant.
        ridge: added to its diagonal.
        amounts: times or steps, infinity included.
        training: :class:`Flow` or :class:`Descent`.

    Raises:
        SingularKernelError, ValueError: as :func:`gradient_flow`.
    """

    def __init__(self, kernel: Tensor, ridge: float | Tensor, amounts: Tensor, training: Flow | Descent):
        self.kernel, self.ridge, self.amounts, self.training = kernel, ridge, amounts, training
        require_symmetric(kernel)
        followed = _followed(kernel, ridge, getattr(training, "rate", None))
        K = (kernel + kernel.T) / 2 if followed or not torch.equal(kernel, kernel.T) else kernel
        self.system = plus_ridge(K, ridge)
        finite = torch.isfinite(amounts)
        self.infinite, self.condition, self.modes = not finite.all(), 1.0, None
        rate = _value(training.rate) if isinstance(training, Descent) else 1.0
        self.length = _size(self.system) * rate * max(amounts.detach()[finite].tolist(), default=0.0)
        if self.infinite or _is_singular(self.length, kernel):  # as long as one that never ends
            self.factor, self.condition = factor(self.system, K, ridge)
        if self.infinite and isinstance(training, Descent):
            self._require_convergence(training)
        if finite.any():
            if followed:
                _require_semidefinite(K)
            else:
                self.modes = torch.linalg.eigh(K.detach())
                _require_semidefinite(K, self.modes[0][0].item())

    @property
    def amplification(self) -> float:
        """About how much larger a small relative change of the kernel can be in what is learned."""
        return max(self.condition, self.length)

    def __call__(self, r: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each amount F r, which every row of the kernel is multiplied by, and K F r."""
        return [self._learned(amount, r) for amount in self.amounts.reshape(-1)]

    def _learned(self, amount: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        if torch.isinf(amount):
            F_r = torch.cholesky_solve(r, self.factor)
            if is_followed(amount):  # with a derivative of 0
                F_r = F_r + 0 * amount.nan_to_num(posinf=0)
            return F_r, r - self.ridge * F_r
        amount = amount.to(r)
        if self.modes is None:
            F, learned = self.training.of_matrix(self.system, amount)
            return F @ r, learned @ r - self.ridge * (F @ r)
        eigenvalues, vectors = self.modes
        F_r = self.training.of_eigenvalues(eigenvalues + self.ridge, amount)[:, None] * (vectors.T @ r)
        return vectors @ F_r, vectors @ (eigenvalues[:, None] * F_r)

    def _require_convergence(self, descent: Descent) -> None:
        rate = _value(descent.rate)
        A = self.system.detach()
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        if 2 / rate < math.inf and torch.linalg.cholesky_ex((2 / rate) * eye - A).info:
            raise ValueError(
                f"learning_rate: expected below 2/lambda_max = {self.largest_rate():.6g} "
                f"for infinitely many steps to converge, got {rate:.6g}"
            )

    def largest_rate(self) -> float:
        """The learning rate above which gradient descent diverges."""
        return float(2 / torch.linalg.eigvalsh(self.system.detach())[-1].item())


def require_steady(
    results: list[Tensor],
    again: Callable[[Tensor], list[Tensor]],
    kernel: Tensor,
    amplified: float,
    scale: float,
    remedy: str = "ridge",
) -> None:
    """Raise SingularKernelError where rounding in the last digit of the kernel decides the results.

    Where that is possible, the results are computed again from a kernel with entries that differ in
    the last digit, at random with a fixed seed, and compared.

    Args:
        results: what was computed from the kernel.
        again: computes it.
        kernel: the training kernel, a matrix.
        amplified: how much larger a relative change of it can be in the results, roughly.
        scale: what a change is compared with, if the result itself is not larger.
        remedy: the name of the argument that helps.
    """
    eps = torch.finfo(kernel.dtype).eps
    allowed = eps**0.25
    if eps * amplified < allowed / 100:
        return
    with torch.no_grad():
        noise = _noise(kernel, *kernel.shape)
        shaken = again(kernel.detach() * (1 + eps * (noise.triu() + noise.triu(1).T)))
        for a, b in zip(results, shaken, strict=True):
            if not a.numel():
                continue
            change, largest = (a.detach() - b).abs().max().item(), a.detach().abs().max().item()
            if not change <= allowed * max(largest, scale):
                raise SingularKernelError(
                    "kernel: expected one whose last digit does not decide what is predicted, got changes "
                    f"of {change:.3g}, where the largest number is {max(largest, scale):.3g}, in "
                    f"{_name(kernel.dtype)}; {_CAUSE}; {way_out(kernel, remedy)}"
                )


def factor(
    system: Tensor, kernel: Tensor, ridge: float | Tensor, remedy: str = "ridge"
) -> tuple[Tensor, float]:
    """The lower Cholesky factor of the kernel plus ridge, a symmetric matrix, and its condition number.

    Raises:
        SingularKernelError: where there is none, or one of pivots that are only rounding.
        ValueError: where the kernel is not positive semidefinite.
    """
    lower, info = torch.linalg.cholesky_ex(system)
    if info or _value(ridge) > 0:
        _require_semidefinite(kernel)
    ratio = math.inf if info else _condition(system, lower)
    if _is_singular(ratio, kernel):
        got = (
            f"one that has none in {_name(kernel.dtype)}; {_CAUSE}" if kernel.any() else "a matrix of zeros"
        )
        raise SingularKernelError(
            f"kernel: expected one that has an inverse, got {got}; {way_out(system, remedy)}"
        )
    return lower, ratio


def _is_singular(ratio: float, kernel: Tensor) -> bool:
    """Whether what is smaller than the kernel by a ratio is nothing but rounding."""
    return ratio * torch.finfo(kernel.dtype).eps > 0.1


def plus_ridge(kernel: Tensor, ridge: float | Tensor) -> Tensor:
    """The kernel with the ridge on its diagonal; the kernel itself if there is none."""
    if isinstance(ridge, float) and ridge == 0:
        return kernel
    return kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)


def _condition(system: Tensor, lower: Tensor) -> float:
    """About the condition number, from a Cholesky factor, by a few steps of inverse iteration."""
    with torch.no_grad():
        v = _noise(system, len(system), 1)
        growth = 1.0
        for _ in range(4):
            v = torch.cholesky_solve(v / v.abs().max(), lower.detach())
            growth = v.abs().max().item()
            if not 0 < growth < math.inf:
                return math.inf
    return _size(system) * growth


def _noise(like: Tensor, *shape: int) -> Tensor:
    """Normal numbers, the same ones each time; NumPy's, as torch.func has none inside a jacfwd."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).to(like)


def _value(number: float | Tensor) -> float:
    return float(number.detach().item()) if isinstance(number, Tensor) else number


_CAUSE = "two equal or nearly equal points will do this"


def way_out(kernel: Tensor, remedy: str) -> str:
    """What to do about a singular kernel: a ridge (or noise), or a time that is always allowed."""
    size, eps = _size(kernel), torch.finfo(kernel.dtype).eps
    advice = f"give {remedy}=... (for example {eps**0.5 * size or 1:.3g})"
    if remedy != "ridge":
        return advice
    return (
        f"{advice}, or a time below {eps**-0.75 / 100 / size:.3g}"
        if size
        else f"{advice}, or a finite time"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _size(matrix: Tensor) -> float:
    """A bound of the largest eigenvalue: the largest sum of absolute values in a row."""
    return float(matrix.detach().abs().sum(1).max().item())


def _predict(
    kernel: Tensor,
    targets: Tensor,
    amounts: Tensor,
    training: Flow | Descent,
    initial: Tensor | None,
    test_kernel: Tensor | None,
    test_initial: Tensor | None,
    ridge: float | Tensor,
) -> Prediction:
    """Evaluate f_0 - K(x,X) F (f_0 - y)."""
    ridge = number_of(ridge, "ridge")
    targets = check_that.require_tensor(targets, "targets")
    n, *rest = targets.shape if targets.ndim in (1, 2) else (-1,)
    if n < 1 or targets.numel() == 0:
        raise ValueError(f"targets: expected shape (n,) or (n, o), got {tuple(targets.shape)}")
    matrix = _matrix(kernel, "kernel", n, n, rest, targets)
    initial = _outputs(initial, "initial", targets, n)
    rows, f0 = None, targets[:0]
    if test_kernel is not None:
        m = len(test_kernel) if isinstance(test_kernel, Tensor) and test_kernel.ndim else -1
        rows = _matrix(test_kernel, "test_kernel", m, n, rest, targets)
        f0 = _outputs(test_initial, "test_initial", targets, m)
    elif test_initial is not None:
        raise ValueError("test_initial: expected a test_kernel with it, got none")
    residual = (initial - targets).reshape(len(matrix), -1)  # columns share the kernel unless it couples

    def outputs(solver: Solver) -> list[Tensor]:
        learned = solver(residual)
        train = [initial - fitted.reshape(initial.shape) for _, fitted in learned]
        if rows is None:
            return [together(train, amounts, initial)]
        test = [f0 - (rows @ F_r).reshape(f0.shape) for F_r, _ in learned]
        return [together(train, amounts, initial), together(test, amounts, f0)]

    solver = Solver(matrix, ridge, amounts, training)
    results = outputs(solver)
    require_finite(results, solver)
    scale = max(a.detach().abs().max().item() for a in (targets, initial))
    again = lambda K: outputs(Solver(K, ridge, amounts, training))  # noqa: E731
    require_steady(results, again, matrix, solver.amplification, scale)
    return Prediction(results[0], results[1] if rows is not None else None, solver.system)


def together(results: list[Tensor], amounts: Tensor, like: Tensor) -> Tensor:
    """The results for each amount along a first axis; the one result of an amount that is a number."""
    if not amounts.ndim:
        return results[0]
    return torch.stack(results) if results else like.new_empty(0, *like.shape)


def require_finite(results: list[Tensor], solver: Solver) -> None:
    """Raise DivergedError or OverflowError for results that the dtype cannot hold."""
    if all(torch.isfinite(a).all() for a in results):
        return
    dtype = _name(results[0].dtype)
    if isinstance(solver.training, Descent) and _value(solver.training.rate) > (
        most := solver.largest_rate()
    ):
        raise DivergedError(
            f"learning_rate: expected at most 2/lambda_max = {most:.6g}, above which gradient descent "
            f"diverges, got {_value(solver.training.rate):.6g}; after so many steps the predictions are "
            f"larger than {dtype} can hold"
        )
    raise OverflowError(
        f"kernel: expected predictions that {dtype} can hold, got larger ones from a kernel with entries "
        f"of up to {solver.kernel.detach().abs().max().item():.3g}; give ridge=... or a shorter time"
    )


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


def _rounding(kernel: Tensor) -> float:
    """What entries and eigenvalues of a kernel may be off by."""
    return 16 * len(kernel) * torch.finfo(kernel.dtype).eps * kernel.detach().abs().max().item()


def require_symmetric(kernel: Tensor) -> None:
    """Raise ValueError for a kernel that is less symmetric than rounding makes it."""
    skew = (kernel - kernel.T).detach().abs().max().item()
    if skew > _rounding(kernel):
        raise ValueError(f"kernel: expected a symmetric matrix, got entries that differ by {skew:.3g}")


def _require_semidefinite(kernel: Tensor, low: float | None = None) -> None:
    """Raise ValueError for a negative eigenvalue that is not rounding; ``low`` if the lowest is known."""
    rounding = _rounding(kernel)
    if low is None:
        kernel = kernel.detach()
        shift = rounding * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        if not torch.linalg.cholesky_ex(kernel + shift).info:
            return
        low = torch.linalg.eigvalsh(kernel)[0].item()
    if low < -rounding:
        raise ValueError(
            f"kernel: expected eigenvalues of at least 0 (rounding {rounding:.3g}), got {low:.6g}"
        )
