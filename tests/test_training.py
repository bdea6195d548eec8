"""Training step by step: against torch's own optimizer, one network at a time, and closed forms."""

import math

import pytest
import torch

import ntkutils as nu
from ntkutils.checks import compare

STEP = "w <- w - eta grad 1/2 Σ_i |f(x_i) - y_i|²"


def mlp(depth=2, out=1, activation="erf", width=6, **options):
    generator = torch.Generator().manual_seed(0)
    scales = dict(weight_std=1.2, bias_std=0.3) | options
    return nu.MLP(5, width, depth, out, activation, generator=generator, dtype=torch.float64, **scales)


@pytest.mark.parametrize("depth, out", [(0, 1), (1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("activation", ["erf", "relu"])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
def test_is_what_torch_optim_does(depth, out, activation, bias_std, normal):
    model = mlp(depth, out, activation, bias_std=bias_std)
    x, x_test, y = normal(0, 8, 5), normal(1, 3, 5), normal(2, 8, out)
    before = nu.parameters_of(model)
    trace = nu.train(
        model, x, y.squeeze(-1), learning_rate=0.01, steps=50, x_test=x_test, record=[50, 0, 7]
    )
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert trace.steps.tolist() == [0, 7, 50]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    start = [torch.cat([p.detach().flatten() for p in layer]) for layer in layers(model)]
    for step in range(51):
        if step in trace.steps:
            row = trace.steps.tolist().index(step)
            for ours, points in ((trace.train, x), (trace.test, x_test)):
                ours = ours[row].reshape(-1, out)
                compare(STEP, ours, model(points), "torch", "torch.optim.SGD", bound=1e-12)
            now = [torch.cat([p.detach().flatten() for p in layer]) for layer in layers(model)]
            moved = torch.stack([(a - b).norm() for a, b in zip(now, start, strict=True)])
            assert torch.allclose(trace.moved[row], moved, rtol=1e-12, atol=1e-13)
        optimizer.zero_grad()
        ((model(x) - y) ** 2).sum().div(2).backward()
        if step < 50:
            optimizer.step()
    for name, p in trace.model.named_parameters():
        compare(STEP, p, model.get_parameter(name), "torch", "torch.optim.SGD", bound=1e-12)
    assert torch.allclose(trace.norms, torch.stack([a.norm() for a in start]), rtol=1e-14)


def layers(model):
    return zip(model.w, model.b, strict=True) if model.b is not None else [(w,) for w in model.w]


@pytest.mark.parametrize("depth, out", [(0, 1), (2, 1), (1, 2)])
def test_copies_are_trained_one_by_one(depth, out, normal):
    model, x, x_test = mlp(depth, out, copies=3), normal(0, 8, 5), normal(1, 4, 5)
    rates = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64)
    each = normal(2, 3, 8, out).squeeze(-1)
    for targets, rate in ((each, rates), (each[0], 0.01), (each, rates[0])):
        many = nu.train(model, x, targets, learning_rate=rate, steps=20, x_test=x_test)
        assert many.train.shape == (21, 3, 8) + (out > 1) * (out,)
        for s in range(3):
            y = targets if targets is not each else each[s]
            eta = rates[s].item() if rate is rates else float(rate)
            one = nu.train(model.member(s), x, y, learning_rate=eta, steps=20, x_test=x_test)
            for name in ("train", "test", "moved"):
                ours, alone = getattr(many, name), getattr(one, name)
                ours = ours[:, :, s] if name == "moved" else ours[:, s]
                compare(STEP, ours, alone, "torch", "one by one", bound=1e-12)
            assert torch.allclose(many.norms[:, s], one.norms, rtol=1e-14)
            assert torch.allclose(many.model(x)[s], one.model(x), rtol=1e-12)


def test_a_linear_model_follows_the_closed_form(normal):
    model, x, x_test, y = mlp(0, activation="identity"), normal(0, 4, 5), normal(1, 3, 5), normal(2, 4)
    K = nu.empirical_ntk(model, x)
    rate = 0.5 / torch.linalg.eigvalsh(K)[-1]
    trace = nu.train(model, x, y, learning_rate=rate, steps=200, x_test=x_test)
    linear = nu.gradient_descent(
        K, y, trace.steps, learning_rate=rate.item(), initial=trace.train[0],
        test_kernel=nu.empirical_ntk(model, x_test, x), test_initial=trace.test[0],
    )  # fmt: skip
    compare(STEP, linear.train, trace.train, "torch", "200 steps", bound=1e-12)
    compare(STEP, linear.test, trace.test, "torch", "200 steps", bound=1e-12)


@pytest.mark.parametrize("out", [1, 2])
def test_the_linearization_is_trained_as_it_is_told(out, normal):
    model, x, x_test = mlp(2, out, copies=3), normal(0, 4, 5), normal(1, 3, 5)
    rates, y = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64), normal(2, 3, 4, out).squeeze(-1)
    options = dict(learning_rate=rates, x_test=x_test)
    numbers = torch.tensor([0, 3, 30])
    many = nu.train_linearized(model, x, y, steps=numbers, **options)
    once = nu.train_linearized(model, x, y, steps=30, **options)
    trace = nu.train(model, x, y, steps=1, **options)
    assert (many.train.shape, many.test.shape) == (trace.train[[0] * 3].shape, trace.test[[0] * 3].shape)
    assert torch.allclose(many.train[0], trace.train[0]) and torch.allclose(many.test[0], trace.test[0])
    assert torch.equal(many.train[2], once.train) and torch.equal(many.test[2], once.test)
    for s in range(3):
        one, eta = model.member(s), rates[s].item()
        alone = nu.train_linearized(one, x, y[s], learning_rate=eta, steps=numbers, x_test=x_test)
        f_lin, w = nu.linearize(one), nu.parameters_of(one)
        for _ in range(30):
            loss = lambda w: ((f_lin(w, x).squeeze(-1) - y[s]) ** 2).sum() / 2  # noqa: B023, E731
            w = {name: w[name] - eta * g for name, g in torch.func.grad(loss)(w).items()}
        for ours, single, points in ((many.train, alone.train, x), (many.test, alone.test, x_test)):
            compare(STEP, ours[:, s], single, "torch", "one by one", bound=1e-12)
            steps = f_lin(w, points).squeeze(-1)
            compare(STEP, ours[2, s], steps, "torch", "30 steps on the weights", bound=1e-12)
        assert torch.allclose(many.eigenvalues[s], alone.eigenvalues)
    assert nu.train_linearized(one, x, y[0], learning_rate=eta, steps=3).test is None


def test_types_and_nothing_to_do(normal):
    model, x = mlp().float(), normal(0, 8, 5).float()
    trace = nu.train(model, x, x[:, 0], learning_rate=0.01, steps=0)
    assert trace.train.dtype == torch.float32 and trace.train.shape == (1, 8)
    assert trace.test is None and trace.moved.max() == 0
    assert nu.train(model, x, x[:, 0], learning_rate=0.01, steps=3, record=[]).train.shape == (0, 8)


def test_divergence_says_when_and_keeps_the_trace(normal):
    model, x = mlp(activation="identity", copies=2), normal(0, 8, 5)
    rates = torch.tensor([0.01, 30.0], dtype=torch.float64)
    with pytest.raises(
        nu.DivergedError, match=r"after \d+ of 90 steps in 1 of 2 networks; .* = 0.01 to 30"
    ) as diverged:
        nu.train(model, x, x[:, 0], learning_rate=rates, steps=90)
    trace = diverged.value.trace
    assert isinstance(diverged.value, FloatingPointError)
    assert f"after {trace.steps[-1] + 1} of" in str(diverged.value)
    assert torch.isfinite(trace.train).all() and len(trace.train) == len(trace.moved) > 2
    with pytest.raises(nu.DivergedError, match="1 of 1 networks; learning_rate = 30"):
        nu.train(model.member(0), x, x[:, 0], learning_rate=30, steps=90, record=[90])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(model=torch.relu), "expected a torch.nn.Module, got builtin_function_or_method"),
        (dict(x=torch.ones(8, 4).double()), "x: expected 5 features"),
        (dict(x_test=torch.ones(5).double()), "x_test: expected shape"),
        (dict(x_test=torch.ones(2, 5)), "weights and x_test: expected the same dtype"),
        (dict(targets=torch.ones(8)), "x and targets: expected the same dtype"),
        (dict(targets=torch.ones(8, 1).double()), r"expected shape \(8,\) or \(3, 8\), got \(8, 1\)"),
        (dict(targets=torch.full((8,), math.nan).double()), "targets: expected finite"),
        (dict(learning_rate=0), "learning_rate: expected a finite positive"),
        (dict(learning_rate=torch.ones(2)), r"learning_rate: expected shape \(3,\)"),
        (dict(learning_rate=torch.zeros(3)), "learning_rate: expected positive"),
        (dict(steps=-1), "steps: expected at least 0"),
        (dict(steps=2.0), "steps: expected a whole number"),
        (dict(record=[3]), "record: expected at most the number of steps, 2, got 3"),
        (dict(record=torch.tensor([0.5])), "record: expected a whole number, got 0.5"),
    ],
)
def test_bad_input_is_named(change, words, normal):
    arguments = (
        dict(model=mlp(copies=3), x=normal(0, 8, 5), targets=normal(1, 8), learning_rate=0.01, steps=2)
        | change
    )
    with pytest.raises((ValueError, TypeError), match=words):
        nu.train(**arguments)
    if "record" not in arguments and "whole number" not in words:
        with pytest.raises((ValueError, TypeError), match=words.replace("at least 0", ".*>= 0")):
            nu.train_linearized(**arguments)
