r"""Gaussian expectations :math:`E[f(u) f(v)]` of any function, kinks and jumps included.

Write :math:`u = s_1(a p + b q)` and :math:`v = s_2(a p - b q)` with independent standard normal
:math:`p, q` and :math:`a, b = \sqrt{(1\pm\xi)/2}`. Where :math:`f` has a kink, the integrand has
kinks along straight lines of the :math:`(p, q)` plane. We cut the inner integral where these
lines pass, and the outer one where they cross; between the cuts everything is smooth, and
Gauss–Legendre converges faster than any power of its order, for :math:`\xi` near 1 as well.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .covariance import Covariance, root

TOLERANCE = 1e-10
# Two settings (nodes a panel, cut-off in standard deviations) whose difference is the error estimate.
# The normal density beyond 9 standard deviations is below 1e-18.
FINE, COARSE = (24, 11.0), (20, 9.5)
# Widths of the panels between the cuts; pairs that one width leaves unsettled go on to the next.
WIDTHS = (3.0, 1.0, 1 / 3)
VALUES_AT_ONCE = 2**22  # 32 MiB a temporary array in float64


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


def _expectation(
    f: Callable[[Tensor], Tensor],
    pairs: Sequence[Tensor],
    kinks: Tensor,
    order: int,
    reach: float,
    width: float,
) -> Tensor:
    """E[f(u) f(v)] for pairs given by 1-D tensors of standard deviations, xi and 1-xi²."""
    s1, s2, xi, sin2 = pairs
    # the smaller of a, b without cancellation
    a2 = torch.where(xi > 0, (1 + xi) / 2, sin2 / (1 - xi) / 2)
    b2 = torch.where(xi > 0, sin2 / (1 + xi) / 2, (1 - xi) / 2)
    # The larger of the two multiplies the inner variable; the sign follows it into v.
    swap = xi <= 0
    a, b = root(torch.where(swap, b2, a2))[:, None], root(torch.where(swap, a2, b2))[:, None]
    sign = torch.where(swap, -1.0, 1.0).to(xi)[:, None]  # v = s2·sign·(a p - b q)
    # The kinks are the lines ap+bq = at1 and ap-bq = at2; a variable that is constantly 0 has none.
    far = torch.full_like(kinks, 2 * reach)
    at1 = torch.where(s1[:, None] > 0, kinks / s1[:, None], far)
    at2 = torch.where(s2[:, None] > 0, sign * kinks / s2[:, None], far)
    crossings = (at1[:, :, None] - at2[:, None, :]).flatten(1) / (2 * b)
    outside = torch.full_like(crossings, 2 * reach)  # parallel lines never cross
    q, weight_q = _panels(torch.where(b > 0, crossings, outside), order, reach, width)
    cuts = torch.cat([at1[:, None] - (b * q)[..., None], at2[:, None] + (b * q)[..., None]], dim=2)
    p, weight_p = _panels((cuts / a[..., None]).flatten(0, 1), order, reach, width)
    p, weight_p = p.unflatten(0, q.shape), weight_p.unflatten(0, q.shape)
    ap, bq = a[..., None] * p, (b * q)[..., None]
    u, v = s1[:, None, None] * (ap + bq), (s2[:, None] * sign)[..., None] * (ap - bq)
    inner: Tensor = (f(u) * f(v) * weight_p).sum(-1)
    return (inner * weight_q).sum(-1)


def expectation(
    f: Callable[[Tensor], Tensor], Lambda: Covariance, kinks: Sequence[float] = (), name: str = "f"
) -> Tensor:
    r"""Return :math:`E[f(u) f(v)]` for every pair in ``Lambda``, shape (n1, n2).

    Computed in float64 whatever the input's dtype, and returned in that dtype.

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
    points = torch.tensor(list(kinks), dtype=torch.float64, device=xi.device)
    m = len(points)

    def integrate(setting: tuple[int, float], width: float, *pairs: Tensor) -> Tensor:
        order, reach = setting
        panels = math.ceil(2 * reach / width)
        at_once = max(1, VALUES_AT_ONCE // ((panels + m * m) * (panels + 2 * m) * order**2))
        return torch.cat(
            [
                _expectation(f, chunk, points, order, reach, width)
                for chunk in zip(*(z.split(at_once) for z in pairs), strict=True)
            ]
        )

    def size(sd: Tensor) -> Tensor:
        one, nought = torch.ones_like(sd), torch.zeros_like(sd)
        flat = (z.flatten() for z in (sd, sd, one, nought))
        return integrate(COARSE, WIDTHS[0], *flat).view_as(sd).sqrt()

    pairs = [z.broadcast_to(xi.shape).flatten() for z in (sd1, sd2, xi, sin2)]
    scale = (size(sd1) * size(sd2)).flatten()
    values = torch.full_like(pairs[2], torch.nan)
    open_pairs = torch.arange(len(values), device=xi.device)
    for width in WIDTHS:
        here = [z[open_pairs] for z in pairs]
        fine, coarse = (integrate(setting, width, *here) for setting in (FINE, COARSE))
        values[open_pairs] = fine
        settled = (fine - coarse).abs() <= TOLERANCE * scale[open_pairs]  # not for NaN
        open_pairs, fine, coarse = (z[~settled] for z in (open_pairs, fine, coarse))
        if len(open_pairs) == 0:
            return values.reshape(xi.shape).to(Lambda.xi.dtype)
    sd_u, sd_v, worst_xi, _ = (z[open_pairs[0]].item() for z in pairs)
    raise QuadratureError(
        f"E[{name}(u) {name}(v)]: expected two quadratures to agree to {TOLERANCE:g} of "
        f"{scale[open_pairs[0]]:.3g}, got {fine[0]:.17g} and {coarse[0]:.17g} at standard deviations "
        f"{sd_u:.6g}, {sd_v:.6g} and correlation {worst_xi:.6g}. Name every kink and jump in "
        f"kinks=(...); a function that grows like exp(z²/4) or faster has no finite dual"
    )
