"""Expectations by quadrature: of steps, which are probabilities, and of what is hard to integrate."""

import math

import pytest
import torch
from scipy import integrate, stats

from ntkutils.covariance import Covariance
from ntkutils.quadrature import QuadratureError, expectation


def covariance(sd1, sd2, xi, sin2=None):
    """One pair with these standard deviations and this correlation."""
    sd1, sd2, xi = (torch.tensor([[z]], dtype=torch.float64) for z in (sd1, sd2, xi))
    sin2 = (1 - xi) * (1 + xi) if sin2 is None else torch.full_like(xi, sin2)
    return Covariance(sd1, sd2, xi, sin2)


def step(at):
    return lambda z: (z > at).to(z)


@pytest.mark.parametrize("at", [-0.7, 0.1, 1.3])
@pytest.mark.parametrize("xi", [-0.9, 0.0, 0.4, 0.98])
def test_a_step_has_a_probability(at, xi):
    """E[1{u > c} 1{v > c}] as an integral over one variable, by scipy."""
    sd1, sd2 = 0.5, 2.0
    sine = math.sqrt(1 - xi**2)

    def density(z):
        return stats.norm.pdf(z) * stats.norm.sf((at / sd2 - xi * z) / sine)

    # Steep where v's threshold is met, which quad is told of
    steep = [at / sd2 / xi] if xi else None
    expected, _ = integrate.quad(
        density, at / sd1, at / sd1 + 12, epsabs=1e-14, epsrel=1e-13, limit=400, points=steep
    )
    got = expectation(step(at), covariance(sd1, sd2, xi), kinks=(at,))
    assert got.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("near", [1, -1])
def test_a_jump_at_a_small_angle(angle, near):
    """E[1{u > 0} 1{v > 0}] = (pi - theta)/(2 pi), where 1 - xi alone has lost its digits."""
    Lambda = covariance(0.3, 5.0, near * math.cos(angle), math.sin(angle) ** 2)
    expected = (math.pi - angle) / (2 * math.pi) if near > 0 else angle / (2 * math.pi)
    got = expectation(step(0), Lambda, kinks=(0.0,)).item()
    assert abs(got - expected) < 1e-14 + 1e-9 * angle


def test_a_kink_far_outside_is_no_matter():
    """At a deviation of 1e-3, a kink at 1 lies 1000 deviations away, where exp of the other overflows."""
    got = expectation(lambda z: torch.exp((z - 1).abs()), covariance(1e-3, 1.0, 0.0), kinks=(1.0,)).item()
    beyond, within = 0.5 * math.exp(-0.5), math.exp(1.5) * stats.norm.cdf(2)
    assert got == pytest.approx(math.exp(1 + 0.5e-6) * (beyond + within), rel=1e-13, abs=0)


def test_tails_are_followed_or_an_error():
    """E[exp(0.4 z²)] is finite, though 1e-4 of it lies beyond 9.5 deviations; E[exp(0.499 z²)], too."""
    got = expectation(lambda z: torch.exp(z**2 / 5), covariance(1.0, 1.0, 1.0)).item()
    assert got == pytest.approx(0.2**-0.5, rel=1e-13, abs=0)
    for rate in (0.2495, 0.25, 0.3):
        with pytest.raises(QuadratureError, match="grows like"):
            expectation(lambda z: torch.exp(rate * z**2), covariance(1.0, 1.0, 1.0))  # noqa: B023


@pytest.mark.parametrize("frequency", [5, 20, 80])
def test_fast_oscillations_have_narrower_panels(frequency):
    """E[(sin(wu) + u)(sin(wv) + v)] = E[uv] + 2 E[v sin(wu)] + E[sin(wu) sin(wv)]."""
    w, xi = frequency, 0.5
    expected = xi + 2 * xi * w * math.exp(-(w**2) / 2)
    expected += (math.exp(-(w**2) * (1 - xi)) - math.exp(-(w**2) * (1 + xi))) / 2
    got = expectation(lambda z: torch.sin(w * z) + z, covariance(1.0, 1.0, xi)).item()
    assert abs(got - expected) < 1e-14


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_tolerance_goes_with_the_function(size):
    Lambda = covariance(1.0, 1.0, 0.5)
    named = expectation(lambda z: size * (z - 0.3).abs(), Lambda, kinks=(0.3,)).item()
    assert named == pytest.approx(
        size**2 * expectation(lambda z: (z - 0.3).abs(), Lambda, (0.3,)).item(), rel=1e-13, abs=0
    )
    with pytest.raises(QuadratureError, match="Name every kink"):
        expectation(lambda z: size * step(0.3)(z), Lambda)
