"""Activations of any function, torch's own too: against closed forms, 30 digits and differences."""

import math
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mpmath import mp, mpf
from torch import nn

import ntkutils as nu
from ntkutils import activations
from ntkutils.activations import from_function, get
from ntkutils.covariance import Covariance
from ntkutils.quadrature import QuadratureError, expectation

KINKED = {
    "hardtanh": (F.hardtanh, (-1.0, 1.0)),
    "hardshrink": (F.hardshrink, (-0.5, 0.5)),
    "softshrink": (F.softshrink, (-0.5, 0.5)),
    "elu": (F.elu, (0.0,)),
    "relu(z-1)": (lambda z: (z - 1).clamp(min=0), (1.0,)),
}


def hard_points(normal):
    """Directions with equal, opposite, nearly equal and nearly opposite ones among them."""
    x = normal(3, 24, 5)
    x = x / x.norm(dim=1, keepdim=True)
    x[1], x[2], x[3] = x[0], -x[0], x[0] + 1e-7 * normal(4, 5)
    x[4], x[5] = x[0] + 1e-4 * normal(5, 5), -x[0] + 1e-4 * normal(6, 5)
    return x


def error(K, expected):
    """The largest, relative to the roots of the diagonal."""
    size = expected.diagonal().sqrt()
    return ((K - expected) / size / size[:, None]).abs().max().item()


def norms(kind, n, normal):
    if kind == "unit":
        return 1.0
    low, high = {"small": (-3, -1), "middle": (-1, 1), "large": (1, 2)}[kind]
    s = torch.logspace(low, high, n, dtype=torch.float64)[:, None]
    s[:5] = s[7]
    s[4] *= 1 + 1e-9
    return s


@pytest.mark.parametrize("kind", ["unit", "small", "middle", "large"])
@pytest.mark.parametrize("name", ["erf", "gelu", "gaussian"])
def test_smooth_functions_at_any_norm(name, kind, normal):
    """The closed forms share nothing with the series: depth 4, biases, and the diagonal too."""
    function = {"erf": torch.erf, "gelu": F.gelu, "gaussian": lambda z: torch.exp(-(z**2) / 2)}[name]
    phi, x = from_function(function), hard_points(normal)
    x = x * norms(kind, len(x), normal)
    for depth, bias_std in ((1, 0.0), (4, 0.3)):
        for kernel in (nu.ntk, nu.nngp) if depth == 1 else (nu.ntk,):
            K, expected = (kernel(x, depth=depth, activation=a, bias_std=bias_std) for a in (phi, name))
            assert error(K, expected) < 1e-10
            assert torch.equal(K, K.T)


@pytest.mark.parametrize("kind", ["unit", "small", "large"])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
def test_functions_with_a_kink_at_any_norm(name, kind, normal):
    closed, x = activations.BY_NAME[name], hard_points(normal)
    phi = from_function(closed.value, kinks=(0.0,))
    x = x * norms(kind, len(x), normal)
    for depth, bias_std in ((1, 0.0), (4, 0.0), (3, 0.3)):
        if bias_std and kind != "unit":
            continue  # a quadrature for every pair
        K, expected = (nu.ntk(x, depth=depth, activation=a, bias_std=bias_std) for a in (phi, closed))
        assert error(K, expected) < 1e-11  # the angle of nearly equal points is kept through the layers


def hermite_series(f, s1, s2, xi):
    """E[f(u) f(v)] = Σ_n ξ^n a_n(s1) a_n(s2), the a_n by integrals of 30 digits: another derivation."""
    terms = 60

    def coefficients(s):
        a = [mpf(0)] * terms
        nodes, weights = gauss
        for z, w in zip(nodes, weights, strict=True):
            value, below, h = f(s * z) * w, mpf(0), mpf(1)
            for n in range(terms):
                a[n] += value * h
                below, h = h, (z * h - mp.sqrt(n) * below) / mp.sqrt(n + 1)
        return a

    with mp.workdps(30):
        gauss = normal_rule()
        a, b = coefficients(mpf(s1)), coefficients(mpf(s2))
        return float(mp.fsum(mpf(xi) ** n * p * q for n, (p, q) in enumerate(zip(a, b, strict=True))))


def normal_rule():
    """The trapezoid rule for the normal density, which converges exponentially for what is analytic."""
    h = mpf(1) / 8
    nodes = [h * i for i in range(-96, 97)]
    return nodes, [h * mp.npdf(z) for z in nodes]


@pytest.mark.parametrize(
    "name, exact",
    [
        ("tanh", mp.tanh),
        ("softplus", lambda z: mp.log(1 + mp.exp(z))),
        ("silu", lambda z: z / (1 + mp.exp(-z))),
        ("mish", lambda z: z * mp.tanh(mp.log(1 + mp.exp(z)))),
    ],
)
def test_thirty_digits(name, exact):
    for s1, s2, xi in ((0.5, 0.3, 0.7), (0.2, 0.9, -0.6), (1e-3, 0.4, 0.3)):
        cov, var1, var2 = (torch.tensor([z], dtype=torch.float64) for z in (xi * s1 * s2, s1**2, s2**2))
        phi = get(name)
        scale = phi.value(torch.tensor(1.0, dtype=torch.float64)).item() / float(exact(mpf(1)))  # 1/norm
        expected = scale**2 * hermite_series(exact, s1, s2, xi)
        size = math.sqrt((phi.dual(var1, var1, var1) * phi.dual(var2, var2, var2)).item())
        assert abs(phi.dual(cov, var1, var2).item() - expected) < 1e-12 * size


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("sd", [1.0, 0.1])
def test_the_table_of_the_angle_is_the_plain_quadrature(name, sd, normal):
    function, kinks = KINKED[name]
    phi = from_function(function, kinks=kinks, normalise=False)
    xi = torch.linspace(-0.999, 1, 400, dtype=torch.float64)[None]
    one = sd * torch.ones(1, 1, dtype=torch.float64)
    Lambda = Covariance(one, one.expand(1, 400), xi, (1 - xi) * (1 + xi))
    all_of_them = phi.moments(Lambda)
    some = slice(None, None, 57)
    plain = Covariance(one, one.expand(1, 400)[:, some], xi[:, some], Lambda.sin2[:, some])
    size = all_of_them.sd1.item() ** 2
    if size == 0:
        return
    expected = phi.moments(plain).cov  # too few for a table
    assert (all_of_them.cov[:, some] - expected).abs().max() < 1e-11 * size
    if sd == 1:
        assert (expected - expectation(function, plain, kinks)).abs().max() < 1e-12 * size


@pytest.mark.parametrize("name", ["hardshrink", "softshrink", "relu(z-1)"])
def test_small_inputs_have_small_numbers_and_no_error(name):
    """What made spurious errors: all of the function lies 10 deviations out, or where float64 ends."""
    function, kinks = KINKED[name]
    phi = from_function(function, kinks=kinks, normalise=False)
    at = max(kinks)
    for deviations in (8, 12, 20):
        sd = torch.tensor([[at / deviations]], dtype=torch.float64)
        got = phi.moments(Covariance(sd, sd, sd**0, 0 * sd)).cov.item()
        with mp.workdps(40):
            d, tail, density = deviations, mp.erfc(deviations / mp.sqrt(2)) / 2, mp.npdf(deviations)
            above = d * density + tail if name == "hardshrink" else (1 + d**2) * tail - d * density
            exact = (mpf(at) / d) ** 2 * above
        assert got == pytest.approx(float(exact) * (1 if name == "relu(z-1)" else 2), rel=1e-9, abs=0)
    tiny = torch.tensor([1e-6], dtype=torch.float64)
    assert phi.dual(tiny / 2, tiny, tiny).item() == 0
    assert phi.dual_derivative(tiny / 2, tiny, tiny).item() == 0


def test_an_undeclared_kink_is_noticed():
    for function in (
        lambda z: (z - 0.3).abs(),
        lambda z: (z - 0.3).clamp(min=0),
        torch.relu,
        F.hardtanh,
        lambda z: torch.tanh(z) + 1e-6 * (z - 0.3).abs(),
        lambda z: torch.tanh(z) + 1e-5 * (z > 2).to(z),
    ):
        with pytest.raises(QuadratureError, match="Name every kink"):
            from_function(function).dual_derivative(torch.tensor([0.3], dtype=torch.float64))


# --- derivatives -------------------------------------------------------------------------------------


def differences(f, x, h):
    result = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        e = torch.zeros_like(x)
        e[place] = h
        result[place] = (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * h)
    return result


def test_derivatives_of_a_smooth_function(normal):
    phi = get("tanh")
    x, y = 0.3 * normal(0, 3, 2), 0.3 * normal(1, 3, 2)
    y[0], y[1] = x[0], -x[1]  # equal and opposite

    def f(v):
        return (nu.ntk(v, y, depth=2, activation=phi, bias_std=0.3) ** 2).sum()

    expected = differences(f, x, 1e-3)
    leaf = x.clone().requires_grad_()
    size = expected.abs().max()
    for slope in (
        torch.autograd.grad(f(leaf), leaf)[0],
        torch.func.grad(f)(x),
        torch.func.jacrev(f)(x),
        torch.func.jacfwd(f)(x),
    ):
        assert (slope - expected).abs().max() < 1e-9 * size
    second = differences(lambda v: torch.func.grad(f)(v)[0, 1], x, 1e-3)
    for hessian in (torch.func.hessian(f)(x), torch.func.jacrev(torch.func.grad(f))(x)):
        assert (hessian[0, 1] - second).abs().max() < 1e-8 * second.abs().max()


def test_derivatives_of_functions_with_kinks(normal):
    x, y = normal(0, 2, 2), normal(1, 2, 2)
    for function, kinks, closed in ((torch.relu, (0.0,), "relu"), (F.hardtanh, (-1.0, 1.0), None)):
        phi = from_function(function, kinks=kinks)

        def f(v, phi=phi):
            return (nu.ntk(v, y, depth=2, activation=phi) ** 2).sum()

        leaf = x.clone().requires_grad_()
        expected = torch.func.grad(lambda v, a=closed: f(v, a))(x) if closed else differences(f, x, 1e-3)
        for slope in (
            torch.autograd.grad(f(leaf), leaf)[0],
            torch.func.grad(f)(x),
            torch.func.jacfwd(f)(x),
        ):
            assert (slope - expected).abs().max() < 1e-8 * expected.abs().max()
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            torch.func.hessian(f)(x)


def test_threads_share_an_activation(normal):
    x = normal(2, 40, 3)
    expected = nu.ntk(x, depth=2, activation=from_function(torch.tanh))
    phi, got = from_function(torch.tanh), [None] * 4

    def work(i):
        got[i] = nu.ntk(x, depth=2, activation=phi)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(torch.equal(K, expected) for K in got)


def test_a_network_of_any_activation(normal):
    """The slope of a network's units is the activation's, in place or not, and in functional transforms."""
    x = normal(2, 4, 3)
    for activation in (torch.tanh, nn.SiLU(inplace=True), "softplus", nn.Hardtanh(inplace=True)):
        model = nu.MLP(3, 6, 2, activation=activation, dtype=torch.float64,
                       generator=torch.Generator().manual_seed(0))  # fmt: skip
        before = x.clone()
        K, expected = nu.empirical_ntk(model, x), nu.empirical_ntk_by_backward(model, x)
        assert (K - expected).abs().max() < 1e-12 * expected.abs().max()
        assert torch.equal(x, before)
        z = normal(5, 7)
        slope = torch.vmap(torch.func.grad(model.activation.value))(z)
        assert torch.allclose(model.activation.derivative(z), slope, rtol=1e-13, atol=1e-15)


# --- torch's own -------------------------------------------------------------------------------------

TAKEN = [
    *[(torch.tanh, "tanh"), (torch.Tensor.tanh, "tanh"), (F.softplus, "softplus"), (torch.relu_, "relu")],
    *[(nn.GELU(), "gelu"), (nn.Tanh(), "tanh"), (nn.Tanh, "tanh"), (torch.relu, "relu")],
    *[(nn.SiLU(inplace=True), "silu"), (nn.LeakyReLU(0.2), "leaky_relu(0.2)"), (nn.ELU(), "elu")],
    *[(nn.Identity(), "identity"), (torch.special.expit, "sigmoid"), (nn.ReLU6(), "relu6")],
    *[(nn.GELU(approximate="tanh"), "GELU(approximate='tanh')"), (nn.Dropout(0.0), "identity")],
    *[(nn.Hardtanh(-2.0, 1.0), None), (nn.Softshrink(0.2), None), (nn.Softplus(2.0), None)],
    *[(nn.CELU(2.0), None), (nn.Hardshrink(0.1), None), (nn.Threshold(0.1, -1.0), None)],
    *[(nn.Softsign(), "softsign"), (nn.LogSigmoid(), "logsigmoid"), (nn.Hardsigmoid(), "hardsigmoid")],
    *[(nn.Hardswish(inplace=True), "hardswish"), (nn.RReLU(0.1, 0.3).eval(), "leaky_relu(0.2)")],
]  # fmt: skip


@pytest.mark.parametrize("given, name", TAKEN, ids=lambda z: getattr(z, "__name__", str(z)))
def test_torchs_activations_are_taken_as_they_are(given, name):
    phi = get(given)
    assert name is None or phi.name == name
    z = torch.linspace(-4, 4, 33, dtype=torch.float64) + 0.01
    function = given() if isinstance(given, type) else given
    values, ours = function(z.clone()), phi(z)
    ratio = (ours / values)[values.abs() > 1e-3]
    assert (ratio - ratio[0]).abs().max() < 1e-12 * ratio[0].abs()  # the same up to the normalisation
    assert abs(phi.dual(torch.ones(1, dtype=torch.float64)).item() - 1) < 1e-13


def test_gelu_by_tanh_is_another_function():
    half = torch.tensor([0.5], dtype=torch.float64)
    apart = abs(get(nn.GELU(approximate="tanh")).dual(half) - get("gelu").dual(half)).item()
    assert 1e-8 < apart < 1e-4


def hooked():
    module = nn.ReLU()
    module.register_forward_hook(lambda m, i, o: 2 * o)
    return module


class Twice(nn.ReLU):
    def forward(self, z):
        return 2 * super().forward(z)


@pytest.mark.parametrize(
    "given, error, words",
    [
        (nn.PReLU(), TypeError, "it has parameters.*leaky_relu"),
        (nn.Softmax(1), TypeError, "not elementwise"),
        (nn.GLU(), TypeError, "not elementwise"),
        (nn.RReLU(), TypeError, "random in training"),
        (nn.Dropout(), TypeError, "random in training"),
        (nn.Linear(2, 2), TypeError, "it has parameters"),
        (nn.Sequential(nn.ReLU()), TypeError, "not known to be elementwise"),
        (hooked(), TypeError, "hooks"),
        (Twice(), TypeError, "not known to be elementwise"),
        (nn.Threshold, TypeError, "the class Threshold"),
        (np.tanh, TypeError, "use torch.tanh"),
        (math.tanh, TypeError, "use torch.tanh"),
        (lambda z: z, TypeError, "from_function"),
        ("Tanh", ValueError, "did you mean 'tanh'"),
        ("zebra", ValueError, "from_function"),
    ],
)
def test_what_is_refused_says_why(given, error, words):
    with pytest.raises(error, match=words):
        get(given)


@pytest.mark.parametrize(
    "function, options, error, words",
    [
        (np.tanh, {}, TypeError, "use torch.tanh"),
        (math.tanh, {}, TypeError, "use torch.tanh"),
        (3, {}, TypeError, "expected a function"),
        (lambda z: z.sum(), {}, ValueError, "elementwise"),
        (lambda z: z.softmax(-1), {}, ValueError, "elementwise"),
        (lambda z: z - z.mean(), {}, ValueError, "elementwise"),
        (lambda z: z.float(), {}, TypeError, "float64"),
        (lambda z: z.numpy(), {}, TypeError, "expected a tensor"),
        (torch.randn_like, {}, ValueError, "same at each call"),
        (torch.log, {}, ValueError, "NaN from log at -3.7"),
        (torch.tanh, {"kinks": 0.0}, TypeError, "kinks"),
        (torch.tanh, {"kinks": (math.nan,)}, ValueError, "kinks"),
        (torch.tanh, {"derivative": torch.tanh}, ValueError, "derivative: expected that of tanh"),
        (lambda z: torch.exp(z**2), {}, QuadratureError, "no finite dual"),
    ],
)
def test_what_is_no_activation_says_why(function, options, error, words):
    with pytest.raises(error, match=words):
        from_function(function, **options)
