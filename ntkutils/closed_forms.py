r"""Gaussian expectations in closed form: what a wide layer of a given nonlinearity does to covariances.

For every nonlinearity :math:`\phi` there are two functions of the covariance of :math:`(u, v)`: its own
name gives the covariance of :math:`(\phi(u), \phi(v))`, and that name with ``_slopes`` gives
:math:`E[\phi'(u)\phi'(v)]`. Nothing is normalised here; :mod:`ntkutils.activations` does that.

The formulas are textbook, the way they are written is not. A :class:`Covariance` carries
:math:`1-\xi^2` with all its digits, and the new one must come without cancellation, or half of the
digits are lost at nearly coincident and nearly antipodal inputs. We write :math:`1-\xi'` and
:math:`1+\xi'`, or :math:`1-\xi'^2`, as sums of non-negative terms, and the difference between the value
at :math:`\xi` and that at 1 as a multiple of :math:`1-\xi^2`.

Throughout, A = E[u²], B = E[v²], xi is the correlation, theta its angle.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from .covariance import Covariance, at_least_0, magnitude, nonzero, root, sign_of

PI = math.pi


def _negated(Lambda: Covariance) -> Covariance:
    """The covariance of (u, -v)."""
    return Covariance(Lambda.sd1, Lambda.sd2, -Lambda.xi, Lambda.sin2)


# --- arc cosines: what all kinks at 0 have in common ----------------------------------------------------


@cache
def _arc_cosine(n: int) -> tuple[Polynomial, Polynomial]:
    """Polynomials P, Q with J_n(θ) = (π-θ) P(cos θ) + sin θ Q(cos θ), Cho & Saul 2009's J_n.

    From their J_n = (-1)^n sin^(2n+1)θ (1/sin θ d/dθ)^n (π-θ)/sin θ, that is
    J_(n+1) = -sin θ dJ_n/dθ + (2n+1) cos θ J_n.
    """
    P, Q, xi = Polynomial([1.0]), Polynomial([0.0]), Polynomial([0.0, 1.0])
    for m in range(n):
        P, Q = (
            (1 - xi**2) * P.deriv() + (2 * m + 1) * xi * P,
            P + 2 * m * xi * Q + (1 - xi**2) * Q.deriv(),
        )
    return P, Q


def _arc(theta: Tensor, sine: Tensor, xi: Tensor, n: int) -> Tensor:
    """(θ P(cos θ) - sin θ Q(cos θ))/π: by what J_n(θ)/π falls short of P, the dual of z^n, n at least 1.

    Derivatives of that difference are differences of cosines times what θ changes by. Near 0 and π nothing
    is left of these; there we take its power series.
    """
    P, Q = _arc_cosine(n)
    if n == 1:
        value = torch.addcmul(sine, theta, xi, value=-1) / -PI
    else:
        value = (theta * _evaluate(P, xi) - sine * _evaluate(Q, xi)) / PI
    if torch.is_inference_mode_enabled():  # no derivatives
        return value
    if value.ndim == 0:  # no index says where in it
        return _arc(theta[None], sine[None], xi[None], n)[0]
    near = (sine < NEARLY_PARALLEL).nonzero().unbind(1)
    if len(near[0]) == 0:
        return value
    sine, xi = sine[near], xi[near]
    t = torch.atan2(sine, magnitude(xi))  # θ or π-θ, the smaller
    series = t ** (2 * n + 1) * _evaluate(_arc_series(n), t**2)
    return value.index_put(near, torch.where(xi > 0, series, _evaluate(P, xi) - (-1) ** n * series))


NEARLY_PARALLEL = 0.1  # a sine


@cache
def _arc_series(n: int) -> Polynomial:
    """The S of _arc = θ^(2n+1) S(θ²): the integral of -n² sin θ times that of the degree below.

    As dJ_n/dcos θ = n² J_(n-1).
    """
    if n == 0:
        return Polynomial([1 / PI] + 8 * [0.0])
    below = _arc_series(n - 1).coef
    sine = [(-1) ** j / math.factorial(2 * j + 1) for j in range(len(below))]
    product = np.convolve(below, sine)[: len(below)]
    return Polynomial([-(n**2) * c / (2 * (n + k) + 1) for k, c in enumerate(product)])


def _evaluate(polynomial: Polynomial, x: Tensor) -> Tensor:
    *lower, highest = polynomial.coef.tolist()
    value = torch.full_like(x, highest)
    for c in reversed(lower):
        value = torch.add(x * value, c)
    return value


# --- ReLU: sqrt(2)·max(0, z), already normalised, as it is what everybody waits for --------------------
# Every line is one pass over memory: the sums and products that torch does in one are asked for as one.


def relu(Lambda: Covariance) -> Covariance:
    """E = root of AB times (sin θ + (π-θ) cos θ)/π: Cho & Saul 2009 (NIPS 22), n = 1."""
    # less xi' - xi; its rounding, 1e-16·θ, changes the new angle by 1e-16
    if torch.is_inference_mode_enabled():
        rise = torch.addcmul(Lambda.sine, Lambda.theta, Lambda.xi, value=-1)  # sin θ - θ cos θ
        gap = torch.sub(Lambda.gap, rise, alpha=1 / PI)
    else:
        gap = Lambda.gap + _arc(Lambda.theta, Lambda.sine, Lambda.xi, 1)
    gap = at_least_0(gap)  # below 0 by rounding, where θ < 1e-16
    xi = 1 - gap
    return Covariance(Lambda.sd1, Lambda.sd2, xi, torch.addcmul(gap, gap, xi), gap)


def relu_slopes(Lambda: Covariance) -> Tensor:
    """E = 1 - θ/π: Cho & Saul 2009, n = 0."""
    return torch.rsub(Lambda.theta, 1, alpha=1 / PI)


# --- piecewise linear: a·min(z, 0) + max(z, 0) -------------------------------------------------------
# Equal to (1+a)/2·z + (1-a)/2·|z|, an odd and an even part, which are uncorrelated. The part |z|
# is a ReLU's even part: Cho & Saul 2009, n = 1, for (u, v) and for (u, -v), added.


def piecewise_linear(Lambda: Covariance, a: float) -> Covariance:
    """E = root of AB times ((1+a)²/4·cos θ + (1-a)²/4·(2/π)(sin θ + (π/2 - θ) cos θ))."""
    cos = magnitude(Lambda.xi)
    t = torch.atan2(Lambda.sine, cos)  # theta or pi - theta, the smaller
    # 1 - (2/π)(sin t + (π/2 - t) cos t)
    even_gap = Lambda.sin2 / (1 + cos) + 2 * _arc(t, Lambda.sine, cos, 1)
    odd, even = (1 + a) ** 2 / (2 * (1 + a**2)), (1 - a) ** 2 / (2 * (1 + a**2))
    minus = odd * Lambda.gap + even * even_gap
    plus = odd * _negated(Lambda).gap + even * (2 - even_gap)
    xi = odd * Lambda.xi + even * (1 - even_gap)
    return (1 + a**2) / 2 * Covariance(Lambda.sd1, Lambda.sd2, xi, minus * plus)


def piecewise_linear_slopes(Lambda: Covariance, a: float) -> Tensor:
    """E = (1 + a²)/2 - (1-a)²/(2π)·θ, as a slope is (1+a)/2 + (1-a)/2·sign."""
    return (1 + a) ** 2 / 4 + (1 - a) ** 2 / 4 * (1 - 2 / PI * Lambda.theta)


# --- sign, and the step function (1 + sign)/2 -------------------------------------------------------


def sign(Lambda: Covariance) -> Covariance:
    """E = 1 - 2θ/π: Cho & Saul 2009, n = 0, doubled and shifted. A constant 0 has sign 0."""
    minus, plus = 2 / PI * Lambda.theta, 2 / PI * _negated(Lambda).theta  # 1 - xi', 1 + xi'
    sd1, sd2 = (sd.sign() for sd in (Lambda.sd1, Lambda.sd2))
    return Covariance(sd1, sd2, (plus - minus) / 2, minus * plus)


def step(Lambda: Covariance) -> Covariance:
    """E = (1 + E[sign sign])/4, as E[sign] = 0."""
    return 0.25 * sign(Lambda) + 0.25


def no_slopes(Lambda: Covariance) -> Tensor:
    """0: what gradients see of a piecewise constant function."""
    return torch.zeros_like(Lambda.xi)


# --- rectified monomials: max(0, z)^n ---------------------------------------------------------------


def rectified_monomial(Lambda: Covariance, n: int) -> Covariance:
    """E = (root of AB)^n J_n(θ)/(2π), n at least 1: Cho & Saul 2009, who have twice that."""
    top, P = odd_factorial(n), _arc_cosine(n)[0]
    # J_n/π = P - arc; P is the dual of z^n, and 1 - P/top is had without cancellation
    terms = (c / top * gap for c, gap in zip(P.coef, _gaps_of_powers(Lambda, n), strict=True))
    gap = sum(terms, _arc(Lambda.theta, Lambda.sine, Lambda.xi, n) / top)
    gap = at_least_0(gap)  # below 0 by rounding, at tiny angles
    return top / 2 * Covariance(Lambda.sd1**n, Lambda.sd2**n, 1 - gap, gap * (2 - gap))


def rectified_monomial_slopes(Lambda: Covariance, n: int) -> Tensor:
    """E = n² times that of the degree below, n at least 2."""
    return n**2 * rectified_monomial(Lambda, n - 1).cov


def odd_factorial(n: int) -> int:
    """1·3·5···(2n-1) = E[z^(2n)]."""
    return math.prod(range(1, 2 * n, 2))


def _gaps_of_powers(Lambda: Covariance, degree: int) -> list[Tensor]:
    """1 - xi^l for l = 0..degree, by 1 - xi^(l+2) = 1 - xi^l + xi^l (1 - xi²)."""
    gaps = [torch.zeros_like(Lambda.xi), Lambda.gap]
    for l in range(degree - 1):
        gaps.append(gaps[l] + Lambda.xi**l * Lambda.sin2)
    return gaps[: degree + 1]


# --- polynomials -------------------------------------------------------------------------------------
# With phi(sd·z) = Σ_l a_l(sd) h_l(z) in normalised Hermite polynomials, Mehler's formula gives
# E[phi(u) phi(v)] = Σ_l a_l(sd1) a_l(sd2) xi^l. An `expand` maps sd to the list of a_l.

Expansion = Callable[[Tensor], list[Tensor]]


def power_expansion(coefficients: list[float]) -> Expansion:
    """Of Σ_n c_n z^n, by z^n = Σ_i n!/(2^i i! l!) He_l(z), l = n - 2i, and He_l = sqrt(l!) h_l."""

    def expand(sd: Tensor) -> list[Tensor]:
        a = [torch.zeros_like(sd) for _ in coefficients]
        for n, c in enumerate(coefficients):
            for i in range(n // 2 + 1):
                l = n - 2 * i
                weight = math.factorial(n) / (2**i * math.factorial(i) * math.factorial(l) ** 0.5)
                a[l] = a[l] + c * weight * sd**n
        return a

    return expand


def hermite_expansion(n: int) -> Expansion:
    """Of h_n, by He_n(sd·z) = Σ_i n!/(2^i i! l!) sd^l (sd²-1)^i He_l(z), l = n - 2i."""

    def expand(sd: Tensor) -> list[Tensor]:
        a = [torch.zeros_like(sd) for _ in range(n + 1)]
        for i in range(n // 2 + 1):
            l = n - 2 * i
            weight = (math.factorial(n) / math.factorial(l)) ** 0.5 / (2**i * math.factorial(i))
            a[l] = weight * sd**l * ((sd - 1) * (sd + 1)) ** i
        return a

    return expand


def series(Lambda: Covariance, expand: Expansion) -> Covariance:
    """E = Σ_l a_l(sd1) a_l(sd2) xi^l."""
    (sd1, alpha), (sd2, beta) = (_length_and_direction(expand(sd)) for sd in (Lambda.sd1, Lambda.sd2))

    def one_minus(Lambda: Covariance, beta: list[Tensor]) -> Tensor:
        """1 - Σ αβ xi^l = ½ Σ (α-β)² + Σ αβ (1-xi^l) for unit vectors α, β."""
        gaps = _gaps_of_powers(Lambda, len(beta) - 1)
        terms = ((a - b) ** 2 / 2 + a * b * gap for a, b, gap in zip(alpha, beta, gaps, strict=True))
        return sum(terms, torch.zeros_like(Lambda.xi))

    minus = one_minus(Lambda, beta)
    plus = one_minus(_negated(Lambda), [-((-1) ** l) * b for l, b in enumerate(beta)])
    pairs = enumerate(zip(alpha, beta, strict=True))
    xi = sum((a * b * Lambda.xi**l for l, (a, b) in pairs), torch.zeros_like(Lambda.xi))
    # near ±1 the sum over xi^l would hand the rounding of xi on, multiplied by the degree
    xi = torch.where(Lambda.sin2 < 0.5, (plus - minus) / 2, xi)
    return Covariance(sd1, sd2, xi, minus * plus)


def series_slopes(Lambda: Covariance, expand_slope: Expansion) -> Tensor:
    """E = Σ_l a_l(sd1) a_l(sd2) xi^l, with the expansion of the derivative."""
    pairs = zip(expand_slope(Lambda.sd1), expand_slope(Lambda.sd2), strict=True)
    return sum((a * b * Lambda.xi**l for l, (a, b) in enumerate(pairs)), torch.zeros_like(Lambda.xi))


def _length_and_direction(a: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The root of Σ a_l² without overflow or underflow, and a over it."""
    largest = torch.stack(a).abs().amax(0)
    a = [x / nonzero(largest) for x in a]
    length = root(sum((x**2 for x in a), torch.zeros_like(largest)))
    return largest * length, [x / nonzero(length) for x in a]


# --- trigonometric and exponential -------------------------------------------------------------------
# From E[exp(w)] = exp(E[w²]/2) for w = ±u ± v (times i). D and S are the variances of u - v and u + v.


def _variance_of_difference(Lambda: Covariance) -> Tensor:
    return (Lambda.sd1 - Lambda.sd2) ** 2 + 2 * Lambda.sd1 * Lambda.sd2 * Lambda.gap


def _unlike(sd1: Tensor, sd2: Tensor) -> Tensor | None:
    """Where one of the two is more than twice the other, if anywhere.

    There 1-xi² is as good as it comes; what is made for nearly equal ones loses digits by the factor.
    """
    if sd1.numel() == 0 or sd2.numel() == 0:
        return None
    least, most = torch.minimum(sd1.min(), sd2.min()), torch.maximum(sd1.max(), sd2.max())
    if most <= 2 * least:
        return None
    return (sd1 > 2 * sd2) | (sd2 > 2 * sd1)


def _sin2(careful: Tensor, xi: Tensor, unlike: Tensor | None) -> Tensor:
    careful = at_least_0(careful)  # below 0 by rounding
    return careful if unlike is None else ((1 - xi) * (1 + xi)).where(unlike, careful)


def sinusoid(Lambda: Covariance, p: float, q: float) -> Covariance:
    """Of p·sin z + q·cos z, p² + q² = 1: E = (exp(-D/2) - k exp(-S/2))/2 with k = p² - q²."""
    D, S = _variance_of_difference(Lambda), _variance_of_difference(_negated(Lambda))
    k, one_minus_k, one_minus_k2 = p**2 - q**2, 2 * q**2, (2 * p * q) ** 2
    sd1, sd2 = (root((one_minus_k - k * torch.expm1(-2 * var)) / 2) for var in (Lambda.var1, Lambda.var2))
    size = nonzero(sd1) * nonzero(sd2)
    # exp(-D/2) - exp(-S/2), as S - D = 4 E[uv]
    sign, quick = sign_of(Lambda.xi), torch.is_inference_mode_enabled()
    # Of a tie torch.minimum has half the derivative of either; torch.where takes ten times as long.
    larger = torch.exp((torch.minimum(D, S) if quick else torch.where(sign < 0, S, D)) / -2)
    difference = -sign * larger * torch.expm1(-2 * sign * Lambda.cov)
    xi = (one_minus_k * torch.exp(-S / 2) + difference) / 2 / size
    unlike = _unlike(sd1, sd2)
    if unlike is not None:
        size = size.where(~unlike, torch.ones_like(size))
    # As D + S = 2(A+B), 4(E[φ(u)²] E[φ(v)²] - E[φ(u) φ(v)]²) is
    # (1 - exp(-D))(1 - k² exp(-S)) - k (exp(-A) - exp(-B))²
    apart = magnitude((Lambda.sd1 - Lambda.sd2) * (Lambda.sd1 + Lambda.sd2))
    decay1, decay2 = torch.exp(-Lambda.var1), torch.exp(-Lambda.var2)
    decay = torch.maximum(decay1, decay2) if quick else decay1.where(Lambda.sd1 < Lambda.sd2, decay2)
    apart = decay * torch.expm1(-apart) / (2 * size)
    rest = (one_minus_k2 - k**2 * torch.expm1(-S)) / (2 * size)
    sin2 = -torch.expm1(-D) / (2 * size) * rest - k * apart**2
    return Covariance(sd1, sd2, xi, _sin2(sin2, xi, unlike))


def sinusoid_slopes(Lambda: Covariance, p: float, q: float) -> Tensor:
    """Of p·cos z - q·sin z: E = (exp(-D/2) + k exp(-S/2))/2."""
    D, S = _variance_of_difference(Lambda), _variance_of_difference(_negated(Lambda))
    return (torch.exp(-D / 2) + (p**2 - q**2) * torch.exp(-S / 2)) / 2


def exp(Lambda: Covariance) -> Covariance:
    """Of exp(z): E = exp(S/2), so a correlation of exp(-D/2)."""
    D = _variance_of_difference(Lambda)
    return Covariance(Lambda.var1.exp(), Lambda.var2.exp(), torch.exp(-D / 2), -torch.expm1(-D))


def exp_slopes(Lambda: Covariance) -> Tensor:
    """E = exp(S/2): exp is its own derivative."""
    return exp(Lambda).cov


# --- Gaussian, erf and GELU: functions of a sine ----------------------------------------------------


class _Sine:
    """What the three below have in common: y = E[uv]/root of (1+A)(1+B), a sine, and its cosine R.

    r = 1/(1+A) and p = A/(1+A) = 1-r for each variable; q = root of p1·p2 is y at xi = 1;
    R is the root of 1-y² and R1 that of 1-q², as sums of non-negative terms.
    """

    def __init__(self, Lambda: Covariance) -> None:
        self.r1, self.r2 = 1 / (1 + Lambda.var1), 1 / (1 + Lambda.var2)
        self.p1, self.p2 = Lambda.var1 * self.r1, Lambda.var2 * self.r2
        self.q = root(self.p1) * root(self.p2)
        self.y = self.q * Lambda.xi
        rest = self.r1 + self.p1 * self.r2  # 1 - q²
        self.R1, self.R = rest.sqrt(), (rest + self.q**2 * Lambda.sin2).sqrt()
        self.root = self.r1.sqrt() * self.r2.sqrt()
        # asin q - asin |y|, from its sine and cosine
        sine = self.q * Lambda.sin2 / (self.R + magnitude(Lambda.xi) * self.R1)
        self.drop = torch.atan2(sine, self.R * self.R1 + self.q * magnitude(self.y))


def gaussian(Lambda: Covariance) -> Covariance:
    """Of exp(-z²/2): E = 1/root of (1+A)(1+B) - E[uv]², a Gaussian integral."""
    s = _Sine(Lambda)
    # E[φ(u)²] = (1+2A)^(-1/2), and (1+2A)/(1+A)² = r(1+p)
    u, v = (s.r1 * (1 + s.p1)).sqrt(), (s.r2 * (1 + s.p2)).sqrt()
    xi = u.sqrt() * v.sqrt() / s.R
    # 1 - xi'⁴ = (R⁴ - R1⁴ + (r1-r2)²)/R⁴, as R1⁴ - (uv)² = (r1-r2)²
    t = s.q**2 * Lambda.sin2
    rest = ((s.r1 - s.r2) / s.R / s.R) ** 2 + t * (2 * s.R1**2 + t) / s.R**2 / s.R**2
    return Covariance(
        (1 + 2 * Lambda.var1) ** -0.25, (1 + 2 * Lambda.var2) ** -0.25, xi, rest / (1 + xi**2)
    )


def gaussian_slopes(Lambda: Covariance) -> Tensor:
    """Of -z exp(-z²/2): E = E[uv]/((1+A)(1+B) - E[uv]²)^(3/2)."""
    s = _Sine(Lambda)
    return (s.root / s.R) ** 2 * s.y / s.R


def erf(Lambda: Covariance) -> Covariance:
    """E = (2/π) asin y for erf(z/√2): Williams 1997, eq. 11."""
    s = _Sine(Lambda)
    cos1, cos2 = (s.r1 * (1 + s.p1)).sqrt(), (s.r2 * (1 + s.p2)).sqrt()
    angle1, angle2 = torch.atan2(s.p1, cos1), torch.atan2(s.p2, cos2)
    middle, angle = torch.atan2(s.q, s.R1), torch.atan2(s.y, s.R)
    # angle1 = middle + above and angle2 = middle - below, again from sines and cosines
    apart = s.r1 * (Lambda.sd1 - Lambda.sd2) * (Lambda.sd1 + Lambda.sd2) * s.r2  # p1 - p2
    root1, root2 = root(s.p1), root(s.p2)
    sine1 = root1 * (apart / nonzero(root1 * s.R1 + root2 * cos1))
    sine2 = root2 * (apart / nonzero(root2 * s.R1 + root1 * cos2))
    above = torch.atan2(sine1, cos1 * s.R1 + s.p1 * s.q)
    below = torch.atan2(sine2, cos2 * s.R1 + s.p2 * s.q)
    length1, length2 = root(angle1), root(angle2)
    size = nonzero(length1) * nonzero(length2)
    xi, unlike = angle / size, _unlike(length1, length2)
    if unlike is not None:
        size = size.where(~unlike, torch.ones_like(size))
    middle, above, below, drop = (z / size for z in (middle, above, below, s.drop))
    # 1 - angle²/(angle1 angle2), over angle1 angle2
    sin2 = middle * (above - below) - above * below + drop * (2 * middle - drop)
    scale = (2 / PI) ** 0.5
    return Covariance(scale * length1, scale * length2, xi, _sin2(sin2, xi, unlike))


def erf_slopes(Lambda: Covariance) -> Tensor:
    """Of sqrt(2/π) exp(-z²/2): E = (2/π)/root of (1+A)(1+B) - E[uv]²."""
    s = _Sine(Lambda)
    return 2 / PI * s.root / s.R


def gelu(Lambda: Covariance) -> Covariance:
    r"""Of z·Φ(z) = (z + z·erf(z/√2))/2, an odd and an even part: Tsuchida et al. 2021.

    E = root of AB·(xi + e)/4 with e = (2/π)(xi asin y + q(R + xi² r1 r2/R)) from the even part
    (arXiv:2002.08517).
    """

    def defect(s: _Sine) -> Tensor:
        """1 - e at xi = 1: (2/π)(acos q - q R1 - q r1 r2/R1)."""
        return 2 / PI * (torch.atan2(s.R1, s.q) - s.q * s.R1 - s.q * s.root * (s.root / s.R1))

    s = _Sine(Lambda)
    same = (Covariance(sd, sd, sd**0, 0 * sd) for sd in (Lambda.sd1, Lambda.sd2))
    defect1, defect2, defect12 = (*(defect(_Sine(pairs)) for pairs in same), defect(s))
    X1, X2, X = 2 - defect1, 2 - defect2, 2 - defect12  # 1 + e at xi = 1
    rr = s.root * (s.root / s.R)
    R_drop = s.q**2 * Lambda.sin2 / (s.R + s.R1)  # R - R1
    # e at 1 less e at |xi|, and X less its value at xi
    e_drop = s.drop + Lambda.sin2 / (1 + magnitude(Lambda.xi)) * torch.atan2(magnitude(s.y), s.R)
    e_drop = e_drop + s.q * (rr * (R_drop / s.R1 + Lambda.sin2) - R_drop)
    drop = Lambda.gap + 2 / PI * e_drop
    # X1 X2 - X², the part of 1 - xi'² that comes from unequal variances
    unequal = 2 * (2 * defect12 - defect1 - defect2) + defect1 * defect2 - defect12**2
    sin2 = (unequal + drop * (2 * X - drop)) / (X1 * X2)
    sd1, sd2 = Lambda.sd1 * X1.sqrt(), Lambda.sd2 * X2.sqrt()
    return 0.25 * Covariance(sd1, sd2, (X - drop) / (X1 * X2).sqrt(), at_least_0(sin2))


def gelu_slopes(Lambda: Covariance) -> Tensor:
    """E = 1/4 + (asin y + (y/R)(1 - q² + r1 r2 + r1 r2/R²))/(2π): derivative of gelu's by E[uv]."""
    s = _Sine(Lambda)
    rational = s.y / s.R * (s.R1**2 + s.root**2 + (s.root / s.R) ** 2)
    return 1 / 4 + (torch.atan2(s.y, s.R) + rational) / (2 * PI)
