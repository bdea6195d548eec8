"""The same seed gives the same numbers, with one thread or two; importing the package changes nothing."""

import subprocess
import sys
from dataclasses import astuple

import pytest
import torch

import ntkutils as nu

F64 = torch.float64


def points(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def model(**options):
    return nu.MLP(3, 64, 2, 1, "erf", generator=torch.Generator().manual_seed(1), dtype=F64, **options)


X, Y = points(40, 3), points(40)
LARGE = points(256, 30)  # large enough that torch shares the work between threads
NETWORK = dict(depth=2, activation="erf", bias_std=0.3)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


NOISY = {k: (1 + 0.1 * torch.rand(5, generator=seeded(2), dtype=F64)) / k for k in (8, 16, 32)}
SAMPLING = dict(width=16, depth=2, copies=4)
RANDOM = {
    "MLP": lambda: model()(X).detach(),
    "copies of an MLP": lambda: model(copies=3)(X).detach(),
    "empirical kernel": lambda: nu.empirical_ntk(model(), X),
    "sampled kernels": lambda: nu.sample_ntk_by_layer(X[:3], **SAMPLING, generator=seeded(7)),
    "training": lambda: nu.train(model(), X, Y, learning_rate=0.01, steps=20).train,
    "norm of a Hessian": lambda: nu.hessian_norm(model(), X[:2]),
    "fitted exponent": lambda: torch.tensor(astuple(nu.exponent(NOISY))[:4]),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_gives_the_same_numbers(name):
    """To the last bit, whatever torch's own generator is at, which stays there."""
    first = RANDOM[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.get_rng_state()
        assert torch.equal(RANDOM[name](), first)
        assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_gives_other_numbers():
    make = lambda seed: nu.MLP(3, 4, 1, generator=seeded(seed), dtype=F64)  # noqa: E731
    assert not torch.equal(make(0)(X), make(1)(X))
    torch.manual_seed(0)
    first = nu.MLP(3, 4, 1)
    torch.manual_seed(0)  # without a generator, torch's own
    assert torch.equal(first.w[0], nu.MLP(3, 4, 1).w[0])


# Threads change the order of the sums. A kernel is good to 2e-15 a layer on either side
# (test_kernels.py), and so here for 2 layers 1.2e-14 of the largest entry; through the inverse of a
# kernel, or steps of training, that times a condition number: CONTRIBUTING.md's 1e-12.
THREADED = {
    "ntk": (lambda: nu.ntk(LARGE, **NETWORK), 1.2e-14),
    "nngp": (lambda: nu.nngp(LARGE, LARGE[:200].clone(), **NETWORK), 1.2e-14),
    "ntk in float32": (lambda: nu.ntk(LARGE.float(), **NETWORK), 1.2e-14 * 2**29),
    "empirical_ntk": (lambda: nu.empirical_ntk(wide(), LARGE), 1e-13),
    "gradient_flow": (lambda: nu.gradient_flow(nu.ntk(LARGE, **NETWORK), LARGE[:, 0], 1.0).train, 1e-12),
    "posterior": (
        lambda: nu.posterior(LARGE, LARGE[:, 0], LARGE[:9] + 1, noise=0.1, **NETWORK).mean,
        1e-12,
    ),
    "train": (lambda: nu.train(wide(), LARGE, LARGE[:, 0], learning_rate=1e-4, steps=20).train, 1e-12),
}


def wide():
    return nu.MLP(30, 256, 2, 1, "erf", generator=seeded(1), dtype=F64)


@pytest.fixture
def threads():
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", THREADED)
def test_two_threads_give_the_numbers_of_one(name, threads):
    compute, bound = THREADED[name]
    results = []
    for number in (1, 2, 2):
        threads(number)
        results.append(compute())
    one, two, again = results
    assert torch.equal(two, again)
    assert (one - two).abs().max() <= bound * one.abs().max()


IMPORTING = """
import importlib, os, random, sys, warnings
import numpy, torch
import scipy.sparse.linalg, scipy.special  # which add their own filters of warnings

def state():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "generators": (torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate()),
        "warnings": list(warnings.filters),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "precision": torch.get_float32_matmul_precision(),
        "denormals": 5e-324 * torch.ones(1, dtype=torch.float64),
        "floating-point errors of numpy": numpy.geterr(),
        "environment": dict(os.environ),
        "recursion": sys.getrecursionlimit(),
    }

before = state()
for module in sys.argv[1:]:
    importlib.import_module(module)
after = state()
print([name for name in before if before[name] != after[name]])
"""


def test_importing_it_changes_nothing():
    modules = ["ntkutils", "ntkutils.oracles", "ntkutils.figures"]
    run = subprocess.run([sys.executable, "-c", IMPORTING, *modules], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stdout + run.stderr


def test_importing_it_needs_torch_numpy_and_scipy_alone():
    """CONTRIBUTING.md, Dependencies. What needs more imports it when it is used."""
    code = (
        "import sys, ntkutils, ntkutils.oracles, ntkutils.figures;"
        "print({'jax', 'neural_tangents', 'matplotlib', 'IPython', 'sklearn'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stdout + run.stderr
