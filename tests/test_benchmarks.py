"""What the page "What it costs" rests on: intervals that cover, verdicts, the same work, and all rows."""

import itertools
import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import ntkutils as nu

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_speed  # noqa: E402
import summary  # noqa: E402

RESULTS = json.loads((BENCHMARKS / "results.json").read_text())
ROWS = {(row["group"], row["name"]): row for row in RESULTS["rows"]}


def coverage(n, k):
    """How often the k-th from below and from above have the median between them: all signs, counted."""
    signs = itertools.product((False, True), repeat=n)
    return sum(k <= sum(below) <= n - k for below in signs) / 2**n


@pytest.mark.parametrize("n", range(1, 13))
def test_intervals_cover_the_median_as_often_as_they_say(n):
    values = list(np.random.default_rng(n).permutation(n))
    low, high, level = summary.interval(values)
    k = int(low) + 1
    assert (low, high) == (k - 1, n - k)
    assert level == pytest.approx(coverage(n, k), abs=1e-12)
    if n >= 6:  # no narrower one would do
        assert level >= summary.LEVEL > coverage(n, k + 1)


def test_verdicts_are_the_same_from_either_side():
    slow, fast = [3.0, 3.2, 3.1, 2.9, 3.0, 3.3], [1.0, 1.1, 1.0, 1.2, 0.9, 1.0]
    assert summary.ratio(slow, fast)["verdict"] == "faster"
    assert summary.ratio(fast, slow)["verdict"] == "slower"
    assert summary.ratio([2.0, *fast[1:]], [1.1] * 6)["verdict"] == "no difference seen"


def test_a_rival_that_computes_something_else_is_noticed():
    value = np.linspace(1, 2, 100).reshape(10, 10)
    row = {"name": "a row", "arguments": {"dtype": "float64"}}
    bench_speed.agree(row, {"ours": value, "theirs": value * (1 + 1e-8)})
    for wrong in (value * (1 + 1e-5), value + 1e-5, value.T, value[:5]):
        with pytest.raises(AssertionError):
            bench_speed.agree(row, {"ours": value, "theirs": wrong})


@pytest.mark.parametrize(
    "group, name",
    [("analytic, float64", "step, biases"), ("analytic, float32", "relu, two sets"), ("MLP", "float32")],
)
def test_contestants_agree(group, name):
    [row] = [one for part in bench_speed.PARTS for one in part()
             if (one["group"], one["name"]) == (group, name)]  # fmt: skip
    with closing(bench_speed.Stage(1)) as stage:
        measured = summary.with_ratios(bench_speed.measure(bench_speed.tiny(row), stage))
    for figures in measured["contestants"].values():
        assert len(figures["wall"]) == len(figures["cpu"]) == 2
        assert min(figures["wall"]) > 0


def test_all_rows_are_shown_and_none_is_left_out():
    """Those that we lose, too: each activation with and without biases in both float types."""
    expected = {(row["group"], row["name"]) for part in bench_speed.PARTS for row in part()}  # fmt: skip
    assert set(ROWS) == expected
    for dtype, activation, biases in itertools.product(
        ("float32", "float64"), nu.activations.BY_NAME, ("", ", biases")
    ):
        row = ROWS[f"analytic, {dtype}", activation + biases]
        assert set(row["contestants"]) == {"ntkutils", "neural-tangents"}
        assert row["arguments"]["dtype"] == dtype
        assert bool(row["arguments"]["bias_std"]) == bool(biases)


def test_ratios_are_those_of_the_turns():
    for row in ROWS.values():
        again = json.loads(json.dumps(row))
        for figures in again["contestants"].values():
            assert len(figures["wall"]) == len(figures["cpu"]) == row["rounds"]
            figures.pop("ratio", None)
        assert summary.with_ratios(again) == row
