"""Fitted exponents: right where the answer is known, with intervals that hold as often as they say."""

import pytest
import torch

import ntkutils as nu


def samples(power, count, seed, noise=0.3, widths=(16, 64, 256)):
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(count, generator=generator, dtype=torch.float64) for _ in widths]
    return {k: k**power * (noise * z).exp() for k, z in zip(widths, normal, strict=True)}


def test_a_power_without_noise_is_found_to_rounding():
    exact = {k: torch.full((3,), 5 * k**-0.75, dtype=torch.float64) for k in (10, 100, 1000)}
    fit = nu.exponent(exact)
    assert max(abs(value + 0.75) for value in (fit.value, fit.low, fit.high)) < 1e-14
    assert str(fit) == "-0.75 [-0.75, -0.75]"


def test_it_is_the_least_squares_slope():
    data = samples(-0.5, 20, 0, widths=(10, 20, 80, 100))
    x = torch.tensor([10.0, 20, 80, 100], dtype=torch.float64).log()
    design = torch.stack([torch.ones_like(x), x], 1)
    means = torch.stack([values.log().mean() for values in data.values()])
    slope = torch.linalg.lstsq(design, means[:, None]).solution[1].item()
    assert abs(nu.exponent(data).value - slope) < 1e-13


def test_intervals_hold_as_often_as_they_say():
    trials = 300
    hits = 0
    for seed in range(trials):
        fit = nu.exponent(samples(-1.0, 40, seed), draws=400, seed=seed)
        hits += fit.low < -1 < fit.high
    # 95 %, a little less since 40 samples underestimate a variance by 1/40: 94.7 ± 1.3 %
    assert abs(hits / trials - 0.947) < 3.5 * 0.013, hits


def test_explicit_seed():
    data = samples(-0.5, 20, 0)
    assert nu.exponent(data, seed=1) == nu.exponent(data, seed=1) != nu.exponent(data, seed=2)


@pytest.mark.parametrize(
    "change, words",
    [
        ({16: torch.zeros(4)}, r"samples\[16\]: expected positive numbers, got 0"),
        ({16: torch.tensor([1.0, torch.nan])}, r"samples\[16\]: expected finite"),
        ({16: torch.ones(1)}, r"samples\[16\]: expected at least two samples, shape \(S,\), got \(1,\)"),
        ({16: [1.0, 2.0]}, r"samples\[16\]: expected a torch.Tensor"),
        ({0: torch.ones(4)}, "k: expected a finite positive"),
        ({"a": torch.ones(4)}, "k: expected a real number"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        nu.exponent({4: torch.rand(4) + 1} | change)


def test_a_constant_has_no_rate():
    with pytest.raises(ValueError, match="got a constant"):
        nu.exponent({k: torch.full((5,), 0.3) for k in (16, 64, 256)})
    with pytest.raises(ValueError, match="at least two values of k, got 1"):
        nu.exponent({4: torch.rand(4)})
    with pytest.raises(ValueError, match="draws: expected at least 1"):
        nu.exponent(samples(-1, 4, 0), draws=0)
