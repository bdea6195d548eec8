"""Sphinx extension: the `{ledger}` directive, a table of the book's formulas and their checks.

The rows come from every chapter's outputs and numbers; `collected.py` has how they get there.
"""

import re
from itertools import groupby
from pathlib import Path

import nbformat
from collected import FillPlaces, chapter_row, entry, link, pages_in_order, register, table
from docutils import nodes
from jupyter_cache import get_cache
from ledger import check_cells, formulas_of, summary
from printed import PINNED
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
RESULT_COLUMNS = "Formula", "What it says", "Checked against", "Kind", "Error ≤ bound", "Sees", "Rejects"
OTHER_COLUMNS = "Formula", "What it says", "Role"
HERE = re.compile(r'href="#equation-(?P<label>[\w-]+)"')  # as ntkutils.checks writes it
PINNED_COLUMNS = "Formula", "What it says", "Why not"


def executed(app, docname):
    """The chapter with the outputs of this build.

    From the cache, since MyST-NB writes a chapter whose execution it found there to
    jupyter_execute with the outputs stored in the source, not those of the execution.
    """
    notebook = nbformat.read(app.env.doc2path(docname), as_version=4)
    cache = get_cache(app.env.mystnb_config.execution_cache_path)
    try:
        return cache.merge_match_into_notebook(notebook)[1]
    except KeyError:  # built without execution: all there is are the stored outputs
        return notebook


def chapters_in_order(app):
    """The notebooks of the book, in the order of its table of contents."""
    for docname in pages_in_order(app.env):
        if Path(app.env.doc2path(docname)).suffix == ".ipynb":
            yield docname, executed(app, docname)


def result_rows(formula, here):
    """One row a check; the formula's own cells reach over all of them."""
    rows = [[entry(nodes.Text(text)) for text in check_cells(check)] for check in formula.checks]
    rows = rows or [[entry(nodes.Text("no check")), *(entry() for _ in RESULT_COLUMNS[3:])]]
    span = {"morerows": len(rows) - 1} if len(rows) > 1 else {}
    number = link("math", "eq", formula.label, here)
    says = formula.says if formula.role == "result" else f"{formula.says} ({formula.role})"
    if formula.label in PINNED:
        says += " ¶"
    rows[0] = [entry(number, **span), entry(nodes.Text(says), **span), *rows[0]]
    return [nodes.row("", *cells) for cells in rows]


def other_rows(formula, here):
    """The row of a formula that is not checked."""
    cells = link("math", "eq", formula.label, here), nodes.Text(formula.says), nodes.Text(formula.role)
    return [nodes.row("", *map(entry, cells))]


def pinned_rows(formula, here):
    """The row of a result that tests/test_printed.py does not evaluate."""
    reason = nodes.Text(PINNED[formula.label].reason)
    cells = link("math", "eq", formula.label, here), nodes.Text(formula.says), reason
    return [nodes.row("", *map(entry, cells))]


class FillLedger(FillPlaces):
    """The tables of the `{ledger}`."""

    what = "ledger"

    def content(self):
        """The tables of all chapters."""
        formulas = formulas_of(list(chapters_in_order(self.app)))
        self.compare_with_numbered(formulas)
        return self.tables(formulas)

    def tables(self, formulas):
        """The three tables, each with its summary."""
        checked = [formula for formula in formulas if formula.checks or formula.role == "result"]
        others = [formula for formula in formulas if formula not in checked]
        yield nodes.paragraph("", summary(formulas))
        if checked:
            yield table(RESULT_COLUMNS, self.rows(checked, RESULT_COLUMNS, result_rows), "ledger-results")
        if others:
            yield nodes.rubric("", "Definitions and steps of proofs, not checked on their own")
            yield table(OTHER_COLUMNS, self.rows(others, OTHER_COLUMNS, other_rows), "ledger-others")
        pinned = [formula for formula in checked if formula.label in PINNED]
        if pinned:
            yield nodes.rubric("", "Results whose printed form is not evaluated")
            yield table(PINNED_COLUMNS, self.rows(pinned, PINNED_COLUMNS, pinned_rows), "ledger-others")

    def rows(self, formulas, columns, rows_of):
        """The formulas' rows under a row for each chapter."""
        rows = []
        for docname, group in groupby(formulas, key=lambda formula: formula.docname):
            rows.append(chapter_row(self.env, docname, columns))
            rows += [row for formula in group for row in rows_of(formula, self.env.docname)]
        return rows

    def compare_with_numbered(self, formulas):
        """Warn of a numbered formula that `labels_of` does not see, as in an `align`."""
        seen = {formula.label for formula in formulas}
        chapters = {formula.docname for formula in formulas}
        for label, (docname, _) in self.env.get_domain("math").equations.items():
            if docname in chapters and label not in seen:
                LOGGER.warning(
                    "the ledger misses formula %r: label it as `$$ ... $$ (eq-name)`",
                    label,
                    location=docname,
                )


class LinkChecks(SphinxPostTransform):
    """Lead the line of a check to its formula, also where that stands in another chapter."""

    default_priority = 900  # MyST-NB has chosen the HTML of an output by then

    def run(self):
        """Make of each label in a check's line a link to its equation."""
        equations = self.env.get_domain("math").equations
        for node in self.document.findall(nodes.raw):
            if 'class="ntk-check"' in node.astext():
                (text,) = node.children
                node.children = [nodes.Text(HERE.sub(lambda m: self.link(m, equations), text))]

    def link(self, match, equations):
        """The attribute that HERE matched, with the address of the equation's page."""
        docname = equations.get(match["label"], (self.env.docname,))[0]
        if docname == self.env.docname:
            return match[0]
        address = self.app.builder.get_relative_uri(self.env.docname, docname)
        return f'href="{address}#equation-{match["label"]}"'


def setup(app):
    """Register the directive with what fills it, and the links of checks."""
    register(app, FillLedger)
    app.add_post_transform(LinkChecks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
