r"""Gaussian expectations :math:`E[f(u) f(v)]` of any function, kinks and jumps included.

Write :math:`u = s_1(a p + b q)` and :math:`v = s_2(a p - b q)` with independent standard normal
:math:`p, q` and :math:`a, b = \sqrt{(1\pm\xi)/2}`. Where :math:`f` has a kink, the integrand has
kinks along straight lines of the :math:`(p, q)` plane. We cut the inner integral where these
lines pass, and the outer one where they cross; between the cuts everything is smooth, and
Gauss–Legendre converges faster than any power of its order, for :math:`\xi` near 1 as well.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .covariance import Covariance, root

TOLERANCE = 1e-10
# Two settings (nodes a panel, cut-off) whose difference is the error estimate.
FINE, COARSE = (24, 1.0), (20, 0.9)
REACH = 11.0  # of the cut-off that is meant by 1, unless a function lives farther out
FARTHEST = 38  # standard deviations: the normal density is 1e-314 there
# Widths of the panels between the cuts; pairs that one width leaves unsettled go on to the next.
WIDTHS = (3.0, 1.0, 1 / 3)
VALUES_AT_ONCE = 2**18  # 2 MiB a temporary array in float64, of which there are ten


class QuadratureError(ValueError):
    """An expectation could not be computed to the accuracy that we promise.

    Example:
        >>> try:
        ...     nu.activations.from_function(lambda z: torch.exp(z**2), name="f")  # E[f(z)²] is infinite
        ... except nu.quadrature.QuadratureError as error:
        ...     print("has no finite dual" in str(error))
        True
    """


@cache
def legendre(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre's nodes and weights on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return nodes, weights


def _panels(cuts: Tensor, order: int, reach: float, width: float) -> tuple[Tensor, Tensor]:
    """Nodes and normal-density weights, (pairs, nodes), on [-reach, reach] cut at ``cuts``."""
    regular = torch.linspace(-reach, reach, math.ceil(2 * reach / width) + 1).to(cuts)
    cuts = torch.cat([cuts.clamp(-reach, reach), regular.expand(len(cuts), -1)], dim=1)
    edges = cuts.sort(dim=1).values
    middle, half = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    t, w = (torch.as_tensor(z, dtype=cuts.dtype, device=cuts.device) for z in legendre(order))
    nodes = (middle[..., None] + half[..., None] * t).flatten(1)
    weights = (half[..., None] * w).flatten(1)
    return nodes, weights * torch.exp(-(nodes**2) / 2) / (2 * torch.pi) ** 0.5


def _nonzero(x: Tensor) -> Tensor:
    return x.where(x != 0, torch.ones_like(x))


def _expectation(
    combine: Callable[..., Tensor],
    pairs: Sequence[Tensor],
    kinks: Tensor,
    order: int,
    reach: float,
    width: float,
) -> Tensor:
    """E[combine(u, v, ...)], shape (pairs, k), for pairs given by 1-D tensors.

    These are standard deviations, xi and 1-xi², and then what ``combine`` gets beside u and v, of which it
    makes k numbers, along a last axis.
    """
    s1, s2, xi, sin2, *more = pairs
    # the smaller of a, b without cancellation
    # nothing infinite, even where it is left out, as reverse mode would multiply it by 0
    a2 = torch.where(xi > 0, (1 + xi) / 2, sin2 / (1 + xi.abs()) / 2)
    b2 = torch.where(xi > 0, sin2 / (1 + xi.abs()) / 2, (1 - xi) / 2)
    # The larger of the two multiplies the inner variable; the sign follows it into v.
    swap = xi <= 0
    a, b = root(torch.where(swap, b2, a2))[:, None], root(torch.where(swap, a2, b2))[:, None]
    sign = torch.where(swap, -1.0, 1.0).to(xi)[:, None]  # v = s2·sign·(a p - b q)
    # The kinks are the lines ap+bq = at1 and ap-bq = at2; a variable that is constantly 0 has none.
    far = torch.full_like(kinks, 2 * reach)
    at1 = torch.where(s1[:, None] > 0, kinks / _nonzero(s1)[:, None], far)
    at2 = torch.where(s2[:, None] > 0, sign * kinks / _nonzero(s2)[:, None], far)
    crossings = (at1[:, :, None] - at2[:, None, :]).flatten(1) / (2 * _nonzero(b))
    outside = torch.full_like(crossings, 2 * reach)  # parallel lines never cross
    q, weight_q = _panels(torch.where(b > 0, crossings, outside), order, reach, width)
    cuts = torch.cat([at1[:, None] - (b * q)[..., None], at2[:, None] + (b * q)[..., None]], dim=2)
    p, weight_p = _panels((cuts / a[..., None]).flatten(0, 1), order, reach, width)
    p, weight_p = p.unflatten(0, q.shape), weight_p.unflatten(0, q.shape)
    ap, bq = a[..., None] * p, (b * q)[..., None]
    u, v = s1[:, None, None] * (ap + bq), (s2[:, None] * sign)[..., None] * (ap - bq)
    values = combine(u, v, *(z[:, None, None] for z in more))
    return torch.einsum("nqpk,nqp,nq->nk", values, weight_p, weight_q)


def _integrate(
    combine: Callable[..., Tensor],
    pairs: Sequence[Tensor],
    kinks: Tensor,
    setting: tuple[int, float],
    width: float,
    reach: float,
) -> Tensor:
    """:func:`_expectation`, some pairs at a time, so that memory is bounded whatever their number."""
    order, part = setting
    panels, m = math.ceil(2 * reach / width), len(kinks)
    at_once = max(1, VALUES_AT_ONCE // ((panels + m * m) * (panels + 2 * m) * order**2))
    result = None
    for i in range(0, len(pairs[0]), at_once):
        some = [z[i : i + at_once] for z in pairs]
        piece = _expectation(combine, some, kinks, order, part * reach, width)
        if result is None:
            result = piece.new_empty(len(pairs[0]), piece.shape[1])
        result[i : i + at_once] = piece
    return torch.empty(0, 1, dtype=torch.float64) if result is None else result


def _settled(
    combine: Callable[..., Tensor],
    pairs: Sequence[Tensor],
    kinks: Tensor,
    reach: float,
    allowed: Callable[[Tensor], Tensor],
    explain: Callable[[float, float, float, float, float], str],
) -> Tensor:
    """Expectations on which two quadratures agree as ``allowed``; QuadratureError if they do not."""
    values, todo = None, torch.arange(len(pairs[0]))
    for width in WIDTHS:
        here = [z[todo] for z in pairs]
        fine, coarse = (
            _integrate(combine, here, kinks, setting, width, reach) for setting in (FINE, COARSE)
        )
        if values is None:
            values = fine.clone()
        values[todo] = fine
        unsettled = ~((fine - coarse).abs() <= allowed(fine)).all(1)  # NaN included
        todo, fine, coarse = (z[unsettled] for z in (todo, fine, coarse))
        if len(todo) == 0:
            return values
    worst = int(((fine - coarse).abs() - allowed(fine)).amax(1).nan_to_num(math.inf).argmax())
    at = (fine[worst] - coarse[worst]).abs().argmax()
    s1, s2, xi = (z[todo[worst]].item() for z in pairs[:3])
    raise QuadratureError(explain(fine[worst, at].item(), coarse[worst, at].item(), s1, s2, xi))


def expectation(
    f: Callable[[Tensor], Tensor], Lambda: Covariance, kinks: Sequence[float] = (), name: str = "f"
) -> Tensor:
    r"""Return :math:`E[f(u) f(v)]` for every pair in ``Lambda``, shape (n1, n2).

    The plain reference: a quadrature in the plane for every pair, some 50,000 values of f each. Computed in
    float64 whatever the input's dtype, and returned in that dtype.

    Args:
        f: an elementwise function of a tensor, smooth between the ``kinks``.
        Lambda: the covariances of (u, v).
        kinks: where f has a kink or a jump.
        name: what an error calls f.

    Raises:
        QuadratureError: when two independent quadratures differ by more than 1e-10 of
            sqrt(E[f(u)²] E[f(v)²]): f grows too fast, or has a kink that ``kinks`` does not name.
    """
    sd1, sd2, xi, sin2 = (z.double() for z in (Lambda.sd1, Lambda.sd2, Lambda.xi, Lambda.sin2))
    kinked = Kinked(f, name, kinks=kinks)
    size = kinked.norms(sd1) * kinked.norms(sd2)
    pairs = [z.broadcast_to(xi.shape).flatten() for z in (sd1, sd2, xi, sin2)]
    return kinked.of_pairs(pairs, size.broadcast_to(xi.shape).flatten()).view_as(xi).to(Lambda.xi.dtype)


# --- functions with kinks ----------------------------------------------------------------------------

MOST_SCALE_PAIRS, FEWEST_PAIRS = 12, 300  # from where on a table of the angle is worth making
ANGULAR = 1e-12  # what such a table may leave out
TINY = 1e-290


class Kinked:
    """An elementwise function with kinks or jumps, and the Gaussian expectations of it and its slope.

    Args:
        function: elementwise on a tensor, smooth between the ``kinks``.
        name: what errors call it.
        slope: its derivative.
        kinks: where either is not smooth.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        name: str,
        slope: Callable[[Tensor], Tensor] | None = None,
        kinks: Sequence[float] = (),
    ) -> None:
        self.function, self.name, self._slope = function, name, slope
        with torch.inference_mode(False):
            self.kinks = torch.tensor(list(kinks), dtype=torch.float64)
        self._angular: dict[tuple[float, float, bool], _Angular | None] = {}

    @cached_property
    def slope(self) -> "Kinked":
        """Its derivative."""
        if self._slope is None:
            raise TypeError(f"{self.name}: expected a derivative beside the function")
        return Kinked(self._slope, f"{self.name}'", kinks=self.kinks.tolist())

    @cached_property
    def degree(self) -> int | None:
        """d, if f(a·z) = a^d f(z) for all positive a; then the standard deviations are only factors."""
        if any(self.kinks.tolist()):
            return None
        z = torch.tensor([-7.3, -1.9, -0.6, -0.02, 0.03, 0.4, 1.1, 5.7], dtype=torch.float64)
        for d in range(4):
            scaled = [(self(a * z) - a**d * self(z)).abs() for a in (2.0, 0.3, 41.0)]
            if all(
                (s <= 4e-16 * a**d * self(z).abs()).all() for s, a in zip(scaled, (2, 0.3, 41), strict=True)
            ):
                return d
        return None

    def __call__(self, t: Tensor) -> Tensor:
        """The values; automatic differentiation follows where it is switched on."""
        values = self.function(t)
        if values.isnan().any():
            raise QuadratureError(
                f"{self.name}: expected numbers, got NaN at z = {t[values.isnan()][0]:.6g}"
            )
        return values

    # --- over one variable

    def line(self, sd: Tensor, order: int, width: float) -> tuple[Tensor, Tensor]:
        """E[f(sd·z)²] for sd of shape (n,), and how far out one has to look for it."""
        at = self.kinks / sd.where(sd > 0, torch.ones_like(sd))[:, None]
        z, weight = _panels(at, order, FARTHEST, width)
        power = self(sd[:, None] * z) ** 2 * weight
        total = power.sum(1)
        if not torch.isfinite(total).all():
            raise QuadratureError(self._endless(sd[~torch.isfinite(total)][0].item()))
        outer = (power * (z.abs() > FARTHEST - 1)).sum(1)
        if (outer > 1e-18 * total).any():
            raise QuadratureError(self._endless(sd[(outer / total).nan_to_num().argmax()].item()))
        radii = torch.tensor([9.6, 11, 13, 16, 20, 25, 31, 38], dtype=torch.float64)
        beyond = torch.stack([(power.detach() * (z.abs() > r)).sum(1) for r in radii])
        return total, radii[(beyond > 1e-17 * total.detach()).sum(0).clamp(max=len(radii) - 1)]

    def _endless(self, sd: float) -> str:
        return (
            f"E[{self.name}(u)²]: got an integrand that does not end within {FARTHEST} standard "
            f"deviations, "
            f"at one of {sd:.6g}; a function that grows like exp(z²/4) or faster has no finite dual"
        )

    def norms(self, sd: Tensor) -> Tensor:
        """The roots of E[f(sd·z)²], in the shape of sd, where two quadratures agree."""
        return self._norms_and_reach(sd.flatten())[0].view_as(sd)

    def _norms_and_reach(self, sd: Tensor) -> tuple[Tensor, float]:
        values, inverse = torch.unique(sd, return_inverse=True)
        power, reach = torch.empty_like(values), REACH
        for i in range(0, len(values), 64):
            some = values[i : i + 64]
            for width in (1.0, 1 / 3, 1 / 9):
                fine, far = self.line(some, FINE[0], width)
                coarse, _ = self.line(some, COARSE[0], width)
                if ((fine - coarse).abs() <= TOLERANCE / 10 * fine).all():
                    break
            else:
                worst = int(((fine - coarse).abs() / fine).nan_to_num().argmax())
                at = some[worst].item()
                raise QuadratureError(self._apart(fine[worst].item(), coarse[worst].item(), at, at, 1.0))
            power[i : i + 64] = fine
            held = far[fine > TINY]
            if len(held) and held.max() > 9.6:
                reach = max(reach, min(FARTHEST, (held.max().item() ** 2 + 64) ** 0.5))
        return power.where(power > TINY, torch.zeros_like(power)).sqrt()[inverse], reach

    # --- over two

    def _apart(self, fine: float, coarse: float, s1: float, s2: float, xi: float) -> str:
        return (
            f"E[{self.name}(u) {self.name}(v)]: expected two quadratures to agree to {TOLERANCE:g}, got "
            f"{fine:.17g} and {coarse:.17g} at standard deviations {s1:.6g}, {s2:.6g} and correlation "
            f"{xi:.6g}. Name every kink and jump in kinks=(...)"
        )

    def of_pairs(self, pairs: Sequence[Tensor], size: Tensor) -> Tensor:
        """E[f(u) f(v)] for 1-D tensors of standard deviations, xi and 1-xi², to 1e-10 of ``size``."""
        if len(size) == 0:
            return size.clone()
        reach = max(self._norms_and_reach(z)[1] for z in pairs[:2])
        divisor = size.where(size > 0, torch.ones_like(size))
        unit = _settled(
            lambda u, v, n: (self(u) * self(v) / n)[..., None],
            [*pairs, divisor],
            self.kinks,
            reach,
            lambda fine: torch.full_like(fine, TOLERANCE),
            self._apart,
        )
        return unit[:, 0] * size

    def _correlations(self, pairs: Sequence[Tensor], norms: Sequence[Tensor], reach: float) -> Tensor:
        """1 - and 1 + the correlation of f(u) and f(v), shape (pairs, 2), both with all their digits.

        As E[(f(u)/|f| ∓ f(v)/|f|)²]/2, where nothing cancels: a kink sees the root of the smaller of them.
        """

        def combine(u: Tensor, v: Tensor, n1: Tensor, n2: Tensor) -> Tensor:
            a, b = self(u) / n1, self(v) / n2
            return torch.stack([(a - b) ** 2, (a + b) ** 2], dim=-1) / 2

        return _settled(
            combine,
            [*pairs, *(n.where(n > 0, torch.ones_like(n)) for n in norms)],
            self.kinks,
            reach,
            lambda fine: TOLERANCE * fine.clamp(0, 1).sqrt() + 1e-20,
            self._apart,
        )

    def _by_angle(self, s1: float, s2: float, correlations: bool) -> "_Angular | None":
        """A table for these standard deviations, or None where the angle needs too many terms."""
        key = (s1, s2, correlations)
        if key not in self._angular:
            sd = torch.tensor([s1, s2], dtype=torch.float64)
            norms, reach = self._norms_and_reach(sd)

            def values(angles: Tensor) -> Tensor:
                xi, sin2 = torch.cos(angles), torch.sin(angles) ** 2
                pairs = [*(torch.full_like(xi, s) for s in (s1, s2)), xi, sin2]
                n1, n2 = (torch.full_like(xi, n.item()) for n in norms)
                if correlations:
                    return self._correlations(pairs, (n1, n2), reach)
                return self.of_pairs(pairs, n1 * n2)[:, None]

            made = _Angular.make(
                values, correlations, 1.0 if correlations else (norms[0] * norms[1]).item()
            )
            self._angular = {**dict(list(self._angular.items())[-63:]), key: made}
        return self._angular[key]

    def unfollowed(self, correlations: bool, sd1: Tensor, sd2: Tensor, xi: Tensor, sin2: Tensor) -> Tensor:
        """E[f(u) f(v)], or 1 ∓ its correlation, of all pairs: shape (1 or 2, *xi.shape)."""
        s1, s2, xi64, sin2 = (z.double() for z in (sd1, sd2, xi, sin2))
        n1, n2 = self.norms(s1), self.norms(s2)
        if correlations:
            result = torch.stack([torch.zeros_like(xi64), torch.full_like(xi64, 2.0)])
        else:
            result = (n1 * n2).broadcast_to(xi64.shape)[None].clone()
        # equal variables are told by the line, to the last digit
        todo = ((sin2 > 0) | (xi64 <= 0) | (s1 != s2)) & (n1 > 0) & (n2 > 0)
        if correlations:
            result[:, ((n1 == 0) | (n2 == 0)).broadcast_to(xi64.shape)] = 1.0
        places = todo.broadcast_to(xi64.shape)
        if not places.any():
            return result
        flat = [z.broadcast_to(xi64.shape)[places] for z in (s1, s2, xi64, sin2, n1, n2)]
        factor = torch.ones((), dtype=torch.float64)
        if self.degree is not None and (self.degree > 0 or min(flat[0].min(), flat[1].min()) > 0):
            factor = (flat[0] * flat[1]) ** self.degree
            flat[:2] = torch.ones_like(xi64[places]), torch.ones_like(xi64[places])
            unit = self.norms(flat[0][:1])
            flat[4:] = unit.expand_as(flat[0]), unit.expand_as(flat[0])
        values = self._all_roads(correlations, flat)
        for row, value in zip(result, values if correlations else values * factor, strict=True):
            row[places] = value
        return result

    def _all_roads(self, correlations: bool, flat: list[Tensor]) -> Tensor:
        s1, s2, xi, sin2, n1, n2 = flat
        result = torch.full((2 if correlations else 1, len(xi)), torch.nan, dtype=torch.float64)
        keys = torch.stack([_rounded(s1), _rounded(s2)])
        distinct, which = torch.unique(keys, dim=1, return_inverse=True)
        rest = torch.ones(len(xi), dtype=torch.bool)
        if distinct.shape[1] <= MOST_SCALE_PAIRS and len(xi) >= FEWEST_PAIRS * distinct.shape[1] ** 0.5:
            theta = torch.atan2(sin2.sqrt(), xi)
            for k in range(distinct.shape[1]):
                made = self._by_angle(distinct[0, k].item(), distinct[1, k].item(), correlations)
                if made is not None:
                    here = which == k
                    result[:, here] = made(theta[here])
                    rest &= ~here
        if rest.any():
            pairs = [z[rest] for z in (s1, s2, xi, sin2)]
            if correlations:
                reach = max(self._norms_and_reach(z)[1] for z in pairs[:2])
                result[:, rest] = self._correlations(pairs, (n1[rest], n2[rest]), reach).T
            else:
                result[:, rest] = self.of_pairs(pairs, n1[rest] * n2[rest])
        return result

    # --- what an activation asks for

    def moments(self, Lambda: Covariance) -> Covariance:
        """The covariance of (f(u), f(v))."""
        sd1, sd2 = (applied(_Norm, self, sd) for sd in (Lambda.sd1, Lambda.sd2))
        minus, plus = applied(_Pairs, self, True, Lambda.sd1, Lambda.sd2, Lambda.xi, Lambda.sin2)
        xi = torch.where(minus < 1, 1 - minus, plus - 1)
        return Covariance(sd1, sd2, xi, minus * plus, minus)

    def slope_moments(self, Lambda: Covariance) -> Tensor:
        """E[f'(u) f'(v)]."""
        return applied(_Pairs, self.slope, False, Lambda.sd1, Lambda.sd2, Lambda.xi, Lambda.sin2)[0]

    # --- derivatives: the cuts move with the kinks, so that differentiating the quadrature is right

    def norm_slopes(self, sd: Tensor) -> Tensor:
        """The derivative of the norms by sd, in its shape."""
        values, inverse = torch.unique(sd.double().flatten(), return_inverse=True)
        with torch.inference_mode(False), torch.enable_grad():
            s = values.clone().requires_grad_()
            slopes = []
            for some in s.split(64):
                power, _ = self.line(some, FINE[0], 1 / 3)
                slopes.append(torch.autograd.grad(root(power).sum(), some)[0])
        return torch.cat(slopes)[inverse].view_as(sd).to(sd.dtype)

    def pair_slopes(self, *of: Tensor) -> list[Tensor]:
        """E[f(u) f(v)] and its derivatives by sd1, sd2, xi and sin2, each in the shape of xi."""
        shape, dtype = of[2].shape, of[2].dtype
        flat = [z.double().broadcast_to(shape).flatten() for z in of]
        reach = max(self._norms_and_reach(z)[1] for z in flat[:2])
        result = torch.empty(5, len(flat[0]), dtype=torch.float64)
        panels, m = math.ceil(2 * reach), len(self.kinks)
        at_once = max(1, VALUES_AT_ONCE // ((panels + m * m) * (panels + 2 * m) * FINE[0] ** 2))
        with torch.inference_mode(False), torch.enable_grad():
            for i in range(0, len(flat[0]), at_once):
                leaves = [z[i : i + at_once].clone().requires_grad_() for z in flat]
                value = _expectation(
                    lambda u, v: (self(u) * self(v))[..., None], leaves, self.kinks, FINE[0], reach, 1.0
                )
                slopes = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
                result[0, i : i + at_once] = value.detach()[:, 0]
                for row, slope in zip(result[1:], slopes, strict=True):
                    row[i : i + at_once] = 0 if slope is None else slope
        return [row.view(shape).to(dtype) for row in result]


def _rounded(sd: Tensor) -> Tensor:
    """To 1e-14: what rounding alone keeps apart counts as one scale."""
    mantissa, exponent = torch.frexp(sd)
    return torch.ldexp((mantissa * 2.0**46).round() / 2.0**46, exponent)


class _Angular:
    """A function of the angle as a Chebyshev series in a variable that is dense at 0 and π."""

    def __init__(self, coefficients: Tensor, delta: float, ends: Tensor | None, size: float) -> None:
        self.coefficients, self.delta, self.ends, self.size = coefficients, delta, ends, size

    @classmethod
    def make(cls, values: Callable[[Tensor], Tensor], correlations: bool, size: float) -> "_Angular | None":
        """Of values (angles, k); of 1 ∓ a correlation what its end leaves, over the distance to it."""
        if size == 0:
            return None
        ends = values(torch.tensor([0.0, math.pi], dtype=torch.float64)) if correlations else None
        probes = torch.tensor(
            [-0.995, -0.93, -0.71, -0.3, 0.02, 0.37, 0.66, 0.9, 0.993], dtype=torch.float64
        )
        for count in (32, 80, 200):
            for delta in (1.0, 0.03, 1e-3):
                made = cls(torch.empty(0), delta, ends, size)
                nodes = torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count))
                angles = made._angles(torch.cat([nodes, probes]))
                at = values(angles) / size
                if ends is not None:
                    away = torch.stack([angles, math.pi - angles])[..., None]
                    at = torch.cat([(at - end) / far for end, far in zip(ends, away, strict=True)], dim=1)
                matrix = _polynomials(count, nodes).T * (2 / count)
                matrix[0] /= 2
                made.coefficients = matrix @ at[:count]
                error = (_polynomials(count, probes) @ made.coefficients - at[count:]).abs().max()
                if error <= ANGULAR and made.coefficients[-count // 8 :].abs().max() <= ANGULAR:
                    return made
        return None

    def _angles(self, y: Tensor) -> Tensor:
        grown = torch.exp(y * math.log((self.delta + 1) / self.delta))
        return math.pi * ((grown * (self.delta + 1) - self.delta) / (1 + grown)).clamp(0, 1)

    def __call__(self, theta: Tensor) -> Tensor:
        """Shape (k, len(theta))."""
        t = theta / math.pi
        y = torch.log((t + self.delta) / (1 - t + self.delta)) / math.log((self.delta + 1) / self.delta)
        above, current = torch.zeros(2, self.coefficients.shape[1], len(y), dtype=torch.float64)
        for c in self.coefficients[1:].flip(0):
            above, current = current, torch.addcmul(c[:, None] - above, 2 * y, current)
        value = torch.addcmul(self.coefficients[0][:, None] - above, y, current)
        if self.ends is None:
            return value * self.size
        # from the nearer end, so that what is 0 there has all its digits
        first = torch.addcmul(self.ends[0][:, None], theta, value[:2])
        last = torch.addcmul(self.ends[1][:, None], math.pi - theta, value[2:])
        return torch.where(theta < math.pi / 2, first, last).clamp_(min=0)


def _polynomials(count: int, y: Tensor) -> Tensor:
    return torch.cos(torch.arccos(y)[:, None] * torch.arange(count, dtype=torch.float64))


def applied(function: type[torch.autograd.Function], *of: Any) -> Tensor:
    """function.apply(*of), which torch has not typed."""
    result: Tensor = function.apply(*of)
    return result


class _Last(torch.autograd.Function):
    """compute(*of), a derivative that has none itself."""

    @staticmethod
    def forward(compute: Callable[..., Tensor], *of: Tensor) -> Tensor:
        return compute(*of)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(
            "from_function with kinks: expected first derivatives only, got a second; the kernels of a "
            "function "
            "with kinks have second derivatives in closed form only: take an activation by name, or a "
            "smooth one"
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return _Last.backward(ctx)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], compute: Callable[..., Tensor], *of: Tensor
    ) -> tuple[Tensor, int]:
        return one_by_one(lambda *z: applied(_Last, compute, *z), info, in_dims[1:], of)


def one_by_one(
    function: Callable[..., Tensor], info: Any, in_dims: Sequence[int | None], of: Sequence[Tensor]
) -> tuple[Tensor, int]:
    """What torch.vmap asks of a function that looks at values: one call for each along the mapped axis."""
    calls = [
        function(*(z if d is None else z.select(d, i) for z, d in zip(of, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return torch.stack(calls), 0


class _Norm(torch.autograd.Function):
    """The root of E[f(sd z)²], in the shape of sd."""

    @staticmethod
    def forward(f: Kinked, sd: Tensor) -> Tensor:
        return f.norms(sd.double()).to(sd.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.f = inputs[0]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        (sd,) = ctx.saved_tensors
        return applied(_Last, ctx.f.norm_slopes, sd)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradient * _Norm._slope(ctx)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        return None if tangents[1] is None else tangents[1] * _Norm._slope(ctx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], f: Kinked, sd: Tensor) -> tuple[Tensor, int]:
        return one_by_one(lambda sd: applied(_Norm, f, sd), info, in_dims[1:], (sd,))


class _Pairs(torch.autograd.Function):
    """E[f(u) f(v)], shape (1, *xi.shape), or 1 ∓ the correlation of f(u) and f(v), shape (2, *xi.shape)."""

    @staticmethod
    def forward(f: Kinked, correlations: bool, *of: Tensor) -> Tensor:
        return f.unfollowed(correlations, *of).to(of[2].dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.f, ctx.correlations = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def _slopes(ctx: Any) -> Tensor:
        """Of E[f(u) f(v)] or of the correlation by sd1, sd2, xi and sin2, shape (4, *xi.shape)."""
        of = ctx.saved_tensors
        value, *slopes = applied(_Last, lambda *z: torch.stack(ctx.f.pair_slopes(*z)), *of)
        if not ctx.correlations:
            return torch.stack(slopes)
        norms = [applied(_Norm, ctx.f, sd) for sd in of[:2]]
        # a variable that is constantly 0 stays one
        safe = [n.where(n > 0, torch.ones_like(n)) for n in norms]
        size = safe[0] * safe[1]
        for i, (sd, n) in enumerate(zip(of[:2], safe, strict=True)):
            slopes[i] = slopes[i] - value * applied(_Last, ctx.f.norm_slopes, sd) / n
        held = (norms[0] > 0) & (norms[1] > 0)
        return torch.stack([(slope / size).where(held, torch.zeros_like(slope)) for slope in slopes])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient[1] - gradient[0] if ctx.correlations else gradient[0]
        slopes = _Pairs._slopes(ctx)
        sizes = (z.shape for z in ctx.saved_tensors)
        return None, None, *((gradient * s).sum_to_size(n) for s, n in zip(slopes, sizes, strict=True))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        terms = [s * t for s, t in zip(_Pairs._slopes(ctx), tangents[2:], strict=True) if t is not None]
        total = torch.stack([t.broadcast_to(ctx.saved_tensors[2].shape) for t in terms]).sum(0)
        return torch.stack([-total, total]) if ctx.correlations else total[None]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], f: Kinked, correlations: bool, *of: Tensor
    ) -> tuple[Tensor, int]:
        return one_by_one(lambda *z: applied(_Pairs, f, correlations, *z), info, in_dims[2:], of)
