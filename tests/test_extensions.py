"""The book's Sphinx extensions, on a book of two small chapters built with the real configuration."""

import multiprocessing
import os
import re
import shutil
import sys
import warnings
from html import unescape
from pathlib import Path

import jupyter_book.sphinx  # noqa: F401 (here once, not in every build)
import myst_nb  # noqa: F401
import nbformat
import pytest
from address import address_of
from jupyter_book.cli.main import main as jupyter_book_command
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
TOC = """\
format: jb-book
root: chapters/index
parts:
  - numbered: 2
    chapters: [{file: chapters/a_uses}, {file: chapters/b_plain}]
  - chapters: [{file: chapters/ledger}, {file: chapters/exercises}, {file: chapters/glossary}]
"""
STUB = """\
from IPython.display import display

MEASURED = 1.5e-9


def check(label, oracle):
    record = dict(label=label, oracle=oracle, against="the same net", kind="approximate",
                  bound=1e-7, measured=MEASURED, unit="of the largest", values=400, sees=1.95e-7,
                  wrong=["3 for 2", "x for y"], approximate="a step of 1e-4")
    display({"text/plain": label}, metadata={"ntkutils-check": record}, raw=True)
"""
GLOSSARY = """\
# Glossary

```{glossary}
gap
  What is "not" there. In symbols $g$.
```
"""
GITHUB = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "An-Owner/the-book",
    "GITHUB_REF_NAME": "draft/one",
}
EXECUTED = "from pathlib import Path\nwith open('../executed', 'a') as log:\n    log.write('%s ')\n"
USES = [
    new_markdown_cell(
        "# Uses the package\n\n$$ a = b $$ (eq-first-thing)\n\n"
        "$$ b := c $$ (def-second)\n\n$$ d := e $$ (def-third)\n"
    ),
    new_code_cell(EXECUTED % "uses" + "import ntkutils\nprint('measured', ntkutils.MEASURED)"),
    new_code_cell(
        "ntkutils.check('eq-first-thing', 'neural-tangents')\nntkutils.check('eq-first-thing', 'torch')\n"
        "ntkutils.check('def-third', 'autodiff')"
    ),
    new_markdown_cell(
        "## Exercises\n\nMind the {term}`gap`.\n\n"
        "```{exercise-start} A title\n:label: ex-first\n```\nWhy?\n```{exercise-end}\n```\n\n"
        "```{solution-start} ex-first\n```\nBecause.\n```{solution-end}\n```\n"
    ),
]
PLAIN = [
    new_markdown_cell(
        "# Plain\n\n:::{prf:proof}\nNow\n\n$$\nx = y\n$$ (step-x)\n:::\n\n$$ y = z $$ (eq-unchecked)\n"
    ),
    new_code_cell(
        EXECUTED % "plain" + "if Path('../ending').exists():\n    exec(Path('../ending').read_text())"
    ),
    new_code_cell(
        "from IPython.display import HTML\n"
        "link = '<a href=\"#equation-%s\">%s</a>'\n"
        "links = ' '.join(link % (label, label) for label in ('eq-first-thing', 'step-x'))\n"
        "HTML(f'<div class=\"ntk-check\">{links}</div>')"
    ),
]
ENDINGS = {
    "failed": "raise RuntimeError\n",
    "killed": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)  # the build, not the kernel\n",
}


class Book:
    """The small book, and what a build of it executed."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(ROOT / "chapters/_extensions", root / "chapters/_extensions")
        shutil.copytree(ROOT / "chapters/_static", root / "chapters/_static")
        shutil.copy(ROOT / "_config.yml", root)
        (root / "ntkutils").mkdir()
        self.write("_toc.yml", TOC)
        self.write("requirements.txt", "torch==1\n")
        self.write("ntkutils/__init__.py", STUB)
        self.write("chapters/index.md", "# A book\n\nSee {eq}`eq-first-thing`.\n")
        self.write("chapters/ledger.md", "# Ledger\n\n```{ledger}\n```\n")
        self.write("chapters/exercises.md", "# Exercises\n\n```{exercise-index}\n```\n")
        self.write("chapters/glossary.md", GLOSSARY)
        self.write("chapters/references.bib", "")
        self.notebook("a_uses", USES)
        self.notebook("b_plain", PLAIN)
        self.first = self.build()

    def write(self, path, text):
        self.built = False
        (self.root / path).write_text(text, encoding="utf-8")

    def append(self, path, text):
        self.write(path, (self.root / path).read_text(encoding="utf-8") + text)

    def notebook(self, name, cells):
        self.built = False
        kernel = {"name": "python3", "display_name": "Python 3"}
        notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.root / f"chapters/{name}.ipynb")

    def run(self, *options, **environment):
        """Build with warnings as errors: whether it succeeded, and the chapters it executed."""
        log = self.root / "executed"
        log.unlink(missing_ok=True)
        # A process of its own, since a Sphinx application leaves state behind; forked, since
        # importing Sphinx again would take longer than most of these builds.
        process = multiprocessing.get_context("fork").Process(
            target=self._build, args=options, kwargs=environment
        )
        process.start()
        process.join()
        self.built = process.exitcode == 0
        return self.built, log.read_text().split() if log.exists() else []

    def _build(self, *options, **environment):
        output = os.open(self.root / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(output, "w")  # pytest's own would keep the text
        warnings.simplefilter("ignore")  # Python's own are an error under pytest, not in a build
        for name in list(os.environ):
            if name.startswith("GITHUB_"):  # where the tests run says nothing of this book
                del os.environ[name]
        os.environ |= {"PYTHONPATH": str(self.root), **environment}
        jupyter_book_command(["build", "-W", *options, str(self.root)])

    def build(self, *options, **environment):
        succeeded, executed = self.run(*options, **environment)
        assert succeeded, self.output()[-4000:]
        return executed

    def fails(self):
        succeeded, executed = self.run()
        assert not succeeded
        return executed

    def output(self):
        """What the last build printed."""
        return (self.root / "output").read_text(encoding="utf-8")

    def page(self, name):
        """The body of a built page."""
        return self.html(f"chapters/{name}.html").partition("<article")[2].partition("</article>")[0]

    def html(self, path):
        """All of a built page."""
        return (self.root / "_build/html" / path).read_text(encoding="utf-8")

    def metadata(self, path):
        """What a built page says of itself to others, by name."""
        tags = re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)"', self.html(path))
        return {name: unescape(value) for name, value in tags}

    def ledger_rows(self):
        """The rows of the ledger's tables, as lists of texts."""
        rows = re.findall(r"<tr.*?</tr>", self.page("ledger"), re.DOTALL)
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
        texts = [[unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells]
        return [row for row in texts if row]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return Book(tmp_path_factory.mktemp("book"))


@pytest.fixture(autouse=True)
def up_to_date(book):
    """Every test starts from a book that is built: the tests do not depend on their order."""
    if not book.built:
        book.build()


def test_first_build_executes_all_and_the_next_nothing(book):
    assert book.first == ["uses", "plain"]
    assert book.build() == []


def test_changed_package_executes_only_the_chapter_that_uses_it(book):
    book.append("ntkutils/__init__.py", "# changed\n")
    assert book.build() == ["uses"]
    assert book.build() == []


def test_new_module_of_the_package_counts_as_a_change(book):
    book.write("ntkutils/new.py", "")
    assert book.build() == ["uses"]


def test_changed_requirements_execute_every_chapter(book):
    book.append("requirements.txt", "numpy==1\n")
    assert book.build() == ["uses", "plain"]


def test_changed_text_executes_nothing(book):
    book.notebook("b_plain", [*PLAIN, new_markdown_cell("More text.")])
    assert book.build() == []
    assert "More text." in book.page("b_plain")


def test_code_that_returns_to_an_older_state_is_not_served_from_before(book):
    """The old execution is still in the cache while the chapter has other code."""
    book.notebook("a_uses", [*USES, new_code_cell("1 + 1")])
    assert book.build() == ["uses"]
    book.append("ntkutils/__init__.py", "# changed meanwhile\n")
    book.notebook("a_uses", USES)
    assert book.build() == ["uses"]


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_execution_that_was_cut_short_does_not_make_a_chapter_look_fresh(book, ending):
    working = (book.root / "ntkutils/__init__.py").read_text()
    book.append("ntkutils/__init__.py", ending)
    assert book.fails() == ["uses"]
    assert book.fails() == ["uses"]
    book.write("ntkutils/__init__.py", working)
    assert book.build() == ["uses"]
    assert book.build() == []


@pytest.mark.parametrize(
    "ending, measured", [*zip(ENDINGS.values(), (2.5e-08, 3.5e-08), strict=True)], ids=ENDINGS
)
def test_page_follows_an_execution_whose_build_was_cut_short_later(book, ending, measured):
    """The first chapter is executed and cached, then the second one ends the build."""
    book.append("ntkutils/__init__.py", f"MEASURED = {measured}\n")
    book.append("requirements.txt", "scipy==1\n")
    book.write("ending", ending)
    assert book.fails() == ["uses", "plain"]
    (book.root / "ending").unlink()
    assert book.build() == ["plain"]
    assert f"measured {measured}" in book.page("a_uses")
    assert f"{measured} ≤ 1e-07" in book.page("ledger")


def test_page_follows_an_execution_by_another_builder(book):
    book.append("ntkutils/__init__.py", "MEASURED = 4.5e-08\n")
    assert book.build("--builder", "linkcheck") == ["uses"]
    assert book.build() == []
    assert "measured 4.5e-08" in book.page("a_uses")


def test_ledger_lists_results_with_their_checks_then_the_rest(book):
    book.append("ntkutils/__init__.py", "MEASURED = 1.5e-9\n")
    book.build()
    page, rows = book.page("ledger"), book.ledger_rows()
    assert (
        "2 results, 3 checks: 1 against neural-tangents, 1 against finite torch networks, 1 against" in page
    )
    kind = "approximate, 400 values: a step of 1e-4"
    checked = [kind, "1.5e-09 ≤ 1e-07", "1 ± 2e-07", "3 for 2; x for y"]
    assert "1 against automatic differentiation; 6 wrong formulas rejected" in page
    assert rows == [
        ["1. Uses the package"],
        ["(1.1)", "first thing", "neural-tangents: the same net", *checked],
        ["finite torch networks: the same net", *checked],
        ["(1.3)", "third (definition)", "automatic differentiation: the same net", *checked],
        ["2. Plain"],
        ["(2.2)", "unchecked", "no check", "", "", "", ""],
        ["1. Uses the package"],
        ["(1.2)", "second", "definition"],
        ["2. Plain"],
        ["(2.1)", "x", "step of a proof"],
    ]
    assert 'href="a_uses.html#equation-eq-first-thing"' in page
    assert 'href="b_plain.html"' in page


def test_line_of_a_check_leads_to_its_formula_in_whatever_chapter(book):
    page = book.page("b_plain")
    assert '<a href="a_uses.html#equation-eq-first-thing">eq-first-thing</a>' in page
    assert '<a href="#equation-step-x">step-x</a>' in page


def test_ledger_is_made_again_when_only_a_chapter_changes(book):
    book.append("ntkutils/__init__.py", "MEASURED = 6.5e-09\n")
    assert book.build() == ["uses"]
    assert "6.5e-09 ≤ 1e-07" in book.page("ledger")


def test_numbered_formula_that_the_ledger_cannot_see_fails_the_build(book):
    hidden = new_markdown_cell("```{math}\n:label: eq-hidden\nu = v\n```\n")
    book.notebook("b_plain", [*PLAIN, hidden])
    book.fails()
    assert "eq-hidden" in book.output()
    book.notebook("b_plain", PLAIN)


def test_mistake_in_the_text_does_not_execute_the_code_again(book):
    book.append("requirements.txt", "sympy==1\n")
    book.notebook("b_plain", [*PLAIN, new_markdown_cell("{nosuchrole}`a`")])
    assert book.fails() == ["uses", "plain"]
    book.notebook("b_plain", PLAIN)
    assert book.build() == []


def test_cell_that_writes_to_stderr_fails_the_build(book):
    book.notebook("b_plain", [*PLAIN, new_code_cell("import sys; print('careful', file=sys.stderr)")])
    book.fails()
    assert "stderr" in book.output()
    book.notebook("b_plain", PLAIN)


# ---- The reading aids -----------------------------------------------------------------------


def test_index_lists_every_exercise_with_its_title_and_solution(book):
    page = book.page("exercises")
    assert "1 exercise in 1 chapter." in page
    assert re.search(r">1\.1<.*?a_uses\.html#ex-first\W.*?>A title<", page, re.DOTALL)
    [solution] = re.findall(r'href="a_uses\.html#([^"]*solution[^"]*)"', page)
    assert f'id="{solution}"' in book.page("a_uses")


def test_exercise_without_solution_fails_the_build(book):
    lonely = new_markdown_cell(
        "```{exercise-start} B\n:label: ex-lonely\n```\nWhy?\n```{exercise-end}\n```\n"
    )
    book.notebook("b_plain", [*PLAIN, lonely])
    book.fails()
    assert "'ex-lonely' has no solution" in book.output()
    book.notebook("b_plain", PLAIN)


def test_link_to_a_term_says_what_it_means(book):
    [link] = re.findall(r'<a [^>]*href="glossary.html#term-gap"[^>]*>', book.page("a_uses"))
    assert unescape(re.search('title="([^"]*)"', link)[1]) == "What is “not” there."


def test_every_page_describes_itself(book):
    found = book.metadata("chapters/glossary.html")
    assert found["og:title"] == "Glossary"
    assert (book.root / "_build/html/chapters" / found["og:image"]).resolve().exists()
    found = book.metadata("chapters/index.html")
    assert found["og:title"] == "The Neural Tangent Kernel"
    assert found["description"] == found["og:description"] == "See (1.1)."


def test_without_an_address_no_page_names_one(book):
    book.build()
    pages = [book.html(f"chapters/{name}.html") for name in ("index", "a_uses", "b_plain")]
    for page in [*pages, book.html("index.html")]:
        assert not re.search("mybinder|canonical|og:url|jupyter-book/issues|source-repository", page)
    assert not (book.root / "_build/html/sitemap.xml").exists()


def test_github_build_knows_repository_branch_and_file(book):
    book.build(**GITHUB)
    for name in ("a_uses", "b_plain"):
        page = book.html(f"chapters/{name}.html")
        [launch] = set(re.findall(r'href="(https://mybinder[^"]*)"', page))
        place = "https://mybinder.org/v2/gh/An-Owner/the-book/draft/one"
        assert unescape(launch) == f"{place}?urlpath=lab/tree/chapters/{name}.ipynb"
        assert 'href="https://github.com/An-Owner/the-book"' in page
        assert 'href="https://github.com/An-Owner/the-book/issues/new' in page
        assert (
            f'<link rel="canonical" href="https://an-owner.github.io/the-book/chapters/{name}.html"' in page
        )
    assert "mybinder" not in book.html("chapters/ledger.html")  # a page of text is nothing to run
    book.built = False


def test_github_build_gives_absolute_addresses_and_a_sitemap(book):
    book.build(**GITHUB)
    base = "https://an-owner.github.io/the-book/"
    found = book.metadata("chapters/a_uses.html")
    assert found["og:url"] == f"{base}chapters/a_uses.html"
    assert found["og:image"] == f"{base}_static/card.png"
    assert book.metadata("index.html")["og:url"] == f"{base}chapters/index.html"
    pages = re.findall("<loc>(.*?)</loc>", book.html("sitemap.xml"))
    expected = {path.relative_to(book.root / "chapters") for path in (book.root / "chapters").glob("*.*")}
    expected = {path.stem for path in expected if path.suffix in (".md", ".ipynb")}
    assert pages[0] == f"{base}chapters/index.html"
    assert sorted(pages) == sorted(f"{base}chapters/{name}.html" for name in expected)
    book.built = False
    book.build()
    assert not (book.root / "_build/html/sitemap.xml").exists()


@pytest.mark.parametrize(
    "environment, configured, repository, branch, pages",
    [
        ({}, "https://github.com/a/b/", "https://github.com/a/b", "main", "https://a.github.io/b/"),
        ({}, "https://github.com/a/b.git", "https://github.com/a/b", "main", "https://a.github.io/b/"),
        (GITHUB, "https://github.com/a/b", "https://github.com/An-Owner/the-book", "draft/one", None),
        ({**GITHUB, "GITHUB_REF_NAME": "7/merge"}, "", None, "main", None),
        (
            {"GITHUB_REPOSITORY": "a/A.github.io"},
            "",
            "https://github.com/a/A.github.io",
            "main",
            "https://a.github.io/",
        ),
        ({}, "https://gitlab.com/a/b", "https://gitlab.com/a/b", "main", ""),
    ],
)
def test_address_is_of_the_build_or_as_configured(environment, configured, repository, branch, pages):
    found = address_of(environment, configured)
    assert found.repository == (repository or "https://github.com/An-Owner/the-book")
    assert found.branch == branch
    assert found.pages == ("https://an-owner.github.io/the-book/" if pages is None else pages)


def test_no_address_is_none():
    assert address_of({}, "  ") is None
