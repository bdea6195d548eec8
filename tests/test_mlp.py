"""The finite network: its formula, its scaling, its seeds."""

import pytest
import torch

import ntkutils as nu
from ntkutils import oracles
from ntkutils.checks import compare

NETWORK = "h^(j) = phi(weight_std w^(j) h^(j-1) + bias_std b^(j)) / sqrt(k_j)"


def test_is_the_formula_and_neural_tangents_network(normal):
    x = normal(0, 4, 3)
    model = nu.MLP(3, (5, 7), 2, 2, "relu", 1.3, 0.4, torch.Generator().manual_seed(1), dtype=torch.float64)
    h = x
    for j, k in ((0, 5), (1, 7)):
        pre = 1.3 * h @ model.w[j].T + 0.4 * model.b[j]
        h = 2**0.5 * torch.relu(pre) / k**0.5
    f, w = oracles.same_network(model)
    compare(NETWORK, model(x), f(w, x), "neural-tangents", "stax.serial", bound=1e-14)
    by_hand = 1.3 * h @ model.w[2].T + 0.4 * model.b[2]
    compare(NETWORK, model(x), by_hand, "torch", "the formula written out", bound=1e-14)


def test_shapes_seeds_and_types():
    def make(**options):
        generator = torch.Generator().manual_seed(5)
        return nu.MLP(3, 4, 2, generator=generator, **options)

    assert [tuple(w.shape) for w in make().w] == [(4, 3), (4, 4), (1, 4)]
    assert make().b is None and len(make(bias_std=0.1).b) == 3
    assert all(torch.equal(a, b) for a, b in zip(make().parameters(), make().parameters(), strict=True))
    assert make(dtype=torch.float64)(torch.ones(2, 3, dtype=torch.float64)).shape == (2, 1)
    assert "3 -> 4 -> 4 -> 1, activation=relu" in repr(make())
    assert nu.MLP(3, (), 0).depth == 0


@pytest.mark.parametrize("depth, out", [(0, 1), (1, 2), (3, 1)])
def test_copies_are_the_networks_one_by_one(depth, out, normal):
    x, generator = normal(0, 6, 5), torch.Generator().manual_seed(1)
    options = dict(weight_std=1.3, bias_std=0.4, generator=generator, dtype=torch.float64)
    model = nu.MLP(5, 8, depth, out, "erf", copies=3, **options)
    assert model(x).shape == (3, 6, out) and "copies=3" in repr(model)
    f_lin, step = nu.linearize(model), {n: normal(2, *p.shape) for n, p in model.named_parameters()}
    linear = f_lin(step, x)
    for s in range(3):
        one = model.member(s)
        assert one.copies is None and [w.shape for w in one.w] == [w.shape[1:] for w in model.w]
        compare(NETWORK, model(x)[s], one(x), "torch", "the network alone", bound=1e-14)
        alone = nu.linearize(one)({n: p[s] for n, p in step.items()}, x)
        compare(NETWORK, linear[s], alone, "torch", "the network alone", bound=1e-14)
    with torch.no_grad():
        one.w[0].zero_()
    assert model.w[0][2].abs().min() > 0  # the member's parameters are its own


def test_copies_that_are_not_there():
    many, one = nu.MLP(3, 4, 1, copies=2), nu.MLP(3, 4, 1)
    with pytest.raises(ValueError, match="copies: expected at least 1"):
        nu.MLP(3, 4, 1, copies=0)
    with pytest.raises(ValueError, match="s: expected at most 1, got 2"):
        many.member(2)
    with pytest.raises(ValueError, match="expected a network with copies"):
        one.member(0)
    for needs_one in (oracles.same_network, lambda m: nu.empirical_ntk_by_backward(m, torch.ones(1, 3))):
        with pytest.raises(ValueError, match="expected one network, got 2 copies"):
            needs_one(many)


def test_making_one_leaves_the_global_seed_alone():
    state = torch.random.get_rng_state()
    nu.MLP(3, 4, 2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((0, 4, 1), "in_features"),
        ((3, 0, 1), "width"),
        ((3, (4, 4), 1), "one for each of the 1 hidden layers, got 2"),
        ((3, 4, -1), "depth"),
        ((3, 4, 1, 0), "out_features"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        nu.MLP(*arguments)
