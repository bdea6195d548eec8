"""Makes _build/book.pdf from the built pages; `make pdf` calls it.

The pages' contents become one document, in the order of the table of contents, and Chromium prints it:
so a formula, a figure or a colour is the page's own, and a link from page to page is a link in the PDF.
It is printed twice: the first time tells on which page everything is, for the contents.
"""

import os
import posixpath
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pypdf
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build/html"
FIRST = "chapters/index.html"
TARGET = ROOT / "_build/book.pdf"
ADDRESS = "http://127.0.0.1/book.html"  # nobody answers there: the files are handed to Chromium
PATIENCE = 600_000  # ms: all formulas of the book at once
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WIDTH = 665  # pixels of text on A4 with the margins of print.css: wider formulas become smaller
FOOTER = """<div style="width: 100%; font: 8pt sans-serif; text-align: center">
  <span class="pageNumber"></span></div>"""
STYLE = """
  .book-page + .book-page { break-before: page; }
  .book-page h1 { display: block !important; font-size: 2rem; } /* the theme prints it elsewhere */
  .book-cover { min-height: 240mm; display: flex; flex-direction: column; justify-content: center; }
  .book-cover img { width: 6rem; margin-bottom: 3rem; }
  .book-contents { break-before: page; break-after: page; }
  .book-contents ol { list-style: none; padding: 0; }
  .book-contents li { display: flex; gap: 1ex; }
  .book-contents li.deeper { padding-left: 2em; }
  .book-contents li a { flex: 1; }
"""


def identifier(page, fragment=""):
    """The identifier, in the one document, of a place on a page."""
    return "--".join(filter(None, [page.removesuffix(".html").replace("/", "-"), fragment]))


def pages(soup):
    """The pages in the order of the table of contents, as (caption, address, title, whether nested)."""
    caption = None
    yield None, FIRST, soup.h1.find(string=True, recursive=False), False
    for entry in soup.select("nav.bd-links p.caption, nav.bd-links a.reference.internal"):
        if entry.name == "p":
            caption = entry.get_text(strip=True)
        elif entry["href"] != "#":  # the first page itself
            address = posixpath.normpath(posixpath.join(posixpath.dirname(FIRST), entry["href"]))
            nested = entry.find_parent("li", class_="toctree-l2") is not None
            yield caption, address, entry.get_text(" ", strip=True), nested


def article(address, chosen):
    """A page's content, with identifiers and links for the one document."""
    soup = BeautifulSoup((SITE / address).read_text(), "html.parser")
    content = soup.select_one("article.bd-article")
    for element in content.select("a.headerlink, script"):
        element.decompose()
    for element in content.select("[id]"):
        element["id"] = identifier(address, element["id"])
    for attribute in ("aria-describedby", "aria-labelledby", "for"):
        for element in content.select(f"[{attribute}]"):
            element[attribute] = identifier(address, element[attribute])
    for element in content.select("[href], [src]"):
        attribute = "href" if element.has_attr("href") else "src"
        parts = urlsplit(element[attribute])
        if parts.scheme:
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(address), unquote(parts.path)))
        target = target if parts.path else address
        if attribute == "href" and target in chosen:
            element["href"] = "#" + identifier(target, unquote(parts.fragment))
        elif (SITE / target).is_file() and attribute == "src":
            element["src"] = f"/{target}"
        else:  # a page that the PDF leaves out, such as the index of names
            element.name = "span"
            del element[attribute]
    content.name = "section"
    content["class"] = [*content.get("class", []), "book-page"]
    content["id"] = identifier(address)
    return content


def document():
    """The whole book as one page; the contents have empty places for the numbers of pages."""
    shell = BeautifulSoup((SITE / FIRST).read_text(), "html.parser")
    listed = list(pages(shell))
    chosen = {address for _, address, _, _ in listed}
    title = shell.h1.find(string=True, recursive=False)
    for element in shell.select("script[src], link[rel=preload]"):
        source = element.get("src", "")
        if "math" not in source:  # living figures stay pictures; nothing waits to be clicked
            element.decompose()
    for element in shell.select("[href^='../'], [src^='../']"):
        attribute = "href" if element.has_attr("href") else "src"
        element[attribute] = element[attribute].removeprefix("..")
    contents = ["<section class='book-contents'><h2>Contents</h2><ol>"]
    shown = None
    for caption, address, name, nested in listed:
        if caption != shown:
            contents.append(f"</ol><h3>{caption}</h3><ol>")
            shown = caption
        contents.append(
            f"<li class='{'deeper' if nested else ''}'><a href='#{identifier(address)}'>{name}</a>"
            f"<span data-page-of='{identifier(address)}'></span></li>"
        )
    cover = (
        "<section class='book-cover'><div><img src='/_static/logo.svg' alt=''>"
        f"<p class='display-3'>{title}</p><p class='fs-4'>executable book</p></div></section>"
    )
    body = shell.body
    body.clear()
    main = BeautifulSoup(
        "<div class='bd-container'><div class='bd-container__inner bd-page-width'><main class='bd-main'>"
        "<div class='bd-content'><div class='bd-article-container'><article class='bd-article'></article>"
        "</div></div></main></div></div>",
        "html.parser",
    )
    place = main.select_one("article")
    for part in (cover, "".join([*contents, "</ol></section>"])):
        place.append(BeautifulSoup(part, "html.parser"))
    for _, address, _, _ in listed:
        place.append(article(address, chosen))
    body.append(main)
    style = shell.new_tag("style")
    style.string = STYLE
    shell.head.append(style)
    shell.title.string = str(title).strip()
    shell.html["data-theme"] = shell.html["data-mode"] = "light"
    return str(shell)


def answer(route):
    """Give Chromium the document, or the file that it asks for."""
    if route.request.url == ADDRESS:
        route.fulfill(body=document(), content_type="text/html; charset=utf-8")
    else:
        route.fulfill(path=SITE / unquote(urlsplit(route.request.url).path).lstrip("/"))


def open_document(page):
    """Open the document and wait until all of it is drawn."""
    page.set_default_timeout(PATIENCE)
    page.route("**/*", answer)
    page.goto(ADDRESS)
    page.evaluate("() => MathJax.startup.promise.then(() => document.fonts.ready).then(() => {})")
    wrong = page.locator("mjx-merror").count()
    broken = page.evaluate(
        "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    if wrong or broken:
        sys.exit(f"{wrong} formulas and these pictures could not be drawn: {broken}")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")


def printed(page):
    """Print the page to TARGET; returns a reader of it."""
    page.pdf(
        path=TARGET,
        prefer_css_page_size=True,
        outline=True,
        tagged=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
    )
    return pypdf.PdfReader(TARGET)


def entries(node):
    """The entries of a PDF's outline, from this one on, as dictionaries."""
    while node is not None:
        node = node.get_object()
        yield node
        yield from entries(node.get("/First"))
        node = node.get("/Next")


def with_names(headings):
    """Name the entries of TARGET's outline after the headings; returns a reader of it.

    Chromium takes them from its lines: without a space between two, and twice where a heading moves to
    the next page.
    """
    writer = pypdf.PdfWriter(TARGET, incremental=True)  # the rest stays as Chromium made it
    outline = list(entries(writer.root_object["/Outlines"]["/First"]))
    if len(outline) != len(headings):
        sys.exit(f"The outline has {len(outline)} entries for {len(headings)} headings.")
    for entry, heading in zip(outline, headings, strict=True):
        entry[pypdf.generic.NameObject("/Title")] = pypdf.generic.TextStringObject(heading)
    writer.write(TARGET)
    return pypdf.PdfReader(TARGET)


def make():
    """Print twice; returns a reader of the PDF."""
    with sync_playwright() as playwright:
        options = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"]
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in options]
        )
        page = browser.new_page(color_scheme="light", viewport={"width": WIDTH, "height": 900})
        open_document(page)
        reader = printed(page)
        numbers = {
            name.removeprefix("/"): reader.get_destination_page_number(place) + 1
            for name, place in reader.named_destinations.items()
        }
        page.evaluate(
            """numbers => document.querySelectorAll("[data-page-of]").forEach(
                place => { place.textContent = numbers[place.dataset.pageOf] })""",
            numbers,
        )
        printed(page)
        headings = page.evaluate(
            """[...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(
                heading => heading.innerText.replace(/\\s+/g, " ").trim())"""
        )
        browser.close()
    return with_names(headings)


def main():
    """Make the PDF, and tell what has come of it."""
    if not CHROMIUM:
        sys.exit("The PDF needs Chromium (apt install chromium), or its path in the variable CHROMIUM.")
    reader = make()
    size = TARGET.stat().st_size / 1e6
    print(f"The book is ready: {TARGET} ({len(reader.pages)} pages, {size:.1f} MB)")


if __name__ == "__main__":
    main()
