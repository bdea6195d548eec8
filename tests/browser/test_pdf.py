"""The PDF of the book: three short pages of it, printed as `make pdf` prints them all."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ["chapters/index.html", "chapters/notation.html", "chapters/bibliography.html"]

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("playwright.sync_api")
if not all((ROOT / "_build/html" / page).exists() for page in SHORT):
    pytest.skip("needs the built book: make book", allow_module_level=True)


@pytest.fixture(scope="module")
def pdf():
    specification = importlib.util.spec_from_file_location("pdf", ROOT / ".ci/pdf.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if not module.CHROMIUM:
        pytest.skip("needs Chromium: apt install chromium")
    return module


@pytest.fixture(scope="module")
def printed(pdf, tmp_path_factory):
    """The reader of a PDF of three pages."""
    every_page, pdf.pages = pdf.pages, lambda soup: (p for p in every_page(soup) if p[1] in SHORT)
    pdf.TARGET = tmp_path_factory.mktemp("pdf") / "book.pdf"
    with ThreadPoolExecutor(1) as thread:  # as this one runs a browser already
        thread.submit(pdf.main).result()
    return pypdf.PdfReader(pdf.TARGET)


def test_all_pages_of_the_contents_are_listed(pdf):
    soup = pdf.BeautifulSoup((pdf.SITE / pdf.FIRST).read_text(), "html.parser")
    listed = [address for _, address, _, _ in pdf.pages(soup)]
    built = {p.relative_to(pdf.SITE).as_posix() for p in (pdf.SITE / "chapters").rglob("*.html")}
    assert len(listed) == len(set(listed))
    assert set(listed) == built


def test_outline_names_the_pages(pdf, printed):
    def names(entries):
        for entry in entries:
            yield from names(entry) if isinstance(entry, list) else [entry.title]

    found = list(names(printed.outline))
    for title in ("Contents", "Notation", "Bibliography"):
        assert found.count(title) == 1, found
    soup = pdf.BeautifulSoup((pdf.SITE / SHORT[1]).read_text(), "html.parser")
    for heading in soup.select("article :is(h1, h2)"):
        words = " ".join(heading.find_all(string=True, recursive=False)).strip()
        assert any(words in title for title in found), (words, found)


def test_contents_tell_the_right_pages(printed):
    words = printed.pages[1].extract_text().splitlines()
    for title, identifier in (("Notation", "chapters-notation"), ("Bibliography", "chapters-bibliography")):
        page = printed.get_destination_page_number(printed.named_destinations[f"/{identifier}"]) + 1
        assert title in printed.pages[page - 1].extract_text()
        assert any(title in line and line.split()[-1] == str(page) for line in words), (title, page, words)


def test_links_lead_into_the_pdf_or_to_the_world(printed):
    inner, outer = set(), set()
    for page in printed.pages:
        for link in (a.get_object() for a in page.get("/Annots") or []):
            if "/Dest" in link:
                inner.add(link["/Dest"])
            elif "/A" in link and "/URI" in link["/A"]:
                outer.add(link["/A"]["/URI"])
            elif "/A" in link:
                inner.add(link["/A"]["/D"])
    assert {str(name) for name in inner} <= {str(name) for name in printed.named_destinations}
    assert any("chapters-notation" in str(name) for name in inner)
    assert outer and not [address for address in outer if "127.0.0.1" in address]


def test_formulas_are_letters_not_pictures(printed):
    used = [
        f.get_object() for page in printed.pages for f in (page["/Resources"].get("/Font") or {}).values()
    ]
    names = {font["/FontDescriptor"]["/FontName"] for font in used if "/FontDescriptor" in font}
    assert any("MathJax_Math-Italic" in name for name in names), names
    assert printed.metadata.title == "The Neural Tangent Kernel"
