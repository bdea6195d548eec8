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
    assert all(torch.equal(a, b) for a, b in zip(make().parameters(), make().parameters()))
    assert make(dtype=torch.float64)(torch.ones(2, 3, dtype=torch.float64)).shape == (2, 1)
    assert "3 -> 4 -> 4 -> 1, activation=relu" in repr(make())
    assert nu.MLP(3, (), 0).depth == 0


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
