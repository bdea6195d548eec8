"""All that solves with a kernel, by kinds: derivatives, nearly singular systems, variances, divergence.

Derivatives are held to finite differences (torch's gradcheck, reverse and forward, first and second
order), and to plain autograd of other formulas; numbers to 50 digits.
"""

import math
import warnings

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import ntkutils as nu
from ntkutils import dynamics

F64 = torch.float64
INF = math.inf


def normal(seed, *shape, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_spectrum(eigenvalues, seed=0, dtype=F64):
    """A kernel with given eigenvalues and random eigenvectors."""
    values = torch.tensor(eigenvalues, dtype=F64)
    vectors = torch.linalg.qr(normal(seed, len(values), len(values)))[0]
    K = vectors * values @ vectors.T
    return ((K + K.T) / 2).to(dtype)


# --- derivatives ----------------------------------------------------------------------------------

SPECTRA = {
    "distinct": [0.2, 1.0, 3.0],
    "equal": [1.0, 1.0, 1.0],
    "two equal": [0.3, 2.0, 2.0],
    "nearly equal": [1.0, 1.0 + 1e-9, 1.0 + 3e-9],
    "alone": [0.7],
}
TRAININGS = [("flow", t) for t in (0.0, 0.3, 7.0, INF)] + [("descent", s) for s in (0, 1, 6, 13, INF)]


def train(which, K, y, amount, rate, **options):
    if which == "flow":
        return nu.gradient_flow(K, y, amount, **options)
    return nu.gradient_descent(K, y, amount, learning_rate=rate, **options)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("which, amount", TRAININGS)
def test_derivatives_in_everything(which, amount, spectrum):
    """In kernel, targets, initial functions, test kernel, ridge, learning rate and time."""
    base = with_spectrum(SPECTRA[spectrum])
    n, m = len(base), 2
    leaves = [0 * base, *(normal(s, n) for s in (1, 2)), normal(3, m, n), normal(4, m)]
    numbers = [torch.tensor(v, dtype=F64) for v in (0.1, 0.25)]
    with_time = which == "flow" and 0 < amount < INF
    numbers += [torch.tensor(amount, dtype=F64)] if with_time else []
    leaves = [leaf.clone().requires_grad_() for leaf in leaves + numbers]

    def predict(M, y, f0, rows, f0_test, ridge, rate, t=amount):
        K = base + (M + M.T) / 2
        given = dict(initial=f0, test_kernel=rows, test_initial=f0_test, ridge=ridge)
        prediction = train(which, K, y, t, rate, **given)
        return prediction.train, prediction.test

    assert gradcheck(predict, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(predict, leaves, check_fwd_over_rev=True, fast_mode=True)
    if spectrum == "two equal" and amount in (0.3, 6):  # entry by entry, not along a random direction
        assert gradcheck(predict, leaves, check_forward_ad=True)


@pytest.mark.parametrize("which, amount", [("flow", 0.7), ("descent", 5)])
def test_derivatives_of_a_singular_kernel(which, amount):
    """K = Φ Φᵀ of rank 2, with a point twice: eigenvalues that are 0, and equal."""
    features = normal(0, 4, 2)
    features[1] = features[0]
    y, rows = normal(1, 4), normal(2, 2, 4)

    def predict(features):
        prediction = train(which, features @ features.T, y, amount, 0.2, test_kernel=rows)
        return prediction.train, prediction.test

    assert gradcheck(predict, [features.requires_grad_()], check_forward_ad=True)
    assert gradgradcheck(predict, [features], check_fwd_over_rev=True, fast_mode=True)
    nothing = torch.zeros(3, 3, dtype=F64, requires_grad=True)
    out = train(which, nothing, normal(3, 3), amount, 0.2, test_kernel=normal(4, 1, 3))
    (slope,) = torch.autograd.grad(out.test.sum(), nothing)
    # F = t - t²K/2 + ..., or ηs - η²s(s-1)/2 K + ...
    second = amount**2 / 2 if which == "flow" else 0.2**2 * amount * (amount - 1) / 2
    expected = -second * torch.outer(normal(4, 1, 3)[0], normal(3, 3))
    assert (slope - (expected + expected.T) / 2).abs().max() < 1e-13


def by_matrix_exponential(K, y, t, rows, ridge):
    A = K + ridge * torch.eye(len(K), dtype=F64)
    learned = torch.eye(len(K), dtype=F64) - torch.linalg.matrix_exp(-A * t)
    return rows @ torch.linalg.solve(A, learned @ y)


def by_powers(K, y, s, rows, ridge):
    A = K + ridge * torch.eye(len(K), dtype=F64)
    learned = torch.eye(len(K), dtype=F64) - torch.linalg.matrix_power(
        torch.eye(len(K), dtype=F64) - 0.2 * A, s
    )
    return rows @ torch.linalg.solve(A, learned @ y)


@pytest.mark.parametrize(
    "spectrum", [[1.0] * 5, [0.5, 0.5, 1.0, 1.0 + 1e-12, 4.0], [1e-3, 0.1, 1.0, 5.0, 9.0]]
)
@pytest.mark.parametrize("mode", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian])
@pytest.mark.parametrize(
    "which, amount", [("flow", 0.4), ("flow", 50.0), ("flow", INF), ("descent", 7), ("descent", INF)]
)
def test_transforms_of_torch_func(which, amount, mode, spectrum):
    """Against the same transform of formulas with torch's own inverse, exponential and powers."""
    base, y, rows = with_spectrum(spectrum), normal(1, 5), normal(2, 2, 5)
    directions = normal(3, 2, 5, 5)

    def K(v):
        return base + 1e-2 * sum(c * (d + d.T) for c, d in zip(v, directions, strict=True))

    def ours(v):
        return train(which, K(v), y, amount, 0.2, test_kernel=rows, ridge=0.1).test

    def theirs(v):
        if amount == INF:
            return rows @ torch.linalg.solve(K(v) + 0.1 * torch.eye(5, dtype=F64), y)
        return (by_matrix_exponential if which == "flow" else by_powers)(K(v), y, amount, rows, 0.1)

    at = torch.zeros(2, dtype=F64)
    expected = mode(theirs)(at)
    assert (mode(ours)(at) - expected).abs().max() < 1e-11 * expected.abs().max()


@pytest.mark.parametrize("law", ["posterior", "ensemble", "ensemble in steps", "ensemble at the end"])
def test_derivatives_of_laws(law):
    """In the points, the targets and the noise; two of the points have equal kernels with all others."""
    x, y = torch.eye(3, dtype=F64)[:, :3] + 0.1 * normal(0, 3, 3), normal(1, 3, 2)
    network = dict(depth=1, activation="erf", bias_std=0.3)

    def means_and_covariances(x, y, x_test, noise):
        if law == "posterior":
            found = nu.posterior(x, y, x_test, noise=noise, **network)
        elif law == "ensemble at the end":
            found = nu.trained_ensemble(x, y, x_test, ridge=noise, **network)
        else:
            options = dict(time=5, learning_rate=0.1) if "steps" in law else dict(time=0.8)
            found = nu.trained_ensemble(x, y, x_test, ridge=noise, **options, **network)
        return found.mean, found.covariance

    leaves = [x, y, normal(2, 2, 3), torch.tensor(0.2, dtype=F64)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert gradcheck(means_and_covariances, leaves, fast_mode=True)
    if law != "posterior":
        return

    def with_kernels(K, y, rows, noise):
        blocks = {(3, 3): K @ K.T, (2, 3): rows @ K.T, (2, 2): rows @ rows.T}
        kernel = lambda a, b=None: blocks[len(a), len(a if b is None else b)]  # noqa: E731
        found = nu.posterior(
            torch.zeros(3, 1, dtype=F64), y, torch.zeros(2, 1, dtype=F64), kernel=kernel, noise=noise
        )
        return found.mean, found.covariance

    leaves = [normal(5, 3, 4), normal(6, 3), normal(7, 2, 4), torch.tensor(0.2, dtype=F64)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert gradcheck(with_kernels, leaves, check_forward_ad=True)
    assert gradgradcheck(with_kernels, leaves, fast_mode=True)


@pytest.mark.parametrize("which", ["flow", "descent"])
def test_derivatives_of_several_times_and_coupled_outputs(which):
    """A kernel (n, n, o, o), of which each output is its own copy: every eigenvalue is there twice."""
    base = torch.einsum("ij,ab->ijab", with_spectrum([0.5, 1.0]), torch.eye(2, dtype=F64))
    y, rows = normal(0, 2, 2), normal(1, 1, 2, 2, 2)
    amounts = torch.tensor([0.0, 2.0, INF, 1.0], dtype=F64)

    def predict(M, y, rows):
        K = base + M + M.permute(1, 0, 3, 2)
        prediction = train(which, K, y, amounts, 0.3, test_kernel=rows)
        return prediction.train, prediction.test

    leaves = [leaf.requires_grad_() for leaf in (0 * base, y, rows)]
    assert gradcheck(predict, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(predict, leaves, fast_mode=True)
    alone = [train(which, base, y, t, 0.3, test_kernel=rows) for t in amounts.tolist()]
    assert (predict(*leaves)[1] - torch.stack([one.test for one in alone])).abs().max() < 1e-14


@pytest.mark.parametrize("which, amount", [("flow", 0.3), ("flow", INF), ("descent", 6), ("descent", INF)])
def test_derivatives_in_float32(which, amount):
    """At equal eigenvalues, to its precision."""
    slopes = []
    for dtype in (F64, torch.float32):
        K = (with_spectrum([0.5, 2.0, 2.0, 2.0]).to(dtype)).requires_grad_()
        y, rows = normal(1, 4).to(dtype), normal(2, 2, 4).to(dtype)
        out = train(which, K, y, amount, 0.25, test_kernel=rows).test.sum()
        slopes.append(torch.autograd.grad(out, K)[0].double())
    assert (slopes[0] - slopes[1]).abs().max() < 1e-5 * slopes[0].abs().max()


def test_what_requires_a_derivative_and_does_not_get_one():
    K, y, rows = with_spectrum([0.5, 1.0, 1.0]), normal(0, 3), normal(1, 2, 3)
    for amount in (2.0, INF):
        plain = nu.gradient_flow(K, y, amount, test_kernel=rows).test
        with torch.no_grad():
            quiet = nu.gradient_flow(K.clone().requires_grad_(), y, amount, test_kernel=rows).test
        assert not quiet.requires_grad and torch.equal(quiet, plain)
        followed = nu.gradient_flow(K.clone().requires_grad_(), y, amount, test_kernel=rows).test
        assert followed.requires_grad and (followed - plain).abs().max() < 1e-14
    with pytest.raises(ValueError, match="steps: expected numbers without a derivative"):
        nu.gradient_descent(K, y, torch.tensor(3.0, requires_grad=True), learning_rate=0.1)
    times = torch.tensor([0.5, INF], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(nu.gradient_flow(K, y, times, test_kernel=rows).test.sum(), times)
    assert slope[1] == 0
    assert slope[0].item() == pytest.approx(
        (rows @ torch.linalg.matrix_exp(-K / 2) @ y).sum().item(), rel=1e-12, abs=0
    )


def test_the_two_roads_agree():
    """Eigenvectors and doubling, over 24 decades of time, as closely as rounding lets them."""
    K, y, rows = with_spectrum([1e-6, 1e-3, 0.1, 1.0, 3.0]), normal(0, 5, 2), normal(1, 3, 5)
    K_followed = K.clone().requires_grad_()
    for t in 10.0 ** torch.arange(-16, 9, 2, dtype=F64):
        one, two = (nu.gradient_flow(k, y, t, test_kernel=rows) for k in (K, K_followed))
        for a, b in ((one.train, two.train), (one.test, two.test)):
            assert (a - b).abs().max() <= 1e-15 * max(10, 4 * min(t.item(), 1e6)) * a.abs().max()
    for s in (0, 1, 2, 3, 1000, 12345, 10**9):
        one, two = (
            nu.gradient_descent(k, y, s, learning_rate=0.5, test_kernel=rows) for k in (K, K_followed)
        )
        assert (one.test - two.test).abs().max() <= 1e-15 * max(10, 4 * min(s, 1e6)) * one.test.abs().max()


# --- nearly singular systems ----------------------------------------------------------------------


def exact(K, y, rows, prior, noise=0.0):
    """Mean and variance of the posterior of these very matrices, with 80 digits."""
    with mpmath.workdps(80):
        A = mpmath.matrix(K.double().tolist()) + noise * mpmath.eye(len(K))
        R = mpmath.matrix(rows.double().tolist())
        mean = R * mpmath.lu_solve(A, mpmath.matrix(y.double().tolist()))
        B = mpmath.inverse(A) * R.T
        variance = [
            prior[i, i].item() - sum(R[i, j] * B[j, i] for j in range(len(K))) for i in range(len(rows))
        ]
        return (torch.tensor([float(v) for v in values], dtype=F64) for values in (mean, variance))


SMOOTH = [
    dict(n=n, depth=depth, activation=activation, bias_std=bias_std)
    for n in (5, 8, 12, 20)
    for depth in (1, 2)
    for activation in ("erf", "gelu", "sin")
    for bias_std in (0.3, 1.0)
]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_smooth_kernels_on_a_line_are_right_or_refused(dtype):
    """Of such systems, without noise, 41 of 96 had negative variances; now none has, and the numbers hold.

    They are right to the precision that is promised: where the last digit of the kernel decides more,
    there is an error.
    """
    digits = torch.finfo(dtype).eps ** 0.25
    right = refused = 0
    for case in SMOOTH:
        n, network = case["n"], {name: value for name, value in case.items() if name != "n"}
        x, x_test = (torch.linspace(-a, a, k, dtype=dtype)[:, None] for a, k in ((1, n), (2, 7)))
        y = torch.sin(3 * x[:, 0])
        try:
            law = nu.posterior(x, y, x_test, **network)
        except nu.SingularKernelError as error:
            assert "give noise=" in str(error)
            refused += 1
            continue
        mean, variance = exact(
            *(a for a in (nu.nngp(x, **network), y, nu.nngp(x_test, x, **network))),
            nu.nngp(x_test, **network),
        )
        assert (law.variance >= 0).all() and not law.std.isnan().any()
        assert (law.mean - mean).abs().max() <= 10 * digits * max(1, mean.abs().max())
        assert (law.variance - variance).abs().max() <= 10 * digits * nu.nngp(
            x_test, **network
        ).diagonal().max()
        right += 1
    assert right + refused == 48 and right >= (20 if dtype == F64 else 5) and refused >= 5


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("exponent", range(2, 24, 2))
def test_condition_numbers_up_to_any(exponent, dtype):
    """Random targets see the smallest eigenvalue: right to the promised digits, or refused."""
    n, eps = 6, torch.finfo(dtype).eps
    K = with_spectrum([10.0 ** (-exponent * i / (n - 1)) for i in range(n)], seed=1, dtype=dtype)
    y, rows = normal(2, n, dtype=dtype), normal(3, 2, n, dtype=dtype)
    refused = 0
    for time in (1.0, 10.0 ** (exponent / 2), 10.0**exponent, INF):
        try:
            got = nu.gradient_flow(K, y, time, test_kernel=rows)
        except nu.SingularKernelError as error:
            assert "give ridge=" in str(error)
            refused += 1
            continue
        except ValueError as error:  # rounding has made an eigenvalue negative
            assert "eigenvalues of at least 0" in str(error)
            continue
        with mpmath.workdps(80):
            A, r = mpmath.matrix(K.double().tolist()), mpmath.matrix(y.double().tolist())
            left = mpmath.zeros(n) if time == INF else mpmath.expm(-A * time)
            alpha = mpmath.lu_solve(A, r - left * r)
            test, residual = mpmath.matrix(rows.double().tolist()) * alpha, left * r
        test, residual = (torch.tensor([float(v) for v in a], dtype=F64) for a in (test, residual))
        assert (got.test - test).abs().max() <= 10 * eps**0.25 * test.abs().max()
        assert (y - got.train - residual).abs().max() <= 10 * eps**0.25 * y.abs().max()
    if 10.0**exponent * eps > 1:
        assert refused
    if 10.0**exponent * eps < 1e-8:
        assert not refused


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_duplicates(dtype):
    """The same point several times, or but for the last digit: an error, or with a ridge the mean."""
    for copies in (2, 3, 12):
        x = normal(0, 4, 3, dtype=dtype)[[0] * copies + [1, 2, 3]]
        y = normal(1, len(x), dtype=dtype)
        for points in (x, x * (1 + torch.finfo(dtype).eps * normal(2, *x.shape, dtype=dtype).round())):
            for solve in (
                lambda p: nu.gradient_flow(nu.ntk(p, depth=2), y),  # noqa: B023
                lambda p: nu.posterior(p, y, p, depth=2),  # noqa: B023
                lambda p: nu.trained_ensemble(p, y, p, depth=2),  # noqa: B023
                lambda p: nu.gradient_descent(nu.ntk(p, depth=2), y, learning_rate=1e-3),  # noqa: B023
            ):
                with pytest.raises(nu.SingularKernelError, match=r"give (ridge|noise)="):
                    solve(points)
            law = nu.posterior(points, y, points, depth=2, noise=1e-3)
            assert (law.variance >= 0).all()
            assert (law.mean[:copies] - y[:copies].mean()).abs().max() < 0.02


def test_ridges_however_small():
    x, y = normal(0, 6, 3), normal(1, 6)
    K, rows = nu.ntk(x, depth=2), nu.ntk(normal(2, 2, 3), x, depth=2)
    plain = nu.gradient_flow(K, y, test_kernel=rows).test
    for ridge in (1e-300, 1e-30, 1e-16, 1e-12):
        assert (nu.gradient_flow(K, y, test_kernel=rows, ridge=ridge).test - plain).abs().max() < 1e-10
        twice = torch.ones(2, 2, dtype=F64)
        if ridge < 1e-16:
            with pytest.raises(nu.SingularKernelError):
                nu.gradient_flow(twice, torch.tensor([1.0, -1.0], dtype=F64), ridge=ridge)


def test_a_kernel_that_is_none_is_refused_with_a_ridge_too():
    for K, low in ((-torch.eye(3, dtype=F64), -1), (with_spectrum([-0.01, 1.0, 2.0]), -0.01)):
        for time in (INF, 2.0):
            for ridge in (0.0, 0.5, 3.0):
                with pytest.raises(ValueError, match=f"eigenvalues of at least 0 .*, got {low:g}"):
                    nu.gradient_flow(K, normal(0, 3), time, ridge=ridge)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_small_cases(dtype):
    one, y = torch.full((1, 1), 4.0, dtype=dtype), torch.tensor([3.0], dtype=dtype)
    assert nu.gradient_flow(one, y).train.tolist() == [3.0]
    assert nu.gradient_flow(one, y, 0.0).train.tolist() == [0.0]
    assert nu.gradient_flow(one, y, 1e30).train.tolist() == [3.0]
    half = nu.gradient_flow(one, y, test_kernel=one / 2, ridge=4.0).test.item()
    assert half == pytest.approx(0.75, rel=4 * torch.finfo(dtype).eps, abs=0)
    assert nu.gradient_flow(one, 0 * y, test_kernel=one).test.tolist() == [0.0]
    assert nu.gradient_descent(one, y, 3, learning_rate=0.25).train.tolist() == [3.0]
    law = nu.posterior(y[:, None], y, y[:, None], depth=0)
    assert law.mean.tolist() == [3.0] and law.variance.tolist() == [0.0] and law.std.tolist() == [0.0]
    zeros = torch.zeros(2, 2, dtype=dtype)
    two = torch.ones(2, dtype=dtype)
    assert nu.gradient_flow(zeros, two, 1e30).train.tolist() == [0.0, 0.0]
    for solve in (lambda: nu.gradient_flow(zeros, two), lambda: nu.posterior(zeros, two, zeros, depth=0)):
        with pytest.raises(nu.SingularKernelError, match="a matrix of zeros"):
            solve()


def test_eigenvalues_when_asked_for():
    K, y = with_spectrum([0.5, 1.0, 4.0]), normal(0, 3)
    for amount in (INF, 1.0, torch.tensor([1.0, INF])):
        prediction = nu.gradient_flow(K, y, amount, ridge=1.0)
        assert (prediction.eigenvalues - torch.tensor([1.5, 2.0, 5.0])).abs().max() < 1e-14
        assert prediction.condition_number == pytest.approx(10 / 3, rel=1e-13, abs=0)


# --- variances, and several outputs ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("law", [nu.posterior, nu.trained_ensemble])
def test_variances_at_the_data_are_zero_and_not_below(law, dtype):
    negative_before = 0
    for seed in range(20):
        x = torch.nn.functional.normalize(normal(seed, 12, 4, dtype=dtype))
        at = torch.cat([x, normal(seed + 100, 3, 4, dtype=dtype)])
        found = law(x, normal(seed + 200, 12, dtype=dtype), at, depth=2)
        assert (found.variance >= 0).all() and not found.std.isnan().any()
        assert torch.equal(found.covariance, found.covariance.mT)
        assert found.variance[:12].max() < 1e3 * torch.finfo(dtype).eps
        assert torch.linalg.eigvalsh(found.covariance)[0] > -1e3 * torch.finfo(dtype).eps
        negative_before += int((found.variance == 0).sum())
    assert negative_before > 20  # what was clamped: the case does arise


@pytest.mark.parametrize("amount", [0.3, 40.0, INF])
def test_the_covariance_of_an_ensemble_is_semidefinite_whatever_was_learned(amount):
    """As the law of f_0(x) - S f_0(X): with a linear network, which has only 3 directions."""
    x, x_test = normal(0, 3, 3), normal(1, 40, 3)
    found = nu.trained_ensemble(x, normal(2, 3), x_test, amount, depth=0)
    values = torch.linalg.eigvalsh(found.covariance)
    assert values[0] > -1e-13 and (values < 1e-12).sum() >= 37 and (found.variance >= 0).all()


def test_a_covariance_that_is_none_is_refused():
    blocks = {(2, 2): torch.eye(2, dtype=F64), (1, 2): torch.tensor([[1.0, 1.0]], dtype=F64)}
    blocks[1, 1] = torch.tensor([[1.9]], dtype=F64)  # at least 2 for a kernel
    kernel = lambda a, b=None: blocks[len(a), len(a if b is None else b)]  # noqa: E731
    x, y, x_test = torch.zeros(2, 1, dtype=F64), torch.ones(2, dtype=F64), torch.zeros(1, 1, dtype=F64)
    for law in (
        lambda: nu.posterior(x, y, x_test, kernel=kernel),
        lambda: nu.trained_ensemble(x, y, x_test, kernels=(kernel, kernel)),
    ):
        with pytest.raises(ValueError, match=r"training and test points together, got a variance of -0\.1"):
            law()


@pytest.mark.parametrize("times", [INF, torch.tensor([0.5, INF])])
def test_several_outputs_are_several_calls(times):
    x, Y, x_test = normal(0, 6, 3), normal(1, 6, 10), normal(2, 4, 3)
    for law, given in ((nu.posterior, dict(noise=0.1)), (nu.trained_ensemble, dict(time=times))):
        found = law(x, Y, x_test, depth=2, **given)
        for o in range(10):
            alone = law(x, Y[:, o], x_test, depth=2, **given)
            assert (found.mean[..., o] - alone.mean).abs().max() < 1e-13
            assert torch.equal(found.covariance, alone.covariance)
        steps = () if law is nu.posterior or times is INF else (2,)
        assert found.mean.shape == (*steps, 4, 10) and found.variance.shape == (*steps, 4)
    for wrong in (Y[:5], Y[:, :0], Y[None], Y.T):
        with pytest.raises(
            ValueError, match=r"targets: expected shape \(6,\), .*\(6, o\) for o outputs, got"
        ):
            nu.trained_ensemble(x, wrong, x_test, depth=2)


def test_kernels_computed_before():
    x, y, x_test = normal(0, 6, 3), normal(1, 6), normal(2, 4, 3)
    network = dict(depth=2, activation="erf", bias_std=0.2)
    everything = torch.cat([x, x_test])
    K, Sigma = nu.ntk(everything, **network), nu.nngp(everything, **network)
    look_up = lambda matrix: lambda i, j=None: matrix[i][:, i if j is None else j]  # noqa: E731
    points, test_points = torch.arange(6), torch.arange(6, 10)
    for time in (0.7, INF):
        expected = nu.trained_ensemble(x, y, x_test, time, **network)
        got = nu.trained_ensemble(points, y, test_points, time, kernels=(look_up(K), look_up(Sigma)))
        assert (got.mean - expected.mean).abs().max() < 1e-13
        assert (got.covariance - expected.covariance).abs().max() < 1e-13
    got = nu.posterior(points, y, test_points, kernel=look_up(Sigma))
    assert (got.covariance - nu.posterior(x, y, x_test, **network).covariance).abs().max() < 1e-13


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_descent_that_diverges(dtype):
    K = torch.tensor([4.0, 1.0], dtype=dtype).diag()
    y = torch.ones(2, dtype=dtype)
    after = nu.gradient_descent(K, y, 5, learning_rate=0.6)  # large, and right
    assert after.train.tolist() == pytest.approx([1 - (-1.4) ** 5, 1 - 0.4**5], rel=1e-6, abs=0)
    words = r"^learning_rate: expected at most 2/lambda_max = 0\.5, .* got 0\.6; .*float(32|64) can hold"
    for steps in (10_000, torch.tensor([3.0, 10_000.0]), 10**15):
        for kernel in (K, K.clone().requires_grad_()):
            with pytest.raises(nu.DivergedError, match=words):
                nu.gradient_descent(kernel, y, steps, learning_rate=0.6)
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=dtype)
    with pytest.raises(nu.DivergedError, match=words):
        nu.trained_ensemble(x, y, x, 10_000, learning_rate=0.6, depth=0)
    with pytest.raises(ValueError, match=r"below 2/lambda_max = 0\.5 for infinitely many steps"):
        nu.trained_ensemble(x, y, x, learning_rate=0.6, depth=0)
    bound = nu.gradient_descent(K, y, 1000, learning_rate=0.5).train  # neither converges nor diverges
    assert bound.tolist() == [0.0, 1.0]


def test_numbers_that_no_dtype_holds():
    """A kernel so small that what is learned from it overflows."""
    K = torch.full((1, 1), 1e-38, dtype=torch.float32)
    with pytest.raises(OverflowError, match="expected predictions that float32 can hold"):
        nu.gradient_flow(K, torch.full((1,), 1e10), test_kernel=torch.ones(1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.isfinite(nu.gradient_flow(K, torch.full((1,), 1e10), 5.0, test_kernel=K).test).all()


def test_infinitely_many_steps_ask_for_a_rate_that_converges():
    for n in (1, 3, 40):
        features = normal(n, n, n + 5)
        K, y = features @ features.T, normal(0, n)
        bound = 2 / torch.linalg.eigvalsh(K)[-1].item()
        assert (nu.gradient_descent(K, y, learning_rate=bound * (1 - 1e-9)).train - y).abs().max() < 1e-10
        with pytest.raises(ValueError, match=f"below 2/lambda_max = {bound:.6g}"):
            nu.gradient_descent(K, y, learning_rate=bound * (1 + 1e-9))
    assert dynamics.DivergedError is nu.DivergedError
