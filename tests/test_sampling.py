"""Sampled tangent kernels have the law of those of networks that have weights."""

import pytest
import torch
from scipy import stats

import ntkutils as nu

COPIES = 3000


def p_values(x, sampled, direct):
    """Of all shares, and of products of the first with the others: their dependence counts too."""
    pairs = [(a, b) for a in range(len(x)) for b in range(a, len(x))]
    for a, b in pairs:
        for j in range(len(direct)):
            yield stats.ks_2samp(sampled[j, :, a, b], direct[j, :, a, b], method="asymp").pvalue
            if j > 0:
                products = [k[j, :, a, b] * k[j - 1, :, a, b] for k in (sampled, direct)]
                yield stats.ks_2samp(*products, method="asymp").pvalue


def both(x, **options):
    sampled = nu.sample_ntk_by_layer(
        x, copies=COPIES, generator=torch.Generator().manual_seed(0), **options
    )
    networks = nu.MLP(
        x.shape[1], copies=COPIES, generator=torch.Generator().manual_seed(1), dtype=x.dtype, **options
    )
    return sampled, nu.empirical_ntk_by_layer(networks, x)


@pytest.mark.parametrize(
    "options",
    [
        dict(activation="relu", width=6, depth=3),
        dict(activation="erf", width=6, depth=2, weight_std=1.3, bias_std=0.5),
        dict(activation="gelu", width=10, depth=1, bias_std=0.2),
        dict(activation="sin", width=1, depth=3, bias_std=0.5),  # fewer units than points
        dict(activation="erf", width=2, depth=2, weight_std=1.3),
    ],
    ids=lambda options: f"{options['activation']}, width {options['width']}",
)
@pytest.mark.parametrize("points", ["generic", "coincident", "more than features"])
def test_has_the_law_of_networks(points, options, normal):
    x = normal(0, 3, 5)
    if points == "coincident":
        x[2] = x[0]
    if points == "more than features":
        x = x[:, :2]
    sampled, direct = both(x, **options)
    assert sampled.shape == direct.shape == (options["depth"] + 1, COPIES, 3, 3)
    p = list(p_values(x, sampled, direct))
    p = [value for value in p if value < 1]  # the same number in all networks has p = 1
    assert min(p) * len(p) > 1e-4


def test_a_backward_pass_with_fresh_weights_has_another_law(normal, monkeypatch):
    """The shortcut that the chapter warns of, where it is seen (for ReLU it hardly is)."""
    x, options = normal(0, 2, 5), dict(activation="erf", width=4, depth=6)
    _, direct = both(x, **options)
    qr = torch.linalg.qr
    calls = 0

    def without_bases(a):
        nonlocal calls
        Q, R = qr(a)
        calls += 1
        return (Q * 0, R) if calls <= 7 else (Q, R)  # the forward pass makes 7: R is all it needs

    monkeypatch.setattr(torch.linalg, "qr", without_bases)
    fresh = nu.sample_ntk_by_layer(x, copies=COPIES, generator=torch.Generator().manual_seed(0), **options)
    assert min(p_values(x, fresh, direct)) < 1e-8


def test_follows_the_input_and_the_seed(normal):
    x, options = normal(0, 2, 3).float(), dict(width=16, depth=2, copies=5)
    draws = [
        nu.sample_ntk_by_layer(x, generator=torch.Generator().manual_seed(seed), **options)
        for seed in (0, 0, 1)
    ]
    assert draws[0].dtype == torch.float32
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    linear = nu.sample_ntk_by_layer(x.double(), width=4, depth=0, copies=2)
    assert torch.allclose(linear, (x @ x.T).double().expand(1, 2, 2, 2))


def test_networks_drawn_in_groups_are_independent_copies(normal, monkeypatch):
    x, options = normal(0, 2, 3), dict(width=16, depth=2)
    monkeypatch.setattr(nu.sampling, "AT_ONCE", 3 * 2 * 3 * 17 * 100)  # a hundred networks
    shares = nu.sample_ntk_by_layer(x, copies=250, generator=torch.Generator().manual_seed(0), **options)
    first = nu.sample_ntk_by_layer(x, copies=100, generator=torch.Generator().manual_seed(0), **options)
    assert shares.shape == (3, 250, 2, 2)
    assert torch.equal(shares[:, :100], first)
    assert len(shares[2, :, 0, 1].unique()) == 250


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(width=0), "width: expected at least 1, got 0"),
        (dict(copies=0), "copies: expected at least 1"),
        (dict(depth=-1), "depth: expected at least 0"),
        (dict(bias_std=-1.0), "bias_std"),
        (dict(activation="rleu"), "did you mean 'relu'"),
    ],
)
def test_bad_input_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        nu.sample_ntk_by_layer(torch.ones(2, 3), **{"width": 8, "depth": 1, "copies": 2} | options)
