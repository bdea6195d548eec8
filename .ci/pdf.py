"""Makes _build/book.pdf from the built pages; `make pdf` calls it.

The pages' contents become one document, in the order of the table of contents, and Chromium prints it:
so a formula, a figure or a colour is the page's own, and a link from page to page is a link in the PDF.
It is printed twice: the first time tells on which page everything is, for the contents.
"""

import asyncio
import functools
import os
import posixpath
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pypdf
from bs4 import BeautifulSoup
from playwright.async_api import async_playwright

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build/html"
FIRST = "chapters/index.html"
TARGET = ROOT / "_build/book.pdf"
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


def document(numbers):
    """The whole book as one page; `numbers` has the page of each identifier, as far as it is known."""
    shell = BeautifulSoup((SITE / FIRST).read_text(), "html.parser")
    listed = list(pages(shell))
    chosen = {address for _, address, _, _ in listed}
    title, author = shell.h1.find(string=True, recursive=False), "executable book"
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
            f"<span>{numbers.get(identifier(address), '')}</span></li>"
        )
    cover = (
        "<section class='book-cover'><div><img src='/_static/logo.svg' alt=''>"
        f"<p class='display-3'>{title}</p><p class='fs-4'>{author}</p></div></section>"
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


async def printed(page, address, html):
    """The document as Chromium prints it."""

    async def answer(route):
        await route.fulfill(body=html, content_type="text/html; charset=utf-8")

    await page.route("**/book.html", answer)
    await page.goto(address, wait_until="load", timeout=600_000)
    await page.evaluate("() => MathJax.startup.promise.then(() => document.fonts.ready).then(() => {})")
    wrong = await page.locator("mjx-merror").count()
    broken = await page.evaluate(
        "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    if wrong or broken:
        sys.exit(f"{wrong} formulas and these pictures could not be drawn: {broken}")
    await page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    await page.unroute("**/book.html")
    return await page.pdf(
        prefer_css_page_size=True,
        outline=True,
        tagged=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
    )


async def make(address):
    """Print twice; returns the PDF."""
    async with async_playwright() as playwright:
        options = ["no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"]
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in options]
        )
        page = await browser.new_page(color_scheme="light", viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(600_000)
        numbers = {}
        for _ in range(2):
            content = await printed(page, address, document(numbers))
            TARGET.write_bytes(content)
            reader = pypdf.PdfReader(TARGET)
            numbers = {
                name.removeprefix("/"): reader.get_destination_page_number(place) + 1
                for name, place in reader.named_destinations.items()
            }
        await browser.close()
    return reader


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        """No line a request."""


def main():
    """Serve the built pages to Chromium, and tell what has come of it."""
    if not CHROMIUM:
        sys.exit("The PDF needs Chromium (apt install chromium), or its path in the variable CHROMIUM.")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reader = asyncio.run(make(f"http://127.0.0.1:{server.server_port}/book.html"))
        server.shutdown()
    size = TARGET.stat().st_size / 1e6
    print(f"The book is ready: {TARGET} ({len(reader.pages)} pages, {size:.1f} MB)")


if __name__ == "__main__":
    main()
