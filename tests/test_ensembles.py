"""The law of trained ensembles: against neural-tangents, the posteriors it is not, and bad input."""

import math

import pytest
import torch

import ntkutils as nu
from ntkutils import oracles
from ntkutils.checks import compare
from ntkutils.oracles import to_numpy, to_torch

MEAN, COVARIANCE = "A y", "Σ(x,x~) + A Σ(X,X) A~ᵀ - A Σ(X,x~) - Σ(x,X) A~ᵀ"
NETWORK = dict(depth=2, activation="erf", weight_std=1.2, bias_std=0.4)
CLOSE = 1e-11  # the inverse of a kernel with a condition number of about 100


@pytest.fixture
def data(normal):
    return normal(0, 8, 4), normal(1, 8), normal(2, 5, 4)


def in_neural_tangents(data, get, times, ridge):
    """Mean (T, m) and covariance (T, m, m), whose time is ours times the number of targets."""
    x, y, x_test = data
    nt = oracles.neural_tangents()
    predict = nt.predict.gradient_descent_mse_ensemble(
        oracles.stax_network(4, 1, 2, 1, "erf", 1.2, 0.4)[2], to_numpy(x), to_numpy(y[:, None]),
        diag_reg=ridge, diag_reg_absolute_scale=True,
    )  # fmt: skip
    times = [None if math.isinf(time) else len(y) * time for time in times]
    laws = [predict(t=t, x_test=to_numpy(x_test), get=get, compute_cov=True) for t in times]
    means = torch.stack([to_torch(law.mean)[:, 0] for law in laws])
    return means, torch.stack([to_torch(law.covariance) for law in laws])


def test_the_flow_is_what_neural_tangents_says(data):
    times = [0.2, 3.0, math.inf]
    ours = nu.trained_ensemble(*data, torch.tensor(times, dtype=torch.float64), **NETWORK)
    assert ours.mean.shape == (3, 5) and ours.covariance.shape == (3, 5, 5)
    mean, covariance = in_neural_tangents(data, "ntk", times, 0.0)
    compare(MEAN, ours.mean, mean, "neural-tangents", "mse_ensemble", bound=CLOSE)
    compare(COVARIANCE, ours.covariance, covariance, "neural-tangents", "mse_ensemble", bound=CLOSE)
    alone = nu.trained_ensemble(*data, 3.0, **NETWORK)
    # the same up to the order in which a batched product adds
    assert (alone.mean - ours.mean[1]).abs().max() < 1e-14 and alone.covariance.shape == (5, 5)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_posterior_is_what_neural_tangents_says(data, ridge):
    ours = nu.posterior(*data, noise=ridge, **NETWORK)
    mean, covariance = in_neural_tangents(data, "nngp", [math.inf], ridge)
    compare("posterior", ours.mean, mean[0], "neural-tangents", "mse_ensemble", bound=CLOSE)
    compare("posterior", ours.covariance, covariance[0], "neural-tangents", "mse_ensemble", bound=CLOSE)


def test_before_training_it_is_the_prior_and_in_the_end_the_data(data):
    x, y, x_test = data
    start = nu.trained_ensemble(*data, 0.0, **NETWORK)
    assert start.mean.abs().max() == 0
    assert torch.equal(start.covariance, nu.nngp(x_test, **NETWORK))
    end = nu.trained_ensemble(x, y, x, **NETWORK)
    assert (end.mean - y).abs().max() < CLOSE and end.covariance.abs().max() < CLOSE
    # The posterior predicts the initial function with the least variance, A_t is one other predictor.
    excess = nu.trained_ensemble(*data, **NETWORK).covariance - nu.posterior(*data, **NETWORK).covariance
    lowest = torch.linalg.eigvalsh(excess)
    assert lowest[0] > -CLOSE and lowest[-1] > 1e-3


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_steps_of_descent_tend_to_the_flow(data, ridge):
    flow = nu.trained_ensemble(*data, 0.5, ridge=ridge, **NETWORK)
    gaps = []
    for steps in (500, 1000):
        law = nu.trained_ensemble(*data, steps, learning_rate=0.5 / steps, ridge=ridge, **NETWORK)
        gaps.append((law.covariance - flow.covariance).abs().max())
    assert abs(gaps[0] / gaps[1] - 2) < 0.02  # first order in the step


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_networks_have_this_law(ridge, normal):
    """Without a hidden layer the law is exact; with one, networks have it up to O(1/width)."""
    x, y, x_test = normal(0, 4, 5), normal(1, 4), normal(2, 3, 5)
    law = nu.trained_ensemble(x, y, x_test, 0.3, ridge=ridge, depth=0)
    K, K_test = x @ x.T, x_test @ x.T
    samples = []
    for w in normal(3, 4000, 5):
        flow = nu.gradient_flow(K, y, 0.3, initial=x @ w, test_kernel=K_test,
                                test_initial=x_test @ w, ridge=ridge)  # fmt: skip
        samples.append(flow.test)
    f = torch.stack(samples)
    compare(MEAN, law.mean, f, "torch", "4,000 starts", z=4.5, resolution=0.1)
    spread = (f - law.mean)[:, :, None] * (f - law.mean)[:, None]
    compare(COVARIANCE, law.covariance, spread, "torch", "4,000 starts", z=4.5, resolution=0.1)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(targets=torch.ones(8)), "kernel and targets: expected the same dtype"),
        (dict(targets=torch.ones(5, 10).double()), r"targets: .*\(8,\), .* or \(8, o\) .*got \(5, 10\)"),
        (dict(targets=torch.full((8,), math.nan).double()), "targets: expected finite"),
        (dict(x_test=torch.ones(2, 3).double()), "the same number of features"),
        (dict(x=torch.ones(8, 4).double()), "kernel: expected one that has an inverse"),
        (dict(activation="rely"), "rely"),
    ],
)
@pytest.mark.parametrize("which", [nu.trained_ensemble, nu.posterior])
def test_bad_input_is_named(which, change, words, data):
    arguments = dict(zip(("x", "targets", "x_test"), data, strict=True)) | NETWORK | change
    with pytest.raises((ValueError, TypeError), match=words):
        which(**arguments)


def test_bad_times_are_named(data):
    with pytest.raises(ValueError, match="time: expected a number"):
        nu.trained_ensemble(*data, -1.0, **NETWORK)
    with pytest.raises(ValueError, match="steps: expected whole numbers"):
        nu.trained_ensemble(*data, 0.5, learning_rate=0.1, **NETWORK)
