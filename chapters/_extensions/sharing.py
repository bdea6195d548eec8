"""Sphinx extension: what others see of the book: previews of shared pages, and the map for search engines.

Every page has a description, its first paragraph unless `html_meta` gives another, and a picture. The
entry page, which leads on to the first page, has them too. Addresses are absolute where the book's own
is known (`html_baseurl`, see `address.py`); only then is there a `sitemap.xml`.
"""

from html import escape
from pathlib import Path

from docutils import nodes

LONGEST = 200  # characters of a description: more is cut off by those who show it
PICTURE = "_static/card.png"
PICTURE_SAYS = "The title of the book beside four data points, a curve through them and a band around it."
ENTRY = """\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <title>{title}</title>
    <meta http-equiv="refresh" content="0; url={target}" />
{tags}
  </head>
  <body><p><a href="{target}">{title}</a></p></body>
</html>
"""


def first_paragraph(doctree):
    """The first paragraph of running text, cut at a word if it is long."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            text = " ".join(paragraph.astext().split())
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rpartition(" ")[0] + "…"
    return ""


def description_of(doctree):
    """What a page says of itself, and whether it says so in a tag of its own already."""
    for tag in doctree.findall(nodes.meta):
        if tag.get("name") == "description":
            return tag["content"], True
    return first_paragraph(doctree), False


def tags(title, book, description, base, address, is_root):
    """The page's `meta` elements as HTML; `base` is the book's address or the way to its root."""
    properties = {
        "og:title": title,
        "og:description": description,
        "og:type": "book" if is_root else "article",
        "og:site_name": book,
        "og:locale": "en",
        "og:url": address,
        "og:image": base + PICTURE,
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": PICTURE_SAYS,
    }
    elements = [
        f'<meta property="{name}" content="{escape(value)}" />'
        for name, value in properties.items()
        if value
    ]
    return "\n".join([*elements, '<meta name="twitter:card" content="summary_large_image" />'])


def page_tags(app, pagename, templatename, context, doctree):
    """Add a page's tags to its head."""
    if doctree is None:  # an index or the search: no text of the book
        return
    base, book = app.config.html_baseurl, app.config.html_title
    is_root = pagename == app.config.root_doc
    title = book if is_root else app.env.titles[pagename].astext()
    description, is_tagged = description_of(doctree)
    address = base and base + app.builder.get_target_uri(pagename)
    root = base or context["pathto"]("", 1)
    found = tags(title, book, description, root, address, is_root)
    if description and not is_tagged:
        found += f'\n<meta name="description" content="{escape(description)}" />'
    context["metatags"] = f"{context.get('metatags', '')}\n{found}\n"


def write_entry(app):
    """`index.html`, which leads on to the first page and tells the same of itself."""
    base, book, root = app.config.html_baseurl, app.config.html_title, app.config.root_doc
    target = app.builder.get_target_uri(root)
    description, _ = description_of(app.env.get_doctree(root))
    found = tags(book, book, description, base, base and base + target, is_root=True)
    if base:
        found += f'\n<link rel="canonical" href="{base}{target}" />'
    page = ENTRY.format(title=escape(book), target=target, tags=found)
    Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def write_sitemap(app):
    """`sitemap.xml`: every page; absent without an address."""
    path, base = Path(app.outdir, "sitemap.xml"), app.config.html_baseurl
    path.unlink(missing_ok=True)
    if base:
        pages = sorted(app.env.found_docs, key=lambda name: (name != app.config.root_doc, name))
        entries = [
            f"<url><loc>{escape(base + app.builder.get_target_uri(name))}</loc></url>" for name in pages
        ]
        head = '<?xml version="1.0" encoding="utf-8"?>'
        space = "http://www.sitemaps.org/schemas/sitemap/0.9"
        lines = [head, f'<urlset xmlns="{space}">', *entries, "</urlset>", ""]
        path.write_text("\n".join(lines), encoding="utf-8")


def finish(app, exception):
    """Write what is no page of the book, once all pages are written."""
    if exception is None and app.builder.name == "html":
        if app.config.root_doc != "index":
            write_entry(app)
        write_sitemap(app)


def setup(app):
    """Hook into every page, and into the end of the build before the toc's own entry page."""
    app.connect("html-page-context", page_tags)
    app.connect("build-finished", finish, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
