"""Eigenvalues on spheres: against closed forms, matrices, scipy's polynomials, and their own series."""

import math
from functools import partial

import pytest
import torch
from scipy import special

import ntkutils as nu
from ntkutils.spectrum import harmonics, zonal_eigenvalues, zonal_polynomials

XI = torch.linspace(-1, 1, 41, dtype=torch.float64)


def as_kernel(function):
    """A kernel of points on the sphere from a function of the cosine of their angle."""
    return lambda x1, x2: function(x1 @ x2.T)


@pytest.mark.parametrize("depth", [0, 1])
def test_relu_on_the_circle(depth):
    """x·x~ has the eigenvalue 1/2 at m = 1 only; one hidden layer has a closed form."""
    found = zonal_eigenvalues(partial(nu.ntk, depth=depth), 2, 60)
    m = torch.arange(61, dtype=torch.float64)
    even = depth * 2 / math.pi**2 * (m**2 + 3) / (m**2 - 1) ** 2
    expected = torch.where(m % 2 == 0, even, 0.0)
    expected[1] = 0.5
    assert (found - expected).abs().max() < 1e-13


@pytest.mark.parametrize("depth", [1, 3])
def test_matrix_on_equal_angles(depth):
    """On q equal angles the matrix is circulant, and degrees that differ by q fall together."""
    q, highest = 9, 20_000
    found = zonal_eigenvalues(partial(nu.ntk, depth=depth), 2, 400)
    angles = 2 * math.pi * torch.arange(q, dtype=torch.float64) / q
    K = nu.ntk(torch.stack([angles.cos(), angles.sin()], 1), depth=depth)
    expected = torch.fft.fft(K[0]).real / q
    tail = torch.arange(400 // q, highest, dtype=torch.float64) * q  # of a series like m^-2
    for m in range(q // 2 + 1):
        folded = sum(found[abs(m + q * j)].item() for j in range(-(400 // q) + 1, 400 // q))
        rest = found[-40:].max().item() * 360**2 * 2 * (tail**-2).sum().item()
        assert folded <= expected[m] + 1e-13 and expected[m] <= folded + 2 * rest


@pytest.mark.parametrize("dimension", [2, 3, 4, 7])
def test_polynomials(dimension):
    found = zonal_polynomials(XI, dimension, 12)
    for m in range(13):
        if dimension == 2:
            expected = special.eval_chebyt(m, XI.numpy())
        else:
            lamda = dimension / 2 - 1
            expected = special.eval_gegenbauer(m, lamda, XI.numpy()) / special.eval_gegenbauer(
                m, lamda, 1.0
            )
        assert (found[m] - torch.from_numpy(expected)).abs().max() < 1e-13
    assert zonal_polynomials(XI, dimension, 0).shape == (1, 41)


@pytest.mark.parametrize("dimension", [2, 3, 4, 7])
def test_one_harmonic_has_one_eigenvalue(dimension):
    """N_m P_m is a projection: eigenvalue 1 at degree m, 0 elsewhere."""
    for m in (0, 1, 5):

        def kernel(xi, m=m):
            return harmonics(dimension, m) * zonal_polynomials(xi, dimension, m)[m]

        found = zonal_eigenvalues(as_kernel(kernel), dimension, 8)
        expected = torch.eye(9, dtype=torch.float64)[m]
        assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize("dimension", [2, 3, 5])
@pytest.mark.parametrize("activation", ["erf", "gelu"])
def test_series_gives_the_kernel_back(dimension, activation):
    kernel = partial(nu.ntk, depth=2, activation=activation)
    eigenvalues = zonal_eigenvalues(kernel, dimension, 80)
    N = torch.tensor([harmonics(dimension, m) for m in range(81)], dtype=torch.float64)
    series = (eigenvalues * N) @ zonal_polynomials(XI, dimension, 80)
    points = torch.zeros(41, dimension, dtype=torch.float64)
    points[:, 0], points[:, 1] = XI, (1 - XI**2).sqrt()
    pole = torch.eye(dimension, dtype=torch.float64)[:1]
    assert (series - kernel(pole, points)[0]).abs().max() < 1e-12


def test_random_points_on_the_sphere():
    """The largest eigenvalues of the matrix, over n, in clusters of 1, 3 and 5."""
    n = 1500
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    K = nu.ntk(torch.nn.functional.normalize(x, dim=1), depth=2)
    found = torch.linalg.eigvalsh(K).flip(0)[:9] / n
    eigenvalues = zonal_eigenvalues(partial(nu.ntk, depth=2), 3, 2)
    expected = eigenvalues.repeat_interleave(torch.tensor([harmonics(3, m) for m in range(3)]))
    assert (found / expected - 1).abs().max() < 4 / math.sqrt(n)


def test_counts():
    assert [harmonics(2, m) for m in range(4)] == [1, 2, 2, 2]
    assert [harmonics(3, m) for m in range(4)] == [1, 3, 5, 7]
    assert [harmonics(4, m) for m in range(4)] == [1, 4, 9, 16]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: harmonics(1, 2), "dimension: expected at least 2"),
        (lambda: harmonics(3, -1), "degree: expected at least 0"),
        (lambda: zonal_polynomials([1.0], 3, 2), "xi: expected a torch.Tensor"),
        (lambda: zonal_eigenvalues(lambda x1, x2: x2, 3, 2), "its value at a point and the nodes"),
        (lambda: zonal_eigenvalues(partial(nu.ntk, depth=1), 3, 2, nodes=0), "nodes: expected at least 1"),
    ],
)
def test_errors(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
