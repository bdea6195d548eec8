"""What is printed is what is tested: the LaTeX on the pages, evaluated, both sides.

`reading_latex.py` reads, `meanings.py` says what the symbols mean, and `printed.py` in
chapters/_extensions pins what is not evaluated.
"""

import math
import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import nbformat
import pytest
import torch
from ledger import checks_of, latex_of
from meanings import MEANINGS, Small
from printed import PINNED
from reading_latex import Unreadable, evaluate, statements_of, tokens_of

ROOT = Path(__file__).parents[1]

CHAPTERS = [nbformat.read(path, as_version=4) for path in sorted((ROOT / "chapters").glob("*.ipynb"))]
PAGES = {label: latex for notebook in CHAPTERS for label, latex in latex_of(notebook)}
CHECKED = {check["label"] for notebook in CHAPTERS for check in checks_of(notebook)}


def digest(latex):
    """A hash of a formula's tokens: spaces and the sizes of brackets do not count."""
    return sha256(" ".join(tokens_of(latex)).encode()).hexdigest()[:10]


def plain(value):
    if isinstance(value, complex) or (isinstance(value, torch.Tensor) and value.is_complex()):
        raise Unreadable(f"a complex number: {value}")
    value = torch.as_tensor(value, dtype=torch.float64)
    return value.squeeze() if value.numel() == 1 else value


def half_a_unit(tokens):
    """How far a side with one decimal number may be from what it rounds, relatively; 0 for all else."""
    numbers = re.findall(r"\d+\.(\d+)", "".join(tokens))
    return 0.5 * 10.0 ** -len(numbers[0]) / decimal(tokens) if len(numbers) == 1 else 0.0


def decimal(tokens):
    return float(re.search(r"\d+\.\d+", "".join(tokens))[0])


def compare(left, relation, right, tolerance, small, rounding):
    """The distance of two sides beyond what is allowed, in words; nothing if they keep the relation."""
    left, right = plain(left), plain(right)
    if right.ndim == 0 and right == 0 and relation == r"\longrightarrow":
        right = right.expand(left.shape)
    if 2 in (left.ndim, right.ndim) and left.shape != right.shape:
        return f"{tuple(left.shape)} {relation} {tuple(right.shape)}"
    scale = float(max(left.abs().max(), right.abs().max()))
    if relation in (r"\le", r"\ge"):
        missed = float((left - right if relation == r"\le" else right - left).max())
    else:
        missed = float((left - right).abs().max())
    allowed = tolerance * (scale if right.any() else 1.0)
    if relation == r"\approx" and rounding:
        allowed = rounding * float(right.abs().max())
    for term, size in small:
        room = size * (scale if term.relative else 1)
        allowed += room
        term.used = max(term.used, missed / room if room else 0.0)
    return (
        None
        if missed <= allowed
        else f"{missed:.3g} apart, {allowed:.3g} allowed: {left} {relation} {right}"
    )


@cache
def made(function):
    """The meanings of a formula's symbols, in each case; made once."""
    cases = function()
    return cases if isinstance(cases, list) else [cases]


def cases_of(label):
    return made(MEANINGS[label].cases)


def prove(label, latex):
    """Evaluate a display in all its cases; raise where the sides differ."""
    says = MEANINGS[label]
    for words in says.drop:
        if words not in latex:
            raise Unreadable(f"{label}: no longer says {words}")
        latex = latex.replace(words, "")
    cases, proved = cases_of(label), 0
    parts = re.split(r"\\\\\n", latex) if says.lines else [latex] * len(cases)
    orders = {id(value): value for case in cases for value in case.values() if isinstance(value, Small)}
    for term in orders.values():
        term.used, term.called = 0.0, False
    for part, symbols in zip(parts, cases, strict=True):
        small = [value for value in symbols.values() if isinstance(value, Small)]
        for sides, relations in statements_of(part):
            values, room = [], []
            for side in sides:
                for term in small:
                    term.allowed = 0.0
                values.append(evaluate(side, symbols))
                room.append([(term, term.allowed) for term in small])
            rounding = [half_a_unit(side) for side in sides]
            if not relations:
                values, relations, rounding = [*values, symbols[""]], ["="], [0.0, 0.0]
                room.append([])
            for n, relation in enumerate(relations):
                both = room[n] + room[n + 1]
                problem = compare(values[n], relation, values[n + 1], says.tolerance, both, rounding[n + 1])
                assert problem is None, f"{label}: {problem}"
                proved += 1
    assert proved, f"{label}: says nothing"
    # room that nothing needs would hide a wrong term
    for term in orders.values():
        assert term.used > USED or not term.called, (
            f"{label}: O(...) leaves {1 / max(term.used, 1e-300):.3g} times the room needed"
        )


USED = 1e-3


@pytest.mark.parametrize("label", MEANINGS)
def test_both_sides_of_a_printed_formula_agree(label):
    assert label in PAGES, f"{label} is on no page"
    prove(label, PAGES[label])


# ---- What is not evaluated -------------------------------------------------------------------


def pin_problem(label, latex):
    """What to do where a pinned formula has changed."""
    pin, now = PINNED[label], digest(latex)
    if pin.hash == now:
        return None
    beside = f"beside the check of {pin.covered_by}" if pin.covered_by else "for no check covers it"
    return (
        f"{label} is not evaluated ({pin.reason}), and its LaTeX has changed: read it again, {beside}, "
        f"and put {now} in the place of {pin.hash} in chapters/_extensions/printed.py"
    )


@pytest.mark.parametrize("label", PINNED)
def test_a_formula_that_is_not_evaluated_is_as_it_was_last_read(label):
    assert label in PAGES, f"{label} is on no page: take it out of chapters/_extensions/printed.py"
    problem = pin_problem(label, PAGES[label])
    assert problem is None, problem


def test_every_formula_is_evaluated_or_pinned():
    both = MEANINGS.keys() & PINNED.keys()
    neither = PAGES.keys() - MEANINGS.keys() - PINNED.keys()
    assert not both, f"evaluated and pinned: {sorted(both)}"
    assert not neither, (
        f"neither evaluated nor pinned: {sorted(neither)}: say in tests/meanings.py what their symbols "
        f"mean, or pin them in chapters/_extensions/printed.py"
    )


def test_a_pinned_result_has_a_check_of_its_own():
    for label, pin in PINNED.items():
        assert pin.reason
        if label.startswith("eq-"):
            assert pin.covered_by == label, label
        assert not pin.covered_by or pin.covered_by in CHECKED, f"{label}: {pin.covered_by} is not checked"


# ---- A change in print is noticed -------------------------------------------------------------

EXCHANGED = {
    "+": "-", "-": "+", r"\sin": r"\cos", r"\cos": r"\sin", r"\arcsin": r"\arccos", r"\arccos": r"\arcsin",
    r"\sinh": r"\cosh", r"\cosh": r"\sinh", r"\sum": r"\prod", r"\prod": r"\sum", r"\le": r"\ge",
    "x": "X", "X": "x", "k": "K", "K": "k", "l": "L", "L": "l", r"\pi": "2", "'": "",
    r"\sqrt": "", r"\tilde": "",
}  # fmt: skip
PIECE = re.compile(r"\\(?:text|operatorname)\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Z]|\d|[+'-]")


NO_CHANGE = re.compile(r"[+-](?=\s*\\?o\b|\s*O\()|(?<=o\()\d|(?<=o\\Big\(\\frac)\d", re.ASCII)


def changed(latex):
    """The formula with one small change: a digit, a sign, a function, a letter, a prime, a root."""
    same = {match.start() for match in NO_CHANGE.finditer(latex)}  # +o(1) and -o(2) say the same
    for match in PIECE.finditer(latex):
        piece = match[0]
        new = str((int(piece) + 1) % 10) if piece.isdigit() else EXCHANGED.get(piece)
        if new is not None and match.start() not in same:
            yield f"{latex[: match.start()]}{new} {latex[match.end() :]}", (match.start(), piece, new)


# changes that change nothing, and why
NEUTRAL = {
    "step-parts": r"(t)[- -> +]",  # any constant may be taken from phi, as E h_{n+1} = 0
}


@pytest.mark.parametrize("label", MEANINGS)
def test_no_small_change_in_print_goes_unnoticed(label):
    latex, missed = PAGES[label], []
    for other, (at, piece, new) in changed(latex):
        try:
            prove(label, other)
        except Exception:
            continue
        missed.append(f"{latex[max(0, at - 15) : at]}[{piece} -> {new}]{latex[at + len(piece) :][:15]}")
    missed = [change for change in missed if NEUTRAL.get(label, "never") not in change]
    assert not missed, f"{label}: {missed}"


def test_a_change_of_a_pinned_formula_says_what_to_do():
    for label in PINNED:
        for other, _ in changed(PAGES[label]):
            problem = pin_problem(label, other)
            assert label in problem and digest(other) in problem and "read it again" in problem
    assert digest(r"\big(a+b\big)^2\, c") == digest("(a + b)^{2} c") != digest("(a+b)^2 C")
    assert "no check covers it" in pin_problem("def-direct", "1")


# ---- The reader ------------------------------------------------------------------------------

A, B = (torch.arange(4.0, dtype=torch.float64).reshape(2, 2) + n for n in (1.0, 5.0))
V = torch.tensor([[3.0], [4.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "latex, value",
    [
        (r"\frac14+\frac{3}{8}\,\frac ab", 0.25 + 3 / 8 * 2 / 3),
        (r"\sqrt2+\sqrt{a}\,x", math.sqrt(2) + 5 * math.sqrt(2)),
        (r"\log a", math.log(2)),
        (r"k+K", 7 + 70),
        (r"2^{a-1}a^2", 8),
        (r"-a^2+|a-5|\,b", -4 + 9),
        (r"\sum_{l=1}^{b}l\cdot a-1", 11),
        (r"\prod_{l=b}^{a}l", 1),
        (r"3!\,\cosh0", 6),
        (r"\sin^2 a+\cos^2a", 1),
        (r"\int_0^{\pi}\sin\theta\,d\theta", 2),
        (r"|v|", 5),
        (r"\langle v,v\rangle-v^Tv", 0),
        (r"AB", A @ B),
        (r"(A B)^{-1}", torch.linalg.inv(B) @ torch.linalg.inv(A)),
        (r"e^{-A a}", torch.matrix_exp(-2 * A)),
        (r"v\odot Av", V * (A @ V)),
    ],
)
def test_reader_reads(latex, value):
    symbols = {"a": 2.0, "b": 3.0, "k": 7.0, "K": 70.0, "x": 5.0, "A": A, "B": B, "v": V}
    ours = torch.as_tensor(evaluate(tokens_of(latex), symbols), dtype=torch.float64).squeeze()
    torch.testing.assert_close(
        ours, torch.as_tensor(value, dtype=torch.float64).squeeze(), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(
    "latex, words",
    [
        ("c", "no meaning of c"),
        ("A_2", "left over|no meaning"),
        ("A+1", "different shapes"),
        ("v+v^T", "different shapes"),
        ("vA", "do not fit"),
        (r"\frac{1}{A}", "division by a matrix"),
        ("a'", "no meaning of '"),
        (r"\int_0^1 a", "d"),
    ],
)
def test_reader_refuses_what_it_would_have_to_guess(latex, words):
    with pytest.raises(Unreadable, match=words):
        evaluate(tokens_of(latex), {"a": 2.0, "A": A, "v": V})
