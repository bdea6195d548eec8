"""The book's formulas and their checks, read from its notebooks.

Used by the ledger's page (`ledger_page.py`) and by the tests. A formula is `$$ ... $$ (label)`;
the label's prefix says what it is (`ROLES`). A check is an output of a code cell with
`ntkutils-check` in its metadata.
"""

import math
from collections import Counter
from typing import NamedTuple

from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

METADATA_KEY = "ntkutils-check"
ROLES = {"eq": "result", "def": "definition", "step": "step of a proof"}
ORACLES = {
    "neural-tangents": "neural-tangents",
    "torch": "finite torch networks",
    "autodiff": "automatic differentiation",
    "quadrature": "numerical quadrature",
    "50 digits": "50-digit arithmetic",
}
MARKDOWN = MarkdownIt().use(dollarmath_plugin, allow_labels=True).use(colon_fence_plugin)


def _formulas_in(text):
    for token in MARKDOWN.parse(text):
        if token.type == "math_block_label":
            yield token.info, token.content
        elif token.type in ("fence", "colon_fence") and token.info.startswith("{"):
            yield from _formulas_in(token.content)  # a directive: its body is text too


def latex_of(notebook):
    """(label, LaTeX) of the displayed formulas in the notebook's text cells, in order."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [formula for text in texts for formula in _formulas_in(text)]


def labels_of(notebook):
    """Labels of the displayed formulas in the notebook's text cells, in order."""
    return [label for label, _ in latex_of(notebook)]


def checks_of(notebook):
    """The checks that the notebook's cells showed, in order: the metadata `ntkutils` wrote."""
    return [
        output.metadata[METADATA_KEY]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if METADATA_KEY in output.get("metadata", {})
    ]


class Formula(NamedTuple):
    """One labelled formula, with the checks that name it."""

    docname: str
    label: str
    checks: list

    @property
    def role(self):
        """What its label says that it is."""
        return ROLES.get(self.label.partition("-")[0], "unmarked")

    @property
    def says(self):
        """The name that a check gives the formula, else its label in words."""
        names = [check["name"] for check in self.checks if check.get("name")]
        return names[0] if names else self.label.partition("-")[2].replace("-", " ")


def formulas_of(chapters):
    """Every formula of the chapters, given as (docname, executed notebook) in order."""
    checks = [check for _, notebook in chapters for check in checks_of(notebook)]
    return [
        Formula(docname, label, [check for check in checks if check["label"] == label])
        for docname, notebook in chapters
        for label in labels_of(notebook)
    ]


def counted(number, noun):
    """A number with its noun, in the plural where that is due."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def summary(formulas):
    """One sentence: how many results, how many checks, against what."""
    results = [formula for formula in formulas if formula.role == "result"]
    oracles = Counter(check["oracle"] for formula in formulas for check in formula.checks)
    against = [f"{oracles[key]} against {ORACLES[key]}" for key in ORACLES if oracles[key]]
    text = f"{counted(len(results), 'result')}, {counted(oracles.total(), 'check')}"
    twins = sum(len(check.get("wrong", ())) for formula in formulas for check in formula.checks)
    text = f"{text}: {', '.join(against)}" if against else text
    return f"{text}; {counted(twins, 'wrong formula')} rejected." if twins else f"{text}."


def check_cells(check):
    """The texts of one check's row: oracle and what of it, kind, error and bound, its power."""
    kind = f"{check['kind']}, {counted(check['values'], 'value')}"
    if check.get("approximate"):
        kind += f": {check['approximate']}"
    if check.get("resolution"):
        kind += f", each known to {check['resolution']}"
    unit = "" if check["unit"] == "of the largest" else f" {check['unit']}"
    return [
        f"{ORACLES[check['oracle']]}: {check['against']}",
        kind,
        f"{check['measured']:.2g} ≤ {check['bound']:.2g}{unit}",
        factor_seen(check),
        "; ".join(check.get("wrong", ())),
    ]


def factor_seen(check):
    """The smallest wrong factor of the formula that the check would see, rounded away from 1."""
    sees = check.get("sees")
    if sees is None:
        return ""
    sign = "±"
    if check["kind"] == "inequality":  # it breaks on one side: 1 - measured below, 1/measured - 1 above
        sign = "-" if math.isclose(sees, 1 - check["measured"], abs_tol=1e-12) else "+"
    unit = 10.0 ** math.floor(math.log10(sees))
    return f"1 {sign} {math.ceil(10 * sees / unit - 1e-6) / 10 * unit:.2g}" if sees > 0 else "1"
