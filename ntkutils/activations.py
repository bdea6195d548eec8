r"""Activations with their derivatives and, in closed form, their Gaussian expectations.

For jointly Gaussian :math:`(u, v)` with covariance :math:`\Lambda`, a layer of a wide network needs
:math:`E[\phi(u)\phi(v)]` and :math:`E[\phi'(u)\phi'(v)]`. At unit variances and correlation
:math:`\xi` these are the *dual activation* :math:`\check\phi(\xi)` and its derivative
:math:`\check\phi'(\xi)`. All activations here are normalised: :math:`E[\phi(z)^2]=1` for
:math:`z\sim N(0,1)`, so that :math:`\check\phi(1)=1`.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _validation as check_that
from .covariance import Covariance
from .quadrature import expectation

PI = math.pi


@dataclass(frozen=True)
class Activation:
    r"""An elementwise nonlinearity :math:`\phi` and what an infinitely wide layer makes of it.

    Attributes:
        name: what errors and figures call it.
        value: :math:`\phi`, elementwise on a tensor.
        derivative: :math:`\phi'`, elementwise; at a kink or jump, the mean of both sides.
        moments: maps the covariance of (u, v) to that of (phi(u), phi(v)).
        derivative_moments: maps it to the tensor of E[phi'(u) phi'(v)].
    """

    name: str
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    moments: Callable[[Covariance], Covariance]
    derivative_moments: Callable[[Covariance], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        """Return phi(z), elementwise."""
        return self.value(z)

    def dual(self, cov: Tensor, var1: Tensor | None = None, var2: Tensor | None = None) -> Tensor:
        r"""Return :math:`E[\phi(u)\phi(v)]`; at unit variances, :math:`\check\phi(\xi)`.

        Args:
            cov: E[u v], any shape.
            var1: E[u²], broadcastable to ``cov``; 1 if not given.
            var2: E[v²], likewise.

        Raises:
            TypeError, ValueError: if these are no covariance, that is, if a variance is negative or
                ``cov²`` exceeds ``var1·var2`` by more than rounding.
        """
        return self.moments(_pairs(cov, var1, var2)).cov

    def dual_derivative(
        self, cov: Tensor, var1: Tensor | None = None, var2: Tensor | None = None
    ) -> Tensor:
        r"""Return :math:`E[\phi'(u)\phi'(v)]`; at unit variances, :math:`\check\phi'(\xi)`.

        Arguments and errors as in :meth:`dual`.
        """
        return self.derivative_moments(_pairs(cov, var1, var2))


def _pairs(cov: Tensor, var1: Tensor | None, var2: Tensor | None) -> Covariance:
    cov = check_that.require_tensor(cov, "cov")
    variances = []
    for var, name in ((var1, "var1"), (var2, "var2")):
        var = torch.ones_like(cov) if var is None else check_that.require_tensor(var, name)
        check_that.require_alike(cov, var, "cov", name)
        if (var < 0).any():
            raise ValueError(f"{name}: expected variances of at least 0, got {var.min().item()}")
        variances.append(var.broadcast_to(cov.shape))
    bound = variances[0].sqrt() * variances[1].sqrt()
    excess = cov.abs() - bound * (1 + 8 * torch.finfo(cov.dtype).eps)
    if (excess > 0).any():
        worst = int(excess.argmax())
        raise ValueError(
            f"cov: expected at most sqrt(var1·var2) in size, "
            f"got {cov.flatten()[worst]:.17g} where that is {bound.flatten()[worst]:.17g}"
        )
    return Covariance.of_moments(cov, *variances)


# --- ReLU: sqrt(2) max(0, z). Cho & Saul 2009, eqs. 5-7 with n = 1 and n = 0, times 2 ---------------


def _one_minus_relu_dual(theta: Tensor) -> Tensor:
    """1 - (sin θ + (π-θ) cos θ)/π without cancellation at small θ."""
    series = torch.zeros_like(theta)  # of sin θ - θ cos θ = Σ ± 2n θ^(2n+1)/(2n+1)!, by Horner
    for n in range(8, 0, -1):
        series = (-1) ** (n + 1) * 2 * n / math.factorial(2 * n + 1) + theta**2 * series
    bracket = torch.where(theta < 0.5, theta**3 * series, theta.sin() - theta * theta.cos())
    return 2 * (theta / 2).sin() ** 2 - bracket / PI


def _relu_moments(Lambda: Covariance) -> Covariance:
    gap = _one_minus_relu_dual(Lambda.theta)
    return Covariance(Lambda.sd1, Lambda.sd2, 1 - gap, gap * (2 - gap))


relu = Activation(
    name="relu",
    value=lambda z: math.sqrt(2) * z.clamp(min=0),
    derivative=lambda z: math.sqrt(2) * torch.heaviside(z, torch.full_like(z, 0.5)),
    moments=_relu_moments,
    derivative_moments=lambda Lambda: (PI - Lambda.theta) / PI,
)


# --- erf: erf(z)/sqrt(E erf²). Williams 1997, eq. 11 with his 2u for our sqrt(2)·u -------------------

ERF_NORM = math.sqrt(2 / PI * math.asin(2 / 3))


def _erf_sine(Lambda: Covariance) -> tuple[Tensor, Tensor, Tensor]:
    """Return y = 2 E[uv]/sqrt((1+2E[u²])(1+2E[v²])), sqrt(1-y²), and the root under y."""
    r1, r2 = 1 / (1 + 2 * Lambda.var1), 1 / (1 + 2 * Lambda.var2)
    p1, p2 = 2 * Lambda.var1 * r1, 2 * Lambda.var2 * r2  # 1 - r, without cancellation
    # 1 - y² = 1 - p1 p2 xi² as a sum of non-negative terms
    rest = (r1 + p1 * r2 + p1 * p2 * Lambda.sin2).sqrt()
    return (p1 * p2).sqrt() * Lambda.xi, rest, (r1 * r2).sqrt()


def _erf_moments(Lambda: Covariance) -> Covariance:
    def dual(pairs: Covariance) -> Tensor:
        y, rest, _ = _erf_sine(pairs)
        return 2 / PI / ERF_NORM**2 * torch.atan2(y, rest)

    return Covariance.of_moments(dual(Lambda), dual(_same(Lambda.sd1)), dual(_same(Lambda.sd2)))


def _erf_derivative_moments(Lambda: Covariance) -> Tensor:
    _, rest, root = _erf_sine(Lambda)
    return 4 / PI / ERF_NORM**2 * root / rest


def _same(sd: Tensor) -> Covariance:
    """The covariance of each variable with itself."""
    return Covariance(sd, sd, torch.ones_like(sd), torch.zeros_like(sd))


erf = Activation(
    name="erf",
    value=lambda z: torch.erf(z) / ERF_NORM,
    derivative=lambda z: 2 / math.sqrt(PI) / ERF_NORM * torch.exp(-(z**2)),
    moments=_erf_moments,
    derivative_moments=_erf_derivative_moments,
)


# --- identity: a linear network ----------------------------------------------------------------------

identity = Activation(
    name="identity",
    value=lambda z: z,
    derivative=torch.ones_like,
    moments=lambda Lambda: Lambda,
    derivative_moments=lambda Lambda: torch.ones_like(Lambda.xi),
)


# --- anything else, by quadrature --------------------------------------------------------------------


def from_function(
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor] | None = None,
    kinks: Sequence[float] = (),
    name: str | None = None,
    normalise: bool = True,
) -> Activation:
    r"""Make an activation from any elementwise function, with its duals by quadrature.

    Args:
        function: elementwise on a tensor, smooth except at ``kinks``.
        derivative: its derivative; by automatic differentiation if not given.
        kinks: where the function or its derivative is not smooth, for example (0.0,).
        name: what errors call it; the function's own name if not given.
        normalise: divide by sqrt(E[function(z)²]), so that the dual activation is 1 at 1.

    Raises:
        QuadratureError: here or when a kernel is computed, if an expectation cannot be had to 1e-10.
    """
    name = name or getattr(function, "__name__", "function")

    def slope(z: Tensor) -> Tensor:
        return torch.func.jvp(function, (z,), (torch.ones_like(z),))[1]

    slope = derivative or slope
    unit = _same(torch.ones(1, 1, dtype=torch.float64))
    norm = expectation(function, unit, kinks, name).item() ** 0.5 if normalise else 1.0
    if norm == 0:
        raise ValueError(f"{name}: expected a function with E[{name}(z)²] > 0, got 0 everywhere")

    def value(z: Tensor) -> Tensor:
        return function(z) / norm

    def scaled_slope(z: Tensor) -> Tensor:
        return slope(z) / norm

    def moments(Lambda: Covariance) -> Covariance:
        of = lambda pairs: expectation(value, pairs, kinks, name)  # noqa: E731
        return Covariance.of_moments(of(Lambda), of(_same(Lambda.sd1)), of(_same(Lambda.sd2)))

    def derivative_moments(Lambda: Covariance) -> Tensor:
        return expectation(scaled_slope, Lambda, kinks, f"{name}'")

    return Activation(name, value, scaled_slope, moments, derivative_moments)


BY_NAME = {activation.name: activation for activation in (relu, erf, identity)}


def get(activation: str | Activation) -> Activation:
    """Return the activation of that name, or the activation itself.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything else.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"activation: expected a name or an Activation (from_function makes one), "
            f"got {type(activation).__name__}"
        )
    if activation not in BY_NAME:
        near = difflib.get_close_matches(activation.lower(), BY_NAME, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"activation: expected one of {', '.join(sorted(BY_NAME))}, got {activation!r}{hint}"
        )
    return BY_NAME[activation]
