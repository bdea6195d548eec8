"""Activations: each closed form against quadrature, which shares none of its algebra."""

import pytest
import torch

from ntkutils import activations
from ntkutils.activations import from_function
from ntkutils.quadrature import QuadratureError

KINKS = {"relu": (0.0,)}
ALL = sorted(activations.BY_NAME.values(), key=lambda phi: phi.name)
NAMES = [phi.name for phi in ALL]


def covariances():
    """Variances apart and alike, correlations from -1 to 1."""
    xi = torch.tensor([-1, -0.99, -0.3, 0, 0.5, 0.999, 1 - 1e-9, 1], dtype=torch.float64)
    var1, var2 = torch.tensor([[1.0, 1.0], [0.2, 3.0]], dtype=torch.float64)[:, :, None]
    return (var1 * var2).sqrt() * xi, var1.expand(2, 8), var2.expand(2, 8)


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_closed_forms_agree_with_quadrature(phi):
    cov, var1, var2 = covariances()
    numerical = from_function(phi.value, phi.derivative, KINKS.get(phi.name, ()), normalise=False)
    # absolute, for kernels of order 1; 5e-8 is the loss of digits in sqrt(1 - xi) near xi = 1,
    # where both are given a rounded xi
    assert (phi.dual(cov, var1, var2) - numerical.dual(cov, var1, var2)).abs().max() < 1e-13
    assert (
        phi.dual_derivative(cov, var1, var2) - numerical.dual_derivative(cov, var1, var2)
    ).abs().max() < 1e-13


@pytest.mark.parametrize("phi", ALL, ids=NAMES)
def test_is_normalised_and_differentiable(phi):
    one = torch.ones(1, dtype=torch.float64)
    assert abs(phi.dual(one).item() - 1) < 1e-15
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)  # without 0
    slope = torch.func.jvp(phi.value, (z,), (torch.ones_like(z),))[1]
    assert torch.allclose(phi.derivative(z), slope, rtol=0, atol=1e-15)


def test_any_function_by_quadrature():
    xi = torch.tensor([-0.5, 0.3, 0.9], dtype=torch.float64)
    # E[u² v²] = 1 + 2 xi², normalised by E[z⁴] = 3
    square = from_function(lambda z: z**2, name="square")
    assert (square.dual(xi) - (1 + 2 * xi**2) / 3).abs().max() < 1e-14
    # E[2u 2v]/3
    assert (square.dual_derivative(xi) - 4 * xi / 3).abs().max() < 1e-14
    # a jump away from 0: P(u > 1, v > 1)/P(z > 1), from independence at xi = 0
    step = from_function(lambda z: (z > 1).to(z), kinks=(1.0,), name="step")
    tail = 0.15865525393145705
    assert abs(step.dual(torch.zeros(1, dtype=torch.float64)).item() - tail) < 1e-14


def test_an_unnamed_kink_is_an_error_not_a_wrong_number():
    with pytest.raises(QuadratureError, match="Name every kink"):
        from_function(lambda z: (z - 0.3).abs(), name="shifted").dual(torch.tensor([0.5]).double())
    with pytest.raises(QuadratureError, match="no finite dual"):
        from_function(lambda z: torch.exp(z**2 / 4), name="explosive")
    with pytest.raises(ValueError, match="0 everywhere"):
        from_function(torch.zeros_like, name="nothing")


def test_what_is_no_covariance_is_refused():
    relu, one = activations.relu, torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="at most sqrt"):
        relu.dual(1.1 * one)
    with pytest.raises(ValueError, match="at least 0"):
        relu.dual(one, -one, one)
    with pytest.raises(TypeError, match="same dtype"):
        relu.dual(one, one.float(), one)
