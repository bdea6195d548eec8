"""The checks must be able to fail, and say where."""

import sys
from types import SimpleNamespace

import pytest
import torch

from ntkutils.checks import Check, CheckFailed, PowerlessCheckError, check, compare


def test_an_exact_check_names_the_worst_entry():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    b = a.clone()
    b[1, 0] = 6.0
    with pytest.raises(
        CheckFailed, match=r"eq-a against autodiff .*\(1, 0\).*gives 3 and.*6, ratio 0.5.*bound 1e-12"
    ):
        compare("eq-a", a, b, "autodiff", "x", bound=1e-12)
    held = compare("eq-a", a, a + 1e-13, "autodiff", "x", bound=1e-12)
    assert held.values == 4 and 2e-14 < held.measured < 3e-14
    assert "2.5" not in held.line  # the line is the same on every machine


def test_nan_never_passes():
    for a, b in ((torch.nan, 1.0), (1.0, torch.nan), (torch.inf, 1.0)):
        with pytest.raises(CheckFailed):
            compare("eq-a", [a], [b], "autodiff", "x", bound=1e300)
    with pytest.raises(CheckFailed):
        compare("eq-a", [torch.nan], torch.ones(10, 1), "torch", "x", z=1e300, resolution=1.0)


def test_a_statistical_check_sees_a_wrong_factor_and_too_few_samples():
    samples = 3 + torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = torch.full((2,), 3.0, dtype=torch.float64)
    held = compare("eq-b", right, samples, "torch", "400 networks", z=4, resolution=0.02)
    assert held.kind == "statistical" and held.measured < 4 and "0.02" in held.line
    with pytest.raises(CheckFailed, match="standard errors"):
        compare("eq-b", 1.1 * right, samples, "torch", "400 networks", z=4, resolution=0.02)
    with pytest.raises(CheckFailed, match="take more"):
        compare("eq-b", right, samples[:20], "torch", "20 networks", z=4, resolution=0.02)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare("eq-a", [], [], "autodiff", "x", bound=1e-12)
    with pytest.raises(ValueError, match="expected shape"):
        compare("eq-a", [1.0], [1.0, 1.0], "autodiff", "x", bound=1e-12)
    with pytest.raises(ValueError, match="oracle"):
        compare("eq-a", [1.0], [1.0], "me", "x", bound=1e-12)
    with pytest.raises(ValueError, match="either bound"):
        compare("eq-a", [1.0], [1.0], "torch", "x")
    with pytest.raises(TypeError, match="real numbers"):
        compare("eq-a", [1j], [1j], "torch", "x", bound=1.0)


def test_a_notebook_gets_the_line_and_the_ledger_its_numbers(capsys):
    record = compare("eq-a", [2.0], [2.0], "autodiff", "x < y", bound=1e-12)
    data, metadata = record._repr_mimebundle_()
    assert data["text/plain"] == "✓ eq-a against autodiff (x < y): 1 number agrees to 1e-12 of the largest"
    assert 'href="#equation-eq-a"' in data["text/html"] and "x &lt; y" in data["text/html"]
    assert Check(**metadata["ntkutils-check"]) == record
    check("eq-a", [2.0], [2.0], oracle="autodiff", against="x < y", bound=1e-12)
    assert capsys.readouterr().out == data["text/plain"] + "\n"


def test_a_notebook_shows_the_record_itself(monkeypatch):
    shown = []
    display = SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object, display=display))
    check("eq-c", [1.0], [1.0], oracle="torch", against="x", bound=1e-14)
    assert [type(record) for record in shown] == [Check] and shown[0].label == "eq-c"


def test_an_inequality_holds_or_names_the_worst_entry():
    bound, measured = [2.0, 3.0], [1.0, 2.9]
    held = compare("eq-c", bound, measured, "torch", "2 networks", inequality=">=")
    assert (held.kind, held.unit, held.bound) == ("inequality", "of the bound", 1)
    assert held.measured == 2.9 / 3 and held.line.endswith("(2 networks): 2 numbers keep the bound")
    assert compare("eq-c", [1.0], [1.0], "torch", "x", inequality=">=").line.endswith(
        "1 number keeps the bound"
    )
    assert compare("eq-c", [-5.0], [1.0], "torch", "x", inequality="<=").measured == -5
    with pytest.raises(
        CheckFailed, match=r"at index \(1,\) the formula gives 3 and the oracle 3.1.*bound 1"
    ):
        compare("eq-c", bound, [1.0, 3.1], "torch", "x", inequality=">=")
    with pytest.raises(CheckFailed, match="error 1 of the bound"):
        compare("eq-c", [1.0 + 2**-52], [1.0], "torch", "x", inequality="<=")  # not even by rounding
    with pytest.raises(CheckFailed):
        compare("eq-c", bound, [1.0, torch.nan], "torch", "x", inequality=">=")
    with pytest.raises(ValueError, match="larger side above 0, got 0"):
        compare("eq-c", [0.0], [0.0], "torch", "x", inequality=">=")
    with pytest.raises(ValueError, match="'>=' or '<=', got '>'"):
        compare("eq-c", [2.0], [1.0], "torch", "x", inequality=">")
    with pytest.raises(ValueError, match="either bound"):
        compare("eq-c", [2.0], [1.0], "torch", "x", inequality=">=", bound=1.0)


# ---- Wrong formulas that have to be rejected --------------------------------------------------


def test_a_wrong_formula_that_passes_is_an_error_that_names_it():
    right = torch.tensor([1.0, 2.0], dtype=torch.float64)
    wrong = {"2 for 1": 2 * right, "without the small term": right + 1e-9}
    held = compare("eq-a", right, right, "autodiff", "x", bound=1e-12, wrong=wrong)
    assert held.wrong == ("2 for 1", "without the small term")
    assert held.line == compare("eq-a", right, right, "autodiff", "x", bound=1e-12).line
    with pytest.raises(
        PowerlessCheckError, match=r"eq-a against autodiff \(x\): .*'without the small term'"
    ):
        compare("eq-a", right, right, "autodiff", "x", bound=1e-8, wrong=wrong)
    with pytest.raises(PowerlessCheckError, match=r"'the same'.*error is 0 of the largest, bound 1e-12"):
        compare("eq-a", right, right, "autodiff", "x", bound=1e-12, wrong={"the same": right})
    with pytest.raises(CheckFailed, match="'2 for 1' passes"):
        check("eq-a", right, right, oracle="autodiff", against="x", bound=2.0, wrong=wrong)
    # one entry that differs is enough, and the first that passes is named
    other = right.clone()
    other[1] += 1e-6
    compare("eq-a", right, right, "autodiff", "x", bound=1e-8, wrong={"index": other})


def test_samples_that_do_not_resolve_a_wrong_formula_are_powerless():
    samples = 3 + torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = torch.full((2,), 3.0, dtype=torch.float64)
    common = dict(oracle="torch", against="400 networks", z=4, resolution=0.02)
    assert compare("eq-b", right, samples, wrong={"4 for 3": right * 4 / 3}, **common).wrong == ("4 for 3",)
    with pytest.raises(PowerlessCheckError, match=r"'3.1 for 3' passes.*standard errors"):
        compare("eq-b", right, samples, wrong={"3.1 for 3": right + 0.1}, **common)
    # a small wrong formula is not rejected for being resolved badly
    zero = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(PowerlessCheckError, match="'nothing'"):
        compare(
            "eq-b", right, samples * 100 - 297, wrong={"nothing": zero}, **(common | dict(resolution=9))
        )


def test_a_bound_far_from_what_it_bounds_is_powerless():
    measured = [1.0, 2.9]
    held = compare("eq-c", [2.0, 3.0], measured, "torch", "x", inequality=">=", wrong={"less": [2.0, 2.8]})
    assert held.wrong == ("less",) and held.sees == pytest.approx(1 - 2.9 / 3, abs=1e-15)
    with pytest.raises(PowerlessCheckError, match=r"'2.95 for 3' passes.*0.983 of the bound"):
        compare(
            "eq-c", [2.0, 3.0], measured, "torch", "x", inequality=">=", wrong={"2.95 for 3": [2.0, 2.95]}
        )
    for twin in ([0.0, 3.0], [-1.0, 3.0]):  # the larger side of a wrong formula may be anything
        compare("eq-c", [2.0, 3.0], measured, "torch", "x", inequality=">=", wrong={"sign": twin})
    with pytest.raises(PowerlessCheckError):
        compare(
            "eq-c", [2.0, 3.0], [-2.0, -2.9], "torch", "x", inequality=">=", wrong={"sign": [-1.0, -2.0]}
        )
    with pytest.raises(PowerlessCheckError):
        compare("eq-c", [1.0], [4.0], "torch", "x", inequality="<=", wrong={"3": [3.0]})
    assert compare("eq-c", [1.0], [4.0], "torch", "x", inequality="<=", wrong={"5": [5.0]}).sees == 3
    assert compare("eq-c", [-1.0], [4.0], "torch", "x", inequality="<=").sees is None
    with pytest.raises(CheckFailed):
        compare("eq-c", [1.0], [torch.nan], "torch", "x", inequality="<=")


def test_a_wrong_formula_has_the_shape_of_the_right_one_and_is_finite():
    for twin in ([1.0], [[1.0, 2.0]], 3.0):
        with pytest.raises(
            ValueError, match=r"wrong\['x'\]: expected finite values of shape \(2,\), got \("
        ):
            compare("eq-a", [1.0, 2.0], [1.0, 2.0], "autodiff", "x", bound=1e-12, wrong={"x": twin})
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="got some that are not"):
            compare("eq-a", [1.0, 2.0], [1.0, 2.0], "torch", "x", bound=1e-12, wrong={"x": [1.0, value]})


SAMPLES = 3 + torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "formula, expected, options",
    [
        ([1.0, -2.0, 1e-9], [1.0, -2.0, 1e-9], dict(bound=1e-12)),
        ([1.0, -2.0, 1e-9], [1.0 + 5e-4, -2.0 + 1e-3, 0.0], dict(bound=1e-3)),
        ([0.0, -2.0, 3.0], [1e-3, -2.0 - 2e-3, 3.0], dict(bound=1e-3)),
        ([3.0, 3.0, 3.0], SAMPLES, dict(z=4, resolution=0.02)),
        ([2.0, 3.0], [1.0, 2.9], dict(inequality=">=")),
        ([2.0, 3.0], [4.0, 5.9], dict(inequality="<=")),
    ],
)
def test_sees_is_where_the_comparison_itself_begins_to_reject(formula, expected, options):
    formula = torch.tensor(formula, dtype=torch.float64)
    sees = compare("eq-a", formula, expected, "torch", "x", **options).sees
    passes = []
    for factor in (0.999, 1.001):
        for sign in {">=": [-1], "<=": [1]}.get(options.get("inequality"), [-1, 1]):
            try:
                compare("eq-a", formula * (1 + sign * factor * sees), expected, "torch", "x", **options)
                passes.append(factor)
            except CheckFailed:
                pass
    assert 0.999 in passes and 1.001 not in passes


def test_no_factor_changes_zero():
    assert compare("eq-a", [0.0], [0.0], "autodiff", "x", bound=1e-12).sees is None
    assert compare("eq-a", [1.0], [1.0], "autodiff", "x", bound=0.0).sees == 2**-52


def test_what_is_approximate_is_named():
    held = compare("eq-a", [1.0], [1.0], "autodiff", "x", bound=1e-4, approximate="a step of 1e-4")
    assert (held.kind, held.approximate) == ("approximate", "a step of 1e-4")
    assert held.line == compare("eq-a", [1.0], [1.0], "autodiff", "x", bound=1e-4).line
    with pytest.raises(ValueError, match="approximate"):
        compare("eq-a", [1.0], [2.0], "torch", "x", inequality="<=", approximate="a step")
