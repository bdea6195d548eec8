r"""Activations with their derivatives and, in closed form, their Gaussian expectations.

For jointly Gaussian :math:`(u, v)` with covariance :math:`\Lambda`, a layer of a wide network needs
:math:`E[\phi(u)\phi(v)]` and :math:`E[\phi'(u)\phi'(v)]`. At unit variances and correlation
:math:`\xi` these are the *dual activation* :math:`\check\phi(\xi)` and its derivative
:math:`\check\phi'(\xi)`. All activations here are normalised: :math:`E[\phi(z)^2]=1` for
:math:`z\sim N(0,1)`, so that :math:`\check\phi(1)=1`.

Example:
    >>> zero = torch.zeros(1).double()
    >>> [name for name, phi in nu.activations.BY_NAME.items() if phi.dual(zero).abs() < 1e-15]
    ['identity', 'sign', 'sin', 'erf']
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real

import torch
from torch import Tensor, nn

from . import _validation as check_that
from . import closed_forms, torch_activations
from .covariance import Covariance
from .quadrature import Kinked
from .smooth_duals import Smooth, slope_of

PI = math.pi
LARGEST, HIGHEST_DEGREE = 1e100, 30  # of parameters, so that their squares and factorials are finite


@dataclass(frozen=True)
class Activation:
    r"""An elementwise nonlinearity :math:`\phi` and what an infinitely wide layer makes of it.

    Attributes:
        name: what errors and figures call it.
        value: :math:`\phi`, elementwise on a tensor.
        derivative: :math:`\phi'`, elementwise; at a kink or jump, the mean of both sides.
        moments: maps the covariance of (u, v) to that of (phi(u), phi(v)).
        derivative_moments: maps it to the tensor of E[phi'(u) phi'(v)].

    Example:
        >>> xi = torch.tensor([0.0, 1.0]).double()  # independent, equal
        >>> nu.activations.relu.dual(xi)  # 1/π and 1
        tensor([0.3183, 1.0000], dtype=torch.float64)
        >>> nu.activations.relu.dual_derivative(xi)
        tensor([0.5000, 1.0000], dtype=torch.float64)
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
        return self._finite(self.moments(_pairs(cov, var1, var2)).cov, cov, var1, var2)

    def dual_derivative(
        self, cov: Tensor, var1: Tensor | None = None, var2: Tensor | None = None
    ) -> Tensor:
        r"""Return :math:`E[\phi'(u)\phi'(v)]`; at unit variances, :math:`\check\phi'(\xi)`.

        Arguments and errors as in :meth:`dual`.
        """
        return self._finite(self.derivative_moments(_pairs(cov, var1, var2)), cov, var1, var2)

    def _finite(self, result: Tensor, *moments: Tensor | None) -> Tensor:
        sds = (m.abs().sqrt() for m in moments if m is not None)
        return check_that.require_held(result, self.name, "the pre-activations", *sds)


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


def _normalised(
    name: str,
    value: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    moments: Callable[[Covariance], Covariance],
    derivative_moments: Callable[[Covariance], Tensor],
    norm: float | None = None,
) -> Activation:
    """value/norm as an activation, from expectations without the norm that makes E[phi(z)²] = 1."""
    norm = moments(_UNIT).sd1.item() if norm is None else norm
    if norm == 1:
        return Activation(name, value, derivative, moments, derivative_moments)
    if norm == 0:
        raise ValueError(f"{name}: expected a function with E[{name}(z)²] > 0, got 0 everywhere")

    def scaled_moments(Lambda: Covariance) -> Covariance:
        new = moments(Lambda)
        return Covariance(new.sd1 / norm, new.sd2 / norm, new.xi, new.sin2, new.known_gap)

    return Activation(
        name,
        value=lambda z: value(z) / norm,
        derivative=lambda z: derivative(z) / norm,
        moments=scaled_moments,
        derivative_moments=lambda Lambda: derivative_moments(Lambda) / norm**2,
    )


_ONE = torch.ones(1, 1, dtype=torch.float64)
_UNIT = Covariance(_ONE, _ONE, _ONE, 0 * _ONE)  # of z ~ N(0, 1) with itself


def _step(z: Tensor) -> Tensor:
    """1 for z > 0, 0 for z < 0, the mean of both at 0."""
    return (1 + z.sign()) / 2


def _require_real(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a real number, got {value!r}")
    number = float(value)
    if not -LARGEST <= number <= LARGEST:  # not for NaN
        raise ValueError(f"{name}: expected a number of at most {LARGEST:g} in size, got {value!r}")
    return number


def _require_degree(value: object) -> int:
    degree = check_that.require_count(value, "degree", least=0)
    if degree > HIGHEST_DEGREE:
        raise ValueError(f"degree: expected at most {HIGHEST_DEGREE}, got {degree}")
    return degree


def _require_coefficients(value: object) -> list[float]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"coefficients: expected a sequence of numbers, got {value!r}")
    c = [_require_real(c_n, f"coefficients[{n}]") for n, c_n in enumerate(value)]
    if not any(c):
        raise ValueError(f"coefficients: expected at least one that is not 0, got {value!r}")
    if len(c) > HIGHEST_DEGREE + 1:
        raise ValueError(f"coefficients: expected at most {HIGHEST_DEGREE + 1}, got {len(c)}")
    return c


# --- with a kink or a jump at 0 ----------------------------------------------------------------------


def _piecewise_linear(name: str, a: float) -> Activation:
    """a·min(0, z) + max(0, z)."""
    return _normalised(
        name,
        value=lambda z: a * z.clamp(max=0) + z.clamp(min=0),
        derivative=lambda z: a + (1 - a) * _step(z),
        moments=lambda Lambda: closed_forms.piecewise_linear(Lambda, a),
        derivative_moments=lambda Lambda: closed_forms.piecewise_linear_slopes(Lambda, a),
    )


def leaky_relu(alpha: float = 0.01) -> Activation:
    """Return max(0, z) + alpha·min(0, z), normalised.

    Args:
        alpha: slope for z < 0, at most 1e100 in size; torch's 0.01 if not given.

    Example:
        >>> xi = torch.tensor([-0.5, 0.5, 1.0]).double()
        >>> nu.activations.leaky_relu(1.0).dual(xi)  # the identity
        tensor([-0.5000,  0.5000,  1.0000], dtype=torch.float64)
    """
    alpha = _require_real(alpha, "alpha")
    name = f"leaky_relu({alpha!r})"
    if alpha == 0:
        return dataclasses.replace(relu, name=name)
    return _piecewise_linear(name, alpha)


relu = _normalised(
    "relu",
    value=lambda z: 2**0.5 * z.clamp(min=0),
    derivative=lambda z: 2**0.5 * _step(z),
    moments=closed_forms.relu,
    derivative_moments=closed_forms.relu_slopes,
)
abs = _piecewise_linear("abs", -1.0)  # noqa: A001
identity = _normalised(
    "identity",
    value=lambda z: z,
    derivative=torch.ones_like,
    moments=lambda Lambda: Lambda,
    derivative_moments=lambda Lambda: torch.ones_like(Lambda.xi),
)

# The slope of a jump is a Dirac delta, but gradients of a network are taken with the slope 0 that holds
# everywhere else. E[phi' phi'] is therefore 0 here, as gradient descent has it and neural-tangents too;
# it is *not* the derivative of the dual activation, which is infinite at ξ = 1.
sign = _normalised("sign", torch.sign, torch.zeros_like, closed_forms.sign, closed_forms.no_slopes)
step = _normalised("step", _step, torch.zeros_like, closed_forms.step, closed_forms.no_slopes)


def rectified_monomial(degree: int) -> Activation:
    """Return max(0, z)^degree, normalised.

    Args:
        degree: from 0 to 30; 0 is ``step``, 1 is ``relu``.

    Example:
        >>> xi = torch.tensor([0.0, 1.0]).double()
        >>> nu.activations.rectified_monomial(2).dual(xi)  # (1/2)²/(3/2) for independent u and v
        tensor([0.1667, 1.0000], dtype=torch.float64)
    """
    degree = _require_degree(degree)
    name = f"rectified_monomial({degree})"
    if degree < 2:
        return dataclasses.replace((step, relu)[degree], name=name)
    return _normalised(
        name,
        value=lambda z: z.clamp(min=0) ** degree,
        derivative=lambda z: degree * z.clamp(min=0) ** (degree - 1),
        moments=lambda Lambda: closed_forms.rectified_monomial(Lambda, degree),
        derivative_moments=lambda Lambda: closed_forms.rectified_monomial_slopes(Lambda, degree),
    )


# --- polynomials -------------------------------------------------------------------------------------


def polynomial(coefficients: Sequence[float]) -> Activation:
    """Return c[0] + c[1] z + c[2] z² + ..., normalised.

    Args:
        coefficients: c, from the constant upwards; at least one is not 0, at most degree 30.

    Example:
        >>> xi = torch.tensor([0.5, 1.0]).double()
        >>> 22 * nu.activations.polynomial([0.0, 1.0, 0.0, 1.0]).dual(xi)  # 16 ξ + 6 ξ³
        tensor([ 8.7500, 22.0000], dtype=torch.float64)
    """
    c = _require_coefficients(coefficients)
    largest = max(max(c), -min(c))
    scaled = [c_n / largest for c_n in c]
    slope = [n * c_n for n, c_n in enumerate(scaled)][1:] or [0.0]
    return _power_series(f"polynomial({c})", scaled, slope)


def monomial(degree: int) -> Activation:
    """Return z^degree, normalised.

    Args:
        degree: from 0 to 30.

    Example:
        >>> xi = torch.tensor([0.0, 0.5, 1.0]).double()
        >>> nu.activations.monomial(2).dual(xi)  # (1 + 2 ξ²)/3
        tensor([0.3333, 0.5000, 1.0000], dtype=torch.float64)
    """
    degree = _require_degree(degree)
    slope = [0.0] * (degree - 1) + [float(degree)]
    return _power_series(f"monomial({degree})", [0.0] * degree + [1.0], slope)


def _power_series(name: str, c: list[float], slope: list[float]) -> Activation:
    def horner(c: list[float], z: Tensor) -> Tensor:
        value = torch.zeros_like(z)
        for c_n in reversed(c):
            value = c_n + z * value
        return value

    of_value, of_slope = closed_forms.power_expansion(c), closed_forms.power_expansion(slope)
    return _normalised(
        name,
        value=lambda z: horner(c, z),
        derivative=lambda z: horner(slope, z),
        moments=lambda Lambda: closed_forms.series(Lambda, of_value),
        derivative_moments=lambda Lambda: closed_forms.series_slopes(Lambda, of_slope),
    )


def hermite(degree: int) -> Activation:
    r"""Return the normalised Hermite polynomial :math:`He_n(z)/\sqrt{n!}`, n = ``degree``.

    At unit variances its dual activation is :math:`\xi^n`: what all others are sums of.

    Example:
        >>> xi = torch.tensor([-0.5, 0.5, 1.0]).double()
        >>> nu.activations.hermite(3).dual(xi)  # ξ³
        tensor([-0.1250,  0.1250,  1.0000], dtype=torch.float64)

    Source: Daniely, Frostig & Singer 2016 (arXiv:1602.05897).

    Args:
        degree: n, from 0 to 30.
    """
    n = _require_degree(degree)

    def h(n: int, z: Tensor) -> Tensor:
        below, value = torch.zeros_like(z), torch.ones_like(z)
        for m in range(n):
            below, value = value, (z * value - m**0.5 * below) / (m + 1) ** 0.5
        return value

    of_value, of_slope = closed_forms.hermite_expansion(n), closed_forms.hermite_expansion(max(n - 1, 0))
    return _normalised(
        f"hermite({n})",
        value=lambda z: h(n, z),
        derivative=lambda z: n**0.5 * h(max(n - 1, 0), z),
        moments=lambda Lambda: closed_forms.series(Lambda, of_value),
        derivative_moments=lambda Lambda: n * closed_forms.series_slopes(Lambda, of_slope),
    )


# --- trigonometric and exponential -------------------------------------------------------------------


def sinusoid(frequency: float = 1.0, phase: float = 0.0) -> Activation:
    """Return sin(frequency·z + phase), normalised.

    Args:
        frequency: not 0, at most 1e100 in size.
        phase: at most 1e100 in size.

    Example:
        >>> xi = torch.tensor([0.0, 1.0]).double()
        >>> nu.activations.sinusoid(1.0, torch.pi / 4).dual(xi)  # exp(ξ - 1)
        tensor([0.3679, 1.0000], dtype=torch.float64)
    """
    frequency, phase = _require_real(frequency, "frequency"), _require_real(phase, "phase")
    if frequency == 0:
        raise ValueError("frequency: expected a number other than 0, got 0.0")
    name = f"sinusoid({frequency!r}, {phase!r})"
    return _sinusoid(name, frequency, math.cos(phase), math.sin(phase))


def rbf(gamma: float = 1.0) -> Activation:
    """Return sqrt(2) sin(sqrt(2·gamma) z + pi/4), whose E[phi(u) phi(v)] = exp(-gamma E[(u-v)²]).

    The random features of the Gaussian kernel of Rahimi & Recht 2007, with the phase pi/4 in place of
    a random one; neural-tangents' Rbf.

    Args:
        gamma: a positive number; 1 if not given.

    Example:
        >>> xi = torch.tensor([0.0, 1.0]).double()  # E[(u-v)²] = 2 and 0
        >>> nu.activations.rbf(gamma=0.5).dual(xi)  # exp(-1) and 1
        tensor([0.3679, 1.0000], dtype=torch.float64)
    """
    gamma = check_that.require_scale(gamma, "gamma", positive=True)
    return _sinusoid(f"rbf({gamma!r})", (2 * gamma) ** 0.5, 0.5**0.5, 0.5**0.5)


def _sinusoid(name: str, frequency: float, p: float, q: float) -> Activation:
    """p·sin(frequency·z) + q·cos(frequency·z)."""
    power = frequency**2
    return _normalised(
        name,
        value=lambda z: p * torch.sin(frequency * z) + q * torch.cos(frequency * z),
        derivative=lambda z: frequency * (p * torch.cos(frequency * z) - q * torch.sin(frequency * z)),
        moments=lambda Lambda: closed_forms.sinusoid(power * Lambda, p, q),
        derivative_moments=lambda Lambda: power * closed_forms.sinusoid_slopes(power * Lambda, p, q),
    )


sin = _sinusoid("sin", 1.0, 1.0, 0.0)
cos = _sinusoid("cos", 1.0, 0.0, 1.0)
exp = _normalised("exp", torch.exp, torch.exp, closed_forms.exp, closed_forms.exp_slopes)
gaussian = _normalised(
    "gaussian",
    value=lambda z: torch.exp(-(z**2) / 2),
    derivative=lambda z: -z * torch.exp(-(z**2) / 2),
    moments=closed_forms.gaussian,
    derivative_moments=closed_forms.gaussian_slopes,
)


# --- erf and its relatives ---------------------------------------------------------------------------


def _erf(
    scale: float,
) -> tuple[
    Callable[[Tensor], Tensor],
    Callable[[Tensor], Tensor],
    Callable[[Covariance], Covariance],
    Callable[[Covariance], Tensor],
]:
    """erf(scale·z), its derivative and expectations."""
    power = 2 * scale**2  # closed_forms has erf(z/√2)
    return (
        lambda z: torch.erf(scale * z),
        lambda z: 2 / math.sqrt(PI) * scale * torch.exp(-((scale * z) ** 2)),
        lambda Lambda: closed_forms.erf(power * Lambda),
        lambda Lambda: power * closed_forms.erf_slopes(power * Lambda),
    )


def _sigmoid_like() -> Activation:
    value, slope, moments, slopes = _erf(1 / 2.4020563531719796)  # neural-tangents' fit to the sigmoid
    return _normalised(
        "sigmoid_like",
        value=lambda z: (1 + value(z)) / 2,
        derivative=lambda z: slope(z) / 2,
        moments=lambda Lambda: 0.25 * moments(Lambda) + 0.25,
        derivative_moments=lambda Lambda: slopes(Lambda) / 4,
    )


erf = _normalised("erf", *_erf(1.0))
sigmoid_like = _sigmoid_like()
gelu = _normalised(
    "gelu",
    value=lambda z: z * torch.special.ndtr(z),
    derivative=lambda z: torch.special.ndtr(z) + z * torch.exp(-(z**2) / 2) / math.sqrt(2 * PI),
    moments=closed_forms.gelu,
    derivative_moments=closed_forms.gelu_slopes,
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

    Expectations are had to 1e-10 of the root of E[phi(u)²] E[phi(v)²] (of slopes likewise), or there is an
    error. What it costs:

    - A smooth function (no ``kinks``) is integrated once for a few scales, not for each pair: some
      seconds for standard deviations from 1e-3 to 1e3, less otherwise.
    - With kinks that is so where the points have few distinct norms, or where the function is homogeneous
      as ReLU is. Otherwise every pair of points has its own quadrature in the plane, in bounded memory and
      some ten milliseconds each.

    Kernels can be differentiated in both modes, to any order for a smooth function; with kinks once, at the
    price of a quadrature for every pair.

    Args:
        function: elementwise on a tensor, smooth except at ``kinks``. It may write into its argument.
        derivative: its derivative; by automatic differentiation if not given.
        kinks: where the function or its derivative is not smooth, for example (0.0,).
        name: what errors call it; the function's own name if not given.
        normalise: divide by sqrt(E[function(z)²]), so that the dual activation is 1 at 1.

    Raises:
        TypeError, ValueError: for what is no elementwise, deterministic function of a tensor, or a
            ``derivative`` that is not its derivative.
        QuadratureError: here or when a kernel is computed, if an expectation cannot be had to 1e-10.

    Example:
        >>> phi = nu.activations.from_function(torch.relu, kinks=(0.0,))
        >>> xi = torch.tensor([[0.5]]).double()
        >>> torch.allclose(phi.dual(xi), nu.activations.relu.dual(xi), rtol=1e-10)
        True
    """
    called = name or str(getattr(function, "__name__", "function"))
    kinks = _require_kinks(kinks)
    if not callable(function):
        raise TypeError(f"function: expected a function of a tensor, got {type(function).__name__}")
    if torch_activations.elsewhere(function):
        raise TypeError(f"function: got {called}{torch_activations.elsewhere(function)}")
    value = function
    if _require_elementwise(function, called, kinks):
        value = lambda z: function(z.clone())  # noqa: E731
    if derivative is not None:
        _require_derivative(value, derivative, called, kinks)
    slope, norm = derivative or slope_of(value), None if normalise else 1.0
    f = Kinked(value, called, slope, kinks) if kinks else Smooth(value, called, derivative)
    return _normalised(called, value, slope, f.moments, f.slope_moments, norm)


def _require_kinks(kinks: object) -> tuple[float, ...]:
    if not isinstance(kinks, Iterable) or isinstance(kinks, str):
        raise TypeError(f"kinks: expected a sequence of numbers such as (0.0,), got {kinks!r}")
    return tuple(sorted({_require_real(kink, "kinks") for kink in kinks}))


def _probes(kinks: Sequence[float]) -> Tensor:
    """Points between and beyond the kinks, none of them on one."""
    z = torch.linspace(-3.7, 4.1, 40, dtype=torch.float64)
    z = torch.cat([z, *(kink + torch.tensor([-0.013, 0.017], dtype=torch.float64) for kink in kinks)])
    near = [(z - kink).abs() < 1e-3 for kink in kinks]
    return z[~torch.stack(near).any(0)] if near else z


def _require_elementwise(function: Callable[[Tensor], Tensor], name: str, kinks: Sequence[float]) -> bool:
    """Raise unless it is elementwise and deterministic; return whether it writes into its argument."""
    z = _probes(kinks)
    z = z[: len(z) // 2 * 2]
    given = z.clone()
    try:
        with torch.no_grad():
            value = function(given)
    except Exception as error:
        raise TypeError(
            f"function: expected an elementwise function of a tensor, got {name}, which raised "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    if not isinstance(value, Tensor):
        raise TypeError(
            f"function: expected a tensor from {name}, got {type(value).__name__}; use functions of torch"
        )
    if value.shape != z.shape:
        raise ValueError(
            f"function: expected an elementwise function, got {name}, which makes shape "
            f"{tuple(value.shape)} of shape {tuple(z.shape)}"
        )
    if value.dtype != z.dtype:
        raise TypeError(
            f"function: expected float64 from float64, as expectations are computed in it, got "
            f"{value.dtype} from {name}"
        )
    value = value.detach().clone()
    if value.isnan().any():
        raise ValueError(
            f"function: expected numbers, got NaN from {name} at {z[value.isnan()][0].item():.6g}"
        )
    with torch.no_grad():
        shuffled = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
        some = shuffled[: len(z) // 4 * 2]
        again, other = function(z.clone()), function(z[some].view(2, -1)).flatten()
    atol = 1e-14 * value.abs().max().item()
    for found, expected, why in (
        (again, value, "that is the same at each call"),
        (other, value[some], "that is elementwise"),
    ):
        if not torch.allclose(found, expected, rtol=1e-12, atol=atol, equal_nan=True):
            raise ValueError(f"function: expected a function {why}, got {name}, which is not")
    return not torch.equal(given, z)


def _require_derivative(
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    name: str,
    kinks: Sequence[float],
) -> None:
    z = _probes(kinks)
    with torch.no_grad():
        given = derivative(z.clone())
        h = 1e-5
        numerical = (
            8 * (function(z + h) - function(z - h)) - (function(z + 2 * h) - function(z - 2 * h))
        ) / (12 * h)
    if given.shape != z.shape or not torch.allclose(given, numerical, rtol=1e-5, atol=1e-5):
        worst = int((given - numerical).abs().argmax()) if given.shape == z.shape else 0
        raise ValueError(
            f"derivative: expected that of {name}, {numerical[worst].item():.6g} at {z[worst].item():.6g}, "
            f"got {given.flatten()[worst].item():.6g}. Name every kink and jump in kinks=(...)"
        )


@cache
def _by_quadrature(name: str) -> Activation:
    plain = torch_activations.PLAIN[name]
    return from_function(plain.function, kinks=plain.kinks, name=plain.name)


def _of_torch(activation: object) -> Activation | None:
    """One of torch's modules, functions or classes of modules, None for anything else."""
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        try:
            activation = activation()
        except TypeError:
            raise TypeError(
                f"activation: expected a module or function, got the class {activation.__name__}; "
                f"call it with its parameters"
            ) from None
    if isinstance(activation, nn.Module):
        found = torch_activations.of_module(torch_activations.settled(activation))
        if isinstance(found, torch_activations.Plain):
            if found is torch_activations.PLAIN.get(found.name):
                return _by_quadrature(found.name)
            return from_function(found.function, kinks=found.kinks, name=found.name)
        name, parameters = found
        return leaky_relu(*parameters) if parameters else get(name)
    try:
        name = torch_activations.FUNCTIONS.get(activation, "")
    except TypeError:  # not hashable, so none of torch's
        return None
    return get(name) if name else None


_NAMED = (
    *(relu, abs, identity, sign, step),
    *(sin, cos, exp, gaussian, erf, sigmoid_like, gelu),
)
BY_NAME = {activation.name: activation for activation in _NAMED}
BY_NAME |= {"leaky_relu": leaky_relu(), "rbf": rbf()}


def get(activation: object) -> Activation:
    """Return the activation of that name, the activation itself, or that of a function or module of torch.

    torch's elementwise functions and modules (``torch.tanh``, ``nn.functional.softplus``, ``nn.GELU()``,
    ``nn.LeakyReLU(0.2)``, ...) become the closed form of the same function where there is one, else
    what :func:`from_function` makes of them with their kinks; some of them have a name too ("tanh",
    "softplus", "silu", "mish", ...). Like all activations here they are normalised, so ``nn.ReLU()`` is
    sqrt(2)·ReLU, and they never write into their argument. softplus has no threshold, from where on torch
    leaves 2e-9 out.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything else, and for modules that are not elementwise, are random, or have
            parameters.

    Example:
        >>> nu.activations.get("relu") is nu.activations.get(torch.nn.ReLU(inplace=True))
        True
        >>> nu.activations.get(torch.nn.LeakyReLU(0.2)).name, nu.activations.get("softplus").name
        ('leaky_relu(0.2)', 'softplus')
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        found = _of_torch(activation)
        if found is not None:
            return found
        kind = f"{type(activation).__name__}"
        hint = torch_activations.elsewhere(activation)
        raise TypeError(
            f"activation: expected a name, an Activation (from_function makes one of any elementwise "
            f"function) "
            f"or a function or module of torch, got {kind}{hint}"
        )
    if activation in BY_NAME:
        return BY_NAME[activation]
    if activation in torch_activations.PLAIN:
        return _by_quadrature(activation)
    known = [*BY_NAME, *torch_activations.PLAIN]
    near = difflib.get_close_matches(activation.lower(), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; from_function makes one of any function"
    raise ValueError(f"activation: expected one of {', '.join(sorted(known))}, got {activation!r}{hint}")
