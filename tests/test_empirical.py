"""The finite-width kernel: the fast ways against the slow one, and against neural-tangents."""

import pytest
import torch
from torch import nn

import ntkutils as nu
from ntkutils import activations, empirical, oracles, roads
from ntkutils.checks import compare

LAYERS = "K = Σ_j <delta, delta~> (weight_std² <h, h~> + bias_std²)"


def mlp(seed=0, width=(7, 9), depth=2, out=1, **options):
    generator = torch.Generator().manual_seed(seed)
    return nu.MLP(5, width, depth, out, generator=generator, dtype=torch.float64, **options)


@pytest.mark.parametrize("activation", sorted(activations.BY_NAME))
@pytest.mark.parametrize("bias_std", [0.0, 0.6])
def test_all_ways_agree(activation, bias_std, normal):
    x1, x2 = normal(0, 6, 5) / 5, normal(1, 4, 5) / 5  # small, as exp of exp grows fast
    model = mlp(activation=activation, weight_std=1.3, bias_std=bias_std)
    fast, slow = nu.empirical_ntk(model, x1, x2), nu.empirical_ntk_by_backward(model, x1, x2)
    compare(LAYERS, fast, slow, "autodiff", "two backward passes an entry", bound=1e-14)
    generic = nu.empirical_ntk(nn.Sequential(model), x1, x2, chunk_size=4)
    compare(LAYERS, fast, generic, "autodiff", "torch.func Jacobians", bound=1e-14)
    nt = oracles.neural_tangents()
    f, w = oracles.same_network(model)
    theirs = nt.empirical_ntk_fn(f)(oracles.to_numpy(x1), oracles.to_numpy(x2), w)
    compare(LAYERS, fast, theirs, "neural-tangents", "nt.empirical_ntk_fn", bound=1e-14)


def test_several_outputs(normal):
    x1, x2, model = normal(0, 6, 5), normal(1, 4, 5), mlp(out=3, bias_std=0.5)
    fast = nu.empirical_ntk(model, x1, x2)
    assert fast.shape == (6, 4, 3, 3)
    compare(
        LAYERS, fast, nu.empirical_ntk(nn.Sequential(model), x1, x2), "autodiff", "torch.func", bound=1e-14
    )
    f, w = oracles.same_network(model)
    kernel_fn = oracles.neural_tangents().empirical_ntk_fn(f, trace_axes=())
    theirs = kernel_fn(oracles.to_numpy(x1), oracles.to_numpy(x2), w)
    compare(LAYERS, fast, theirs, "neural-tangents", "nt.empirical_ntk_fn", bound=1e-14)


@pytest.mark.parametrize("depth, out", [(0, 1), (0, 2), (1, 1), (3, 1), (2, 3)])
def test_copies_are_the_networks_one_by_one(depth, out, normal):
    x1, x2 = normal(0, 6, 5), normal(1, 4, 5)
    model = mlp(width=8, depth=depth, out=out, activation="erf", weight_std=1.3, bias_std=0.6, copies=3)
    whole, shares = nu.empirical_ntk(model, x1, x2), nu.empirical_ntk_by_layer(model, x1, x2)
    assert whole.shape == (3, 6, 4) + (out > 1) * (out, out)
    assert shares.shape == (depth + 1, *whole.shape)
    for s in range(3):
        one = model.member(s)
        compare(LAYERS, whole[s], nu.empirical_ntk(one, x1, x2), "torch", "one by one", bound=1e-14)
        alone = nu.empirical_ntk_by_layer(one, x1, x2)
        compare(LAYERS, shares[:, s], alone, "torch", "one by one", bound=1e-14)


def test_layers_add_up_and_are_in_order(normal):
    x, model = normal(0, 6, 5), mlp(width=8, depth=3)
    shares = nu.empirical_ntk_by_layer(model, x)
    assert shares.shape == (4, 6, 6)
    assert torch.allclose(shares.sum(0), nu.empirical_ntk(model, x), rtol=1e-14)
    for j, share in enumerate(shares):
        alone = mlp(width=8, depth=3)
        for i, w in enumerate(alone.w):
            w.requires_grad_(i == j)
        only = nu.empirical_ntk(nn.Sequential(alone), x)
        assert torch.allclose(share, only, rtol=1e-12, atol=1e-13)


def test_images_and_frozen_parameters(normal):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)).double()
    images = normal(0, 3, 1, 4, 4)
    assert (nu.empirical_ntk(net, images) - nu.empirical_ntk_by_backward(net, images)).abs().max() < 1e-13
    net[0].weight.requires_grad_(False)
    assert (nu.empirical_ntk(net, images) - nu.empirical_ntk_by_backward(net, images)).abs().max() < 1e-13


def test_leaves_the_model_as_it_was(normal):
    model, x = mlp(), normal(0, 3, 5)
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    nu.empirical_ntk(model, x), nu.empirical_ntk_by_backward(model, x)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_bad_input_is_named(normal):
    x = normal(0, 3, 5)
    with pytest.raises(ValueError, match="expected 5 features"):
        nu.empirical_ntk(mlp(), x[:, :4])
    with pytest.raises(TypeError, match="same dtype"):
        nu.empirical_ntk(mlp(), x.float())
    with pytest.raises(ValueError, match="BatchNorm1d in training mode"):
        nu.empirical_ntk(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)).double(), x)
    with pytest.raises(ValueError, match="Dropout in training mode"):
        nu.empirical_ntk(nn.Sequential(nn.Linear(5, 1), nn.Dropout()).double(), x)
    with pytest.raises(ValueError, match="require a gradient"):
        nu.empirical_ntk(nn.Flatten(), x)
    with pytest.raises(ValueError, match="equal examples"):
        nu.empirical_ntk(nn.Linear(5, 1).double(), x, x[:, :4])
    with pytest.raises(ValueError, match="at least one example each, got 3 and 0"):
        nu.empirical_ntk_by_layer(mlp(), x, x[:0])


def test_layers_of_any_module(normal):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    x1, x2 = normal(0, 6, 5), normal(1, 4, 5)
    shares = nu.empirical_ntk_by_layer(model, x1, x2)
    assert shares.shape == (2, 6, 4, 3, 3)
    for j, layer in enumerate((model[0], model[2])):
        model.requires_grad_(False), layer.requires_grad_(True)
        alone = nu.empirical_ntk(model, x1, x2)
        assert (shares[j] - alone).abs().max() < 1e-14 * alone.abs().max()


@pytest.mark.parametrize("copies", [None, 2])
@pytest.mark.parametrize("outputs", [1, 3])
def test_an_mlp_in_chunks_equals_the_whole(outputs, copies, normal):
    generator = torch.Generator().manual_seed(0)
    options = dict(generator=generator, dtype=torch.float64, copies=copies)
    model = nu.MLP(4, 6, 2, outputs, "erf", 1.2, 0.3, **options)
    x1, x2 = normal(1, 7, 4), normal(2, 5, 4)
    for points in ((x1,), (x1, x2), (x2, x1), (x1, x1.clone())):
        whole = nu.empirical_ntk(model, *points)
        for chunk_size in (1, 3, 5):
            parts = nu.empirical_ntk(model, *points, chunk_size=chunk_size)
            assert parts.shape == whole.shape
            assert (parts - whole).abs().max() < 1e-14 * whole.abs().max()


def test_a_module_in_chunks_equals_the_whole(normal):
    torch.manual_seed(0)
    # with two hidden layers the outputs' order matters: K_ab(x, x~) is not K_ba(x, x~)
    hidden = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh()]
    model = nn.Sequential(*hidden, nn.Linear(5, 3)).double()
    x1, x2 = normal(1, 7, 4), normal(2, 5, 4)
    for points in ((x1,), (x1, x2), (x2, x1)):
        whole = nu.empirical_ntk(model, *points)
        for chunk_size in (1, 3, 5):
            parts = nu.empirical_ntk(model, *points, chunk_size=chunk_size)
            assert (parts - whole).abs().max() < 1e-14 * whole.abs().max()


@pytest.mark.parametrize("n1, n2", [(0, 3), (3, 0), (0, 0), (1, 3), (1, 1)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_few_or_no_examples(n1, n2, outputs, normal):
    torch.manual_seed(0)
    x1, x2 = normal(0, n1, 5), normal(1, n2, 5)
    for model in (mlp(out=outputs), nn.Linear(5, outputs).double()):
        kernel = nu.empirical_ntk(model, x1, x2)
        # nobody knows how many outputs a module has that is given nothing
        one = outputs == 1 or (min(n1, n2) == 0 and not isinstance(model, nu.MLP))
        assert kernel.shape == ((n1, n2) if one else (n1, n2, outputs, outputs))


def test_examples_are_whatever_a_module_takes(normal):
    """Numbers, one for each example, too; but no example by itself."""
    model = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 1)).double()
    x = normal(0, 4)
    assert torch.allclose(nu.empirical_ntk(model, x), x[:, None] * x + 1, rtol=1e-14)
    with pytest.raises(ValueError, match=r"expected shapes \(n1, \.\.\.\)"):
        nu.empirical_ntk(model, x[0])


LINEAR = nn.Sequential(nn.Linear(5, 40)), 40 * 40 + 5 + 40 * 40
CONVOLUTION = (
    nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 8, 3), nn.Flatten(), nn.Linear(24, 3)),
    3 * 8 * 4 + 3 * 3 + 24 + 3 * 3,
)
MLP = nu.MLP(5, 6, 1, 2), (2 * 6 + 5) + (2 * 2 + 6)
COPIES = nu.MLP(5, 6, 1, 2, copies=3), 3 * MLP[1]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("model, numbers", [LINEAR, CONVOLUTION, MLP, COPIES])
@pytest.mark.parametrize("examples", [1, 2, 4])
def test_the_gradients_held_fit_into_what_is_stated(model, numbers, examples, same, normal, monkeypatch):
    """Two chunks' gradients at a time, one of them three times the other, fill it.

    An example's numbers: those formed, a bias' or delta's o·k, and h's d of a linear layer.
    """
    held, chunks = [], []
    chosen = roads.Road._chosen

    def measured(*arguments):
        def gradients(x):
            made = compute(x)
            chunks.append(len(x))
            held.append(sum(z.numel() for pair in made.values() for z in pair if z is not None))
            return made

        road = chosen(*arguments)
        compute, road.gradients = road.gradients, gradients
        return road

    monkeypatch.setattr(roads.Road, "_chosen", measured)
    monkeypatch.setattr(empirical, "_bytes_held", lambda device: 8 * numbers * 4 * examples + 1)
    nu.empirical_ntk(model.double(), normal(0, 36, 5), None if same else normal(1, 36, 5))
    assert (max(chunks), min(chunks)) == (3 * examples, examples)
    assert (max(held), min(held)) == (3 * examples * numbers, examples * numbers)


def test_a_quarter_of_the_free_memory_is_used(monkeypatch):
    cpu = torch.device("cpu")
    for free, expected in ((2**20, 2**28), (2**40, 2**38), (float("inf"), 2**28)):
        monkeypatch.setattr(empirical.check_that, "free_memory", lambda device, free=free: free)
        assert empirical._bytes_held(cpu) == expected
