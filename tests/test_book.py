"""The promises that the chapters and the built pages keep, and proof that these checks can fail.

Each rule is a function that returns the problems it found, in words; no problem, no words.
"""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from ledger import METADATA_KEY, ORACLES, ROLES, checks_of, formulas_of, labels_of
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]

PAGES = ROOT / "_build/html"
DECISIVE = {"neural-tangents", "torch"}  # a result needs one of these oracles; the others add to it
LONGEST_CELL = 40  # lines

CHAPTERS = {
    path.relative_to(ROOT).as_posix(): nbformat.read(path, as_version=4)
    for path in sorted((ROOT / "chapters").glob("*.ipynb"))
}


# ---- Rules over all stored notebooks, given as {path: notebook} -----------------------------


def label_problems(chapters):
    """Every label says what it marks, and marks one formula."""
    labels = [(label, path) for path, notebook in chapters.items() for label in labels_of(notebook)]
    for label, path in labels:
        if label.partition("-")[0] not in ROLES or "-" not in label:
            yield f"{label} in {path}: expected a label that begins with eq-, def- or step-"
    for label, count in Counter(label for label, _ in labels).items():
        if count > 1:
            where = ", ".join(path for other, path in labels if other == label)
            yield f"{label} marks {count} formulas: {where}"


def check_problems(chapters):
    """Every result is checked by an independent implementation; every check is of a formula."""
    formulas = formulas_of(list(chapters.items()))
    for formula in formulas:
        oracles = {check["oracle"] for check in formula.checks}
        if formula.role == "result" and not oracles & DECISIVE:
            yield (
                f"{formula.label} in {formula.docname}: no check against neural-tangents or finite "
                f"torch networks, only {sorted(oracles) or 'none'}"
            )
    labels = {formula.label for formula in formulas}
    for path, notebook in chapters.items():
        for check in checks_of(notebook):
            if check["label"] not in labels:
                yield f"{check['label']}: checked in {path}, but no formula has this label"
            if check["oracle"] not in ORACLES:
                yield f"{check['label']} in {path}: unknown oracle {check['oracle']!r}"


NOT_EXACT = 1e-10  # a comparison up to more than this says what of it is approximate


def power_problems(chapters):
    """Every result has, in its chapter, a check that rejects a wrong twin; "exact" means it."""
    for path, notebook in chapters.items():
        checks = checks_of(notebook)
        rejecting = {check["label"] for check in checks if check.get("wrong")}
        for label in labels_of(notebook):
            if label.startswith("eq-") and label not in rejecting:
                yield f"{label} in {path}: no check of it there has wrong=..., a formula that it rejects"
        for check in checks:
            if check["kind"] == "exact" and check["bound"] > NOT_EXACT:
                yield (
                    f"{check['label']} in {path}: compared up to {check['bound']:g} and called exact: say "
                    f"in approximate=... what of it is not"
                )


# ---- Rules over one notebook ----------------------------------------------------------------


def code_cells(notebook):
    """The notebook's code cells, each with a name for messages."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        yield f"code cell {number} ({cell.source.splitlines()[0] if cell.source else 'empty'})", cell


def figure_problems(notebook):
    """Every image has words for those who do not see it, a caption and a name to refer to."""
    for name, cell in code_cells(notebook):
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
            shown = cell.metadata.get("mystnb", {})
            for part, key in (("image", "alt"), ("figure", "caption"), ("figure", "name")):
                if not shown.get(part, {}).get(key):
                    yield f"{name}: shows an image, its metadata has no mystnb.{part}.{key}"


def execution_problems(notebook):
    """Executed from the first cell to the last, once, in a plain Python kernel, without errors."""
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "kernelspec: expected python3"
    for count, (name, cell) in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != count:
            yield f"{name}: expected execution count {count}, got {cell.execution_count}"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{name}: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield f"{name}: wrote to stderr: {output.text.strip()}"


PLACE = re.compile(
    r"""(?<![\w.:/<\\-])/[\w.+~-]+/[\w.+~-]+  # an absolute path of two parts or more
    | \b[A-Za-z]:\\\w                           # the same on Windows
    | \bhttps?://(?!www\.w3\.org/)\S+           # another host: only SVG's name space is no address
    """,
    re.VERBOSE,
)


def output_problems(notebook):
    """No output says where or from what the notebook was executed."""
    for name, cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            texts = [text for kind, text in data.items() if kind.startswith("text/")]
            for text in [output.get("text", ""), *texts]:
                if found := PLACE.search(text):
                    yield f"{name}: its output names {found[0]}"


def length_problems(notebook):
    """A reader takes in a code cell at a glance."""
    for name, cell in code_cells(notebook):
        lines = len(cell.source.splitlines())
        if lines > LONGEST_CELL:
            yield f"{name}: {lines} lines, at most {LONGEST_CELL}"
        if cell.source.rstrip().endswith(";"):  # silent in Jupyter, but nbval shows the value
            yield f"{name}: ends in a semicolon; assign the value to _ instead"


BOOK_RULES = [label_problems, check_problems, power_problems]
NOTEBOOK_RULES = [figure_problems, execution_problems, output_problems, length_problems]


def assert_none(problems):
    found = "\n".join(problems)
    assert not found, found


def test_book_has_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("rule", BOOK_RULES)
def test_book_keeps(rule):
    assert_none(rule(CHAPTERS))


@pytest.mark.parametrize("rule", NOTEBOOK_RULES)
@pytest.mark.parametrize("path", CHAPTERS)
def test_chapter_keeps(path, rule):
    assert_none(rule(CHAPTERS[path]))


def test_ledger_knows_the_oracles_of_the_package():
    from ntkutils import checks

    assert set(ORACLES) == set(checks.ORACLES)


# ---- Rules over the built pages -------------------------------------------------------------

FETCHING_ATTRIBUTES = {"src", "srcset", "poster", "data"}
FETCHING_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
    "apple-touch-icon",
}
OTHER_HOST = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)
CSS_FETCH = re.compile(r"""(?:url\(|@import)\s*['"]?\s*((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)
SCRIPT_URL = re.compile(r"https?://(?!www\.w3\.org/)[^\s'\"]+")
RAW_ROLE = re.compile(r"\{(?:ref|eq|numref|doc|cite|prf:ref)[:\w]*\}")  # a reference that was not resolved
ERROR_CLASSES = {"stderr", "traceback", "system-message", "problematic"}


class Page(HTMLParser):
    """What the rules need to know of a page."""

    def __init__(self, html):
        super().__init__()
        self.links, self.anchors, self.classes = [], set(), set()
        self.fetched, self.styles, self.scripts = [], [], []
        self.text, self.code = [], []
        self.inside = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        if tag in ("script", "style", "pre", "code"):
            self.inside.append(tag)
        self.anchors |= {attributes[key] for key in ("id", "name") if key in attributes}
        self.classes |= set(attributes.get("class", "").split())
        self.styles.append(attributes.get("style", ""))
        self.fetched += [value for name, value in attributes.items() if name in FETCHING_ATTRIBUTES]
        if "href" in attributes:
            if tag in ("use", "image") or set(attributes.get("rel", "").split()) & FETCHING_RELATIONS:
                self.fetched.append(attributes["href"])
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        kept = {"script": self.scripts, "style": self.styles, "pre": self.code, "code": self.code}
        kept.get(self.inside[-1] if self.inside else "", self.text).append(data)


def pages_in(folder):
    """The pages of the site; the theme leaves templates, which are no pages, in `_static`."""
    paths = [path for path in sorted(folder.rglob("*.html")) if folder / "_static" not in path.parents]
    return {path: Page(path.read_text(encoding="utf-8")) for path in paths}


def host_problems(folder):
    """The book works without a network: a page fetches nothing from another host."""
    for path, page in pages_in(folder).items():
        found = [address for address in page.fetched if OTHER_HOST.match(address)]
        found += [address for style in page.styles for address in CSS_FETCH.findall(style)]
        found += [address for script in page.scripts for address in SCRIPT_URL.findall(script)]
        yield from (f"{path.relative_to(folder)}: {address}" for address in found)
    for path in sorted(folder.rglob("*.css")):
        found = CSS_FETCH.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(folder)}: {address}" for address in found)


def page_error_problems(folder):
    """No page shows an error of the build."""
    for path, page in pages_in(folder).items():
        found = sorted(ERROR_CLASSES & page.classes)
        text = " ".join(page.text)
        found += [mark for mark in ("??", "[?]", "System Message:") if mark in text]
        found += RAW_ROLE.findall(text)
        found += [mark for mark in ("Traceback (most recent",) if mark in " ".join(page.code)]
        yield from (f"{path.relative_to(folder)}: shows {error}" for error in found)


def link_problems(folder):
    """Every link inside the book leads to a page, and to a place on it, that exists."""
    pages = pages_in(folder)
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            if OTHER_HOST.match(link) or re.match(r"[a-z]+:", link):
                continue
            address, anchor = urldefrag(link)
            target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
            if not target.exists():
                yield f"{path.relative_to(folder)}: {link} leads nowhere"
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                yield f"{path.relative_to(folder)}: {link} leads to no place on its page"


PAGE_RULES = [host_problems, page_error_problems, link_problems]


@pytest.mark.skipif(not PAGES.exists(), reason="needs the built book: make book")
@pytest.mark.parametrize("rule", PAGE_RULES)
def test_built_pages_keep(rule):
    assert_none(rule(PAGES))


# ---- The rules can fail ---------------------------------------------------------------------


def a_check(label="eq-a", oracle="torch", wrong=("3 for 2",), **others):
    record = {"label": label, "oracle": oracle, "kind": "exact", "bound": 1e-12, "wrong": wrong, **others}
    metadata = {METADATA_KEY: record}
    return new_output("display_data", {"text/plain": label}, metadata=metadata)


def a_code_cell(source="1", outputs=(), count=1, **metadata):
    return new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)


def a_notebook(*cells, kernel="python3"):
    return new_notebook(cells=list(cells), metadata={"kernelspec": {"name": kernel, "display_name": "K"}})


def formula(label):
    return new_markdown_cell(f"Text.\n\n$$\na = b\n$$ ({label})\n")


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


IMAGE = new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"})
DESCRIBED = {"mystnb": {"image": {"alt": "A line."}, "figure": {"caption": "A line.", "name": "fig-line"}}}
GOOD = a_notebook(
    formula("eq-a"),
    formula("def-b"),
    formula("step-c"),
    a_code_cell(outputs=[a_check()]),
    a_code_cell(outputs=[IMAGE], count=2, **DESCRIBED),
    a_code_cell(outputs=[printed("1/2/3 of n/a, <div>a</div>, ratio /2")], count=3),
)


@pytest.mark.parametrize("rule", BOOK_RULES)
def test_book_rule_accepts_a_good_book(rule):
    assert_none(rule({"a.ipynb": GOOD}))


@pytest.mark.parametrize("rule", NOTEBOOK_RULES)
def test_notebook_rule_accepts_a_good_notebook(rule):
    assert_none(rule(GOOD))


@pytest.mark.parametrize(
    "rule, cells, words",
    [
        (label_problems, [formula("ntk")], ["ntk", "a.ipynb", "eq-, def- or step-"]),
        (label_problems, [formula("lem-a")], ["lem-a", "eq-, def- or step-"]),
        (label_problems, [formula("eq-a"), formula("eq-a")], ["eq-a", "2 formulas"]),
        (check_problems, [formula("eq-a")], ["eq-a", "a.ipynb", "no check"]),
        (
            check_problems,
            [formula("eq-a"), a_code_cell(outputs=[a_check(oracle="autodiff")])],
            ["eq-a", "autodiff"],
        ),
        (check_problems, [formula("def-a"), a_code_cell(outputs=[a_check()])], ["eq-a", "no formula"]),
        (
            check_problems,
            [formula("eq-a"), a_code_cell(outputs=[a_check(), a_check(oracle="me")])],
            ["unknown", "me"],
        ),
        (power_problems, [formula("eq-a")], ["eq-a", "wrong="]),
        (power_problems, [formula("eq-a"), a_code_cell(outputs=[a_check(wrong=())])], ["eq-a", "wrong="]),
        (
            power_problems,
            [formula("eq-a"), a_code_cell(outputs=[a_check(), a_check(bound=1e-8)])],
            ["eq-a", "1e-08", "approximate="],
        ),
    ],
)
def test_book_rule_finds(rule, cells, words):
    problems = list(rule({"a.ipynb": a_notebook(*cells)}))
    assert len(problems) == 1 and all(word in problems[0] for word in words), problems


def test_label_used_in_two_chapters_is_found():
    chapter = a_notebook(formula("def-a"))
    [problem] = label_problems({"a.ipynb": chapter, "b.ipynb": chapter})
    assert "a.ipynb, b.ipynb" in problem


@pytest.mark.parametrize(
    "rule, cell, words",
    [
        (
            figure_problems,
            a_code_cell(outputs=[IMAGE], mystnb={**DESCRIBED["mystnb"], "image": {}}),
            "image.alt",
        ),
        (
            figure_problems,
            a_code_cell(outputs=[IMAGE], mystnb={"image": {"alt": "A"}, "figure": {"name": "f"}}),
            "figure.caption",
        ),
        (execution_problems, a_code_cell(count=None), "count 1, got None"),
        (execution_problems, a_code_cell(count=2), "count 1, got 2"),
        (execution_problems, a_code_cell(outputs=[printed("careful", "stderr")]), "careful"),
        (
            execution_problems,
            a_code_cell(outputs=[new_output("error", ename="E", evalue="bad", traceback=[])]),
            "E: bad",
        ),
        (output_problems, a_code_cell(outputs=[printed("saved in '/some/where/file'")]), "/some/where"),
        (output_problems, a_code_cell(outputs=[printed(r"saved in C:\file")]), "C:"),
        (
            output_problems,
            a_code_cell(outputs=[printed("Looking in https://packages.example/simple")]),
            "packages.example",
        ),
        (length_problems, a_code_cell("\n".join("a" * 41)), "41 lines"),
        (length_problems, a_code_cell("ax.set();"), "semicolon"),
    ],
)
def test_notebook_rule_finds(rule, cell, words):
    [problem] = rule(a_notebook(cell))
    assert "code cell 1" in problem and words in problem


def test_other_kernel_is_found():
    assert list(execution_problems(a_notebook(kernel="my-env"))) == ["kernelspec: expected python3"]


def test_labels_are_found_in_directives_and_not_in_literal_blocks():
    text = ":::{prf:proof}\nNow\n\n$$ a $$ (step-a)\n:::\n\n```\n$$ b $$ (eq-b)\n```\n\n$$\nc\n$$ (eq-c)\n"
    assert labels_of(a_notebook(new_markdown_cell(text))) == ["step-a", "eq-c"]


@pytest.fixture
def site(tmp_path):
    """Write pages into a folder; the first is `page.html`."""

    def write(html, css=""):
        (tmp_path / "page.html").write_text(f"<html><body>{html}</body></html>")
        (tmp_path / "other.html").write_text('<p id="here">Text</p>')
        (tmp_path / "style.css").write_text(css)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://elsewhere.example">out</a> <a href="other.html#here">in</a> <a href="#">top</a>',
        '<script src="page.html?v=1"></script><code>a ?? b</code><img src="data:image/png;base64,aa">',
    ],
)
@pytest.mark.parametrize("rule", PAGE_RULES)
def test_page_rule_accepts(site, rule, html):
    assert_none(rule(site(html, "p { background: url(page.png) }")))


@pytest.mark.parametrize(
    "rule, html, css, words",
    [
        (host_problems, '<script src="https://cdn.example/x.js"></script>', "", "cdn.example"),
        (host_problems, '<script>const cdn = "https://cdn.example/x.js"</script>', "", "cdn.example"),
        (host_problems, '<img src="//img.example/x.png">', "", "img.example"),
        (host_problems, '<link rel="stylesheet" href="https://css.example/x.css">', "", "css.example"),
        (host_problems, "<style>@import 'https://css.example/x.css'</style>", "", "css.example"),
        (host_problems, '<p style="background: url(https://img.example/x)">a</p>', "", "img.example"),
        (host_problems, "", "@font-face { src: url('https://font.example/x.woff') }", "font.example"),
        (page_error_problems, '<div class="output stderr">a</div>', "", "stderr"),
        (page_error_problems, '<span class="problematic">a</span>', "", "problematic"),
        (page_error_problems, "<p>by equation ??</p>", "", "??"),
        (page_error_problems, "<p>as in [?]</p>", "", "[?]"),
        (page_error_problems, "<p>by {eq}`eq-a`</p>", "", "{eq}"),
        (page_error_problems, "<pre>Traceback (most recent call last):</pre>", "", "Traceback"),
        (link_problems, '<a href="missing.html">a</a>', "", "missing.html leads nowhere"),
        (link_problems, '<a href="other.html#there">a</a>', "", "other.html#there leads to no place"),
        (link_problems, '<a href="#equation-eq-a">a</a>', "", "#equation-eq-a leads to no place"),
    ],
)
def test_page_rule_finds(site, rule, html, css, words):
    [problem] = rule(site(html, css))
    assert words in problem
