"""Sphinx extension: the `{exercise-index}` directive, a table of every exercise and its solution.

sphinx-exercise keeps a register of what it has read, and the table is made from that.
"""

from collected import FillPlaces, chapter_row, entry, link, pages_in_order, register, table
from docutils import nodes
from ledger import counted
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
COLUMNS = "Number", "Exercise", "Solution"


def exercises_of(env):
    """{page: [(label of the exercise, its title, id of its solution or None)]}, in the book's order."""
    read = getattr(env, "sphinx_exercise_registry", {})
    solutions = {
        one["node"]["target_label"]: one["node"]["ids"][0]
        for one in read.values()
        if one["type"].startswith("solution")
    }
    pages = {page: [] for page in pages_in_order(env)}
    for label, one in read.items():
        if one["type"].startswith("exercise"):
            subtitle = one["node"][0].children[1:]  # after the word "Exercise"
            title = "".join(child.astext() for child in subtitle).strip()
            pages[one["docname"]].append((label, title, solutions.get(label)))
    return {page: found for page, found in pages.items() if found}


class FillExercises(FillPlaces):
    """The table of the `{exercise-index}`."""

    what = "exercise-index"

    def content(self):
        """A line that counts, and the table."""
        pages = exercises_of(self.env)
        rows = [row for page, found in pages.items() for row in self.rows(page, found)]
        total = counted(sum(map(len, pages.values())), "exercise")
        yield nodes.paragraph("", f"{total} in {counted(len(pages), 'chapter')}.")
        if rows:
            yield table(COLUMNS, rows, "exercise-index")

    def rows(self, page, found):
        """A row that names the chapter, and one for each of its exercises."""
        yield chapter_row(self.env, page, COLUMNS)
        numbers = self.env.toc_fignumbers.get(page, {}).get("exercise", {})
        for label, title, solution in found:
            if not title or not solution:
                missing = "title" if solution else "solution"
                LOGGER.warning("exercise %r has no %s", label, missing, location=page)
            number = nodes.Text(".".join(map(str, numbers.get(label, ()))))
            cells = number, link("std", "ref", label, self.env.docname, title or label)
            yield nodes.row("", *map(entry, cells), entry(*self.solution(page, label, solution)))

    def solution(self, page, label, place):
        """A link to where the solution stands, which is folded there."""
        if place:
            address = f"{self.app.builder.get_relative_uri(self.env.docname, page)}#{place}"
            yield nodes.reference("", "solution", internal=True, refuri=address)


def setup(app):
    """Register the directive with what fills it."""
    register(app, FillExercises)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
