r"""Gaussian expectations :math:`E[f(u) g(v)]` of smooth functions, quadrature once a function and a scale.

In polar coordinates of the plane :math:`u = s_1 r\cos\alpha`, :math:`v = s_2 r\cos(\alpha-\theta)`, so with
the Fourier coefficients :math:`c_k(R)` of :math:`\alpha\mapsto f(R\cos\alpha)` the expectation is a cosine
series in the angle,

.. math::

    E[f(u) f(v)] = \sum_{k=-\infty}^{\infty} \cos k\theta
        \int_0^\infty r e^{-r^2/2}\, c_k(s_1 r)\, c_k(s_2 r)\, dr .

It is summed once, at Chebyshev nodes in a variable that is dense near equal and opposite points, for a few
scales s between which all functions :math:`z\mapsto f(sz)` are interpolated. As
:math:`|E[f(u)g(v)]| \le |f(s_1\cdot)|\,|g(s_2\cdot)|` in the norm :math:`|f(s\cdot)|^2 = E[f(sz)^2]`, what
the interpolation leaves out in this norm bounds the error of every kernel entry, whatever its angle.
"""

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from .covariance import Covariance
from .quadrature import QuadratureError, applied, legendre, one_by_one

ORDER = 20  # nodes of a panel
# What a panel, an interpolation, a series may leave out, of the root of E[f(sz)²]: we go on to AIMED_AT,
# and take RESOLVED where there are MANY already, or where more do not help, as rounding is met.
AIMED_AT, RESOLVED, MANY = 2e-14, 2e-12, 90
NARROWEST = 2.0**-22  # panel, in standard deviations
FARTHEST = 38  # standard deviations: the normal density is 1e-314 there
MOST_SCALES, MOST_TERMS, MOST_WAVES = 192, 512, 2**17
AT_ONCE = 2**17  # values in a temporary array: few enough for a processor's cache

Function = Callable[[Tensor], Tensor]


def slope_of(function: Function) -> Function:
    """The derivative of an elementwise function, by reverse mode, which no other thread can disturb."""

    def slope(z: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return slope(z.clone())
        of: Any = torch.func.vjp(function, z)
        result: Tensor = of[1](torch.ones_like(of[0]))[0]
        return result

    return slope


@cache
def _legendre_tail() -> Tensor:
    """Maps values at a panel's nodes to the sizes, in L², of the three last Legendre coefficients."""
    t, w = legendre(ORDER)
    k = np.arange(ORDER - 3, ORDER)
    values = np.polynomial.legendre.legvander(t, ORDER)[:, k] * np.sqrt(k + 0.5)
    return torch.from_numpy(values * w[:, None])


def _nodes(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss's nodes between the edges, and their weights."""
    t, w = (torch.from_numpy(z).to(edges) for z in legendre(ORDER))
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * t).flatten(), (half[:, None] * w).flatten()


def _chebyshev(count: int) -> Tensor:
    """The count zeros of the Chebyshev polynomial T_count."""
    return torch.cos((torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count))


def _polynomials(count: int, x: Tensor) -> Tensor:
    """T_m(x) for m below count, shape (len(x), count)."""
    angles = torch.arccos(x.clamp(-1, 1))
    return torch.cos(angles[:, None] * torch.arange(count, dtype=torch.float64))


def _to_coefficients(count: int) -> Tensor:
    """Maps values at the Chebyshev nodes to coefficients, shape (count, count)."""
    matrix = _polynomials(count, _chebyshev(count)).T * (2 / count)
    matrix[0] /= 2
    return matrix


def _is_enough(error: float, before: float, count: int) -> bool:
    return error <= AIMED_AT or (error <= RESOLVED and (error > before / 10 or count >= MANY))


class Smooth:
    """A smooth elementwise function with what its expectations need, computed once and kept.

    Args:
        function: elementwise on a tensor, smooth.
        name: what errors call it.
        slope: its derivative; by automatic differentiation if not given.
    """

    def __init__(self, function: Function, name: str, slope: Function | None = None) -> None:
        self.function, self.name, self._slope = function, name, slope
        self._bases: tuple[_Basis, ...] = ()
        self._tables: tuple[_Table, ...] = ()

    @cached_property
    def slope(self) -> "Smooth":
        """Its derivative."""
        return Smooth(self._slope or slope_of(self.function), f"{self.name}'")

    def __call__(self, t: Tensor) -> Tensor:
        """The values, for our own eyes: nothing is recorded for automatic differentiation."""
        with torch.inference_mode(False), torch.no_grad():
            return self.function(t.clone() if t.is_inference() else t)

    def moments(self, Lambda: Covariance) -> Covariance:
        """The covariance of (f(u), f(v))."""
        var1, var2 = (on_line(self, self, sd) for sd in (Lambda.sd1, Lambda.sd2))
        return Covariance.of_moments(_plane_of(self, Lambda), var1, var2)

    def slope_moments(self, Lambda: Covariance) -> Tensor:
        """E[f'(u) f'(v)]."""
        return _plane_of(self.slope, Lambda)

    def basis(self, smallest: float, largest: float) -> "_Basis":
        """One for the standard deviations between these."""
        low, high = math.log1p(smallest), math.log1p(largest)
        for basis in self._bases:
            if basis.low <= low and high <= basis.high and basis.high - basis.low < 1 + 2 * (high - low):
                return basis
        step = 0.25 if high - low < 2 else 0.5
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        with torch.inference_mode(False), torch.no_grad():
            basis = _Basis(self, low, max(high, low + 0.25))
        self._bases = (basis, *self._bases[:15])  # one assignment, whatever other threads do
        return basis

    def table(self, other: "Smooth", sds: tuple[Tensor, Tensor]) -> "_Table":
        """One for E[f(u) g(v)] with standard deviations between the smallest and largest of these."""
        ends = [(sd.min().item(), sd.max().item()) for sd in sds]
        if other is self:
            ends = [(min(a for a, _ in ends), max(b for _, b in ends))] * 2
        one, two = self.basis(*ends[0]), other.basis(*ends[1])
        for table in self._tables:
            if table.one is one and table.two is two:
                return table
        with torch.inference_mode(False), torch.no_grad():
            table = _Table(one, two)
        self._tables = (table, *self._tables[:15])
        return table


def line(f: Smooth, g: Smooth, sd: Tensor) -> Tensor:
    """E[f(sd·z) g(sd·z)] for z normal, in the shape of sd."""
    flat = sd.flatten()
    if len(flat) == 0:
        return sd.clone()
    ends = flat.min().item(), flat.max().item()
    edges = _joint(f.basis(*ends), g.basis(*ends))
    z, w = _both_sides(edges)
    w = w * _density(z)
    pieces = []
    for some in flat.split(max(1, AT_ONCE // len(z))):
        t = some[:, None] * z
        values = f(t)
        pieces.append((values * (values if g is f else g(t))) @ w)
    return torch.cat(pieces).view_as(sd)


def _joint(one: "_Basis", two: "_Basis") -> Tensor:
    edges: Tensor = one.edges if two is one else torch.cat([one.edges, two.edges]).unique()
    return edges


def _both_sides(edges: Tensor) -> tuple[Tensor, Tensor]:
    z, w = _nodes(edges)
    return torch.cat([-z.flip(0), z]), torch.cat([w.flip(0), w])


def _density(z: Tensor) -> Tensor:
    density: Tensor = torch.exp(-(z**2) / 2) / (2 * math.pi) ** 0.5
    return density


class _Basis:
    r"""A few scales between which all functions :math:`z\mapsto f(sz)`, over their norms, are interpolated.

    The scales are Chebyshev nodes in log(1+s), then those of them that span the others (an interpolative
    decomposition by pivoted QR). ``coordinates(s)`` are the weights of the functions at these ``scales``.
    """

    def __init__(self, f: Smooth, low: float, high: float) -> None:
        self.f, self.low, self.high = f, low, high
        self.edges = self._panels()  # of the positive half of the line
        z, w = _both_sides(self.edges)
        self.z, self.root_weight = z, (w * _density(z)).sqrt()
        count, test = 8, self._scales(torch.linspace(-0.997, 0.991, 61, dtype=torch.float64))
        wanted, _ = self._rows(test)
        before = math.inf
        while True:
            scales = self._scales(_chebyshev(count))
            rows, _ = self._rows(scales)
            self._count, self._mix = count, torch.eye(count, dtype=torch.float64)
            error = torch.linalg.vector_norm(wanted - self.coordinates(test) @ rows, dim=1).max().item()
            if _is_enough(error, before, count):
                break
            before = error
            if count >= MOST_SCALES:
                raise QuadratureError(
                    f"E[{f.name}(u) {f.name}(v)]: expected a function that changes smoothly with the "
                    f"scale of its argument, "
                    f"got one that {count} scales between {math.expm1(low):.3g} and {math.expm1(high):.3g} "
                    f"do not determine to {RESOLVED:g}. Name every kink and jump in kinks=(...)"
                )
            count = count * 3 // 2
        _, triangle, order = scipy.linalg.qr(rows.T.numpy(), mode="economic", pivoting=True)
        size = np.abs(np.diag(triangle))
        least = (AIMED_AT if count < MANY else RESOLVED) / 10
        rank = max(1, int((size > least * max(size[0], 1e-300)).sum()))
        mix = np.zeros((count, rank))
        mix[order[:rank]] = np.eye(rank)
        if size[0] > 0:
            mix[order[rank:]] = scipy.linalg.solve_triangular(
                triangle[:rank, :rank], triangle[:rank, rank:]
            ).T
        self._mix = torch.from_numpy(mix)
        self.scales = scales[torch.from_numpy(order[:rank].copy())]
        rows, self.norms = self._rows(self.scales)
        missing = torch.linalg.vector_norm(wanted - self.coordinates(test) @ rows, dim=1)
        if not missing.max() <= 2 * RESOLVED:
            raise QuadratureError(
                f"E[{f.name}(u) {f.name}(v)]: expected {rank} scales between {math.expm1(low):.3g} and "
                f"{math.expm1(high):.3g} to determine the others, got {missing.max():.1e} left out"
            )

    def _scales(self, x: Tensor) -> Tensor:
        scales: Tensor = torch.expm1((self.low + self.high) / 2 + (self.high - self.low) / 2 * x)
        return scales

    def _rows(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """The functions at these scales, over their norms and times the roots of weights; the norms."""
        rows = self.f(scales[:, None] * self.z) * self.root_weight
        norms = torch.linalg.vector_norm(rows, dim=1)
        return rows / norms.where(norms > 0, torch.ones_like(norms))[:, None], norms

    def coordinates(self, sd: Tensor) -> Tensor:
        """Weights of the functions at ``scales``, all of norm 1; shape (len(sd), scales)."""
        x = (torch.log1p(sd) - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
        return _polynomials(self._count, x) @ (_to_coefficients(self._count) @ self._mix)

    def weighted(self, sd: Tensor) -> Tensor:
        """Coordinates times norms: what makes f(sd·z) of the functions at ``scales``."""
        norms = [
            torch.linalg.vector_norm(self.f(some[:, None] * self.z) * self.root_weight, dim=1)
            for some in sd.split(max(1, AT_ONCE // len(self.z)))
        ]
        return self.coordinates(sd) * torch.cat(norms)[:, None]

    def _panels(self) -> Tensor:
        """Edges between which f(s·) and f(-s·), weighed by the density, are polynomials of degree 16."""
        scales = self._scales(torch.linspace(-1, 1, 49, dtype=torch.float64))
        # a first look, finer and finer towards 0, where what a large scale narrows is
        far, weight = _nodes(
            torch.cat([torch.zeros(1), 2.0 ** torch.arange(-22, 0), torch.arange(1, FARTHEST + 1)]).double()
        )
        size = self._values(torch.cat([far, -far]), scales).view(len(scales), 2, -1)
        power = ((size * torch.exp(-(far**2) / 4)) ** 2).sum(1) * weight
        beyond = power.flip(1).cumsum(1).flip(1)
        if (power[:, -1] > 1e-26 * beyond[:, 0]).any() or not torch.isfinite(beyond).all():
            worst = scales[(power[:, -1] - 1e-26 * beyond[:, 0]).argmax()].item()
            raise QuadratureError(
                f"E[{self.f.name}(u)²]: got an integrand that does not end within {FARTHEST} standard "
                f"deviations, at one of {worst:.6g}; a function that grows like exp(z²/4) or faster has no "
                f"finite dual"
            )
        inside = (beyond > 1e-32 * beyond[:, :1]).any(0)
        reach = max(12, math.ceil(far[inside].max().item()) if inside.any() else 0)
        norm = (power.sum(1) / (2 * math.pi) ** 0.5).sqrt()
        todo = torch.arange(reach + 1, dtype=torch.float64)
        todo = torch.stack([todo[:-1], todo[1:]], dim=1)
        done = []
        while len(todo):
            z, _ = _nodes(torch.tensor([0.0, 1.0], dtype=torch.float64))
            z = todo[:, :1] + (todo[:, 1:] - todo[:, :1]) * z
            both = torch.stack([z, -z]).flatten()
            weight = torch.exp(-(todo[:, 0] ** 2) / 4) * (todo[:, 1] - todo[:, 0]).sqrt()
            open_ = torch.zeros(len(todo), dtype=torch.bool)
            worst = 0.0
            for some, size in zip(scales.split(8), norm.split(8), strict=True):
                values = self._values(both, some).view(len(some), 2, len(todo), ORDER)
                tail = (values @ _legendre_tail()).abs().amax((1, 3)) * weight
                over = tail / (size.where(size > 0, torch.ones_like(size)) * RESOLVED)[:, None]
                open_ |= (over > 1).any(0)
                if over.max() > worst:
                    worst, at = over.max().item(), some[over.amax(1).argmax()].item()
            done.append(todo[~open_])
            todo = todo[open_]
            if len(todo) and ((todo[0, 1] - todo[0, 0]).item() <= NARROWEST or sum(map(len, done)) > 4096):
                middle = todo.mean(1)[0].item()
                f = self.f(at * torch.tensor([middle, -middle], dtype=torch.float64))
                raise QuadratureError(
                    f"E[{self.f.name}(u) {self.f.name}(v)]: expected a function that panels resolve to "
                    f"{RESOLVED:g} of its size, got one that they do not at a standard deviation of "
                    f"{at:.6g}, near z = ±{at * middle:.6g}, where it "
                    f"is {f[0]:.6g} and {f[1]:.6g}. Name every kink and jump in kinks=(...); "
                    f"waves may be too fast, or the function's own rounding too large"
                )
            half = todo.mean(1)
            todo = torch.cat([torch.stack([todo[:, 0], half], 1), torch.stack([half, todo[:, 1]], 1)])
        edges: Tensor = torch.cat(done).flatten().unique()
        return edges

    def _values(self, z: Tensor, scales: Tensor) -> Tensor:
        values = self.f(scales[:, None] * z)
        if values.isnan().any():
            where = (scales[:, None] * z)[values.isnan()][0].item()
            raise QuadratureError(f"{self.f.name}: expected numbers, got NaN at z = {where:.6g}")
        return values


def _waves(f: Smooth, radii: Tensor, count: int) -> Tensor:
    """Fourier coefficients k = 0..count of f(R cos α), shape (len(radii), count + 1)."""
    cosines = torch.cos(torch.arange(count + 1, dtype=torch.float64) * (math.pi / count))
    values = f(radii[:, None] * cosines)
    whole = torch.cat([values, values[:, 1:-1].flip(1)], dim=1)
    result: Tensor = torch.fft.rfft(whole).real / (2 * count)
    return result


def _resolved_waves(
    f: Smooth, scale: Tensor, norm: Tensor, radii: Tensor, weights: Tensor, most: int
) -> Tensor:
    """The coefficients, over the norm, as many as these radii need, at most ``most``."""
    farthest = radii[-1].item()  # beyond 7 hardly anything has a weight
    count = 32 if farthest > 7 else min(most, 2 ** math.ceil(math.log2(max(32, most * farthest / 3))))
    while True:
        waves = _waves(f, scale * radii, count) / (norm if norm > 0 else 1)
        if count == most or (weights @ waves[:, 3 * count // 4 :] ** 2).sum() <= 1e-18:
            return waves
        count *= 2


def _block(waves: list[Tensor], on: list[int], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The places among ``on`` of those that reach so far; their columns start to stop, (k, a, r)."""
    places = [place for place, i in enumerate(on) if waves[i].shape[1] > start]
    columns = [
        torch.nn.functional.pad(part.T, (0, 0, 0, stop - start - part.shape[1]))
        for part in (waves[on[place]][:, start:stop] for place in places)
    ]
    return torch.tensor(places, dtype=torch.long), torch.stack(columns, dim=1) if columns else torch.empty(
        0
    )


def _count_of_waves(basis: _Basis) -> list[int]:
    """For each of the basis's scales how many coefficients there are, to 1e-16 of its power."""
    counts, sample = [], basis.edges[1:]
    weight = sample * torch.exp(-(sample**2) / 2) * basis.edges.diff()
    for scale, norm in zip(basis.scales, basis.norms, strict=True):
        count = 32
        while True:
            power = _waves(basis.f, scale * sample, count)[:, 3 * count // 4 :] ** 2
            if 2 * (weight @ power).sum() <= 1e-14 * norm**2:
                break
            count *= 2
            if count > MOST_WAVES:
                raise QuadratureError(
                    f"E[{basis.f.name}(u) {basis.f.name}(v)]: expected at most {MOST_WAVES} waves round "
                    f"a circle, got more at a standard "
                    f"deviation of {scale.item():.6g}. Name every kink and jump in kinks=(...)"
                )
        counts.append(count)
    return counts


class _Table:
    """E[f(u) g(v)] at all angles, for f at the scales of one basis and g at those of another."""

    def __init__(self, one: _Basis, two: _Basis) -> None:
        self.one, self.two = one, two
        largest = max(one.scales.max().item(), two.scales.max().item())
        self.delta = min(1.0, 0.1 / largest**2)
        waves = self._series()
        angles = self._angles(torch.linspace(-1, 1, 37, dtype=torch.float64))
        wanted = _at(waves, angles)
        count, before = 24, math.inf
        while True:
            values = _at(waves, self._angles(_chebyshev(count)))
            coefficients = torch.einsum("mn,nab->mab", _to_coefficients(count), values)
            got = torch.einsum(
                "mn,nab->mab",
                _polynomials(count, torch.linspace(-1, 1, 37, dtype=torch.float64)),
                coefficients,
            )
            error = (got - wanted).abs().max().item()
            if _is_enough(error, before, count):
                break
            before, count = error, count * 4 // 3
            if count > MOST_TERMS:
                raise QuadratureError(
                    f"E[{one.f.name}(u) {two.f.name}(v)]: expected a smooth function of the angle, got "
                    f"one that "
                    f"{count} terms leave {error:.1e} of at standard deviations up to {largest:.6g}. "
                    f"Name every kink and jump in kinks=(...)"
                )
        size = coefficients.abs().amax((1, 2)).flip(0).cumsum(0).flip(0)
        self.coefficients = coefficients[: max(2, int((size > 1e-15).sum()))]

    def _angles(self, y: Tensor) -> Tensor:
        grown = torch.exp(y * math.log((self.delta + 1) / self.delta))
        # sin² and cos² of half of the angle
        near, far = (
            ((e * (self.delta + 1) - self.delta) / (1 + e)).clamp(min=0) for e in (grown, 1 / grown)
        )
        return 2 * torch.atan2(near.sqrt(), far.sqrt())

    def _series(self) -> list[tuple[int, Tensor, list[int], list[int]]]:
        """Coefficients of cos kθ in blocks: the first k, (k, a, b), and which scales a, b reach so far."""
        bases = (self.one,) if self.two is self.one else (self.one, self.two)
        edges = _joint(self.one, self.two)
        r, w = _nodes(edges)
        w = w * r * torch.exp(-(r**2) / 2)
        counts = [_count_of_waves(basis) for basis in bases]
        ends = [0, 64]
        while ends[-1] < 1 + min(map(max, counts)):
            ends.append(2 * ends[-1])
        reach = [[[i for i, c in enumerate(cs) if c >= start] for cs in counts] for start in ends[:-1]]
        sums = [
            torch.zeros(stop - start, len(on[0]), len(on[-1]), dtype=torch.float64)
            for start, stop, on in zip(ends[:-1], ends[1:], reach, strict=True)
        ]
        for radii, weights in zip(r.split(ORDER), w.split(ORDER), strict=True):
            waves = [
                [
                    _resolved_waves(basis.f, scale, norm, radii, weights, most)
                    for scale, norm, most in zip(basis.scales, basis.norms, cs, strict=True)
                ]
                for basis, cs in zip(bases, counts, strict=True)
            ]
            for start, stop, on, total in zip(ends[:-1], ends[1:], reach, sums, strict=True):
                (at1, f), (at2, g) = (_block(waves[which], on[which], start, stop) for which in (0, -1))
                if len(at1) and len(at2):
                    total[:, at1[:, None], at2] += torch.bmm(f * weights, g.mT)
        result = []
        for start, on, total in zip(ends[:-1], reach, sums, strict=True):
            total *= 2
            if start == 0:
                total[0] /= 2  # k and -k are one there
            result.append((start, total, on[0], on[-1]))
        self._require_power(result)
        return result

    def _require_power(self, waves: list[tuple[int, Tensor, list[int], list[int]]]) -> None:
        """At angle 0 and equal scales this is E[f(sz)²], which an integral on the line gave before."""
        if self.one is not self.two:
            return
        power = _at(waves, torch.zeros(1, dtype=torch.float64))[0].diagonal()
        error = (power - (self.one.norms > 0).to(power)).abs().max().item()
        if not error <= 2 * RESOLVED:
            raise QuadratureError(
                f"E[{self.one.f.name}(u)²]: expected a quadrature in the plane to agree with one on the "
                f"line, got {error:.1e} apart. Name every kink and jump in kinks=(...)"
            )

    def outer(self, sd1: Tensor, sd2: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """Of all pairs: sd1 (n1,), sd2 (n2,); (1-xi)/2 and (1+xi)/2, shape (n1, n2)."""
        a, b = self.one.weighted(sd1), self.two.weighted(sd2)
        rows = torch.einsum("ip,mpq->miq", a, self.coefficients)
        side = max(1, AT_ONCE // max(1, len(sd2)))
        pieces = []
        for i in range(0, len(sd1), side):
            y = self._variable(near[i : i + side], far[i : i + side]).mul_(2)
            pieces.append(self._clenshaw(y, rows[:, i : i + side], b))
        return torch.cat(pieces) if pieces else near.clone()

    def _clenshaw(self, twice: Tensor, rows: Tensor, b: Tensor) -> Tensor:
        """The sum of T_m(y) (row_m b^T) from the last term on; twice is 2y."""
        above, current = torch.zeros_like(twice), rows[-1] @ b.T
        for m in range(len(rows) - 2, 0, -1):
            above = torch.addmm(above, rows[m], b.T, beta=-1).addcmul_(twice, current)
            above, current = current, above
        return torch.addmm(above, rows[0], b.T, beta=-1).addcmul_(twice, current, value=0.5)

    def each(self, sd1: Tensor, sd2: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """Of single pairs, all arguments of shape (n,)."""
        pieces = []
        side = max(1, 2**15 // max(self.coefficients.shape[1:]))
        for s1, s2, c, d in zip(*(z.split(side) for z in (sd1, sd2, near, far)), strict=True):
            T = _polynomials(len(self.coefficients), self._variable(c, d))
            a, b = self.one.weighted(s1), self.two.weighted(s2)
            total = torch.zeros_like(c)
            for m, coefficients in enumerate(self.coefficients):
                total += T[:, m] * ((a @ coefficients) * b).sum(1)
            pieces.append(total)
        return torch.cat(pieces) if pieces else near.clone()

    def _variable(self, near: Tensor, far: Tensor) -> Tensor:
        ratio = (near + self.delta) / (far + self.delta)
        return ratio.log_().div_(math.log((self.delta + 1) / self.delta))


def _at(waves: list[tuple[int, Tensor, list[int], list[int]]], angles: Tensor) -> Tensor:
    """The cosine series at these angles, shape (angles, a, b)."""
    first = waves[0][1]
    result = torch.zeros(len(angles), *first.shape[1:], dtype=torch.float64)
    for start, block, one, two in waves:
        k = torch.arange(start, start + len(block), dtype=torch.float64)
        part = (torch.cos(angles[:, None] * k) @ block.flatten(1)).view(-1, *block.shape[1:])
        result[:, torch.tensor(one)[:, None], torch.tensor(two)] += part
    return result


# --- with derivatives --------------------------------------------------------------------------------
# By Price's theorem d/dcov E[f(u) g(v)] = E[f'(u) g'(v)] and d/dvar(u) = E[f''(u) g(v)]/2. What comes out
# is an expectation of the same kind, so that derivatives of any order are right by construction.


class _Plane(torch.autograd.Function):
    """E[f(u) g(v)], the shape of xi; standard deviations are broadcast to it."""

    @staticmethod
    def forward(f: Smooth, g: Smooth, sd1: Tensor, sd2: Tensor, xi: Tensor, sin2: Tensor) -> Tensor:
        if xi.numel() == 0:
            return xi.clone()
        s1, s2, xi64, sin2 = (z.double() for z in (sd1, sd2, xi, sin2))
        positive = xi64 > 0
        near = torch.where(positive, sin2 / (1 + xi64.abs()), 1 - xi64).mul_(0.5)
        far = torch.where(positive, 1 + xi64, sin2 / (1 + xi64.abs())).mul_(0.5)
        table = f.table(g, (s1, s2))
        if xi.ndim == 2 and s1.shape == (len(xi), 1) and s2.shape == (1, xi.shape[1]):
            result = table.outer(s1[:, 0], s2[0], near, far)
        else:
            flat = [z.broadcast_to(xi.shape).flatten() for z in (s1, s2, near, far)]
            result = table.each(*flat).view_as(xi)
        if f is g:  # equal variables, to the last digit
            same = (near == 0) & (s1 == s2)
            if same.any():
                result = torch.where(same, line(f, g, s1), result)
        return result.to(xi.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.functions = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def _slopes(ctx: Any) -> tuple[Tensor, Tensor, Tensor]:
        (f, g), (sd1, sd2, xi, sin2) = ctx.functions, ctx.saved_tensors
        both = plane(f.slope, g.slope, sd1, sd2, xi, sin2)
        along1 = sd1 * plane(f.slope.slope, g, sd1, sd2, xi, sin2) + xi * sd2 * both
        along2 = sd2 * plane(f, g.slope.slope, sd1, sd2, xi, sin2) + xi * sd1 * both
        return along1, along2, sd1 * sd2 * both

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sizes = [z.shape for z in ctx.saved_tensors[:3]]
        slopes = _Plane._slopes(ctx)
        return (
            None,
            None,
            *((gradient * s).sum_to_size(n) for s, n in zip(slopes, sizes, strict=True)),
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        pairs = zip(_Plane._slopes(ctx), tangents[2:5], strict=True)
        return sum(slope * tangent for slope, tangent in pairs if tangent is not None)  # type: ignore[return-value]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], f: Smooth, g: Smooth, *of: Tensor
    ) -> tuple[Tensor, int]:
        return one_by_one(lambda *z: plane(f, g, *z), info, in_dims[2:], of)


class _Line(torch.autograd.Function):
    """E[f(sd z) g(sd z)] for z normal, the shape of sd."""

    @staticmethod
    def forward(f: Smooth, g: Smooth, sd: Tensor) -> Tensor:
        return line(f, g, sd.double()).to(sd.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.functions = inputs[:2]
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        (f, g), (sd,) = ctx.functions, ctx.saved_tensors
        terms = ((f.slope.slope, g), (f.slope, g.slope), (f.slope, g.slope), (f, g.slope.slope))
        slope: Tensor = sd * torch.stack([on_line(a, b, sd) for a, b in terms]).sum(0)
        return slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, gradient * _Line._slope(ctx)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        return None if tangents[2] is None else tangents[2] * _Line._slope(ctx)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], f: Smooth, g: Smooth, *of: Tensor
    ) -> tuple[Tensor, int]:
        return one_by_one(lambda sd: on_line(f, g, sd), info, in_dims[2:], of)


def plane(f: Smooth, g: Smooth, sd1: Tensor, sd2: Tensor, xi: Tensor, sin2: Tensor) -> Tensor:
    """E[f(u) g(v)] of smooth f and g, in the shape of xi, to 1e-11 of the root of E[f(u)²] E[g(v)²]."""
    return applied(_Plane, f, g, sd1, sd2, xi, sin2)


def _plane_of(f: Smooth, Lambda: Covariance) -> Tensor:
    return plane(f, f, Lambda.sd1, Lambda.sd2, Lambda.xi, Lambda.sin2)


def on_line(f: Smooth, g: Smooth, sd: Tensor) -> Tensor:
    """E[f(sd·z) g(sd·z)] for z normal, in the shape of sd."""
    return applied(_Line, f, g, sd)
