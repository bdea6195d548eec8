"""Powers of the width, fitted to what networks did, with an interval that says how well they are known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from . import _validation as check_that

Array = NDArray[np.float64]
LEAST_P = 0.01  # below it str says that the logarithms are on no line
ROUNDING = 1e-14  # of the logarithms: what they differ by when the samples do not


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent.

    Attributes:
        value: of the line through all values of k.
        low: the lower end of its 95 % interval.
        high: the upper end.
        straight: how probable a departure from one line as large as this one is, if there is one
            line: the p-value of the test for lack of fit. 1 for two values of k, which always have one.
        steps: for three or more values of k, the exponents between neighbours, in the order of k.
            Their intervals hold together with probability 95 %, or more.

    Example:
        >>> noise = torch.linspace(0.9, 1.1, 11).double()
        >>> fit = nu.exponent({k: noise * (1 / k + 1 / k**2) for k in (1, 10, 100)})
        >>> print(fit)  # no power, but between the last two nearly -1
        -1.15 [-1.16, -1.14], bent: -1.26 to -1.04
        >>> print(fit.steps[1])
        -1.04 [-1.07, -1.01]
    """

    value: float
    low: float
    high: float
    straight: float = 1.0
    steps: tuple["Exponent", ...] = ()

    def __str__(self) -> str:
        """Return it as it is printed: ``-0.50 [-0.52, -0.49]``, and that it is bent where p < 0.01."""
        line = f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"
        if self.straight >= LEAST_P:
            return line
        between = [step.value for step in self.steps]
        return f"{line}, bent: {min(between):.2f} to {max(between):.2f}"


def exponent(samples: Mapping[float, Tensor]) -> Exponent:
    r"""Fit :math:`\text{sample} \propto k^{\text{exponent}}` to samples at several values of k.

    The least-squares slope, over log k, of the mean of the logarithms (so of the geometric mean).
    Its interval is Student's, with a variance for each k by itself and Welch's degrees of freedom: it
    holds for few samples too, if their logarithms are not too skewed (simulated in
    ``tests/test_rates.py``). Where the means are on no line the slope is that of the line nearest
    to them, and its interval says nothing of the distance: this is tested as well, and told.

    Args:
        samples: for each k, independent positive samples of one quantity, shape (S,), such as one a
            network; S may differ from one k to the next.

    Raises:
        TypeError, ValueError: for fewer than two values of k, fewer than two samples at one of them,
            values of k or samples that are not positive (0 has no logarithm), and for samples that
            are all the same, at every k: a constant has no rate.

    Example:
        >>> noise = torch.linspace(0.9, 1.1, 11).double()
        >>> print(nu.exponent({k: noise / k**0.5 for k in (10, 100, 1000)}))
        -0.50 [-0.51, -0.49]

    Source: Welch 1951, Biometrika 38, for the interval and the test; Johansen 1980, Biometrika 67,
    for the test of a line instead of a constant.
    """
    if len(samples) < 2:
        raise ValueError(f"samples: expected at least two values of k, got {len(samples)}")
    logs = {k: _logs(k, values) for k, values in samples.items()}
    if len({value for values in logs.values() for value in values.tolist()}) == 1:
        raise ValueError("samples: expected numbers that differ, got a constant")
    log_k = np.log([float(k) for k in logs])
    mean = np.array([values.mean().item() for values in logs.values()])
    free = np.array([len(values) - 1 for values in logs.values()])
    squares = np.array([values.var().item() for values in logs.values()]) / (free + 1)
    squares += (ROUNDING * np.maximum(1, np.abs(mean))) ** 2
    value, low, high = _slope(log_k, mean, squares, free, 0.95)
    if len(logs) == 2:
        return Exponent(value, low, high)
    order = np.argsort(log_k)
    level = 1 - 0.05 / (len(logs) - 1)  # Bonferroni
    pairs = (order[i : i + 2] for i in range(len(logs) - 1))
    steps = [Exponent(*_slope(log_k[p], mean[p], squares[p], free[p], level)) for p in pairs]
    return Exponent(value, low, high, _straight(log_k, mean, squares, free), tuple(steps))


def _slope(x: Array, mean: Array, squares: Array, free: Array, level: float) -> tuple[float, float, float]:
    """Return the slope of the least-squares line through the means and the ends of its interval."""
    lever = x - x.mean()
    lever = lever / (lever @ lever)
    parts = lever**2 * squares
    half = special.stdtrit(parts.sum() ** 2 / (parts**2 / free).sum(), (1 + level) / 2) * parts.sum() ** 0.5
    value = lever @ mean
    return float(value), float(value - half), float(value + half)


def _straight(x: Array, mean: Array, squares: Array, free: Array) -> float:
    """Return the p-value of the hypothesis that the means are on one line (Welch and Johansen)."""
    root = squares**-0.5
    design = np.linalg.qr(np.stack([np.ones_like(x), x - x.mean()], 1) * root[:, None]).Q
    missed = root * mean - design @ (design.T @ (root * mean))
    f1 = len(x) - 2
    a = ((1 - (design**2).sum(1)) ** 2 / free).sum()
    scale = f1 + 2 * a - 6 * a / (f1 + 2)
    return float(special.fdtrc(f1, f1 * (f1 + 2) / (3 * a), missed @ missed / scale))


def _logs(k: float, values: Tensor) -> Tensor:
    name = f"samples[{k}]"
    check_that.require_scale(k, "k", positive=True)
    values = check_that.require_tensor(values, name)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name}: expected at least two samples, shape (S,), got {tuple(values.shape)}")
    if (values <= 0).any():
        raise ValueError(f"{name}: expected positive numbers, got {values.min().item():.6g}")
    return values.detach().cpu().double().log()
