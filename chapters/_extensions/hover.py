"""Sphinx extension: a link to a term of the glossary says what the term means when the mouse rests on it.

The text is the first sentence of the definition. It is the link's title and no more than that: who
has no mouse, or wants the formula, follows the link.
"""

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "chapters/glossary"


def meanings(glossary):
    """{id of a term: the first sentence of what it means}."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        sentence = item.next_node(nodes.paragraph).astext().replace("\n", " ").partition(". ")[0]
        for term in item.findall(nodes.term):
            found |= dict.fromkeys(term["ids"], sentence.rstrip(".") + ".")
    return found


class SayMeanings(SphinxPostTransform):
    """Give each link to a term its title."""

    default_priority = 900  # when Sphinx has resolved the references

    def run(self):
        """Look the terms up, on pages that have any."""
        links = [
            node
            for node in self.document.findall(nodes.reference)
            if node.children and "std-term" in getattr(node[0], "attributes", {}).get("classes", ())
        ]
        if links:
            known = meanings(self.env.get_doctree(GLOSSARY))
            for node in links:
                place = node.get("refid") or node["refuri"].rpartition("#")[2]
                node["reftitle"] = known[place]


def setup(app):
    """Register the transform."""
    app.add_post_transform(SayMeanings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
