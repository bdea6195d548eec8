"""Powers of the width, fitted to what networks did, with an interval that says how well they are known."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _validation as check_that


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent.

    Attributes:
        value: of the fit to all samples.
        low: the lower end of its 95 % bootstrap interval.
        high: the upper end.

    Example:
        >>> noise = torch.linspace(0.9, 1.1, 11).double()
        >>> fit = nu.exponent({k: noise / k for k in (10, 100, 1000)})
        >>> round(fit.value, 12), fit.low < -1 < fit.high
        (-1.0, True)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as it is printed: ``-0.50 [-0.52, -0.49]``."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def exponent(samples: Mapping[float, Tensor], *, draws: int = 2000, seed: int = 0) -> Exponent:
    r"""Fit :math:`\text{sample} \propto k^{\text{exponent}}` to samples at several values of k.

    The least-squares slope, over log k, of the mean of the logarithms (so of the geometric mean).
    The interval is that of the percentiles over bootstrap draws, of the samples at each k by
    themselves.

    Args:
        samples: for each k, independent positive samples of one quantity, shape (S,), such as one a
            network; S may differ from one k to the next.
        draws: how many bootstrap draws.
        seed: of the draws.

    Raises:
        TypeError, ValueError: for fewer than two values of k, fewer than two samples at one of them,
            values of k or samples that are not positive (0 has no logarithm), and for samples that
            are all the same, at every k: a constant has no rate.

    Example:
        >>> noise = torch.linspace(0.9, 1.1, 11).double()
        >>> print(nu.exponent({k: noise / k**0.5 for k in (10, 100, 1000)}))
        -0.50 [-0.51, -0.49]

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    draws = check_that.require_count(draws, "draws", least=1)
    generator = torch.Generator().manual_seed(check_that.require_count(seed, "seed", least=0))
    if len(samples) < 2:
        raise ValueError(f"samples: expected at least two values of k, got {len(samples)}")
    logs = {k: _logs(k, values) for k, values in samples.items()}
    if len({value for values in logs.values() for value in values.tolist()}) == 1:
        raise ValueError("samples: expected numbers that differ, got a constant")
    log_k = torch.tensor([float(k) for k in logs], dtype=torch.float64).log()
    lever = log_k - log_k.mean()
    lever = lever / (lever @ lever)
    means, again = [], []
    for values in logs.values():
        pick = torch.randint(len(values), (draws, len(values)), generator=generator)
        means.append(values.mean())
        again.append(values[pick].mean(1))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (lever @ torch.stack(again)).quantile(ends).tolist()
    return Exponent((lever @ torch.stack(means)).item(), low, high)


def _logs(k: float, values: Tensor) -> Tensor:
    name = f"samples[{k}]"
    check_that.require_scale(k, "k", positive=True)
    values = check_that.require_tensor(values, name)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name}: expected at least two samples, shape (S,), got {tuple(values.shape)}")
    if (values <= 0).any():
        raise ValueError(f"{name}: expected positive numbers, got {values.min().item():.6g}")
    return values.detach().cpu().double().log()
