"""Checks of the book's formulas against independent oracles, one line each."""

import math
import sys
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORACLES = ("neural-tangents", "torch", "autodiff", "quadrature", "50 digits")


class CheckFailed(AssertionError):
    """A formula and its oracle disagree by more than the stated bound.

    Example:
        >>> try:
        ...     nu.check("eq-half", [0.5], [0.25], oracle="50 digits", against="1/4", bound=1e-15)
        ... except nu.checks.CheckFailed as error:
        ...     print("ratio 2;" in str(error))
        True
    """


class PowerlessCheckError(CheckFailed):
    """A check that a named wrong formula passes, too.

    Take more samples, a smaller bound, or points where the two formulas differ.

    Example:
        >>> try:
        ...     nu.check("eq-half", [0.5], [0.5], oracle="50 digits", against="1/2", bound=0.1,
        ...              wrong={"0.51": [0.51]})
        ... except nu.checks.PowerlessCheckError as error:
        ...     print("'0.51' passes" in str(error))
        True
    """


@dataclass(frozen=True)
class Check:
    """One comparison that was made and held.

    Attributes:
        label: of the equation in the book, such as "eq-ntk".
        oracle: who says so, one of ``ORACLES``.
        against: what of the oracle, in words.
        kind: "exact", "approximate", "statistical" or "inequality".
        bound: what the error was allowed to be, in ``unit``.
        unit: of bound and measured.
        values: how many numbers were compared.
        resolution: for a statistical check, its largest standard error over the largest expected
            value, rounded up to one digit: a smaller error in the formula could go unseen.
        wrong: names of the wrong formulas that the same comparison rejected.
        approximate: what of an approximate comparison is not exact, in words.
        sees: the smallest e such that the comparison rejects both formula·(1 + e) and
            formula·(1 - e); of an inequality, that which the bound can break. ``None`` where the formula
            is 0, so that no factor changes it. Differs between machines, as ``measured`` does.
        measured: the worst error; of an inequality, the largest part that the smaller side was of the
            larger. Differs between machines in its last digits, so it is not in the line.
    """

    label: str
    oracle: str
    against: str
    kind: str
    bound: float
    unit: str
    values: int
    resolution: str = ""
    wrong: tuple[str, ...] = ()
    approximate: str = ""
    sees: float | None = field(default=None, compare=False)
    measured: float = field(default=0.0, compare=False)

    @property
    def line(self) -> str:
        """What a reader sees: the same text on every machine."""
        agree = "1 number agrees" if self.values == 1 else f"{self.values:,} numbers agree"
        if self.kind in ("exact", "approximate"):
            verdict = f"{agree} to {self.bound:g} {self.unit}"
        elif self.kind == "inequality":
            verdict = agree.replace(" agree", " keep") + " the bound"
        else:
            verdict = (
                f"{agree} within {self.bound:g} {self.unit}, "
                f"each at most {self.resolution} of the largest value"
            )
        return f"{self.label} against {self.oracle} ({self.against}): {verdict}"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        link = f'<a href="#equation-{self.label}">{self.label}</a>'
        html = escape(f"✓ {self.line}").replace(self.label, link, 1)
        data = {"text/plain": f"✓ {self.line}", "text/html": f'<div class="ntk-check">{html}</div>'}
        # In the metadata, since that is where a number may differ between machines.
        return data, {"ntkutils-check": asdict(self)}


def check(
    label: str,
    formula: Tensor,
    expected: Tensor,
    *,
    oracle: str,
    against: str,
    bound: float | None = None,
    z: float | None = None,
    resolution: float | None = None,
    inequality: str | None = None,
    wrong: dict[str, Tensor] | None = None,
    approximate: str = "",
) -> None:
    """Compare a formula with an independent oracle; show one line, or raise.

    With ``bound``, an exact identity: every entry of ``formula`` equals that of ``expected`` up to
    ``bound`` times the largest entry of ``expected`` in size.
    With ``z``, a statistical one: ``expected`` holds independent samples along its first axis, and
    their mean equals ``formula`` up to ``z`` standard errors of that mean, entry by entry. Then
    ``resolution`` is required: the standard error may be at most this part of the largest value of
    ``formula`` in size, so that the check could have seen an error of that size.
    With ``inequality``, a bound: no entry of ``expected`` is on the wrong side of that of ``formula``,
    not even by rounding.
    A check that a neighbouring wrong formula would pass shows nothing. ``wrong`` holds the values of
    such formulas, each under what is wrong with it; the same comparison has to reject them all.

    Args:
        label: of the equation, as in the chapter's source.
        formula: what the formula gives; a tensor, or anything numpy makes an array of.
        expected: what the oracle gives, of the same shape (plus a first axis of samples with ``z``).
        oracle: "neural-tangents", "torch" (networks of finite width), "autodiff", "quadrature" or
            "50 digits".
        against: what was asked of the oracle, in a few words.
        bound: relative error allowed.
        z: standard errors allowed. With m entries, a right formula fails by chance with probability
            below m·erfc(z/√2): 6e-5·m at z = 4.
        resolution: the largest standard error allowed, relative to the largest value.
        inequality: ">=" where the formula is to be at least what the oracle gives, or "<=". The larger
            side has to be positive.
        wrong: {what is wrong, in words: what the wrong formula gives}, values of the shape of
            ``formula``, and finite.
        approximate: for ``bound``, what is not exact about the comparison, in words: a step size,
            digits that the oracle has lost, terms left out. Without it the ledger calls it exact.

    Raises:
        CheckFailed: when they differ by more, naming the worst entry, both values, their ratio and
            the bound.
        PowerlessCheckError: when a wrong formula passes.
        ValueError, TypeError: when there is nothing to compare, or shapes or arguments do not fit.

    Example:
        >>> formula = nu.activations.relu.dual(torch.zeros(1).double())
        >>> nu.check("eq-relu", formula, [1 / torch.pi], oracle="50 digits", against="1/π", bound=1e-15)
        ✓ eq-relu against 50 digits (1/π): 1 number agrees to 1e-15 of the largest
        >>> nu.check("eq-relu", formula, [1 / torch.pi], oracle="50 digits", against="1/π", bound=1e-15,
        ...          wrong={"1/(2π)": [1 / (2 * torch.pi)]})
        ✓ eq-relu against 50 digits (1/π): 1 number agrees to 1e-15 of the largest
    """
    display(
        compare(
            label, formula, expected, oracle, against, bound, z, resolution, inequality, wrong, approximate
        )
    )


def compare(
    label: str,
    formula: Tensor,
    expected: Tensor,
    oracle: str,
    against: str,
    bound: float | None = None,
    z: float | None = None,
    resolution: float | None = None,
    inequality: str | None = None,
    wrong: dict[str, Tensor] | None = None,
    approximate: str = "",
) -> Check:
    """Do what :func:`check` does, and return the :class:`Check` instead of showing it."""
    if oracle not in ORACLES:
        raise ValueError(f"oracle: expected one of {', '.join(ORACLES)}, got {oracle!r}")
    if [bound, z, inequality].count(None) != 2 or (z is None) != (resolution is None):
        raise ValueError("expected either bound=..., or z=... with resolution=..., or inequality=...")
    if inequality not in (None, ">=", "<="):
        raise ValueError(f"inequality: expected '>=' or '<=', got {inequality!r}")
    if approximate and bound is None:
        raise ValueError("approximate: goes with bound=..., since other kinds are not exact anyway")
    formula, expected = (_float64(a, name) for a, name in ((formula, "formula"), (expected, "expected")))
    shape = formula.shape if z is None else (len(expected), *formula.shape)
    if tuple(expected.shape) != tuple(shape):
        raise ValueError(f"expected: expected shape {tuple(shape)}, got {tuple(expected.shape)}")
    if formula.numel() == 0 or (z is not None and len(expected) < 8):
        raise ValueError(
            f"nothing to compare: {formula.numel()} entries, {len(expected)} samples (at least 8)"
        )
    twins = {name: _float64(value, f"wrong[{name!r}]") for name, value in (wrong or {}).items()}
    for name, twin in twins.items():
        if twin.shape != formula.shape or not twin.isfinite().all():
            raise ValueError(
                f"wrong[{name!r}]: expected finite values of shape {tuple(formula.shape)}, got "
                f"{'some that are not' if twin.shape == formula.shape else tuple(twin.shape)}"
            )
    where, shown = f"{label} against {oracle} ({against})", ""
    given = allowed = expected
    if inequality is not None:
        kind, limit, unit = "inequality", 1.0, "of the bound"
        large = formula if inequality == ">=" else expected
        if (large <= 0).any():
            raise ValueError(f"{label}: expected a larger side above 0, got {large.min().item():.6g}")
    elif bound is not None:
        kind, limit, unit = "approximate" if approximate else "exact", bound, "of the largest"
        allowed = expected.abs().max().expand(shape)
    else:
        assert z is not None and resolution is not None  # as was required above
        kind, limit, unit = "statistical", z, "standard errors"
        given = expected.mean(0)
        largest = formula.abs().max()
        # An entry that does not fluctuate is compared to rounding.
        allowed = (expected.var(0) / len(expected) + (1e-14 * largest) ** 2).sqrt()
        relative = (allowed.max() / largest).item()
        shown = f"{_round_up(relative):g}"
        if not relative <= resolution:
            raise CheckFailed(
                f"{where}: the samples resolve {relative:.2g} of "
                f"the largest value, asked for {resolution:g}; take more"
            )

    def errors_of(values: Tensor) -> Tensor:
        if inequality is not None:
            small, large = (given, values) if inequality == ">=" else (values, given)
            # a wrong formula may leave nothing above 0 on the larger side
            keeps = torch.where(small <= large, -torch.inf, torch.inf)
            return torch.where(large > 0, small / large, keeps)
        miss = (values - given).abs()
        # 0 against 0 is agreement, also where the allowed error is 0
        return torch.where(miss == 0, torch.zeros_like(miss), miss / allowed)

    measured, worst = _worst(errors_of(formula))
    if not measured <= limit:
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), formula.shape))
        ours, theirs = formula.flatten()[worst].item(), given.flatten()[worst].item()
        raise CheckFailed(
            f"{where}: at index {index} the formula gives {ours:.17g} "
            f"and the oracle {theirs:.17g}, ratio {ours / theirs if theirs else float('nan'):.6g}; "
            f"error {measured:.3g} {unit}, bound {limit:g}"
        )
    for name, twin in twins.items():
        error, _ = _worst(errors_of(twin))
        if error <= limit:
            raise PowerlessCheckError(
                f"{where}: the wrong formula {name!r} passes, too; its worst error is {error:.3g} "
                f"{unit}, bound {limit:g}. Make the check sharper"
            )
    if inequality is None:
        sees = _smallest_factor(formula, given, limit * allowed)
    elif inequality == ">=":
        sees = 1 - measured
    else:
        sees = 1 / measured - 1 if measured > 0 else None
    return Check(
        label, oracle, against, kind, limit, unit, formula.numel(), shown, tuple(twins), approximate,
        sees, measured,
    )  # fmt: skip


def _worst(errors: Tensor) -> tuple[float, int]:
    """Return the worst error and where it is; NaN is worst of all."""
    worst = int(torch.nan_to_num(errors, nan=torch.inf).argmax())
    return errors.flatten()[worst].item(), worst


def _smallest_factor(formula: Tensor, given: Tensor, allowed: Tensor) -> float | None:
    """Return the smallest e for which formula·(1 ± e) both miss ``given`` by more than ``allowed``."""
    some = formula != 0
    if not some.any():
        return None
    size, miss = formula[some].abs(), ((formula - given) * formula.sign())[some]
    ahead, behind = ((allowed[some] - miss) / size).min(), ((allowed[some] + miss) / size).min()
    # a smaller factor than eps is no other number
    return max(ahead.item(), behind.item(), torch.finfo(formula.dtype).eps)


def display(record: Check) -> None:
    """Show a check's line: as an output of the cell in a notebook, else printed."""
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        shell.display.display(record)
    else:
        print(f"✓ {record.line}")


def _float64(a: object, name: str) -> Tensor:
    # numpy reads Python's floats as float64, torch as float32
    a = a.detach().cpu() if isinstance(a, Tensor) else torch.from_numpy(np.array(a))
    if a.is_complex() or a.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {a.dtype}")
    return a.double()


def _round_up(x: float) -> float:
    """Return x rounded up to one significant digit (or 0, or x itself if it is not finite)."""
    if x == 0 or not math.isfinite(x):
        return x
    unit = 10.0 ** torch.tensor(x).log10().floor().item()
    return float(f"{-(-x // unit) * unit:.1g}")
