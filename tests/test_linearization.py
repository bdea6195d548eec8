"""The linearized network: tangent at the anchor, and nothing but linear."""

import pytest
import torch
from torch.func import functional_call

import ntkutils as nu
from ntkutils import oracles
from ntkutils.checks import compare

TANGENT = "f~ = f(w0) + grad f (w - w0)"


def setup(normal):
    generator = torch.Generator().manual_seed(0)
    model = nu.MLP(4, 32, 2, 2, "erf", bias_std=0.3, generator=generator, dtype=torch.float64)
    w0 = nu.parameters_of(model)
    step = {name: 0.3 * normal(i, *p.shape) for i, (name, p) in enumerate(w0.items())}
    return model, w0, step, normal(9, 5, 4)


def test_agrees_with_neural_tangents(normal):
    model, w0, step, x = setup(normal)
    f, w0_nt = oracles.same_network(model)
    f_lin = nu.linearize(model)
    w = {name: w0[name] + step[name] for name in w0}
    model.load_state_dict(w)  # the tangent stays where it was taken
    theirs = oracles.neural_tangents().linearize(f, w0_nt)(
        oracles.same_network(model)[1], oracles.to_numpy(x)
    )
    compare(TANGENT, f_lin(w, x), theirs, "neural-tangents", "nt.linearize", bound=1e-13)


def test_is_affine_and_touches(normal):
    model, w0, step, x = setup(normal)
    f_lin = nu.linearize(model)
    values = [f_lin({n: w0[n] + s * step[n] for n in w0}, x) for s in (0.0, 1.0, 2.0)]
    assert torch.equal(values[0], model(x))
    assert torch.allclose(values[2] - values[1], values[1] - values[0], rtol=1e-12, atol=1e-13)
    small = functional_call(model, {n: w0[n] + 1e-5 * step[n] for n in w0}, (x,))
    linear = f_lin({n: w0[n] + 1e-5 * step[n] for n in w0}, x)
    assert (small - linear).abs().max() < 1e-7 * (linear - model(x)).abs().max() * 1e3
    elsewhere = nu.linearize(model, {n: w0[n] + step[n] for n in w0})
    assert torch.equal(
        elsewhere({n: w0[n] + step[n] for n in w0}, x),
        functional_call(model, {n: w0[n] + step[n] for n in w0}, (x,)),
    )


def test_its_gradient_is_the_networks(normal):
    model, w0, _, x = setup(normal)
    ours = torch.func.grad(lambda w: nu.linearize(model)(w, x).sum())(w0)
    theirs = torch.func.grad(lambda w: functional_call(model, w, (x,)).sum())(w0)
    assert all(torch.allclose(ours[n], theirs[n], rtol=1e-12, atol=1e-13) for n in w0)


def test_other_weights_are_refused(normal):
    model, w0, _, x = setup(normal)
    with pytest.raises(ValueError, match="expected the names"):
        nu.linearize(model)({"w.0": w0["w.0"]}, x)
    with pytest.raises(ValueError, match=r"params\['w.0'\]: expected shape \(32, 4\), got \(4, 32\)"):
        nu.linearize(model, w0 | {"w.0": w0["w.0"].T})
