"""Sphinx extension: the `{ledger}` directive, a table of the book's formulas and their checks.

The table needs every chapter's outputs and numbers, so the directive only marks its place;
the place is filled when the page is written, and the page is made again in every build.
"""

import re
from itertools import groupby
from pathlib import Path

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from ledger import check_cells, formulas_of, summary
from printed import NOT_PARSED, PRINTED
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOGGER = logging.getLogger(__name__)
RESULT_COLUMNS = "Formula", "What it says", "Checked against", "Kind", "Error ≤ bound"
OTHER_COLUMNS = "Formula", "What it says", "Role"
HERE = re.compile(r'href="#equation-(?P<label>[\w-]+)"')  # as ntkutils.checks writes it
UNPARSED_COLUMNS = "Formula", "What it says", "Why not"


class ledger_place(nodes.General, nodes.Element):
    """Where the tables go once every chapter has been read and numbered."""


class Ledger(SphinxDirective):
    """`{ledger}`: takes no argument and no content."""

    def run(self):
        """Leave a place for the tables, which need all chapters."""
        self.env.metadata[self.env.docname]["ntk_ledger"] = True
        return [ledger_place()]


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
    root = app.config.root_doc
    for docname in dict.fromkeys(_walk(app.env.toctree_includes, root)):
        if Path(app.env.doc2path(docname)).suffix == ".ipynb":
            yield docname, executed(app, docname)


def _walk(includes, docname):
    yield docname
    for child in includes.get(docname, []):
        yield from _walk(includes, child)


def entry(*content, **attributes):
    """A cell of a table."""
    return nodes.entry("", nodes.paragraph("", "", *content), **attributes)


def link(domain, kind, target, here, text=None):
    """A reference for Sphinx to resolve; without a text it shows the target's number."""
    return addnodes.pending_xref(
        "",
        nodes.inline(text=text or target),
        refdomain=domain,
        reftype=kind,
        reftarget=target,
        refdoc=here,
        refexplicit=text is not None,
        refwarn=True,
    )


def table(columns, rows, css):
    """A docutils table; the theme puts it in a box that scrolls sideways."""
    head = nodes.row("", *(entry(nodes.Text(column)) for column in columns))
    parts = [nodes.colspec(colwidth=1) for _ in columns]
    parts += [nodes.thead("", head), nodes.tbody("", *rows)]
    return nodes.table("", nodes.tgroup("", *parts, cols=len(columns)), classes=["ledger", css])


def result_rows(formula, here):
    """One row a check; the formula's own cells reach over all of them."""
    rows = [[entry(nodes.Text(text)) for text in check_cells(check)] for check in formula.checks]
    rows = rows or [[entry(nodes.Text("no check")), *(entry() for _ in RESULT_COLUMNS[3:])]]
    span = {"morerows": len(rows) - 1} if len(rows) > 1 else {}
    number = link("math", "eq", formula.label, here)
    says = formula.says if formula.role == "result" else f"{formula.says} ({formula.role})"
    if formula.label in PRINTED:
        says += " ¶"
    rows[0] = [entry(number, **span), entry(nodes.Text(says), **span), *rows[0]]
    return [nodes.row("", *cells) for cells in rows]


def other_rows(formula, here):
    """The row of a formula that is not checked."""
    cells = link("math", "eq", formula.label, here), nodes.Text(formula.says), nodes.Text(formula.role)
    return [nodes.row("", *map(entry, cells))]


def unparsed_rows(formula, here):
    """The row of a result that tests/test_printed.py does not read."""
    reason = nodes.Text(NOT_PARSED[formula.label])
    cells = link("math", "eq", formula.label, here), nodes.Text(formula.says), reason
    return [nodes.row("", *map(entry, cells))]


def chapter_row(env, docname, columns):
    """A row across the table that names, and links, a chapter."""
    number = env.toc_secnumbers.get(docname, {}).get("", ())
    title = " ".join([*(f"{part}." for part in number), env.titles[docname].astext()])
    title = link("std", "doc", f"/{docname}", env.docname, title)
    return nodes.row("", entry(title, morecols=len(columns) - 1), classes=["ledger-chapter"])


class FillLedger(SphinxPostTransform):
    """Put the tables in place, before Sphinx resolves the references that they hold."""

    default_priority = 5

    def run(self):
        """Put the tables where the directive left a place."""
        for place in list(self.document.findall(ledger_place)):
            formulas = formulas_of(list(chapters_in_order(self.app)))
            self.compare_with_numbered(formulas)
            place.replace_self(list(self.tables(formulas)))

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
        unparsed = [formula for formula in formulas if formula.label in NOT_PARSED]
        if unparsed:
            yield nodes.rubric("", "Results whose printed form is not parsed")
            yield table(
                UNPARSED_COLUMNS, self.rows(unparsed, UNPARSED_COLUMNS, unparsed_rows), "ledger-others"
            )

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


def outdated(app, env, added, changed, removed):
    """Read the ledger's page again in every build: its rows come from other pages."""
    return [docname for docname in env.found_docs if env.metadata[docname].get("ntk_ledger")]


def setup(app):
    """Register the directive and what fills it."""
    app.add_node(ledger_place)
    app.add_directive("ledger", Ledger)
    app.add_post_transform(FillLedger)
    app.add_post_transform(LinkChecks)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
