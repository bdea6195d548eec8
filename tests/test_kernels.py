"""The infinite-width kernels, against neural-tangents, finite networks, quadrature and 50 digits."""

import ast
import math

import fifty_digits
import mpmath
import pytest
import torch
from test_activations import ALL
from test_activations import NAMES as ALL_NAMES

import ntkutils as nu
from ntkutils import activations, oracles
from ntkutils import recursion as recursion_module
from ntkutils.checks import CheckFailed, compare
from ntkutils.covariance import Covariance, gram
from ntkutils.recursion import recursion

NNGP = "Lambda^(l) = weight_std² E[phi phi] + bias_std²"
NTK = "K^(l) = Lambda^(l) + weight_std² E[phi' phi'] K^(l-1)"
OVERFLOWING = {"exp", "monomial", "rectified_monomial", "hermite", "polynomial"}
# Powers of powers leave float64; neural-tangents gives NaN for more than one layer of max(0, z)^n
NEURAL_TANGENTS_DEPTHS = dict.fromkeys(OVERFLOWING, (1, 3)) | {
    "exp": (1,),
    "rectified_monomial": (1,),
    "identity": (0, 1, 2, 20),  # depth 0 has no activation
}


def kind(phi):
    return phi.name.partition("(")[0]


@pytest.mark.parametrize("weight_std, bias_std", [(1.0, 0.0), (1.4, 0.3), (0.7, 1.1)])
@pytest.mark.parametrize(
    "activation, depth",
    [
        pytest.param(phi, depth, id=f"{phi.name}-{depth}")
        for phi in ALL
        for depth in NEURAL_TANGENTS_DEPTHS.get(kind(phi), (1, 2, 3, 5, 10, 20))
    ],
)
def test_agrees_with_neural_tangents(activation, depth, weight_std, bias_std, normal):
    x1, x2, bound = normal(0, 7, 5), 2 * normal(1, 4, 5), 1e-13
    single = 2e-5  # float32: 100 roundings; a layer's are multiplied by its slopes
    if kind(activation) in OVERFLOWING:
        x1, x2, bound, single = x1 / 3, x2 / 6, 1e-12, 2e-4  # roundings grow with the degree
    _, _, kernel_fn = oracles.stax_network(5, 1, depth, 1, activation, weight_std, bias_std)
    options = dict(depth=depth, activation=activation, weight_std=weight_std, bias_std=bias_std)
    both = kernel_fn(x1, x2, ("nngp", "ntk"))
    for formula, kernel, theirs in zip(
        (NNGP, NTK), (nu.nngp, nu.ntk), map(oracles.to_torch, both), strict=True
    ):
        # Generic points: neither side meets a cancellation, a layer adds a few roundings.
        ours = kernel(x1, x2, **options)
        # Relative to the diagonal, beside which depth makes other entries of chaotic networks small.
        # neural-tangents goes by cosines, which lose digits as depth brings inputs together.
        size = (kernel(x1, **options).max() * kernel(x2, **options).max()).sqrt()
        scale = size / theirs.abs().max() * max(1, depth / 5)
        compare(formula, ours, theirs, "neural-tangents", "stax.serial", bound=bound * scale.item())
        if kind(activation) in OVERFLOWING and depth > 1:
            continue  # powers of powers leave float32
        float32 = kernel(x1.float(), x2.float(), **options)
        assert float32.dtype == torch.float32
        compare(formula, float32, theirs, "neural-tangents", "float32", bound=single * scale.item())


def slips(Lambda, phi, depth, weight_var, bias_var):
    """Recursions with one slip each: (name, NTK)."""
    for slip in (
        "derivative at the new Lambda",
        "no piling up",
        "first layer not trained",
        "no weight_var",
    ):
        now = Lambda
        K = 0 * now.cov if slip == "first layer not trained" else now.cov
        for _ in range(depth):
            before, now = now, weight_var * phi.moments(now) + bias_var
            at = now if slip == "derivative at the new Lambda" else before
            Lambda_dot = (1 if slip == "no weight_var" else weight_var) * phi.derivative_moments(at)
            K = now.cov + Lambda_dot * (before.cov if slip == "no piling up" else K)
        yield slip, K


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu"])
def test_a_slip_in_the_recursion_is_seen(activation, normal):
    """The comparison above tells the recursion from its near misses, at every depth from 2 on."""
    x1, x2, phi = normal(0, 7, 5), 2 * normal(1, 4, 5), activations.get(activation)
    weight_std, bias_std = 1.4, 0.3
    for depth in (2, 3, 10):
        _, _, kernel_fn = oracles.stax_network(5, 1, depth, 1, phi, weight_std, bias_std)
        theirs = oracles.to_torch(kernel_fn(x1, x2, "ntk"))
        start = weight_std**2 * gram(x1, x2) + bias_std**2
        arguments = (start, phi, depth, weight_std**2, bias_std**2)
        compare(NTK, recursion(*arguments)[1], theirs, "neural-tangents", "stax", bound=1e-13)
        for slip, K in slips(*arguments):
            with pytest.raises(CheckFailed):
                compare(NTK, K, theirs, "neural-tangents", slip, bound=1e-3)


@pytest.mark.parametrize("activation", ALL, ids=ALL_NAMES)
def test_agrees_with_finite_networks_in_the_mean(activation, normal):
    """With one hidden layer the mean over networks is the limit at every width, exactly."""
    x = normal(2, 3, 4) / (5 if kind(activation) in OVERFLOWING else 2)  # heavy tails at large sd
    options = dict(depth=1, activation=activation, weight_std=1.3, bias_std=0.4)
    networks = [
        nu.MLP(4, 64, generator=torch.Generator().manual_seed(s), dtype=torch.float64, **options)
        for s in range(2000)
    ]
    outputs = torch.stack([f(x)[:, 0].detach() for f in networks])
    products = outputs[:, :, None] * outputs[:, None, :]
    against = "mean of f(x) f(x~), 2000 MLPs"
    compare(NNGP, nu.nngp(x, **options), products, "torch", against, z=4.5, resolution=0.06)
    gradients = torch.stack([nu.empirical_ntk(f, x) for f in networks])
    against = "mean of empirical_ntk, 2000 MLPs"
    compare(NTK, nu.ntk(x, **options), gradients, "torch", against, z=4.5, resolution=0.02)


def test_deep_finite_networks_approach_it(normal):
    """Three hidden layers: the bias is O(1/k), here far below the standard error."""
    x = torch.nn.functional.normalize(normal(3, 3, 6), dim=1)
    samples = torch.stack(
        [
            nu.empirical_ntk(
                nu.MLP(6, 1024, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64), x
            )
            for s in range(24)
        ]
    )
    compare(NTK, nu.ntk(x, depth=3), samples, "torch", "24 MLPs of width 1024", z=4.5, resolution=0.04)


@pytest.mark.parametrize("depth", [1, 3, 10])
@pytest.mark.parametrize(
    "theta", [0.0, 1e-12, 1e-6, 1e-3, 0.3, 0.33, 1.5, math.pi - 1e-3, math.pi - 1e-6, math.pi]
)
def test_relu_keeps_its_digits_at_every_angle(theta, depth, normal):
    """To 2e-15 of sqrt(K(x,x) K(x~,x~)), of the very floats given, coincident to antipodal."""
    for seed in range(5):
        a, b = normal(seed, 10), normal(seed + 100, 10)
        a = a / a.norm()
        b = b - a * (a @ b)
        x1, x2 = 1.7 * a, 0.6 * (math.cos(theta) * a + math.sin(theta) * b / b.norm())
        with mpmath.workdps(50):
            u, v = ([mpmath.mpf(c) for c in x.tolist()] for x in (x1, x2))
            size = mpmath.sqrt(mpmath.fdot(u, u) * mpmath.fdot(v, v))
            xi = K = mpmath.fdot(u, v) / size
            for _ in range(depth):
                angle = mpmath.acos(max(min(xi, 1), -1))
                xi = (mpmath.sin(angle) + (mpmath.pi - angle) * xi) / mpmath.pi
                K = xi + (mpmath.pi - angle) / mpmath.pi * K
            error = abs(nu.ntk(x1[None], x2[None], depth=depth).item() / size - K) / (depth + 1)
        assert error < 2e-15, f"relative error {float(error):.2g} at angle {theta}, depth {depth}"


@pytest.mark.parametrize("activation", ALL, ids=ALL_NAMES)
def test_keeps_its_digits_at_every_angle_depth_and_scale(activation):
    """To 2e-15 a layer of sqrt(K(x,x) K(x~,x~)), from coincident to antipodal, small to large."""
    name, _, arguments = activation.name.partition("(")
    arguments = ast.literal_eval(f"({arguments[:-1]},)") if arguments else ()
    theta = [0.0, 1e-12, 1e-6, 1e-3, 0.3, 1.5]
    sin2 = torch.tensor([[math.sin(t) ** 2 for t in theta]] * 2, dtype=torch.float64).view(1, -1)
    xi = [[math.cos(t) for t in theta], [-math.cos(t) for t in theta]]
    xi = torch.tensor(xi, dtype=torch.float64)
    scales = [(1.0, 1.0, 1.0, 0.0), (1.7, 0.6, 1.4, 0.3)]  # norms, weight_std, bias_std
    if name not in OVERFLOWING:
        scales += [(1e3, 1e3, 1.0, 0.0), (30.0, 31.0, 30.0, 0.5), (1e-6, 3e-6, 0.7, 1.1)]
    for sd1, sd2, weight_std, bias_std in scales:
        sd1, sd2 = (torch.full((1, 1), sd, dtype=torch.float64) for sd in (sd1, sd2))
        Lambda = Covariance(sd1, sd2.expand(1, sin2.shape[1]), xi.view(1, -1), sin2)
        # variances other than 1 are powers of powers, and so are their roundings
        overflows = name in OVERFLOWING and weight_std != 1
        for depth in (1,) if overflows else (1, 3, 10):
            ours = recursion(
                weight_std**2 * Lambda + bias_std**2, activation, depth, weight_std**2, bias_std**2
            )
            for j, (c, s) in enumerate(zip(xi.flatten().tolist(), sin2[0].tolist(), strict=True)):
                with mpmath.workdps(60):
                    given = (sd1.item(), sd2.item(), c, s)
                    theirs = reference(name, arguments, given, depth, weight_std, bias_std)
                    for kernel, (expected, size) in zip(ours, theirs, strict=True):
                        error = abs(kernel[0, j].item() - expected) / size / (depth + 1)
                        assert error < 2e-15, (
                            f"error {float(error):.2g} at {given}, depth {depth}, "
                            f"weight_std {weight_std}, bias_std {bias_std}"
                        )


def reference(name, arguments, given, depth, weight_std, bias_std):
    """NNGP and NTK with the roots of what they are on the diagonal, at mpmath's precision."""
    E, E_slopes = fifty_digits.expectations(name, *arguments)
    one = mpmath.mpf(1)
    norm2 = E(one, one, one)
    weight_var, bias_var = mpmath.mpf(weight_std**2), mpmath.mpf(bias_std**2)
    sd1, sd2, xi, sin2 = map(mpmath.mpf, given)
    if sin2 < 0.1:  # as the kernels do, take the small number for exact
        xi = mpmath.sign(xi) * mpmath.sqrt(1 - sin2)
    cov = [weight_var * m + bias_var for m in (sd1**2, sd2**2, sd1 * sd2 * xi)]
    K = cov
    for _ in range(depth):
        A, B, c = cov
        triples = ((A, A, A), (B, B, B), (A, B, c))
        slopes = [weight_var * E_slopes(*t) / norm2 for t in triples]
        cov = [weight_var * E(*t) / norm2 + bias_var for t in triples]
        K = [new + slope * old for new, slope, old in zip(cov, slopes, K, strict=True)]
    return [(kernel[2], mpmath.sqrt(kernel[0] * kernel[1])) for kernel in (cov, K)]


@pytest.mark.parametrize("activation", ALL, ids=ALL_NAMES)
def test_norms_as_unlike_as_can_be(activation):
    """The sine's kernel was off by 7e-8 at a ratio of 1e-9: digits of sin² were lost by the ratio."""
    name, _, arguments = activation.name.partition("(")
    arguments = ast.literal_eval(f"({arguments[:-1]},)") if arguments else ()
    x1, direction = torch.tensor([[[0.3, 0.8]], [[0.5, 0.1]]], dtype=torch.float64)
    for ratio in (0.4, 1e-2, 1e-5, 1e-9, 1e-30):
        for sign in (1, -1):
            x2 = sign * ratio * direction
            with mpmath.workdps(150):
                u, v = ([mpmath.mpf(c) for c in x[0].tolist()] for x in (x1, x2))
                sd1, sd2 = (mpmath.sqrt(mpmath.fdot(w, w)) for w in (u, v))
                xi = mpmath.fdot(u, v) / sd1 / sd2
                for bias_std in (0.0, 0.3):
                    theirs = reference(name, arguments, (sd1, sd2, xi, 1 - xi**2), 2, 1.0, bias_std)
                    for kernel, (expected, size) in zip((nu.nngp, nu.ntk), theirs, strict=True):
                        ours = kernel(x1, x2, depth=2, activation=activation, bias_std=bias_std).item()
                        assert abs(ours - expected) / size < 6e-15, (ratio, sign, bias_std, kernel)


# What takes a root of sin² in its layer: no digit of it may be lost, however small it is. Of smooth ones
# the next layer asks for sin² beside 1 only, but at equal variances they keep as many.
@pytest.mark.parametrize("activation", ALL, ids=ALL_NAMES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_layer_keeps_the_digits_of_sin2(activation, sign):
    """Relative to itself, at equal norms; gelu's R - R1 by subtraction was 3.4 % off and nothing saw it."""
    name, _, arguments = activation.name.partition("(")
    arguments = ast.literal_eval(f"({arguments[:-1]},)") if arguments else ()
    E, _ = fifty_digits.expectations(name, *arguments)
    for theta in (0.3, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        for sd in (0.5, 1.0, 1.3):
            sin2 = torch.tensor([[math.sin(theta) ** 2]], dtype=torch.float64)
            one = torch.ones_like(sin2)
            ours = activation.moments(Covariance(sd * one, sd * one, sign * (1 - sin2).sqrt(), sin2)).sin2
            with mpmath.workdps(120):
                A, s2 = mpmath.mpf(sd) ** 2, mpmath.mpf(sin2.item())
                cov, var = E(A, A, sign * mpmath.sqrt(1 - s2) * A), E(A, A, A)
                expected = 1 - (cov / var) ** 2
                # what the angle that is the root of it is off by, in units of rounding
                error = abs(ours.item() - expected) / mpmath.sqrt(max(expected, mpmath.mpf(10) ** -60))
            assert error < 3e-15, (theta, sd, float(ours), float(expected))


@pytest.mark.parametrize("activation", ALL, ids=ALL_NAMES)
def test_float32_is_accurate_to_float32(activation, normal):
    x = torch.nn.functional.normalize(normal(5, 12, 4), dim=1).float()
    x = torch.cat([x, x[:1] + 1e-4, -x[1:2]])  # nearly coincident, antipodal
    for kernel in (nu.nngp, nu.ntk):
        single, double = (kernel(z, depth=2, activation=activation) for z in (x, x.double()))
        assert (single - double).abs().max() < 2e-5 * double.abs().max()


def test_kernels_of_given_points_keep_their_digits(normal):
    """The same through the inner products: nearly coincident and nearly antipodal floats."""
    kinked = (activations.leaky_relu(), activations.abs, activations.sign, activations.step)
    for activation in (activations.erf, activations.gelu, *kinked):
        name, _, arguments = activation.name.partition("(")
        arguments = (float(arguments[:-1]),) if arguments else ()
        a, b = normal(0, 10), normal(1, 10)
        for theta in (1e-12, 1e-6, math.pi - 1e-6, math.pi - 1e-12):
            x1 = 30 * a
            x2 = 20 * (math.cos(theta) * a + math.sin(theta) * b)
            with mpmath.workdps(60):
                u, v = ([mpmath.mpf(c) for c in x.tolist()] for x in (x1, x2))
                sd1, sd2 = (mpmath.sqrt(mpmath.fdot(w, w)) for w in (u, v))
                xi = mpmath.fdot(u, v) / sd1 / sd2
                theirs = reference(name, arguments, (sd1, sd2, xi, 1 - xi**2), 3, 1.2, 0.1)
                for kernel, (expected, size) in zip((nu.nngp, nu.ntk), theirs, strict=True):
                    options = dict(depth=3, activation=activation, weight_std=1.2, bias_std=0.1)
                    ours = kernel(x1[None], x2[None], **options).item()
                    assert abs(ours - expected) / size < 1e-14, (name, theta)


def test_a_relu_by_any_name_takes_the_fast_road(normal, monkeypatch):
    """By what it is: what the plain recursion would ask of it. The same numbers, to roundings."""
    x, taken = normal(8, 9, 3), []
    road = recursion_module.arc_cosine
    monkeypatch.setattr(recursion_module, "arc_cosine", lambda *of: taken.append(1) or road(*of))
    names = activations.leaky_relu(0.0), activations.leaky_relu(-0.0), activations.rectified_monomial(1)
    for kernel in (nu.nngp, nu.ntk):
        expected = kernel(x.clone().requires_grad_(), depth=3, weight_std=1.2).detach()
        for phi in (activations.relu, *names):
            taken.clear()
            K = kernel(x, depth=3, weight_std=1.2, activation=phi)
            assert taken and (K - expected).abs().max() < 1e-14 * expected.max()
        for options in ({"bias_std": 0.1}, {"activation": activations.leaky_relu(1e-3)}):
            taken.clear()
            kernel(x, **{"depth": 3} | options)
            assert not taken


@pytest.mark.parametrize("kernel", [nu.nngp, nu.ntk])
@pytest.mark.parametrize("bias_std", [0.0, 1.0])
def test_an_overflow_in_depth_or_scale_says_so(kernel, bias_std):
    x = torch.eye(2, dtype=torch.float64)
    for weight_std, depth in ((16.0, 150), (1e10, 50)):
        words = rf"relu: expected second moments .* \(depth {depth}, weight_std {weight_std:g}\) of up to"
        words = words.replace("+", r"\+")
        with pytest.raises(OverflowError, match=words):
            kernel(x, depth=depth, weight_std=weight_std, bias_std=bias_std)
    for name in ("weight_std", "bias_std"):
        with pytest.raises(
            OverflowError, match=rf"{name}: expected .* square float64 can hold, got 1e\+200"
        ):
            kernel(x, **{"depth": 1, name: 1e200})


@pytest.mark.parametrize("side", [1, 4, 10])
def test_tiles_equal_the_whole(side, normal, monkeypatch):
    x1, x2 = normal(6, 23, 4), normal(7, 11, 4)
    x1[20] = x1[3]  # coincident points in different blocks
    calls = [(x1,), (x1, x1.clone()), (x1, x2), (x2, x1)]
    whole = [kernel(*xs, depth=3, bias_std=0.3) for kernel in (nu.nngp, nu.ntk) for xs in calls]
    monkeypatch.setitem(recursion_module.TILE, "cpu", side)
    blocks = [kernel(*xs, depth=3, bias_std=0.3) for kernel in (nu.nngp, nu.ntk) for xs in calls]
    for a, b in zip(whole, blocks, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 1e-14 * a.abs().max()
    assert torch.equal(blocks[0], blocks[0].T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("theta", [0.1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
def test_an_angle_is_right_relative_to_itself(theta, dtype, normal):
    """However small: a few roundings of sin², of which jumps take the root layer by layer."""
    theta = max(theta, 4 * torch.finfo(dtype).eps)  # so that the points have an angle
    for seed in range(10):
        a, b = normal(seed, 10), normal(seed + 100, 10)
        for sign in (1, -1):
            x1, x2 = (
                (1.7 * a).to(dtype),
                (sign * 0.6 * (math.cos(theta) * a + math.sin(theta) * b)).to(dtype),
            )
            with mpmath.workdps(60):
                u, v = ([mpmath.mpf(c) for c in x.tolist()] for x in (x1, x2))
                sin2 = 1 - mpmath.fdot(u, v) ** 2 / mpmath.fdot(u, u) / mpmath.fdot(v, v)
                error = abs(gram(x1[None], x2[None]).sin2.item() - sin2) / sin2
            assert error < 5 * torch.finfo(dtype).eps, f"relative error {float(error):.2g}"
