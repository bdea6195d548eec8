"""Bibliography, glossary, exercises, landing page and previews: complete, and in step with the chapters."""

import re
import struct
from html import unescape
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHAPTERS = ROOT / "chapters"
PAGES = ROOT / "_build/html/chapters"


def text_of(path):
    """The Markdown of a page, or of a notebook's text cells."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def toc():
    """The captions of the table of contents, each with its pages."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return {part["caption"]: [chapter["file"] for chapter in part["chapters"]] for part in parts}


TEXTS = {path.stem: text_of(path) for path in [*CHAPTERS.glob("*.ipynb"), *CHAPTERS.glob("*.md")]}
NUMBERED = [page.removeprefix("chapters/") for page in toc()["Chapters"]]
BIBLIOGRAPHY = (CHAPTERS / "references.bib").read_text(encoding="utf-8")


# ---- Bibliography ---------------------------------------------------------------------------


def test_every_paper_of_the_bibliography_is_cited():
    groups = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", " ".join(TEXTS.values()))
    cited = {key.strip() for group in groups for key in group.split(",")}
    assert cited == set(re.findall(r"^@\w+\{(\w+),", BIBLIOGRAPHY, re.MULTILINE))


def test_every_paper_that_the_package_names_is_in_the_bibliography():
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "ntkutils").rglob("*.py"))
    named = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", code))
    assert named
    assert named <= set(re.findall(r"\b\d{4}\.\d{4,5}\b", BIBLIOGRAPHY))


def test_every_paper_has_author_title_and_year():
    for entry in BIBLIOGRAPHY.split("\n@")[1:]:
        fields = dict(re.findall(r"^  (\w+)\s*= \{(.+)\},$", entry, re.MULTILINE))
        assert {"author", "title", "year"} <= set(fields), entry
        # A preprint is older than its publication, by a year or two: else one of the two is wrong.
        if "eprint" in fields:
            assert 0 <= int(fields["year"]) - 2000 - int(fields["eprint"][:2]) <= 2, entry


# ---- Exercises and glossary -----------------------------------------------------------------


@pytest.mark.parametrize("chapter", NUMBERED)
def test_every_exercise_has_a_title_and_a_solution(chapter):
    text = TEXTS[chapter]
    exercises = re.findall(r"\{exercise(?:-start)?\}(.*)\n:label: ([\w-]+)", text)
    assert len(exercises) == len(re.findall(r"\{exercise(?:-start)?\}", text)) > 0
    for title, label in exercises:
        assert title.strip(), f"{label} has no title"
        assert f"{{solution-start}} {label}\n" in text, f"{label} has no solution"


@pytest.mark.skipif(not PAGES.exists(), reason="needs the built book: make book")
def test_index_lists_the_exercises_of_all_chapters():
    page = (PAGES / "exercises.html").read_text(encoding="utf-8")
    for chapter in NUMBERED:
        for title, label in re.findall(r"\{exercise(?:-start)?\} (.*)\n:label: ([\w-]+)", TEXTS[chapter]):
            link = re.search(rf'href="{chapter}\.html#{label}"[^>]*>(.*?)</a>', page)
            assert link, f"{label} is not in the index"
            assert re.sub("<.*?>", "", unescape(link[1])) == title


def test_definitions_begin_with_a_sentence_without_formulas():
    """It is what a reader sees when the mouse rests on a term."""
    entries = re.findall(r"\n(\S.*)\n  (\S.*)", TEXTS["glossary"].partition("```{glossary}")[2])
    assert len(entries) > 25
    for term, line in entries:
        sentence = re.sub(r"\{term\}`([^<`]*)( <.*?>)?`", r"\1", line)
        assert not re.search(r"[$`{}\\]", sentence), term
        assert sentence.endswith(".") and len(sentence) < 200, term


# ---- Landing page and previews --------------------------------------------------------------


def test_landing_page_leads_to_every_page():
    linked = set(re.findall(r"\]\(([\w/]+)(?:\.md)?\)|:link: (\w+)", TEXTS["index"]))
    linked = {"chapters/" + (inline or card) for inline, card in linked}
    assert {page for pages in toc().values() for page in pages} <= linked


@pytest.mark.parametrize("number, chapter", [*enumerate(NUMBERED, start=1)])
def test_map_gives_number_title_and_time_of_a_chapter(number, chapter):
    title = re.search(r"^# (.*)$", TEXTS[chapter], re.MULTILINE)[1]
    minutes = re.search(r"Time to read: (\d+) minutes", TEXTS[chapter])[1]
    card = re.search(
        rf"\{{grid-item-card\}} {number}\. {re.escape(title)}\n:link: {chapter}\n(.*?)\n::::",
        TEXTS["index"],
        re.S,
    )
    assert card, f"no card {number}. {title}"
    assert f" · {minutes} minutes\n" in card[1]


def test_shared_picture_has_the_size_that_is_announced():
    data = (CHAPTERS / "_static/card.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 630)
    assert len(data) < 200_000


@pytest.mark.skipif(not PAGES.exists(), reason="needs the built book: make book")
def test_every_page_has_a_description_of_its_own():
    found = {}
    for path in PAGES.rglob("*.html"):
        tags = re.findall(r'<meta[^>]* name="description"[^>]*>', path.read_text(encoding="utf-8"))
        [text] = [unescape(re.search('content="([^"]*)"', tag)[1]) for tag in tags]
        assert 30 <= len(text) <= 200, (path, text)
        assert not re.search(r"[$\\]", text), (path, text)
        assert found.setdefault(text, path) is path
