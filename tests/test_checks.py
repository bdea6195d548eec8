"""The checks must be able to fail, and say where."""

import sys
from types import SimpleNamespace

import pytest
import torch

from ntkutils.checks import Check, CheckFailed, check, compare


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
