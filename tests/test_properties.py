"""What holds for every kernel, activation and network, at inputs that hypothesis chooses.

A property is a function of a kernel, so that it can be shown to fail for a wrong one.
NTKUTILS_PROPERTIES=long runs many more examples, other ones every time.
"""

import ast
import itertools
import math
import os
from dataclasses import dataclass

import mpmath
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_activations import ALL, NAMES
from test_kernels import OVERFLOWING, kind, reference
from torch import nn

import ntkutils as nu
from ntkutils import activations

settings.register_profile("short", derandomize=True, deadline=None, database=None, max_examples=40)
settings.register_profile("long", deadline=None, database=None, max_examples=1000)
settings.load_profile(os.environ.get("NTKUTILS_PROPERTIES", "short"))

F64 = torch.float64
HOMOGENEOUS = [activations.relu, activations.abs, activations.identity, activations.leaky_relu(0.3)]
JUMPS = {"sign", "step"}


# --- strategies --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """What an infinitely wide network is, and its kernels."""

    phi: activations.Activation
    depth: int
    weight_std: float = 1.0
    bias_std: float = 0.0

    @property
    def options(self):
        return dict(
            depth=self.depth, activation=self.phi, weight_std=self.weight_std, bias_std=self.bias_std
        )

    def ntk(self, *x):
        return nu.ntk(*x, **self.options)

    def nngp(self, *x):
        return nu.nngp(*x, **self.options)

    def rounding(self, *xs):
        """What an entry of a kernel may be off by, in absolute numbers.

        A layer adds 2e-15 of the root of K(x,x) K(x~,x~) at most (test_kernels.py holds it to that): 9
        units of rounding, eps. The layers after it multiply a relative error of their input by what their
        own moments do with it: n for a power n, and in general by 2 E[phi'(u)²] E[u²]/E[phi(u)²] or so.
        """
        size = max(self.ntk(x).diagonal().abs().max().item() for x in xs)
        factor = 1.0
        for squared in {f(x.double().square().sum(1)).item() for x in xs for f in (torch.amax, torch.amin)}:
            var, growth = self.weight_std**2 * squared + self.bias_std**2, 1.0
            for _ in range(self.depth):
                v = torch.tensor([var], dtype=F64)
                value, slope = self.phi.dual(v, v, v).item(), self.phi.dual_derivative(v, v, v).item()
                growth *= max(1, 2 * slope * var / value if value > 0 else 0)
                var = self.weight_std**2 * value + self.bias_std**2
            factor = max(factor, growth)
        finfo = torch.finfo(xs[0].dtype)
        return 9 * finfo.eps * (self.depth + 1) * factor * size + finfo.tiny  # below which digits end


@st.composite
def any_network(draw, phis=ALL, depth=5, bias=True):
    """Powers of powers leave float64, so these stay shallow and narrow."""
    phi = draw(st.sampled_from(phis))
    powers = kind(phi) in OVERFLOWING
    return Network(
        phi,
        draw(st.integers(0, min(depth, 2) if powers else depth)),
        draw(st.sampled_from([0.5, 1.0] if powers else [0.5, 1.0, 1.5])),
        draw(st.sampled_from([0.0, 0.1, 1.0])) if bias else 0.0,
    )


@st.composite
def points(draw, least=1, most=9, scales=(1e-3, 0.3, 1.0), features=(1, 2, 5)):
    """Normal ones from a seed; some of them again, nearly again, turned round, or put to 0."""
    n, d = draw(st.integers(least, most)), draw(st.sampled_from(features))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = draw(st.sampled_from(scales)) * torch.randn(n, d, generator=generator, dtype=F64)
    others = draw(
        st.lists(st.tuples(*[st.integers(0, n - 1)] * 2, st.sampled_from([1, -1, 2, 0, 1 + 1e-9])))
    )
    for i, j, factor in others[:3]:
        x[i] = factor * x[j]
    return x


@st.composite
def raw_points(draw):
    """Whatever floats hypothesis likes: 0, integers, nearly equal ones."""
    d, number = draw(st.integers(1, 3)), st.floats(-2, 2, allow_subnormal=False)
    rows = st.lists(st.lists(number, min_size=d, max_size=d), min_size=1, max_size=5)
    x = torch.tensor(draw(rows), dtype=F64)
    # squares of less leave float64
    return x.where(x.abs() > 1e-140, torch.zeros_like(x))


ANY_POINTS = st.one_of(points(), raw_points())


def within_limits(network, x):
    """Points that a network can take; exp of exp and powers of powers leave float32 beyond these.

    Points of angle 0 or pi whose ratio is no power of 2 have a computed angle of up to eps². Every layer
    after the first takes the root of what a jump makes of it, so that 1e-32 becomes 1e-4 after four;
    test_limits.py has the case.
    """
    if network.phi.name in JUMPS and network.depth > 1:
        for u, v in itertools.combinations(x[x.any(1)].double(), 2):
            ratio = (u @ v / (v @ v)).item()
            exact = math.frexp(abs(ratio))[0] == 0.5 and torch.equal(u, ratio * v)
            assume(exact or (u - ratio * v).norm() > 1e-12 * u.norm())
    return x / 4 if kind(network.phi) in OVERFLOWING else x


# --- the properties ----------------------------------------------------------------------------------


def is_symmetric_and_semidefinite(kernel, x, rounding):
    """Exactly the first. A matrix of errors e has a norm of at most n·e."""
    K = kernel(x)
    assert torch.equal(K, K.T)
    assert torch.linalg.eigvalsh(K.double()).min() >= -len(x) * rounding


def follows_its_arguments(kernel, x, rounding):
    """k(X) = k(X, X), k(X, Y) = k(Y, X)ᵀ, and parts of X give parts of it: each side has its rounding."""
    K, half = kernel(x), len(x) // 2
    for other in (kernel(x, x), kernel(x, x.clone()), kernel(x.clone(), x).T):
        assert (K - other).abs().max() <= 2 * rounding
    parts = torch.cat([kernel(x[:half], x), kernel(x[half:], x)])
    assert parts.shape == K.shape and (K - parts).abs().max() <= 2 * rounding
    assert (K.diagonal() - torch.cat([kernel(row[None])[0] for row in x])).abs().max() <= 2 * rounding


def does_not_see_the_axes(kernel, x, rounding):
    """Coordinates in another order, some with another sign: the same numbers, summed otherwise."""
    turned = x.flip(1) * torch.tensor([-1.0, 1.0], dtype=x.dtype).repeat(x.shape[1])[: x.shape[1]]
    assert (kernel(turned) - kernel(x)).abs().max() <= 2 * rounding


def is_homogeneous(kernel, x, rounding):
    """K(a·x, b·x~) = ab·K(x, x~); to the last digit for powers of 2."""
    assert torch.equal(kernel(4 * x, 0.5 * x.clone()), 2 * kernel(x, x.clone()))
    # the rounding of 3x and 0.7x turns them by eps, which counts as one more layer
    assert (kernel(3 * x, 0.7 * x) - 2.1 * kernel(x, x.clone())).abs().max() <= 3 * 2.1 * rounding


BOTH = pytest.mark.parametrize("which", ["ntk", "nngp"])


@BOTH
@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_every_activation(which, phi, normal):
    """The same at the same 20 points, for every one of them whatever hypothesis chooses below."""
    network, x = Network(phi, 2 if kind(phi) in OVERFLOWING else 3, 1.0, 0.2), normal(4, 20, 3) / 3
    for dtype in (F64, torch.float32):
        for holds in (is_symmetric_and_semidefinite, follows_its_arguments, does_not_see_the_axes):
            holds(getattr(network, which), x.to(dtype), network.rounding(x.to(dtype)))


@BOTH
@given(any_network(), ANY_POINTS, st.sampled_from([torch.float32, F64]))
def test_is_symmetric_and_semidefinite(which, network, x, dtype):
    x = x.to(dtype)
    x = within_limits(network, x)
    is_symmetric_and_semidefinite(getattr(network, which), x, network.rounding(x))
    assert getattr(network, which)(x).dtype == dtype


@BOTH
@given(any_network(), ANY_POINTS)
def test_follows_its_arguments(which, network, x):
    x = within_limits(network, x)
    follows_its_arguments(getattr(network, which), x, network.rounding(x))


@BOTH
@given(any_network(), ANY_POINTS)
def test_does_not_see_the_axes(which, network, x):
    x = within_limits(network, x)
    does_not_see_the_axes(getattr(network, which), x, network.rounding(x))


@BOTH
@given(
    any_network([phi for phi in ALL if phi.name not in JUMPS]), points(features=(2, 5)), st.integers(0, 99)
)
def test_is_invariant_under_rotations(which, network, x, seed):
    """The rotation itself rounds: up to d eps in every angle and norm, which counts as d more layers.

    A jump sees angles of nearly equal points by their root, and is left to the test above.
    """
    x = within_limits(network, x)
    d, generator = x.shape[1], torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=F64)).Q
    kernel = getattr(network, which)
    assert (kernel(x @ Q) - kernel(x)).abs().max() <= (2 + d) * network.rounding(x)


@BOTH
@given(any_network(HOMOGENEOUS, bias=False), ANY_POINTS)
def test_is_homogeneous(which, network, x):
    is_homogeneous(getattr(network, which), x, network.rounding(x))


@given(st.sampled_from(["sign", "step"]), st.integers(1, 5), points())
def test_jumps_do_not_see_norms(name, depth, x):
    K = nu.nngp(x, depth=depth, activation=name)
    assert torch.equal(nu.nngp(8 * x, depth=depth, activation=name), K)
    assert torch.equal(nu.ntk(x, depth=depth, activation=name), K)  # no slopes


@BOTH
@given(any_network(), points())
def test_float32_is_accurate_to_float32(which, network, x):
    x = x.float()
    x = within_limits(network, x)
    single, double = getattr(network, which)(x), getattr(network, which)(x.double())
    assert (single - double).abs().max() <= network.rounding(x)


@settings(max_examples=max(40, settings().max_examples // 5))  # slow
@given(any_network(depth=3), points(2, 2))
def test_float64_is_accurate_to_float64(network, x):
    """Against 50 digits, of the very floats given."""
    name, _, arguments = network.phi.name.partition("(")
    arguments = ast.literal_eval(f"({arguments[:-1]},)") if arguments else ()
    x = within_limits(network, x)
    assume(x.square().sum(1).min() > 0)  # the textbook formulas divide by the variances
    rounding = network.rounding(x)
    with mpmath.workdps(60):
        u, v = ([mpmath.mpf(c) for c in row.tolist()] for row in x)
        sd1, sd2 = (mpmath.sqrt(mpmath.fdot(w, w)) for w in (u, v))
        xi = mpmath.fdot(u, v) / sd1 / sd2
        parallel = all(u[0] * b == v[0] * a for a, b in zip(u, v, strict=True))
        given = (sd1, sd2, mpmath.sign(xi) if parallel else xi, 0 if parallel else 1 - xi**2)
        theirs = reference(name, arguments, given, network.depth, network.weight_std, network.bias_std)
        for kernel, (expected, _) in zip((network.nngp, network.ntk), theirs, strict=True):
            assert abs(kernel(x[:1], x[1:]).item() - expected) <= rounding


# --- monotone in the correlation ---------------------------------------------------------------------
# With phi = Σ a_l h_l in Hermite polynomials the dual is Σ a_l² ξ^l, so for every phi it increases on
# [0, 1], and so does the NTK of points of one norm, made of sums and products of such series. On [-1, 1]
# the dual of an odd phi increases (odd powers only), and that of an increasing one, as its slope is
# E[phi'(u) phi'(v)]; that of an even phi is even. The rest, gelu or leaky_relu(-0.3), may do either.
ODD = {"identity", "sign", "sin", "erf", "monomial(3)", "hermite(5)"}
EVEN = {"abs", "cos", "gaussian", "monomial(0)", "hermite(2)"}
INCREASING = {"relu", "leaky_relu", "step", "rectified_monomial", "exp", "sigmoid_like"}


def increases(values, rounding):
    assert values.diff().min() >= -2 * rounding


@given(
    st.sampled_from(ALL), st.lists(st.floats(0, 1), min_size=2, max_size=20), st.sampled_from([0.3, 1, 2])
)
def test_the_dual_is_monotone(phi, xi, var):
    xi = torch.tensor(sorted(xi), dtype=F64) * var
    var = torch.full_like(xi, var)
    positive, negative = (phi.dual(sign * xi, var, var) for sign in (1, -1))
    rounding = Network(phi, 1).rounding(var[:1, None].sqrt())
    increases(positive, rounding)
    if phi.name in ODD:
        assert (positive + negative).abs().max() <= 2 * rounding
    elif phi.name in EVEN:
        assert (positive - negative).abs().max() <= 2 * rounding
    elif kind(phi) in INCREASING and phi.name != "leaky_relu(-0.3)":
        increases(-negative, rounding)
    assert negative.abs().max() <= positive.max() + 2 * rounding  # |Σ a_l² (-ξ)^l| <= Σ a_l² ξ^l


@BOTH
@given(any_network(), st.lists(st.floats(0, math.pi / 2), min_size=2, max_size=20))
def test_kernels_are_monotone_at_one_norm(which, network, angles):
    theta = torch.tensor(sorted(angles, reverse=True), dtype=F64)
    x = torch.stack([theta.cos(), theta.sin()], 1)
    one = torch.tensor([[1.0, 0.0]], dtype=F64)
    # The rounding of the cosine and the sine is one more layer's, and it changes the norm too.
    increases(getattr(network, which)(x, one)[:, 0], 2 * network.rounding(x, one))


# --- finite networks ---------------------------------------------------------------------------------


def finite(phi, depth, bias_std, seed):
    generator = torch.Generator().manual_seed(seed)
    return nu.MLP(2, 6, depth, 1, phi, 1.0, bias_std, generator, dtype=F64)


@pytest.mark.parametrize("wrap", [lambda f: f, nn.Sequential], ids=["MLP", "module"])
@given(
    st.sampled_from([phi for phi in ALL if kind(phi) not in OVERFLOWING]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 2**32),
    points(features=(2,)),
)
def test_empirical_kernels(wrap, phi, depth, bias_std, seed, x):
    """Inner products of gradients g of some tens of parameters: 1e-14 of the largest |g|²."""
    model = wrap(finite(phi, depth, bias_std, seed))
    kernel = lambda *x: nu.empirical_ntk(model, *x)  # noqa: E731
    K, half = kernel(x), len(x) // 2
    rounding = 1e-14 * K.diagonal().max()
    assert (K - K.T).abs().max() <= rounding
    assert torch.linalg.eigvalsh((K + K.T) / 2).min() >= -len(x) * rounding
    for other in (kernel(x, x.clone()), torch.cat([kernel(x[:half], x), kernel(x[half:], x)])):
        assert (K - other).abs().max() <= rounding


@given(st.sampled_from(HOMOGENEOUS), st.integers(0, 3), st.integers(0, 2**32), points(features=(2,)))
def test_networks_without_bias_are_homogeneous(phi, depth, seed, x):
    model = finite(phi, depth, 0.0, seed)
    assert torch.equal(model(4 * x), 4 * model(x))
    assert torch.equal(nu.empirical_ntk(model, 4 * x, 0.5 * x), 2 * nu.empirical_ntk(model, x, x.clone()))


# --- the properties have teeth -----------------------------------------------------------------------

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
ROUNDING = Network(activations.relu, 0).rounding(X)


def linear(x1, x2=None):
    return x1 @ (x1 if x2 is None else x2).T


@pytest.mark.parametrize(
    "holds, wrong",
    [
        (is_symmetric_and_semidefinite, lambda x, y=None: linear(x) + 1e-15 * torch.ones(6, 6).triu()),
        (is_symmetric_and_semidefinite, lambda x, y=None: linear(x) - 1e-12 * torch.eye(6)),
        (follows_its_arguments, lambda x, y=None: linear(x, y) * (1 if y is None else 1 + 1e-12)),
        (follows_its_arguments, lambda x, y=None: linear(x, y) + 1e-12 * len(x)),
        (follows_its_arguments, lambda x, y=None: linear(x, x if y is None else y) + 1e-12 * x[:, :1] ** 2),
        (does_not_see_the_axes, lambda x, y=None: linear(x, y) + 1e-12 * linear(x[:, :1])),
        (is_homogeneous, lambda x, y=None: linear(x, y) + 1e-12),
    ],
)
def test_fails_for_a_wrong_kernel(holds, wrong):
    """By less than any slip would be: 1e-12, or one rounding."""
    holds(lambda *x: Network(activations.identity, 0).ntk(*x), X, ROUNDING)
    with pytest.raises(AssertionError):
        holds(wrong, X, ROUNDING)
