"""The Hessian in the weights: its spectrum for one hidden layer and its norm, against the matrix."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

import ntkutils as nu
from ntkutils.activations import from_function
from ntkutils.checks import compare

BLOCK = "sigma_w/√k [[A phi''(u) |v|², phi'(u) |v|], [phi'(u) |v|, 0]]"
NORM = "the norm of the Hessian"
SOFT = from_function(torch.tanh, name="tanh")
ACTIVATIONS = ["erf", "relu", "gelu", SOFT]


def mlp(depth, activation, width=6, **options):
    generator = torch.Generator().manual_seed(3)
    options = dict(weight_std=1.3, bias_std=0.4, dtype=torch.float64) | options
    return nu.MLP(5, width, depth, 1, activation, generator=generator, **options)


def matrix(model, x):
    """The whole Hessian at one example, by torch.func.hessian of a function of one flat vector."""
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def f(flat):
        weights = {n: w.view_as(p) for (n, p), w in zip(parameters.items(), flat.split(sizes), strict=True)}
        return functional_call(model, weights, (x[None],)).squeeze()

    return hessian(f)(torch.cat([p.detach().flatten() for p in parameters.values()]))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda phi: getattr(phi, "name", phi))
@pytest.mark.parametrize("bias_std", [0.0, 0.4])
def test_one_layer_is_the_whole_spectrum(activation, bias_std, normal):
    model, x = mlp(1, activation, bias_std=bias_std), 3 * normal(0, 4, 5)
    ours = nu.one_layer_hessian_eigenvalues(model, x)
    assert ours.shape == (4, 6, 2) and (ours[..., 0] <= ours[..., 1]).all()
    for i in range(4):
        full = torch.linalg.eigvalsh(matrix(model, x[i]))
        zeros = full.new_zeros(len(full) - 12)
        spectrum = torch.cat([ours[i].flatten(), zeros]).sort()[0]
        compare(BLOCK, spectrum, full, "autodiff", "torch.func.hessian", bound=1e-13)


def test_one_layer_of_steps_has_none(normal):
    """Piecewise constant, so that autograd sees no function of the weights at all."""
    step = from_function(
        lambda z: (z > 0.3).to(z), lambda z: (z > 9).to(z), kinks=(0.3,), name="step at 0.3"
    )
    assert not nu.one_layer_hessian_eigenvalues(mlp(1, step), normal(0, 4, 5)).any()


def test_one_layer_of_copies(normal):
    model, x = mlp(1, "erf", copies=3), normal(0, 4, 5)
    ours = nu.one_layer_hessian_eigenvalues(model, x)
    for s in range(3):
        alone = nu.one_layer_hessian_eigenvalues(model.member(s), x)
        compare(BLOCK, ours[s], alone, "torch", "one by one", bound=1e-14)


def test_one_layer_in_threads(normal):
    model, x = mlp(1, "erf", copies=3), normal(0, 4, 5)
    alone = nu.one_layer_hessian_eigenvalues(model, x)
    with ThreadPoolExecutor(4) as pool:
        for ours in pool.map(nu.one_layer_hessian_eigenvalues, [model] * 200, [x] * 200):
            assert torch.equal(ours, alone)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda phi: getattr(phi, "name", phi))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_norm_is_that_of_the_matrix(activation, depth, normal):
    model, x = mlp(depth, activation), 2 * normal(0, 3, 5)
    full = torch.stack([torch.linalg.eigvalsh(matrix(model, point)).abs().max() for point in x])
    compare(NORM, nu.hessian_norm(model, x), full, "autodiff", "torch.func.hessian", bound=1e-8)
    assert torch.equal(nu.hessian_norm(model, x), nu.hessian_norm(model, x))
    if depth == 1:
        blocks = nu.one_layer_hessian_eigenvalues(model, x).abs().amax((-2, -1))
        compare(NORM, nu.hessian_norm(model, x), blocks, "torch", "the blocks", bound=1e-8)


def test_norm_of_wide_networks_and_other_modules(normal):
    x = normal(0, 3, 5)
    for activation in ("erf", "relu"):
        model = mlp(1, activation, width=1000)
        blocks = nu.one_layer_hessian_eigenvalues(model, x).abs().amax((-2, -1))
        compare(NORM, nu.hessian_norm(model, x), blocks, "torch", "the blocks", bound=1e-8)
        float32 = nu.hessian_norm(model.float(), x.float(), tol=1e-4)
        assert float32.dtype == torch.float32 and torch.allclose(float32.double(), blocks, rtol=1e-4)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)).double()
    image = normal(1, 1, 1, 4, 4)
    full = torch.linalg.eigvalsh(matrix(net, image[0]))  # 29 parameters: without Lanczos
    assert (nu.hessian_norm(net, image) - full.abs().max()).abs() < 1e-12
    net[3].requires_grad_(False)  # then the output is piecewise linear in the others
    assert nu.hessian_norm(net, image).item() == 0
    assert nu.hessian_norm(mlp(0, "erf", width=()), x).tolist() == [0, 0, 0]
    assert nu.hessian_norm(nn.Linear(50, 1).double(), normal(2, 2, 50)).tolist() == [0, 0]


@pytest.mark.parametrize("which", [nu.one_layer_hessian_eigenvalues, nu.hessian_norm])
def test_bad_input_is_named(which, normal):
    x = normal(0, 3, 5)
    with pytest.raises(TypeError, match="weights and x: expected the same dtype"):
        which(mlp(1, "erf"), x.float())
    with pytest.raises(ValueError, match=r"model: expected .*one output"):
        which(nu.MLP(5, 4, 1, 2, dtype=torch.float64), x)
    with pytest.raises(TypeError, match=r"x: expected a torch.Tensor"):
        which(mlp(1, "erf"), x.numpy())


def test_bad_models_and_too_few_restarts(normal):
    x = normal(0, 3, 5)
    with pytest.raises(ValueError, match="one hidden layer and one output, got 5 -> 6 -> 6 -> 1"):
        nu.one_layer_hessian_eigenvalues(mlp(2, "erf"), x)
    with pytest.raises(TypeError, match=r"expected an ntkutils.MLP, got Linear"):
        nu.one_layer_hessian_eigenvalues(nn.Linear(5, 1).double(), x)
    with pytest.raises(ValueError, match="expected one network, got 3 copies"):
        nu.hessian_norm(mlp(1, "erf", copies=3), x)
    with pytest.raises(ValueError, match="Dropout in training mode"):
        nu.hessian_norm(nn.Sequential(nn.Linear(5, 1), nn.Dropout()).double(), x)
    with pytest.raises(nu.ConvergenceError, match=r"at example \d, got none after 1 restarts"):
        nu.hessian_norm(mlp(2, "erf", width=50), x, tol=1e-15, restarts=1)
    with pytest.raises(ValueError, match="tol: expected a finite positive"):
        nu.hessian_norm(mlp(1, "erf"), x, tol=0)
