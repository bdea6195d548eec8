"""The sweeps of the chapter on slow learning can fail: its own cells, run on impostors."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

import ntkutils as nu

CHAPTER = Path(__file__).parents[1] / "chapters/slow_learning.ipynb"
PLAN = {64: 80, 256: 60, 1024: 60}


@pytest.fixture(scope="module")
def chapter():
    """The names that the chapter's first cell and its cells on sweeps define."""
    code = [c.source for c in nbformat.read(CHAPTER, as_version=4).cells if c.cell_type == "code"]
    names = {}
    for source in [code[0], *(c for c in code if "def experiment(" in c or "def report(" in c)]:
        exec(source, names)
    return names


def sweep(chapter, monkeypatch=None, **impostors):
    if impostors:
        names = {name: getattr(nu, name) for name in nu.__all__}
        monkeypatch.setitem(chapter, "nu", SimpleNamespace(**(names | impostors)))
    return chapter["sweep"]("erf", 1, PLAN, 1, steps=20)


def test_networks_pass(chapter):
    chapter["report"](
        sweep(chapter), PLAN, {"all weights": -0.5, "drift, train": -1.0, "to the limit": -0.5}
    )


def as_if_trained(model, x, targets, *, learning_rate, steps, x_test, record):
    """The linearization in the network's place: its outputs, and weights that have not moved."""
    task = dict(learning_rate=learning_rate, x_test=x_test)
    trace = nu.train(model, x, targets, steps=steps, record=record, **task)
    lin = nu.train_linearized(model, x, targets, steps=trace.steps, **task)
    return nu.Trace(trace.steps, lin.train, lin.test, trace.moved, trace.norms, model)


def test_the_linearization_in_the_networks_place_is_seen(chapter, monkeypatch):
    runs = sweep(chapter, monkeypatch, train=as_if_trained)
    for what in ("drift, train", "drift, test", "deviation, train", "deviation, test"):
        with pytest.raises(ValueError, match="expected positive numbers, got 0"):
            chapter["report"](runs, PLAN, {what: -1.0})


def test_a_width_that_does_not_matter_is_seen(chapter):
    runs = sweep(chapter)
    with pytest.raises(ValueError, match="got a constant"):
        chapter["report"]({k: {"drift": torch.ones(5)} for k in PLAN}, PLAN, {"drift": -1.0})
    same = dict.fromkeys(PLAN, runs[64])  # one width, three times
    for what, limit in (("all weights", -0.5), ("drift, train", -1.0), ("to the limit", -0.5)):
        with pytest.raises(AssertionError):
            chapter["report"](same, PLAN, {what: limit})


@pytest.mark.parametrize("power", [-0.8, -1.15])
def test_an_exponent_beside_the_expected_one_is_seen(chapter, power):
    noise = torch.linspace(0.9, 1.1, 60).double()
    runs = {k: {"drift": noise * k**power} for k in PLAN}
    for within in (0.1, 0.15):
        with pytest.raises(AssertionError):
            chapter["report"](runs, PLAN, {"drift": -1.0}, within)
