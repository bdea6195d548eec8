"""Sphinx extension: the `{exercise-index}` directive, a table of every exercise and its solution.

sphinx-exercise keeps a register of what it has read; the table is made from that when its page is
written, and the page is made again in every build.
"""

from docutils import nodes
from ledger import counted
from ledger_page import _walk, chapter_row, entry, link, table
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOGGER = logging.getLogger(__name__)
COLUMNS = "Number", "Exercise", "Solution"


class exercise_place(nodes.General, nodes.Element):
    """Where the table goes once every chapter has been read and numbered."""


class ExerciseIndex(SphinxDirective):
    """`{exercise-index}`: takes no argument and no content."""

    def run(self):
        """Leave a place for the table, which needs all chapters."""
        self.env.metadata[self.env.docname]["ntk_exercises"] = True
        return [exercise_place()]


def exercises_of(env):
    """{page: [(label of the exercise, its title, id of its solution or None)]}, in the book's order."""
    register = getattr(env, "sphinx_exercise_registry", {})
    solutions = {
        one["node"]["target_label"]: one["node"]["ids"][0]
        for one in register.values()
        if one["type"].startswith("solution")
    }
    pages = {page: [] for page in dict.fromkeys(_walk(env.toctree_includes, env.config.root_doc))}
    for label, one in register.items():
        if one["type"].startswith("exercise"):
            subtitle = one["node"][0].children[1:]  # after the word "Exercise"
            title = "".join(child.astext() for child in subtitle).strip()
            pages[one["docname"]].append((label, title, solutions.get(label)))
    return {page: found for page, found in pages.items() if found}


class FillExercises(SphinxPostTransform):
    """Put the table in place, before Sphinx resolves the references that it holds."""

    default_priority = 5

    def run(self):
        """Put the table where the directive left a place."""
        for place in list(self.document.findall(exercise_place)):
            pages = exercises_of(self.env)
            rows = [row for page, found in pages.items() for row in self.rows(page, found)]
            total = counted(sum(map(len, pages.values())), "exercise")
            summary = nodes.paragraph("", f"{total} in {counted(len(pages), 'chapter')}.")
            place.replace_self([summary, table(COLUMNS, rows, "exercise-index")] if rows else [summary])

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


def outdated(app, env, added, changed, removed):
    """Read the page again in every build: its rows come from other pages."""
    return [docname for docname in env.found_docs if env.metadata[docname].get("ntk_exercises")]


def setup(app):
    """Register the directive and what fills it."""
    app.add_node(exercise_place)
    app.add_directive("exercise-index", ExerciseIndex)
    app.add_post_transform(FillExercises)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
