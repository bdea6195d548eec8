"""Training in closed form: against neural-tangents, step-by-step training, and an ODE."""

import math
import re

import mpmath
import pytest
import scipy.integrate
import torch

import ntkutils as nu
from ntkutils import oracles
from ntkutils.checks import compare

FLOW = "f_t = f_0 - K(x,X) K^-1 (I - exp(-K t)) (f_0 - y)"
DESCENT = "f_s = f_0 - K(x,X) K^-1 (I - (I - eta K)^s) (f_0 - y)"


@pytest.fixture
def problem(normal):
    """A kernel of 8 training and 5 test points, with targets and an initial function."""
    features, test_features = normal(0, 8, 12), normal(1, 5, 12)
    return dict(
        kernel=features @ features.T,
        targets=normal(2, 8, 2),
        initial=normal(3, 8, 2),
        test_kernel=test_features @ features.T,
        test_initial=normal(4, 5, 2),
    ), (features, test_features)


@pytest.mark.parametrize("time", [0.0, 0.05, 1.0, 40.0, math.inf])
@pytest.mark.parametrize("diag_reg", [0.0, 0.3])
def test_flow_agrees_with_neural_tangents(problem, time, diag_reg):
    inputs, _ = problem
    arrays = {name: oracles.to_numpy(value) for name, value in inputs.items()}
    predict = oracles.neural_tangents().predict.gradient_descent_mse(
        arrays["kernel"], arrays["targets"], diag_reg=diag_reg
    )
    t = None if math.isinf(time) else 16 * time  # its loss is a mean over 16 targets
    _, test = predict(t, arrays["initial"], arrays["test_initial"], arrays["test_kernel"])
    ridge = diag_reg * inputs["kernel"].diagonal().mean().item()
    ours = nu.gradient_flow(time=time, ridge=ridge, **inputs)
    compare(FLOW, ours.test, test, "neural-tangents", "nt.predict.gradient_descent_mse", bound=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_descent_is_what_training_does(problem, ridge):
    inputs, (features, test_features) = problem
    rate = 1.2 / torch.linalg.eigvalsh(inputs["kernel"])[-1].item()
    step = torch.zeros(12, 2, dtype=torch.float64)
    for _ in range(50):
        residual = inputs["initial"] + features @ step - inputs["targets"]
        step = step - rate * (features.T @ residual + ridge * step)
    ours = nu.gradient_descent(steps=50, learning_rate=rate, ridge=ridge, **inputs)
    trained = inputs["test_initial"] + test_features @ step
    compare(DESCENT, ours.test, trained, "torch", "50 steps on the weights", bound=1e-13)
    compare(DESCENT, ours.train, inputs["initial"] + features @ step, "torch", "50 steps", bound=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_flow_solves_its_differential_equation(problem, ridge):
    inputs, (features, _) = problem

    def velocity(_, flat):
        step = torch.from_numpy(flat).reshape(12, 2)
        residual = inputs["initial"] + features @ step - inputs["targets"]
        return -(features.T @ residual + ridge * step).flatten().numpy()

    solution = scipy.integrate.solve_ivp(
        velocity, (0, 0.4), torch.zeros(24).double().numpy(), method="DOP853", rtol=1e-12, atol=1e-13
    )
    trained = inputs["initial"] + features @ torch.from_numpy(solution.y[:, -1]).reshape(12, 2)
    ours = nu.gradient_flow(time=0.4, ridge=ridge, **inputs)
    compare(FLOW, ours.train, trained, "quadrature", "scipy's DOP853 on the weights", bound=1e-9)


def test_many_times_at_once_and_limits(problem):
    inputs, _ = problem
    times = torch.tensor([0.0, 1.0, math.inf], dtype=torch.float64)
    flow = nu.gradient_flow(time=times, **inputs)
    assert flow.train.shape == (3, 8, 2) and flow.test.shape == (3, 5, 2)
    assert torch.equal(flow.train[0], inputs["initial"])
    assert (flow.train[2] - inputs["targets"]).abs().max() < 1e-12
    one = nu.gradient_flow(time=1.0, **inputs)
    assert torch.equal(flow.test[1], one.test)
    assert flow.condition_number == pytest.approx(
        torch.linalg.cond(inputs["kernel"]).item(), rel=1e-10, abs=0
    )
    tiny = 1e-9
    many = nu.gradient_descent(steps=round(0.1 / tiny), learning_rate=tiny, **inputs)
    short = nu.gradient_flow(time=0.1, **inputs)
    assert (many.test - short.test).abs().max() < 1e-5 * short.test.abs().max()
    vector = nu.gradient_flow(inputs["kernel"], inputs["targets"][:, 0])
    assert vector.train.shape == (8,) and vector.test is None


def test_kernels_that_couple_outputs(normal):
    generator = torch.Generator().manual_seed(0)
    model = nu.MLP(4, 16, 1, 3, "erf", generator=generator, dtype=torch.float64)
    x, x_test, y = normal(0, 5, 4), normal(1, 2, 4), normal(2, 5, 3)
    K, K_test = nu.empirical_ntk(model, x), nu.empirical_ntk(model, x_test, x)
    f0, f0_test = model(x).detach(), model(x_test).detach()
    predict = oracles.neural_tangents().predict.gradient_descent_mse(K.numpy(), y.numpy(), trace_axes=())
    _, test = predict(15 * 0.5, f0.numpy(), f0_test.numpy(), K_test.numpy())
    ours = nu.gradient_flow(K, y, 0.5, initial=f0, test_kernel=K_test, test_initial=f0_test)
    compare(FLOW, ours.test, test, "neural-tangents", "nt.predict, trace_axes=()", bound=1e-12)


def test_singular_kernels(problem):
    inputs, _ = problem
    twice = torch.cat([inputs["kernel"][:, :2], inputs["kernel"][:, :1]], 1)
    twice = torch.cat([twice[:2], twice[:1]])
    y = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    for time in (math.inf, 1e20):
        with pytest.raises(nu.SingularKernelError, match=r"ridge=.*or a time below"):
            nu.gradient_flow(twice, y, time)
    with pytest.raises(nu.SingularKernelError, match="matrix of zeros"):
        nu.gradient_flow(torch.zeros(3, 3).double(), y)
    assert (nu.gradient_flow(twice, y, 1e4).train[[0, 2]]).abs().max() < 1e-9  # the mean of 1 and -1
    assert torch.isfinite(nu.gradient_flow(twice, y, ridge=1e-6).train).all()
    nothing = nu.gradient_flow(torch.zeros(3, 3).double(), y, 5.0)
    assert torch.equal(nothing.train, torch.zeros(3).double())
    assert math.isinf(nothing.condition_number)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(targets=torch.ones(3, 2).double()), r"kernel: expected shape \(3, 3\)"),
        (dict(targets=torch.ones(8, 2)), "same dtype"),
        (dict(targets=torch.ones(8, 2, 2).double()), "expected shape .n,. or"),
        (dict(initial=torch.ones(8).double()), r"initial: expected shape \(8, 2\)"),
        (dict(test_initial=torch.ones(4, 2).double()), "test_initial: expected shape"),
        (dict(test_kernel=None), "expected a test_kernel"),
        (dict(time=-1.0), "time: expected a number or a vector"),
        (dict(ridge=-1.0), "ridge"),
        (dict(kernel=-torch.eye(8).double()), "eigenvalues of at least 0"),
        (dict(kernel=torch.ones(8, 8).double().triu()), "symmetric"),
        (dict(kernel=torch.full((8, 8), math.nan).double()), "64 NaN"),
    ],
)
def test_bad_input_is_named(problem, change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        nu.gradient_flow(**problem[0] | change)


def test_learning_rates_that_diverge(problem):
    inputs, _ = problem
    bound = 2 / torch.linalg.eigvalsh(inputs["kernel"])[-1].item()
    with pytest.raises(ValueError, match="below 2/lambda_max"):
        nu.gradient_descent(learning_rate=1.001 * bound, **inputs)
    limit = nu.gradient_descent(learning_rate=0.999 * bound, **inputs).test
    assert torch.allclose(limit, nu.gradient_flow(**inputs).test, rtol=1e-12)
    far = nu.gradient_descent(steps=400, learning_rate=1.05 * bound, **inputs).train
    assert far.abs().max() > 1e6
    with pytest.raises(nu.DivergedError, match=f"at most 2/lambda_max = {bound:.6g}, above which"):
        nu.gradient_descent(steps=10_000, learning_rate=1.05 * bound, **inputs)
    with pytest.raises(ValueError, match="whole numbers"):
        nu.gradient_descent(steps=1.5, learning_rate=bound / 2, **inputs)


def test_a_rate_of_exactly_the_bound_does_not_converge():
    """The mode of the largest eigenvalue then turns its sign at every step."""
    K, y = torch.tensor([1.0, 4.0]).double().diag(), torch.ones(2).double()
    with pytest.raises(ValueError, match=r"below 2/lambda_max = 0\.5 for infinitely many .* got 0\.5$"):
        nu.gradient_descent(K, y, learning_rate=0.5)
    after = [nu.gradient_descent(K, y, steps, learning_rate=0.5).train[1].item() for steps in (8, 9)]
    assert after == [0.0, 2.0]


def test_a_mode_without_eigenvalue_moves_in_proportion_to_time():
    """(1 - exp(-λt))/λ tends to t, and (1 - (1-ηλ)^s)/λ to ηs."""
    zero, y, rows = torch.zeros(2, 2).double(), torch.tensor([1.0, -3.0]).double(), torch.eye(2).double()
    flow = nu.gradient_flow(zero, y, 5.0, test_kernel=rows)
    assert torch.equal(flow.test, 5 * y) and torch.equal(flow.train, 0 * y)
    descent = nu.gradient_descent(zero, y, 3, learning_rate=0.25, test_kernel=rows)
    assert torch.equal(descent.test, 0.75 * y) and torch.equal(descent.train, 0 * y)


@pytest.mark.parametrize("train", [nu.gradient_flow, nu.gradient_descent])
def test_predictions_are_differentiable_in_the_kernel(train, normal):
    """With modes slow and fast (ηλ below and above 1/2, and above 1), and one that is exactly 0."""
    y, rows = normal(0, 4), normal(1, 2, 4)
    options = dict(learning_rate=1.0) if train is nu.gradient_descent else {}

    def predict(spectrum):
        return train(spectrum.diag(), y, 3, test_kernel=rows, **options).test

    spectrum = torch.tensor([0.0, 0.1, 0.7, 1.5], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(predict(spectrum).sum(), spectrum)
    h = 1e-6 * torch.eye(4, dtype=torch.float64)[1:]
    at = [[predict((spectrum + s * step).detach()).sum().item() for s in (1, -1)] for step in h]
    numerical = torch.tensor([(up - down) / 2e-6 for up, down in at], dtype=torch.float64)
    assert torch.isfinite(slopes).all()
    assert (slopes[1:] - numerical).abs().max() < 1e-8


def test_what_the_error_of_a_singular_kernel_proposes_helps():
    K, y, eps = torch.full((2, 2), 3.0).double(), torch.tensor([1.0, -1.0]).double(), 2.0**-52
    with pytest.raises(nu.SingularKernelError, match="none in float64; two equal or") as caught:
        nu.gradient_flow(K, y)
    numbers = r"for example (\S+)\), or a time below (\S+)$"
    ridge, time = (float(number) for number in re.search(numbers, str(caught.value)).groups())
    assert ridge == pytest.approx(6 * eps**0.5, rel=0.01, abs=0)
    assert nu.gradient_flow(K, y, ridge=ridge).train.abs().max() < 1e-7  # the mean of 1 and -1
    assert nu.gradient_flow(K, y, 0.99 * time).train.abs().max() < 1e-5
    for later in (1e5, 1e8, 1e20):
        with pytest.raises(nu.SingularKernelError):
            nu.gradient_flow(K, y, later * time)


def test_a_kernel_is_symmetric_and_semidefinite_up_to_rounding(normal):
    """Up to 16·n·eps of its largest entry, whatever the ridge."""
    features = normal(0, 50, 60)
    K, y, eps = features @ features.T, normal(1, 50), 2.0**-52
    for off, error in ((400 * eps, None), (1600 * eps, "expected a symmetric matrix")):
        skew = K.clone()
        skew[0, 1] += off * K.max()
        if error:
            with pytest.raises(ValueError, match=error):
                nu.gradient_flow(skew, y)
        else:
            assert (nu.gradient_flow(skew, y).train - y).abs().max() < 1e-10
    with pytest.raises(ValueError, match=r"eigenvalues of at least 0 .*, got -1$"):
        nu.gradient_flow(-torch.eye(50).double(), y, ridge=3.0)


def test_a_kernel_that_couples_outputs_is_one_of_points_and_outputs(normal):
    """The training of 5 points with 3 outputs is that of 15 with one."""
    gradients, test_gradients = normal(0, 5, 3, 20), normal(1, 2, 3, 20)
    y, f0, f0_test = normal(2, 5, 3), normal(3, 5, 3), normal(4, 2, 3)
    K, K_test = (torch.einsum("iap,jbp->ijab", g, gradients) for g in (gradients, test_gradients))
    ours = nu.gradient_flow(K, y, 0.05, initial=f0, test_kernel=K_test, test_initial=f0_test)
    flat, test_flat = gradients.flatten(0, 1), test_gradients.flatten(0, 1)
    alone = nu.gradient_flow(
        *(flat @ flat.T, y.flatten(), 0.05),
        initial=f0.flatten(), test_kernel=test_flat @ flat.T, test_initial=f0_test.flatten(),
    )  # fmt: skip
    assert (ours.train.flatten() - alone.train).abs().max() < 1e-13
    assert (ours.test.flatten() - alone.test).abs().max() < 1e-13
    one = nu.gradient_flow(K[..., :1, :1], y[:, 0], 0.05)
    assert torch.equal(one.train, nu.gradient_flow(K[..., 0, 0], y[:, 0], 0.05).train)
    with pytest.raises(ValueError, match=r"test_kernel: expected shape \(2, 5, 3, 3\) \(points, training"):
        nu.gradient_flow(K, y, test_kernel=K_test[..., :2])
    with pytest.raises(
        ValueError, match=r"kernel: expected shape \(5, 5, 1, 1\) \(points, training points"
    ):
        nu.gradient_flow(K, y[:, 0])


@pytest.mark.parametrize("decay", [1e-300, 1e-12, 1e-6, 1e-3, 0.3, 0.7, 1.3])
def test_what_descent_has_learned_keeps_its_digits_at_small_eigenvalues(decay):
    """1 - (1 - decay)^s, of which 1 - (1 - decay)**s has lost as many digits as decay has zeros."""
    steps, y = 7, torch.ones(1, dtype=torch.float64)
    with mpmath.workdps(400):
        right = float(1 - (1 - mpmath.mpf(decay)) ** steps)
    kernel = torch.tensor([[decay]], dtype=torch.float64)
    learned = nu.gradient_descent(kernel, y, steps, learning_rate=1.0).train.item()
    assert learned == pytest.approx(right, rel=1e-14, abs=0)
