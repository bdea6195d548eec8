"""What the built pages leave out and mend; how it looks in a browser is tested in tests/browser."""

import pytest
from delivery import delivered

AS_YOU_TYPE = "<script>DOCUMENTATION_OPTIONS.search_as_you_type = %s;</script>"
SEARCH = '\n<script src="../_static/searchtools.js"></script>\n<script src="../searchindex.js"></script>'
OUTPUT = '<div class="output text_plain notranslate"><div class="highlight"><pre><span></span>'
PRE = OUTPUT + "%s\n</pre></div>\n</div>\n"
CELL = '<div class="cell_output docutils container">\n%s</div>\n'
FORMULA = '<span class="math notranslate nohighlight">\\(x\\)</span>'


@pytest.mark.parametrize(
    "html, expected",
    [
        ('a <script defer src="../_static/scripts/fontawesome.js?digest=1"></script>b', "ab"),
        (AS_YOU_TYPE % "false" + SEARCH, AS_YOU_TYPE % "false"),
        (AS_YOU_TYPE % "true" + SEARCH, AS_YOU_TYPE % "true" + SEARCH),
        (
            '<a href="a"><b>Maps</b></a><details open="open"><summary>',
            '<a href="a"><b>Maps</b></a><details open="open"><summary aria-label="Pages of Maps">',
        ),
        (
            '<dl>\n<dd><em class="sig-param">x</em></dd>\n</dl>',
            '<span class="sig-lines">\n<span class="sig-line"><em class="sig-param">x</em></span>\n</span>',
        ),
        ('<td><img src="_static/minus.png" class="toggler" id="toggle-1" alt="-" /></td>', "<td></td>"),
        ('<div role="list" class="citation-list">', '<div class="citation-list">'),
        ('<div class="citation" role="doc-biblioentry">', '<div class="citation">'),
        (CELL % (PRE % "widths: done"), ""),
        (CELL % (PRE % "widths: done" + PRE % "1.0"), CELL % (PRE % "1.0")),
        (CELL % (PRE % "two lines\nwidths: done"), CELL % (PRE % "two lines\nwidths: done")),
        (f"{FORMULA}, and", f'<span class="math-end">{FORMULA},</span> and'),
        (f"{FORMULA} and", f"{FORMULA} and"),
    ],
)
def test_delivered(html, expected):
    assert delivered(html) == expected
    assert delivered(expected) == expected  # a page that was not written again is delivered again


def test_search_page_keeps_its_scripts():
    page = AS_YOU_TYPE % "false" + "<script>DOCUMENTATION_OPTIONS.pagename = 'search';</script>" + SEARCH
    assert delivered(page) == page
