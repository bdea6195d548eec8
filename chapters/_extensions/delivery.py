"""Sphinx extension: what a page brings to the reader, and to those who hear it or have no mouse.

It leaves out what the theme and Sphinx load on every page and this book does not use, and mends what
their templates say wrongly to a screen reader. The pages are rewritten after the build, where every
template has had its say; tests/browser measures the one and finds the other.
"""

import re
import shutil
from html import unescape
from pathlib import Path

# MathJax in parts, two thirds of the usual bundle: without its menu, which would also make every
# formula a stop of the Tab key. Assistive MathML is what screen readers read.
MATHJAX = ["input/tex", "output/chtml", "a11y/assistive-mml"]
MATHJAX_FILES = ["startup.js", "core.js", "input/tex.js", "input/tex/extensions", "output/chtml.js"]
MATHJAX_FILES += ["output/chtml/fonts", "a11y/assistive-mml.js"]

# The icons are in a font that the theme's style sheet loads. This script draws them a second time, as
# SVG, weighs 1.5 MB, and watches every change of the page.
ICON_SCRIPT = re.compile(r'\s*<script defer src="[^"]*/fontawesome\.js[^>]*></script>')

# The search's own script and index, which the theme loads on every page for a search as one types.
# This book searches on its own page; elsewhere they only keep Sphinx from marking the words found.
SEARCH_SCRIPT = re.compile(
    r'\s*<script src="[^"]*(?:/searchtools|/language_data|\bsearchindex)\.js[^>]*></script>'
)
AS_YOU_TYPE = "DOCUMENTATION_OPTIONS.search_as_you_type = false"

# The arrow that unfolds a part of the table of contents has no name.
ARROW = re.compile(r"(<a [^>]*>(?P<title>(?:(?!</?a\b).)*)</a><details[^>]*><summary)>", re.DOTALL)

# A picture in the index of modules that folds it, for the mouse alone.
FOLDS = re.compile(r'<img [^>]*class="toggler"[^>]*>')

# A signature with a line an argument is a list of descriptions without terms.
SIGNATURE_LINES = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')

# What a progress bar leaves in a notebook, so that its outputs are the same each time: no news to a reader.
DONE = re.compile(
    r'<div class="output text_plain[^"]*"><div class="highlight"><pre><span></span>'
    r"[^<\n]*: done\n</pre></div>\n</div>\n?"
)
NOTHING = re.compile(r'<div class="cell_output docutils container">\s*</div>\n?')

# A browser may end a line between a formula and the comma after it.
END_OF_FORMULA = re.compile(
    r'(?<!<span class="math-end">)(<span class="math notranslate nohighlight">[^<]*</span>)'
    r"([.,;:!?)\]\u2019\u201d]+)"
)


def named(arrow):
    """The arrow, named after the page whose parts it unfolds."""
    title = re.sub(r"<[^>]*>|\"", "", unescape(arrow["title"])).strip()
    return f'{arrow[1]} aria-label="Pages of {title}">'


def lines_of(signature):
    """The signature's lines without a list."""
    lines = signature[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{lines}</span>'


def delivered(html):
    """The page as it is served; what is already so stays so."""
    html = ICON_SCRIPT.sub("", html)
    if AS_YOU_TYPE in html and "pagename = 'search'" not in html:
        html = SEARCH_SCRIPT.sub("", html)
    html = ARROW.sub(named, html)
    html = FOLDS.sub("", html)
    html = SIGNATURE_LINES.sub(lines_of, html)
    html = NOTHING.sub("", DONE.sub("", html))
    html = END_OF_FORMULA.sub(r'<span class="math-end">\1\2</span>', html)
    # docutils marks references with a role that is no longer one, in a list that has no items
    html = html.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    return html.replace(' role="doc-biblioentry"', "")


def choose_mathjax(app, config):
    """MathJax in parts; sphinx-mathjax-offline has set its bundle before."""
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config["loader"] = {"load": MATHJAX}


def deliver(app, exception):
    """Rewrite the pages, and drop the parts of MathJax that none of them asks for."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    for path in folder.rglob("*.html"):
        if folder / "_static" in path.parents:
            continue
        html = path.read_text(encoding="utf-8")
        if (new := delivered(html)) != html:
            path.write_text(new, encoding="utf-8")
    mathjax = folder / "_static/mathjax"
    kept = [mathjax / name for name in MATHJAX_FILES]
    for path in sorted(mathjax.rglob("*"), reverse=True):
        if not any(path == k or path in k.parents or k in path.parents for k in kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def setup(app):
    """Sphinx's entry point."""
    app.connect("config-inited", choose_mathjax)
    app.connect("build-finished", deliver, priority=900)  # after MathJax's files are there
    app.add_js_file("math.js", priority=400, loading_method="defer")  # before MathJax itself
    return {"parallel_read_safe": True, "parallel_write_safe": True}
