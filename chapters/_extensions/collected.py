"""What the pages that collect something from all chapters share: places that are filled last, and tables.

Such a page needs every chapter's numbers, so its directive only marks a place; the place is filled
when the page is written, and the page is made again in every build.
"""

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

MARK = "ntk_collects"  # in the metadata of a page with such a place


class collected_place(nodes.General, nodes.Element):
    """Where something goes once every chapter has been read and numbered; `what` is the directive."""


class LeavePlace(SphinxDirective):
    """A directive without argument and content, whose place a FillPlaces of the same name fills."""

    def run(self):
        """Leave the place."""
        self.env.metadata[self.env.docname][MARK] = True
        return [collected_place(what=self.name)]


class FillPlaces(SphinxPostTransform):
    """Fill the places of the directive `what`, before Sphinx resolves the references that they hold."""

    default_priority = 5
    what: str

    def run(self):
        """Put the content where the directive left a place."""
        for place in list(self.document.findall(collected_place)):
            if place["what"] == self.what:
                place.replace_self(list(self.content()))


def outdated(app, env, added, changed, removed):
    """Read these pages again in every build: what they show comes from other pages."""
    return [docname for docname in env.found_docs if env.metadata[docname].get(MARK)]


def register(app, filler):
    """Register a directive with what fills its places."""
    app.add_node(collected_place, override=True)  # another page's extension may have been first
    app.add_directive(filler.what, LeavePlace)
    app.add_post_transform(filler)
    app.connect("env-get-outdated", outdated)


def pages_in_order(env):
    """The names of all pages, in the order of the book's table of contents."""

    def walk(docname):
        yield docname
        for child in env.toctree_includes.get(docname, []):
            yield from walk(child)

    return list(dict.fromkeys(walk(env.config.root_doc)))


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


def chapter_row(env, docname, columns):
    """A row across the table that names, and links, a chapter."""
    number = env.toc_secnumbers.get(docname, {}).get("", ())
    title = " ".join([*(f"{part}." for part in number), env.titles[docname].astext()])
    title = link("std", "doc", f"/{docname}", env.docname, title)
    return nodes.row("", entry(title, morecols=len(columns) - 1), classes=["ledger-chapter"])
