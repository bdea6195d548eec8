"""What is printed is what is tested: the LaTeX on the pages against the functions of ntkutils.

The tables are in chapters/_extensions/printed.py.
"""

import math
import re
from pathlib import Path

import nbformat
import pytest
import sympy
import torch
from latex2sympy2_extended import latex2sympy
from ledger import latex_of
from printed import NOT_PARSED, PRINTED, READ_AS

import ntkutils as nu
from ntkutils import activations
from ntkutils.activations import from_function, relu

ROOT = Path(__file__).parents[1]

PAGES = {
    label: latex
    for path in sorted((ROOT / "chapters").glob("*.ipynb"))
    for label, latex in latex_of(nbformat.read(path, as_version=4))
}
XI = torch.linspace(-0.95, 0.95, 12, dtype=torch.float64)
# A value for each symbol that a page uses. mu (the kernel), kappa, a, b, y: one training point.
SYMBOLS = dict(
    xi=XI, theta=XI.acos(), alpha=0.3, g=0.7, mu=1.7, kappa=0.6, a=0.4, b=-0.3, y=1.1, s=3, t=0.8,
    eta=0.25, lamda=0.5, q=torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64),
)  # fmt: skip


def one(value):
    return torch.tensor([[value]], dtype=torch.float64)


def trained(function, amount, y, b, **options):
    kernel, rows = one(SYMBOLS["mu"]), one(SYMBOLS["kappa"])
    return function(
        kernel, one(y), amount, initial=one(b), test_kernel=rows, test_initial=one(SYMBOLS["a"]), **options
    )


def dual_of(function, xi):
    return from_function(function, kinks=(0.0,), normalise=False).dual(xi)


def positive_power(n):
    return lambda z: z.clamp(min=0) ** n * (z > 0)


def relu_second_moment(theta):
    parts = [
        lambda z: relu(z) ** 2,
        lambda z: relu(z) * relu.derivative(z),
        lambda z: relu.derivative(z) ** 2,
    ]
    xi = theta.cos()
    return sum(c * xi**n * dual_of(f, xi) for n, (c, f) in enumerate(zip((1, 2, 3), parts, strict=True)))


FUNCTIONS = dict(
    math=math,
    activations=activations,
    relu_ntk=lambda xi: nu.ntk(
        torch.eye(2, dtype=torch.float64)[:1], torch.stack([xi, (1 - xi**2).sqrt()], dim=1), depth=1
    )[0],
    cho_saul=lambda n, theta: 2 * math.pi * dual_of(positive_power(n), theta.cos()),
    relu_second_moment=relu_second_moment,
    flow=lambda t, **options: trained(nu.gradient_flow, t, SYMBOLS["y"], SYMBOLS["b"], **options).test,
    descent=lambda s: trained(nu.gradient_descent, s, SYMBOLS["y"], SYMBOLS["b"], learning_rate=0.25).test,
    mode_flow=lambda t: trained(nu.gradient_flow, t, 0.0, SYMBOLS["b"]).train,
    mode_descent=lambda s: trained(nu.gradient_descent, s, 0.0, SYMBOLS["b"], learning_rate=0.25).train,
)  # fmt: skip


def right_sides(label, latex):
    """The text after the last = of each equation of a display."""
    for printed, meant in READ_AS.get(label, {}).items():
        latex = latex.replace(printed, meant)
    latex = re.sub(r"\\(begin|end){aligned}|&", "", latex)
    equations = re.split(r"\\qquad|\\\\\n", latex)
    sides = [equation.rpartition("=")[2].strip().rstrip(",. ") for equation in equations if "=" in equation]
    return [re.sub(r"\\[bB]igg?", "", side) for side in sides]  # sizes of brackets


def evaluate(label, latex):
    """The value of a formula, of one number for each xi."""
    expression = latex2sympy(latex)
    names = {str(symbol): symbol for symbol in expression.free_symbols}
    known = {"lamda" if name == "lambda" else name: symbol for name, symbol in names.items()}
    unknown = known.keys() - SYMBOLS.keys()
    assert not unknown, f"{label}: symbols without a meaning here: {sorted(unknown)} in {latex}"
    values = [SYMBOLS[name] for name in known]
    values = [v.numpy() if isinstance(v, torch.Tensor) else v for v in values]
    result = sympy.lambdify(list(known.values()), expression, "numpy")(*values)
    return torch.as_tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("label", PRINTED)
def test_printed_formula_is_the_function(label):
    assert label in PAGES, f"{label} is not on a page"
    sides, functions = right_sides(label, PAGES[label]), PRINTED[label]
    assert len(sides) == len(functions), f"{label}: expected {len(functions)} equations, read {sides}"
    for side, function in zip(sides, functions, strict=True):
        ours = eval(function, FUNCTIONS | SYMBOLS)
        printed = evaluate(label, side).expand(ours.shape)
        error = (printed - ours).abs().max() / ours.abs().max()
        assert error < 1e-12, f"{label} on the page differs from {function} by {error:.3g}: {side}"


def test_every_result_is_parsed_or_says_why_not():
    results = {label for label in PAGES if label.startswith("eq-")}
    assert not PRINTED.keys() & NOT_PARSED.keys()
    assert results <= PRINTED.keys() | NOT_PARSED.keys(), "results that neither table names"
    assert PRINTED.keys() | NOT_PARSED.keys() <= PAGES.keys(), "labels that are on no page"


@pytest.mark.parametrize(
    "label, right, wrong",
    [
        ("eq-relu", "+", "-"),
        ("eq-relu-ntk", r"\frac{\xi}{\pi}", r"\frac{2\xi}{\pi}"),
        ("eq-relu-ntk-angle", "2", "1"),
        ("step-second-moment-relu", "3", "2"),
        ("step-cho-saul", "1+2", "1-2"),
        ("eq-gelu", "4", "2"),
        ("eq-descent", "-", "+"),
        ("eq-flow", "e^{-Kt}", "e^{-2Kt}"),
    ],
)
def test_a_wrong_sign_or_factor_in_print_is_seen(label, right, wrong, monkeypatch):
    latex = PAGES[label]
    head, equals, side = latex.partition("=")
    assert right in side
    monkeypatch.setitem(PAGES, label, head + equals + side.replace(right, wrong))
    with pytest.raises(AssertionError, match=label):
        test_printed_formula_is_the_function(label)
