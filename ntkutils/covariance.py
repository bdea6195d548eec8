r"""Second moments of pairs of Gaussian variables, in a form that keeps its digits.

A kernel layer maps the covariance of :math:`(u, v)` to that of :math:`(\phi(u), \phi(v))`.
Written with cosines :math:`\xi`, this loses half of the digits for nearly parallel inputs: the
ReLU's kernel depends on the *angle*, and an error of 1e-16 in :math:`\xi` near 1 is an error of
1e-8 in :math:`\theta = \arccos\xi`.
So :class:`Covariance` carries :math:`\sin^2\theta = 1-\xi^2` beside :math:`\xi`, computed without
cancellation at every step.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Below this sin²θ the matrix product's ξ is not accurate enough: its rounding error of a few 1e-16
# becomes that over sin θ in the angle, so 1e-15 at sin²θ = 0.1.
NEARLY_PARALLEL = 0.1


def root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0 where sqrt has an infinite one.

    What is 0 here, the angle of coincident points or the variance of a constant 0, stays 0 when the
    scale of weights and biases changes, and sqrt would multiply that change of 0 by infinity.
    """
    if torch.is_inference_mode_enabled():  # no derivatives, so no need to mend one
        return x.sqrt()
    inside = x.where(x != 0, torch.ones_like(x))  # so that nothing infinite is multiplied by 0 either
    return inside.sqrt().where(x != 0, torch.zeros_like(x))


def sign_of(x: Tensor) -> Tensor:
    """1 or -1, at 0 too, so that an even smooth function of |x| = sign·x keeps all derivatives there."""
    return torch.copysign(torch.ones_like(x), x).detach()


def magnitude(x: Tensor) -> Tensor:
    """|x|, with the derivative :func:`sign_of` x."""
    return x.abs() if torch.is_inference_mode_enabled() else x * sign_of(x)


def at_least_0(x: Tensor) -> Tensor:
    """What is below 0 by rounding only, put to 0, with the derivatives that it has without that."""
    clamped = x.clamp(min=0)
    return clamped if torch.is_inference_mode_enabled() else x + (clamped - x).detach()


def nonzero(x: Tensor) -> Tensor:
    """x, and 1 where x is 0: a divisor of something that is 0 there too."""
    return x.where(x != 0, torch.ones_like(x))


@dataclass(frozen=True)
class Covariance:
    r"""Second moments of all pairs :math:`(u_i, v_j)` of centred variables.

    Attributes:
        sd1: standard deviations of :math:`u_i`, shape (n1, 1).
        sd2: standard deviations of :math:`v_j`, shape (1, n2).
        xi: correlations :math:`\xi_{ij}`, shape (n1, n2).
        sin2: :math:`1-\xi_{ij}^2`, accurate also where it is tiny, shape (n1, n2).
        known_gap: :math:`1-\xi_{ij}` with all its digits, where whoever makes this has it at hand.

    Multiplying by a number scales every second moment;
    adding a number adds it to every second moment, as an independent common bias does.
    """

    sd1: Tensor
    sd2: Tensor
    xi: Tensor
    sin2: Tensor
    known_gap: Tensor | None = None

    @classmethod
    def of_moments(cls, cov: Tensor, var1: Tensor, var2: Tensor) -> "Covariance":
        """From second moments; all digits of ``cov`` are used, none are added."""
        sd1, sd2 = root(var1), root(var2)
        # A variable that is constantly 0 has no correlation: any value serves, as it meets sd = 0.
        xi = (cov / (sd1 * sd2)).where((sd1 > 0) & (sd2 > 0), torch.zeros_like(cov))
        # |xi| exceeds 1 by rounding at most; its angle is then 0 or pi.
        return cls(sd1, sd2, xi, at_least_0((1 - xi) * (1 + xi)))

    @property
    def cov(self) -> Tensor:
        """The second moments E[u_i v_j], shape (n1, n2)."""
        return self.sd1 * self.xi * self.sd2

    @property
    def var1(self) -> Tensor:
        """The variances E[u_i²], shape (n1, 1)."""
        return self.sd1**2

    @property
    def var2(self) -> Tensor:
        """The variances E[v_j²], shape (1, n2)."""
        return self.sd2**2

    @cached_property
    def gap(self) -> Tensor:
        """1 - xi, accurate also where it is tiny."""
        if self.known_gap is not None:
            return self.known_gap
        size = magnitude(self.xi)
        return self.sin2 / (1 + size) + (size - self.xi)  # 1 - |xi|, and what lacks if xi is below 0

    @cached_property
    def sine(self) -> Tensor:
        """The sines of the angles whose cosine is xi, accurate everywhere."""
        return root(self.sin2)

    @cached_property
    def theta(self) -> Tensor:
        """The angles whose cosine is xi, in [0, pi], accurate everywhere."""
        return torch.atan2(self.sine, self.xi)

    def __rmul__(self, factor: float | Tensor) -> "Covariance":
        if isinstance(factor, float) and factor == 1:
            return self
        scale = root(factor) if isinstance(factor, Tensor) else factor**0.5
        return Covariance(scale * self.sd1, scale * self.sd2, self.xi, self.sin2, self.known_gap)

    def __add__(self, shift: float | Tensor) -> "Covariance":
        if isinstance(shift, float) and shift == 0:
            return self
        sd1, sd2 = root(self.var1 + shift), root(self.var2 + shift)
        by1, by2 = nonzero(sd1), nonzero(sd2)
        shrunk = (self.sd1 / by1) * (self.sd2 / by2)  # by what xi shrinks, in [0, 1]
        common = (shift / by1) / by2  # what the bias adds to it, in [0, 1]
        apart = self.sd1 - self.sd2
        # det = var1·var2·(1-xi²) + shift·((sd1-sd2)² + 2·sd1·sd2·(1-xi)), over the new variances:
        # a sum of non-negative terms, so that nothing cancels.
        unlike = torch.addcmul((apart / by1) * (apart / by2), shrunk, self.gap, value=2)
        xi = torch.addcmul(common, shrunk, self.xi)
        return Covariance(sd1, sd2, xi, torch.addcmul(common * unlike, shrunk**2, self.sin2))


def gram(x1: Tensor, x2: Tensor) -> Covariance:
    """Inner products of the rows of ``x1`` (n1, d) with those of ``x2`` (n2, d).

    From one matrix product; the angles of nearly parallel and nearly opposite pairs from what
    is left of x1 after the projection on x2, accurate relative to the angle however small.
    (Kahan's 2·atan2(|u-v|, |u+v|) for unit vectors errs by the rounding of the unit vectors, which
    a jump such as sign's sees after some layers.)
    """
    (norm1, unit1), (norm2, unit2) = norms_and_directions(x1), norms_and_directions(x2)
    return of_cosines(unit1 @ unit2.T, x1, norm1, x2, norm2)


def is_followed(x: Tensor) -> bool:
    """Whether automatic differentiation, in either mode, or a transform of torch.func may follow x.

    What torch.func follows shows no memory of its own, whichever of its transforms, nested in whatever
    order. So True is the answer for all that shows none, known or not: the road that it leads to is right
    for every tensor, and slower.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return True
    if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
        return True
    try:
        return x.numel() > 0 and x.data_ptr() == 0
    except RuntimeError:
        return True


def norms_and_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """The norms of the rows, shape (n, 1), and the rows over them; a row of zeros stays one."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not is_followed(x):
        return norm, x / nonzero(norm)
    # The inner product x·y has the derivative y at x = 0, too: its norm, times its direction's derivative.
    # Its second derivative is not to be had from norms, so they give NaN: that of the power, inf times 0.
    at_0 = x.where(norm.detach() == 0, torch.zeros_like(x)).square().sum(1, keepdim=True) ** 1.5
    norm = norm.where(norm > 0, at_0 + torch.finfo(x.dtype).tiny ** 0.5)
    return norm, x / norm


def of_cosines(
    xi: Tensor, x1: Tensor, norm1: Tensor, x2: Tensor, norm2: Tensor, same: bool = False
) -> Covariance:
    """:func:`gram`, from the cosines as a matrix product has them; ``same`` if the points are the same."""
    gap = 1 - xi
    sin2 = torch.addcmul(gap, gap, xi)
    if same:  # no need to search the diagonal
        xi.fill_diagonal_(1), gap.fill_diagonal_(0), sin2.fill_diagonal_(1)
    near = torch.nonzero(sin2 < NEARLY_PARALLEL) if sin2.numel() and sin2.min() < NEARLY_PARALLEL else None
    if same:
        sin2.fill_diagonal_(0)
    if near is None:
        return Covariance(norm1, norm2.T, xi, sin2, gap)
    i, j = near.T
    small1, small2 = (_scaled(x, n) for x, n in ((x1, norm1), (x2, norm2)))
    sign = xi[i, j].sign()
    # in pieces that bound memory
    small = torch.cat(
        [
            _sin2(small1[a], small2[b], s)
            for a, b, s in zip(*(z.split(65536) for z in (i, j, sign)), strict=True)
        ]
    )
    xi = xi.index_put((i, j), sign * (1 - small).sqrt())
    sin2 = sin2.index_put((i, j), small)
    return Covariance(norm1, norm2.T, xi, sin2)


def _scaled(x: Tensor, norm: Tensor) -> Tensor:
    """Return x with norms between 1/2 and 1, scaled by powers of 2, so without rounding."""
    exponent = torch.frexp(norm.detach()).exponent
    half = exponent.div(2, rounding_mode="floor")  # 2 to the whole one may be infinite
    one = torch.ones_like(norm).detach()
    return x * torch.ldexp(one, -half) * torch.ldexp(one, half - exponent)


def _sin2(x: Tensor, y: Tensor, sign: Tensor) -> Tensor:
    """sin² of the angles between rows of x and y, nearly parallel (sign 1) or opposite (-1)."""
    if x.shape[1] == 1:  # on a line, all are parallel or opposite; what follows would leave eps⁴
        return torch.zeros_like(x[:, 0])
    ratio = sign[:, None] * torch.linalg.vector_norm(x, dim=1, keepdim=True)
    ratio = ratio / torch.linalg.vector_norm(y, dim=1, keepdim=True)
    near = ratio * y
    rest = (x - near) - _rounding_of_product(*(z.detach() for z in (ratio, y, near)))  # has no derivative
    across = rest - y * ((rest * y).sum(1, keepdim=True) / (y * y).sum(1, keepdim=True))
    sin2: Tensor = across.square().sum(1) / x.square().sum(1)
    return sin2


def _rounding_of_product(a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """a·b - product, exactly: Dekker 1971, with Veltkamp's splitting into halves."""
    splitter = 2.0 ** {torch.float64: 27, torch.float32: 12}[b.dtype] + 1
    a_high, b_high = (splitter * z - (splitter * z - z) for z in (a, b))
    a_low, b_low = a - a_high, b - b_high
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
