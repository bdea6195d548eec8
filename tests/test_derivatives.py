"""Derivatives of the kernels by inputs and scales: both orders, every mode, every angle, against mpmath.

A case moves two points, the weights' scale and the biases' along a line, in random directions; its kernel
is then a function of one number t, of which mpmath takes differences with steps of 1e-30. Angles are 0, π,
near these down to 1e-12, anything between, exactly orthogonal; norms from 1e-3 to 1e3, some exactly equal.
NTKUTILS_PROPERTIES=long runs many more cases, other ones every time.
"""

import ast
import functools
import math
import os
import random
import threading
from dataclasses import dataclass

import fifty_digits
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from test_activations import ALL, NAMES
from test_kernels import OVERFLOWING, kind
from torch import Tensor

import ntkutils as nu
from ntkutils import activations, closed_forms, covariance

F64 = torch.float64
LONG = os.environ.get("NTKUTILS_PROPERTIES") == "long"
JUMPS = {"sign", "step"}
KINKED = {"relu", "leaky_relu", "abs"} | JUMPS  # rectified_monomial(n) has its kink in the n-th derivative
STEP = mpf(10) ** -30


@dataclass(frozen=True, eq=False)
class Case:
    """A network and two points, and how each moves with t."""

    which: str
    phi: activations.Activation
    depth: int
    u: Tensor
    v: Tensor
    weight_std: float
    bias_std: float
    du: Tensor
    dv: Tensor
    weight_change: float
    bias_change: float
    angle: float

    def kernel(self, t):
        """Ours, differentiable by t, a tensor of no dimension."""
        weight_std, bias_std = (
            std + t * change if change else std
            for std, change in ((self.weight_std, self.weight_change), (self.bias_std, self.bias_change))
        )
        return getattr(nu, self.which)(
            (self.u + t * self.du)[None],
            (self.v + t * self.dv)[None],
            depth=self.depth,
            activation=self.phi,
            weight_std=weight_std,
            bias_std=bias_std,
        )[0, 0]

    def exactly(self):
        """Of the kernel of (u, v), and of the root of those of (u, u) and (v, v): derivatives 0 to 3."""
        with mp.workdps(130):
            at = [self._at(k * STEP) for k in range(-2, 3)]
            pairs = [c for _, _, c in at], [mp.sqrt(a * b) for a, b, _ in at]
            return [[float(d) for d in differences(values)] for values in pairs]

    def _at(self, t):
        u, v = (
            [mpf(a) + t * mpf(b) for a, b in zip(x.tolist(), dx.tolist(), strict=True)]
            for x, dx in ((self.u, self.du), (self.v, self.dv))
        )
        weight_var = (mpf(self.weight_std) + t * mpf(self.weight_change)) ** 2
        bias_var = (mpf(self.bias_std) + t * mpf(self.bias_change)) ** 2
        E, E_slopes = textbook(self.phi.name)
        one = mpf(1)
        norm2 = E(one, one, one)
        cov = [weight_var * mp.fdot(x, y) + bias_var for x, y in ((u, u), (v, v), (u, v))]
        K = cov
        for _ in range(self.depth):
            A, B, c = cov
            triples = (A, A, A), (B, B, B), (A, B, c)
            slopes = [weight_var * E_slopes(*m) / norm2 for m in triples] if self.which == "ntk" else []
            cov = [weight_var * E(*m) / norm2 + bias_var for m in triples]
            if slopes:
                K = [new + slope * old for new, slope, old in zip(cov, slopes, K, strict=True)]
        return K if self.which == "ntk" else cov

    def check(self, mode):
        """Ours against mpmath's, to what a rounding or some of the inputs changes them by.

        That is eps times the next derivative, which is 1/angle times as large where there is a kink.
        """
        ours = MODES[mode](self.kernel)
        exact, diagonal = self.exactly()
        moved = self.du.norm() / self.u.norm() + self.dv.norm() / self.v.norm()
        moved = moved.item() + abs(self.weight_change) / self.weight_std
        moved += abs(self.bias_change) / self.bias_std if self.bias_std else 0
        corner = self.angle in (0.0, math.pi) and kind(self.phi) in KINKED
        kink = 1 / math.sin(self.angle) if kind(self.phi) in KINKED and not corner else 1.0
        errors = []
        for order in (1, 2):
            if corner and (order == 2 or self.phi.name in JUMPS):
                continue  # has no derivative; see below
            scale = max(*map(abs, (*exact[order : order + 2], *diagonal[order : order + 2])), 1e-300)
            scale = max(scale, diagonal[0] * (moved * kink) ** order) * kink
            errors.append(abs(ours[order - 1] - exact[order]) / scale)
        assert max(errors, default=0) < 1e-13, (errors, self)


def differences(values):
    """Derivatives 0 to 3 from values at -2h to 2h; of order h²: at angles of 1e-12, 1e-36 is left out."""
    a, b, c, d, e = values
    return c, (d - b) / (2 * STEP), (d - 2 * c + b) / STEP**2, (e - 2 * d + 2 * b - a) / (2 * STEP**3)


@functools.cache
def textbook(name):
    name, _, arguments = name.partition("(")
    return fifty_digits.expectations(name, *(ast.literal_eval(f"({arguments[:-1]},)") if arguments else ()))


def draw(phi, seed):
    """A case from a seed."""
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    powers = kind(phi) in OVERFLOWING  # which leave float64 when they are deep
    d, depth = choose.choice([2, 3, 6]), choose.randint(0, 2 if powers else 4)
    normal = lambda: torch.randn(d, generator=generator, dtype=F64)  # noqa: E731
    near = 10 ** choose.uniform(-12, -0.4)
    angle = choose.choice([0.0, near, near, choose.uniform(near, math.pi - near)])
    angle = choose.choice([angle, math.pi - angle])
    a = normal()
    a = a / a.norm()
    across = normal()
    across = across - a * (a @ across)
    size = 10 ** (choose.uniform(-0.5, 0.0) if powers else choose.uniform(-3, 3))
    other = size * 10 ** choose.choice([0, 1e-6, choose.uniform(-1, 0.3 if powers else 1)])
    u = size * a
    special = choose.random()
    if special < 0.15:  # exactly orthogonal
        u, v = torch.zeros(2, d, dtype=F64)
        u[0], v[1], angle = size, choose.choice([size, other]), math.pi / 2
    elif special < 0.3:  # of exactly equal norms
        v = choose.choice([1, -1]) * u.flip(0)
        angle = math.acos(max(-1, min(1, (u @ v / (u @ u)).item())))
    elif angle in (0.0, math.pi):
        v = (1 if angle == 0 else -1) * choose.choice([0.5, 1.0, 2.0]) * u
    else:
        v = other * (math.cos(angle) * a + math.sin(angle) * across / across.norm())
    weight_std = choose.choice([1.0, choose.uniform(0.3, 1.3)])
    bias_std = choose.choice([0.0, choose.uniform(0.05, 0.5 if powers else 1.5)])
    weight_change = choose.choice([0.0, choose.uniform(-1, 1)])
    bias_change = choose.choice([0.0, choose.uniform(-1, 1)]) if bias_std else 0.0
    which = choose.choice(["ntk", "nngp"])
    du, dv = size * normal(), v.norm() * normal()
    return Case(
        which, phi, depth, u, v, weight_std, bias_std, du, dv, weight_change, bias_change, angle
    )  # fmt: skip


# --- modes: each gives the first and the second derivative at 0 --------------------------------------

ZERO, ONE = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)


def along(f):
    return lambda t: torch.func.jvp(f, (t,), (ONE,))[1]


def backward(f):
    t = ZERO.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(t), t, create_graph=True)
    return first.item(), torch.autograd.grad(first, t)[0].item() if first.requires_grad else 0.0


def both(first, second):
    return lambda f: (first(f)(ZERO).item(), second(first(f))(ZERO).item())


MODES = {
    "backward twice": backward,
    "grad of grad": both(torch.func.grad, torch.func.grad),
    "grad of jvp": both(along, torch.func.grad),
    "jvp of grad": both(torch.func.grad, along),
    "jvp of jvp": both(along, along),
}


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
@given(st.sampled_from(sorted(MODES)), st.integers(0, 2**32))
@settings(max_examples=300 if LONG else 8, derandomize=not LONG, deadline=None, database=None)
def test_derivatives_are_right(phi, mode, seed):
    draw(phi, seed).check(mode)


def at(name, depth, u, v, which="ntk", angle=math.pi / 2, **options):
    """A case by hand, moving in generic directions."""
    u, v = (torch.tensor(x, dtype=F64) for x in (u, v))
    defaults = dict(weight_std=1.0, bias_std=0.0, weight_change=0.0, bias_change=0.0)
    du, dv = torch.tensor([[0.3, -0.7, 0.4], [0.5, 0.2, -0.9]], dtype=F64)[:, : len(u)]
    return Case(which, activations.get(name), depth, u, v, du=du, dv=dv, angle=angle, **defaults | options)


# What each of these was before it was mended, and a case that tells.
OPPOSITE = dict(u=[0.6, 0.8, 0.1], v=[-0.6, -0.8, -0.1 - 1e-9], angle=math.pi - 1e-9)
FAULTS = {
    "no derivative of the scaling by powers of 2": (
        (covariance, "_scaled", lambda x, norm: torch.ldexp(x, -torch.frexp(norm).exponent)),
        at("relu", 0, [1.0, 0.0], [1.0, 0.1], angle=0.1),
    ),
    "|x| with the derivative 0 at 0, in what is even": (
        (closed_forms, "magnitude", torch.abs),
        at("abs", 2, [1.0, 0.0], [0.0, 1.0]),
    ),
    "the same, of two norms": (
        (closed_forms, "magnitude", torch.abs),
        at("sin", 2, [1.0, 2.0], [2.0, 1.0], angle=math.acos(0.8)),
    ),
    "a difference of cosines": (
        (closed_forms, "NEARLY_PARALLEL", 0.0),
        at(activations.rectified_monomial(2), 1, **OPPOSITE),
    ),
    "an infinite slope of the root of no bias": (
        (covariance, "root", torch.sqrt),
        at("relu", 2, [0.6, 0.8], [0.6, 0.8], angle=0.0),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_was_mended_would_be_seen(fault, monkeypatch):
    patch, case = FAULTS[fault]
    for mode in MODES:
        case.check(mode)
    monkeypatch.setattr(*patch)
    with pytest.raises(AssertionError):
        for mode in MODES:
            case.check(mode)


# --- where there is none -------------------------------------------------------------------------------


def hessian(f, *xs):
    return torch.autograd.functional.hessian(f, xs[0] if len(xs) == 1 else xs)


@pytest.mark.parametrize("depth", [1, 3])
def test_what_moves_both_points_has_all_derivatives(depth, normal):
    """K(x, x) = (L+1) |x|² for ReLU, though K(x, x~) has a corner; the angle counts as constant."""
    x = normal(0, 3)
    for kernel, factor in ((nu.ntk, depth + 1), (nu.nngp, 1)):
        H = hessian(lambda x: kernel(x[None], depth=depth)[0, 0], x)  # noqa: B023
        assert (H - 2 * factor * torch.eye(3, dtype=F64)).abs().max() < 1e-14 * factor
        H = hessian(lambda x: kernel(x[None], x[None].clone(), depth=depth)[0, 0], x)  # noqa: B023
        assert (H - 2 * factor * torch.eye(3, dtype=F64)).abs().max() < 1e-14 * factor
    # what of x·x~ κ(θ) is left of ∂²/∂x∂x~ is κ(0)·1
    mixed = hessian(lambda x, y: nu.ntk(x[None], y[None], depth=1)[0, 0], x, x.clone())[0][1]
    assert (mixed - 2 * torch.eye(3, dtype=F64)).abs().max() < 1e-14


def test_a_zero_vector_beside_a_kink():
    """|x||x~| κ(θ) at x = 0 without biases: the derivative of its part that is odd in x, at θ = π/2."""
    y = torch.tensor([[0.3, -1.0, 0.7]], dtype=F64)
    for name, expected in (("relu", y[0] / 2), ("abs", 0 * y[0]), ("identity", y[0])):
        got = torch.func.grad(lambda x: nu.nngp(x[None], y, depth=1, activation=name)[0, 0])(0 * y[0])  # noqa: B023
        assert (got - expected).abs().max() < 1e-15


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["identity", "relu", "erf", "gaussian", "exp"])
def test_second_derivatives_at_a_zero_vector_are_nan(name, mode):
    """And first ones are right: that of K(x, y) in test_limits.py, and that of K(x, x) is 0."""
    y, along_x = torch.tensor([[0.3, -0.7]], dtype=F64), torch.tensor([[1.0, 0.5]], dtype=F64)
    for depth in (0, 2):
        for bias_std in (0.0, 0.3):
            options = dict(depth=depth, activation=name, bias_std=bias_std)
            first, second = MODES[mode](lambda t: nu.ntk(t * along_x, y, **options)[0, 0])  # noqa: B023
            assert math.isfinite(first) and math.isnan(second)
            first, second = MODES[mode](lambda t: nu.ntk(t * along_x, **options)[0, 0])  # noqa: B023
            assert first == 0 and math.isnan(second)


# --- scales, transforms, threads -----------------------------------------------------------------------


def test_scales_as_tensors(normal):
    """Relu's kernels are homogeneous: dK/dlog(weight_std) = 2(L+1) K; by bias_std, against mpmath above."""
    x, one = normal(1, 4, 3), torch.tensor(1.3, dtype=F64)
    for dtype in (F64, torch.float32):
        xs = x.to(dtype)
        assert nu.ntk(xs, depth=2, weight_std=one).dtype == dtype
    K = nu.ntk(x, depth=2, weight_std=1.3)
    assert (nu.ntk(x, depth=2, weight_std=one) - K).abs().max() < 1e-14 * K.max()
    slope = torch.func.jacfwd(lambda s: nu.ntk(x, depth=2, weight_std=s))(one)
    assert (slope * 1.3 - 6 * K).abs().max() < 1e-13 * K.max()
    for bad, error, words in (
        (torch.tensor(0.0), ValueError, "expected a positive number in a tensor, got 0.0; .*the number 0"),
        (torch.tensor(-1.0), ValueError, "a positive number in a tensor"),
        (torch.ones(2), ValueError, r"expected one number, got a tensor of shape \(2,\)"),
        (torch.tensor(1), TypeError, "float32 or float64, got torch.int64"),
        (torch.tensor(math.nan), ValueError, "NaN"),
    ):
        for name in ("weight_std", "bias_std"):
            with pytest.raises(error, match=f"{name}: .*{words}"):
                nu.ntk(x, depth=1, **{name: bad})


@pytest.mark.parametrize("name", ["relu", "erf"])
def test_transforms_of_torch_func_in_any_order(name, normal):
    x, y = normal(2, 3, 2), normal(3, 2, 2)
    f = lambda x: nu.ntk(x, y, depth=2, activation=name).sum()  # noqa: E731
    first, second = torch.autograd.functional.jacobian(f, x), hessian(f, x)
    from torch.func import functionalize, grad, jacfwd, jacrev, vjp, vmap

    firsts = {
        "grad": grad(f),
        "jacrev": jacrev(f),
        "jacfwd": jacfwd(f),
        "grad(functionalize)": grad(functionalize(f)),
        "functionalize(grad)": functionalize(grad(f)),
        "vjp": lambda x: vjp(f, x)[1](torch.ones((), dtype=F64))[0],
        "jacfwd(functionalize)": jacfwd(functionalize(f)),
    }
    for order, transform in firsts.items():
        assert (transform(x) - first).abs().max() < 1e-13, order
    for outer in (jacrev, jacfwd):
        for inner in (grad, jacrev, jacfwd):
            assert (outer(inner(f))(x) - second).abs().max() < 1e-12, (outer, inner)
    # an inner transform that follows something else: the outer one must still be seen
    scaled = lambda x: grad(lambda s: s * f(x))(torch.ones((), dtype=F64))  # noqa: E731
    assert (grad(scaled)(x) - first).abs().max() < 1e-13
    # an outer one that follows nothing of ours
    many = vmap(lambda s: s * f(x))(torch.arange(3.0, dtype=F64))
    assert (many - torch.arange(3.0, dtype=F64) * f(x)).abs().max() < 1e-13
    for batched in (lambda: vmap(f)(torch.stack([x, x])), lambda: vmap(grad(f))(torch.stack([x, x]))):
        with pytest.raises(
            RuntimeError, match=r"ntk: expected tensors whose values can be looked at, .*vmap"
        ):
            batched()


@pytest.mark.parametrize("name", ["relu", "gelu", "sin"])
def test_derivatives_in_float32(name, normal):
    x, y = normal(4, 6, 3), normal(5, 5, 3)
    single, double = (
        torch.func.grad(lambda x, y: nu.ntk(x, y, depth=3, activation=name, bias_std=0.2).sum())(*xs)
        for xs in ((x.float(), y.float()), (x, y))
    )
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


def test_threads_and_what_comes_after(normal):
    """Values and gradients in four threads at once are those of one; a result serves in autograd."""
    x = normal(6, 60, 3)

    def work(name):
        z = x.clone().requires_grad_()
        weights = torch.ones(60, dtype=F64, requires_grad=True)
        K = nu.ntk(x, depth=3, activation=name)
        (K @ weights).sum().backward()  # an inference tensor would be refused here
        nu.nngp(z, depth=2, activation=name, bias_std=0.3).square().sum().backward()
        return K, weights.grad, z.grad

    names, came = ["relu", "erf", "sin", "abs"], {}
    alone = {name: work(name) for name in names}

    def many(name):
        came[name] = [work(name) for _ in range(10)]

    threads = [threading.Thread(target=many, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert len(came[name]) == 10
        for results in came[name]:
            assert all(torch.equal(a, b) for a, b in zip(results, alone[name], strict=True)), name


@pytest.mark.parametrize("kernel", [nu.ntk, nu.nngp])
@pytest.mark.parametrize("options", [{}, {"bias_std": 0.3}, {"activation": "erf"}, {"depth": 0}])
def test_no_result_is_an_inference_tensor(kernel, options, normal):
    x = normal(7, 5, 2)
    for xs in ((x,), (x, x[:2]), (x[:0], x), (x.clone().requires_grad_(),)):
        with torch.no_grad():
            K = kernel(*xs, **{"depth": 1} | options)
        assert not K.is_inference() and not K.requires_grad
    with torch.inference_mode():  # the caller's own
        assert (
            kernel(x, **{"depth": 1} | options) - kernel(x.clone(), x, **{"depth": 1} | options)
        ).abs().max() < 1e-14
