"""Activations: each closed form against quadrature, which shares none of its algebra."""

import functools
import math

import fifty_digits
import mpmath
import pytest
import torch

from ntkutils import activations
from ntkutils.activations import from_function
from ntkutils.covariance import Covariance
from ntkutils.quadrature import QuadratureError

# One of each factory beyond the named ones; the tests of kernels use them too.
FACTORIES = [
    activations.leaky_relu(0.5),
    activations.leaky_relu(-0.3),
    activations.rectified_monomial(2),
    activations.rectified_monomial(3),
    activations.monomial(0),
    activations.monomial(3),
    activations.hermite(2),
    activations.hermite(5),
    activations.polynomial([0.3, 1, -0.5, 0.2, 0.1]),
    activations.sinusoid(2.0, 0.3),
    activations.rbf(0.3),
]
ALL = [*activations.BY_NAME.values(), *FACTORIES]
NAMES = [phi.name for phi in ALL]
SMOOTH = {"identity", "monomial", "hermite", "polynomial", "sin", "cos", "sinusoid", "rbf", "exp",
          "gaussian", "erf", "sigmoid_like", "gelu"}  # fmt: skip


def kinks(phi):
    return () if phi.name.partition("(")[0] in SMOOTH else (0.0,)


def covariances():
    """Variances apart and alike, correlations from -1 to 1."""
    xi = torch.tensor([-1, -0.99, -0.3, 0, 0.5, 0.999, 1 - 1e-9, 1], dtype=torch.float64)
    var1, var2 = torch.tensor([[1.0, 1.0], [0.2, 3.0]], dtype=torch.float64)[:, :, None]
    return (var1 * var2).sqrt() * xi, var1.expand(2, 8), var2.expand(2, 8)


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_closed_forms_agree_with_quadrature(phi):
    # the quadrature leaves out what is beyond 9 standard deviations, which exp weighs with exp(2 sd z)
    cov, var1, var2 = (m / 4 if phi.name == "exp" else m for m in covariances())
    numerical = from_function(phi.value, phi.derivative, kinks(phi), normalise=False)
    # Both are given the same rounded xi. Relative to the largest: a few hundred nodes, each rounded.
    for method in ("dual", "dual_derivative"):
        ours, theirs = (getattr(a, method)(cov, var1, var2) for a in (phi, numerical))
        assert (ours - theirs).abs().max() <= 1e-13 * theirs.abs().max()


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_is_normalised_and_differentiable(phi):
    one = torch.ones(1, dtype=torch.float64)
    assert abs(phi.dual(one).item() - 1) < 1e-15
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)  # without 0
    slope = torch.func.jvp(phi.value, (z,), (torch.ones_like(z),))[1]
    assert torch.allclose(phi.derivative(z), slope, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_a_kink_has_the_mean_slope_and_a_constant_its_square(phi):
    h, zero = 1e-9, torch.zeros(1, 1, dtype=torch.float64)
    left, at, right = phi.derivative(torch.tensor([-h, 0, h], dtype=torch.float64))
    assert abs((left + right) / 2 - at) < 1e-8
    # u constantly 0: E[phi(u) phi(v)] = phi(0) E[phi(v)], and with itself phi(0)²
    of = Covariance(zero, zero, zero + 1, zero)
    assert abs(phi.moments(of).cov - phi(zero) ** 2).item() < 1e-15
    of = Covariance(zero, zero + 1, zero, zero + 1)
    quadrature = from_function(phi.value, phi.derivative, kinks(phi), normalise=False)
    # what an interpolation between scales may leave out
    assert abs(phi.moments(of).cov - quadrature.moments(of).cov).item() < 3e-14


def test_what_is_equal_by_definition():
    make, cov = activations, covariances()
    pairs = [
        (make.leaky_relu(0.0), make.relu),
        (make.leaky_relu(-1.0), make.abs),
        (make.leaky_relu(1.0), make.identity),
        (make.rectified_monomial(1), make.relu),
        (make.rectified_monomial(0), make.step),
        (make.monomial(1), make.identity),
        (make.hermite(1), make.identity),
        (make.polynomial([-1.0, 0.0, 1.0]), make.hermite(2)),
        (make.polynomial([0, 0, 0, 1e90]), make.monomial(3)),
        (make.polynomial([2.0]), make.monomial(0)),
        (make.sinusoid(), make.sin),
        (make.sinusoid(1.0, math.pi / 2), make.cos),
        (make.sinusoid(2.0**0.5, math.pi / 4), make.rbf()),
        (make.sinusoid(0.6**0.5, math.pi / 4), make.rbf(0.3)),
        (make.leaky_relu(), make.leaky_relu(0.01)),
    ]
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for a, b in pairs:
        assert torch.allclose(a(z), b(z), rtol=1e-14, atol=1e-14), (a.name, b.name)
        assert torch.allclose(a.derivative(z), b.derivative(z), rtol=1e-14, atol=1e-14), (a.name, b.name)
        for method in ("dual", "dual_derivative"):
            ours, theirs = (getattr(phi, method)(*cov) for phi in (a, b))
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-13), (a.name, b.name)
    assert make.polynomial([0.0, -2.0])(z).equal(-z)
    for name in ("rectified_monomial(0)", "rectified_monomial(1)", "leaky_relu(0.01)"):
        assert eval(name, vars(make)).name == name
    for degree in (0, 30):  # the lowest and the highest
        a, b = make.polynomial([0] * degree + [1]), make.monomial(degree)
        assert torch.allclose(a(z), b(z), rtol=1e-14, atol=0)
    # The only dual of one term, at unit variances
    xi = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for n in (0, 3, 30):
        assert (make.hermite(n).dual(xi) - xi**n).abs().max() < 1e-14


def test_the_largest_parameters():
    for alpha in (1e100, -1e100):
        assert activations.leaky_relu(alpha).name == f"leaky_relu({alpha})"
        with pytest.raises(ValueError, match="of at most"):
            activations.leaky_relu(1.001 * alpha)


def test_jumps_have_no_slope():
    """What gradients see; the derivative of the dual is infinite at 1 instead."""
    xi = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for phi in (activations.sign, activations.step):
        assert torch.equal(phi.dual_derivative(xi), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "make, argument, error, words",
    [
        ("leaky_relu", "0.1", TypeError, "alpha: expected a real number, got '0.1'"),
        ("leaky_relu", math.nan, ValueError, "alpha: expected a number of at most 1e.100"),
        ("leaky_relu", -math.inf, ValueError, "alpha: expected .* got -inf"),
        ("rectified_monomial", 1.5, TypeError, "degree: expected a whole number, got 1.5"),
        ("monomial", -1, ValueError, "degree: expected at least 0, got -1"),
        ("hermite", 31, ValueError, "degree: expected at most 30, got 31"),
        ("hermite", True, TypeError, "degree: expected a whole number"),
        ("polynomial", [], ValueError, r"coefficients: expected at least one that is not 0, got \[\]"),
        ("polynomial", [0.0, 0.0], ValueError, "at least one that is not 0"),
        ("polynomial", [1.0, math.nan], ValueError, r"coefficients\[1\]: .* got nan"),
        ("polynomial", [1.0, "2"], TypeError, r"coefficients\[1\]: .* got '2'"),
        ("polynomial", 3.0, TypeError, "coefficients: expected a sequence of numbers, got 3.0"),
        ("polynomial", [1.0] * 32, ValueError, "coefficients: expected at most 31, got 32"),
        ("sinusoid", 0.0, ValueError, "frequency: expected a number other than 0"),
        ("rbf", 0, ValueError, "gamma: expected a finite positive number"),
        ("rbf", None, TypeError, "gamma: expected a real number"),
        ("get", "xyzzy", ValueError, "expected one of abs, .*, got 'xyzzy'; from_function makes one"),
        ("get", 3, TypeError, "expected a name, an Activation"),
    ],
)
def test_bad_parameters_are_named(make, argument, error, words):
    with pytest.raises(error, match=words):
        getattr(activations, make)(argument)


def test_a_layer_that_overflows_is_an_error():
    big = torch.tensor([1e4], dtype=torch.float64)
    with pytest.raises(OverflowError, match=r"exp: expected second moments that torch.float64 can hold"):
        activations.exp.dual(big, big, big)
    with pytest.raises(OverflowError, match=r"standard deviation of the pre-activations of up to 100"):
        activations.exp.dual_derivative(big, big, big)
    one = torch.ones(1, dtype=torch.float64)
    for method in (activations.exp.dual, activations.exp.dual_derivative):
        for variances in ((one, big), (big, one)):
            with pytest.raises(OverflowError, match=r"standard deviation .* of up to 100$"):
                method(one, *variances)
    with pytest.raises(OverflowError, match=r"torch.float32"):
        activations.monomial(3).dual(*[1e13 * torch.ones(1)] * 3)


def test_any_function_by_quadrature():
    xi = torch.tensor([-0.5, 0.3, 0.9], dtype=torch.float64)
    # E[u² v²] = 1 + 2 xi², normalised by E[z⁴] = 3
    square = from_function(lambda z: z**2, name="square")
    assert (square.dual(xi) - (1 + 2 * xi**2) / 3).abs().max() < 1e-14
    # E[2u 2v]/3
    assert (square.dual_derivative(xi) - 4 * xi / 3).abs().max() < 1e-14
    # a jump away from 0: P(u > 1, v > 1)/P(z > 1), from independence at xi = 0
    step = from_function(lambda z: (z > 1).to(z), kinks=(1.0,), name="step")
    tail = 0.15865525393145705
    assert abs(step.dual(torch.zeros(1, dtype=torch.float64)).item() - tail) < 1e-14


def test_a_function_that_is_not_to_be_normalised():
    triple, half = from_function(lambda z: 3 * z, normalise=False), torch.tensor([0.5], dtype=torch.float64)
    assert (triple(half).item(), triple.derivative(half).item()) == (1.5, 3)
    assert triple.dual(half).item() == pytest.approx(4.5, rel=1e-14, abs=0)
    assert triple.dual_derivative(half).item() == pytest.approx(9, rel=1e-14, abs=0)


def test_an_unnamed_kink_is_an_error_not_a_wrong_number():
    half = torch.tensor([0.5], dtype=torch.float64)

    def jumping(z):
        return (z > 0.3).to(z)

    for name in (None, "jumping"):
        with pytest.raises(QuadratureError, match=r"E\[jumping\(u\) jumping\(v\)\]: .* Name every kink"):
            from_function(jumping, name=name).dual(half)
    bent = from_function(lambda z: (z - 0.3).abs(), kinks=(0.3,), name="bent")
    assert bent.name == "bent" and bent.dual(half).item() < 1
    with pytest.raises(QuadratureError, match=r"E\[f'?\(u\) f'?\(v\)\]: .* Name every kink"):
        from_function(
            lambda z: (z - 0.3).clamp(min=0) ** 2, lambda z: 2 * (z - 0.3).clamp(min=0), name="f"
        ).dual_derivative(half)
    with pytest.raises(ValueError, match=r"derivative: expected that of f, .* Name every kink"):
        from_function(torch.sin, jumping, name="f")
    # an object that is called, without a name of its own
    with pytest.raises(QuadratureError, match=r"E\[function\(u\)"):
        from_function(functools.partial(jumping)).dual(half)
    with pytest.raises(QuadratureError, match="no finite dual"):
        from_function(lambda z: torch.exp(z**2 / 4), name="explosive")
    with pytest.raises(ValueError, match="0 everywhere"):
        from_function(torch.zeros_like, name="nothing")


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_a_variance_of_0(phi):
    """E[phi(u) phi(v)] = phi(0) E[phi(v)] for u = 0, and E[phi(v)]² is that of independent u and v."""
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    mean = phi.dual(zero[:1]).sqrt()  # its size
    expected = phi(zero[:1]).abs() * mean
    for variances in ((zero, one), (one, zero)):
        assert (phi.dual(zero, *variances).abs() - expected).abs().max() < 1e-15
        assert torch.isfinite(phi.dual_derivative(zero, *variances)).all()


def test_what_is_no_covariance_is_refused():
    relu, one = activations.relu, torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="at most sqrt"):
        relu.dual(1.1 * one)
    with pytest.raises(ValueError, match="at least 0"):
        relu.dual(one, -one, one)
    with pytest.raises(TypeError, match="same dtype"):
        relu.dual(one, one.float(), one)


@pytest.mark.parametrize("name", ["gelu", "erf", "sigmoid_like", "gaussian", "sin", "exp"])
@pytest.mark.parametrize("theta", [0.3, 1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("sds", [(1.0, 1.0), (2.0, 0.5)])
def test_sin2_of_the_images_keeps_its_digits(name, theta, sds):
    """1 - xi² of what an activation makes of two nearly equal directions, relative to itself."""
    sin2 = math.sin(theta) ** 2
    with mpmath.workdps(80):
        E, _ = fifty_digits.expectations(name)
        A, B = (mpmath.mpf(sd) ** 2 for sd in sds)
        cov = mpmath.sqrt(A * B) * mpmath.sqrt(1 - mpmath.mpf(sin2))
        right = float(1 - E(A, B, cov) ** 2 / (E(A, A, A) * E(B, B, B)))
    sd1, sd2, xi, sin2 = (one(value) for value in (*sds, math.sqrt(1 - sin2), sin2))
    got = activations.get(name).moments(Covariance(sd1, sd2, xi, sin2)).sin2.item()
    assert got == pytest.approx(right, rel=1e-13, abs=0)


def one(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(activations.BY_NAME))
def test_a_number_is_taken_as_a_tensor_of_one(name):
    phi = activations.get(name)
    for xi in (-1.0, -0.3, 0.0, 0.9, 0.9999, 1.0):
        xi = torch.tensor(xi, dtype=torch.float64)
        for function in (phi.dual, phi.dual_derivative):
            assert function(xi).shape == ()
            assert torch.equal(function(xi), function(xi[None])[0])
