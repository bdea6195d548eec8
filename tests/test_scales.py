"""The README's table of scales: what a paper, neural-tangents and torch mean, in ours."""

import math

import pytest
import torch

import ntkutils as nu
from ntkutils import activations, oracles
from ntkutils.checks import compare

F64 = torch.float64


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, D = normal(0, 5, 3), 3


@pytest.mark.parametrize("which", ["nngp", "ntk"])
@pytest.mark.parametrize("W_std, b_std", [(2**0.5, None), (1.3, 0.4)])
def test_neural_tangents(which, W_std, b_std):
    """Dense divides by its fan-in and Relu is max(0, z): a paper's convention, too."""
    stax = oracles.neural_tangents().stax
    dense = lambda: stax.Dense(1, W_std=W_std, b_std=b_std)  # noqa: E731
    theirs = stax.serial(dense(), stax.Relu(), dense(), stax.Relu(), dense())[2]
    expected = oracles.to_torch(theirs(oracles.to_numpy(X), None, which))
    scale = dict(depth=2, weight_std=W_std / 2**0.5, bias_std=b_std or 0.0)
    ours = getattr(nu, which)(X * (2 / D) ** 0.5, **scale)
    assert (ours - expected).abs().max() < 1e-13 * expected.abs().max()
    off = (getattr(nu, which)(X, **scale) - expected).abs().max() / expected.abs().max()
    assert off > 0.1  # what is forgotten is seen


@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_another_activation(which):
    """erf, by its E[erf(z)²] in place of 1/2, and as it is."""
    stax = oracles.neural_tangents().stax
    theirs = stax.serial(
        stax.Dense(1, W_std=1.3, b_std=0.4), stax.Erf(), stax.Dense(1, W_std=1.3, b_std=0.4)
    )[2]
    expected = oracles.to_torch(theirs(oracles.to_numpy(X), None, which))
    root = (2 / math.pi * math.asin(2 / 3)) ** 0.5
    options = dict(depth=1, activation="erf", weight_std=1.3 * root, bias_std=0.4)
    ours = getattr(nu, which)(X / (D**0.5 * root), **options)
    assert (ours - expected).abs().max() < 1e-13 * expected.abs().max()
    plain = activations.from_function(torch.erf, normalise=False)
    ours = getattr(nu, which)(X / D**0.5, **options | dict(activation=plain, weight_std=1.3))
    assert (ours - expected).abs().max() < 1e-9 * expected.abs().max()


def test_torch():
    """nn.Linear: weights and biases uniform, of variance 1/(3 fan-in)."""
    k, networks = 400, 3000
    generator = torch.Generator().manual_seed(0)
    single = torch.nn.Sequential(
        torch.nn.Linear(D, k),
        torch.nn.ReLU(),
        torch.nn.Linear(k, k),
        torch.nn.ReLU(),
        torch.nn.Linear(k, 1),
    )
    outputs = []
    with torch.no_grad():
        for _ in range(networks):
            for layer in single[::2]:
                bound = layer.in_features**-0.5  # what reset_parameters does, with a generator
                for p in (layer.weight, layer.bias):
                    p.uniform_(-bound, bound, generator=generator)
            outputs.append(single(X.float()).squeeze(1).double())
    f = torch.stack(outputs)
    with_one = torch.cat([X, torch.ones(5, 1, dtype=F64)], 1)
    ours = nu.nngp(with_one * (2 / D) ** 0.5, depth=2, weight_std=6**-0.5)
    # the hidden biases, of variance 1/(3k), are not in the limit
    products = f[:, :, None] * f[:, None] - 1 / (3 * k) * (1 + 1 / 6)
    compare("nngp", ours, products, "torch", f"{networks} networks of width {k}", z=4.5, resolution=0.2)
    weights = torch.nn.Linear(1000, 1000).weight
    assert weights.var().item() * 3000 == pytest.approx(1, rel=0.01, abs=0)


def test_unit_norm():
    x = torch.nn.functional.normalize(X)
    for depth in (1, 3, 10):
        assert (nu.nngp(x, depth=depth).diagonal() - 1).abs().max() < 1e-14
        assert (nu.ntk(x, depth=depth).diagonal() - depth - 1).abs().max() < 1e-13
