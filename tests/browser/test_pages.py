"""Every page of the book in a real browser, wide and on a phone, in light and in dark.

Whether links lead somewhere needs no browser: tests/test_book.py reads that from the pages.
"""

import os
import statistics

import pytest
from browsing import (
    BUT_COLOURS,
    COLOURS,
    PATIENCE,
    SITE,
    VIEWS,
    Watch,
    axe_problems,
    formula_problems,
    overflow_problems,
    picture_problems,
    settle,
    size_of,
    unfold,
)

# The theme's templates in `_static` are no pages, and the first page of all only leads to another.
PAGES = [path for path in sorted(SITE.rglob("*.html")) if SITE / "_static" not in path.parents]
PAGES = [path.relative_to(SITE).as_posix() for path in PAGES if path != SITE / "index.html"]
CHAPTER = "chapters/dual_activations.html"
SEARCHED = "dual activation"

MEGABYTE = 1_000_000
USABLE = 2.0  # seconds


@pytest.fixture(scope="module")
def look(browser, site):
    """look(view, page) opens the page in the view's one context; returns it and what watches it."""
    contexts = {}
    for view, size in VIEWS.items():
        context = browser.new_context(viewport=size, color_scheme="light")
        context.set_default_timeout(PATIENCE)
        contexts[view] = context, Watch(context, site)

    def open_page(view, address):
        context, watch = contexts[view]
        for old in context.pages:
            old.close()
        page = context.new_page()
        page.goto(site + address)
        return page, watch

    yield open_page
    for context, _ in contexts.values():
        context.close()


def assert_none(problems):
    assert not problems, "\n".join(problems)


# One visit a view answers all questions, folded things open: the visit is what takes the time.
# What it finds is listed together, so that a page is mended in one go.
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("address", PAGES)
def test_page(look, address, view, record_property):
    page, watch = look(view, address)
    settle(page)
    size, kinds = size_of(page)
    record_property("size", f"{size} {kinds}")
    problems = overflow_problems(page)  # once as it comes, once unfolded
    unfold(page)
    problems += overflow_problems(page) + formula_problems(page) + picture_problems(page)
    if size >= MEGABYTE:
        problems.append(f"{size} bytes: {kinds}")
    # All rules on the wide page; a phone's colours, and those of the dark, are asked about by samples.
    problems += axe_problems(page) if view == "wide" else axe_problems(page, BUT_COLOURS)
    problems += axe_problems(page, COLOURS) if view == "phone" else []
    # What a page says is the same in light and dark.
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    problems += [f"dark: {problem}" for problem in axe_problems(page, COLOURS)]
    assert_none(problems + watch.problems())


# ---- What one does with a page ---------------------------------------------------------------


@pytest.mark.parametrize(["view", "scheme"], [("wide", "light"), ("phone", "dark")])
def test_search(visit, view, scheme):
    page = visit(CHAPTER, viewport=VIEWS[view], color_scheme=scheme)
    page.locator(".search-button__button:visible, .search-button-field:visible").first.click()
    field = page.locator("#pst-search-dialog input[name=q]")
    field.wait_for()
    assert_none(axe_problems(page, context="#pst-search-dialog"))
    field.fill(SEARCHED)
    field.press("Enter")
    page.wait_for_url("**/search.html?*")
    page.locator("#search-results li a").first.wait_for()
    page.wait_for_function("/found|matching/.test(document.querySelector('#search-results').textContent)")
    links = page.locator("#search-results ul.search > li > a")
    found = [link.get_attribute("href").partition("?")[0].partition("#")[0] for link in links.all()[:3]]
    assert any(link.endswith("dual_activations.html") for link in found), found
    assert_none(axe_problems(page) + overflow_problems(page))
    links.nth([link.endswith("dual_activations.html") for link in found].index(True)).click()
    page.locator("span.highlighted").first.wait_for(state="attached")
    marked = {word.lower() for word in page.locator("span.highlighted").all_text_contents()}
    assert {"dual", "activation"} <= marked, marked


def test_keyboard(visit):
    """Tab reaches the skip link, the side bar and the text, and shows where it is."""
    page = visit(CHAPTER)
    settle(page)
    where = """() => {
        const at = document.activeElement, style = getComputedStyle(at);
        const box = at.getBoundingClientRect();
        return {
            place: at.closest("#pst-skip-link") ? "skip link"
                : at.closest(".bd-sidebar-primary") ? "side bar"
                : at.closest("article") ? "text" : at.tagName,
            seen: box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight
                && (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1
                    || style.boxShadow !== "none"),
            what: at.outerHTML.slice(0, 120),
        };
    }"""
    stops = []
    while "text" not in [stop["place"] for stop in stops[:-5]] and len(stops) < 100:
        page.keyboard.press("Tab")
        page.wait_for_timeout(20)  # the skip link slides in
        stops.append(page.evaluate(where))
    places = [stop["place"] for stop in stops]
    assert places[0] == "skip link" and {"side bar", "text"} <= set(places), places
    unseen = [stop for stop in stops[1:] if not stop["seen"]]
    assert not unseen, [stop["what"] for stop in unseen]
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Home")
    page.goto(page.url.partition("#")[0] + "?")
    page.keyboard.press("Tab")
    page.locator("#pst-skip-link a").wait_for()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('main')")


def test_print(visit):
    """On paper there is the text: no side bar, all formulas, whole figures, links that can be read."""
    page = visit(CHAPTER, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # at once, in the middle of typesetting
    page.evaluate("MathJax.startup.promise")
    assert_none(formula_problems(page))
    for bar in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article"):
        assert not page.locator(bar).is_visible(), bar
    cut = page.evaluate(
        """() => {
            const end = (element) => element.getBoundingClientRect().right;
            const edge = end(document.querySelector("article")) + 1;
            const pictures = [...document.querySelectorAll("main figure img")];
            return pictures.filter((picture) => end(picture) > edge).length;
        }"""
    )
    assert not cut


# ---- How soon ---------------------------------------------------------------------------------

# Usable: the page is loaded, the formulas in sight are set, and a click on the first thing that folds is
# answered by a frame. Seconds since the visit began; and the same by the clock of the page's own thread.
ANSWERED = """async () => {
    const inSight = () => [...document.querySelectorAll(".math")].filter((formula) => {
        const { top, bottom } = formula.getBoundingClientRect();
        return bottom > 0 && top < innerHeight && formula.checkVisibility();
    });
    while (document.readyState !== "complete" || !inSight().every((f) => f.querySelector("mjx-container")))
        await new Promise((done) => setTimeout(done, 5));
    const fold = document.querySelector("article :is(summary, .toggle-button)");
    fold.click();
    await new Promise((done) => requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = done;
        port2.postMessage(0);
    }));
    const painted = performance.getEntriesByName("first-contentful-paint")[0].startTime;
    return [Math.max(performance.now(), painted) / 1000, document.querySelectorAll("mjx-container").length];
}"""


def largest():
    """The longest page and that with the most formulas."""
    text = {address: (SITE / address).read_text() for address in PAGES}
    return {max(text, key=lambda a: len(text[a])), max(text, key=lambda a: text[a].count('class="math'))}


@pytest.mark.parametrize("address", sorted(largest()) if PAGES else [])
def test_largest_pages_are_soon_usable(browser, site, address, record_property):
    waits, work = [], []
    for _ in range(5):  # each time with empty caches
        context = browser.new_context(viewport=VIEWS["wide"])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(site + address, wait_until="commit")
        page.wait_for_function("document.querySelector('footer')")
        wait, _ = page.evaluate(ANSWERED)
        metrics = session.send("Performance.getMetrics")["metrics"]
        waits.append(wait)
        work.append(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))
        context.close()
    wait, work = statistics.median(waits), statistics.median(work)
    record_property("usable", f"{wait:.2f} s, of which the page's thread worked {work:.2f} s")
    print(f"{address}: usable after {wait:.2f} s, of which the page's thread worked {work:.2f} s")
    assert work < USABLE
    # A machine with more to do than it has processors says nothing of the wait.
    if os.getloadavg()[0] < os.cpu_count():
        assert wait < USABLE


# ---- The rules can fail ----------------------------------------------------------------------


@pytest.fixture
def broken(browser, site):
    """A page of the book into which HTML is put; returns it and what watches it."""
    context = browser.new_context(viewport=VIEWS["phone"])
    watch = Watch(context, site)
    page = context.new_page()
    page.goto(site + CHAPTER)
    page.evaluate("MathJax.startup.promise")

    def put(html):
        page.evaluate("html => document.querySelector('article').innerHTML = html", html)
        return page

    yield put, watch
    context.close()


TINY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.mark.parametrize(
    "rule, html, words",
    [
        (picture_problems, f'<img src="{TINY}">', "image without words"),
        (picture_problems, f'<img src="{TINY}" alt="plot_one of.png">', "image without words"),
        (picture_problems, '<img src="none.png" alt="Two lines">', "not loaded"),
        (picture_problems, '<svg viewBox="0 0 1 1"><path d="M0 0"/></svg>', "drawing without words"),
        (formula_problems, '<span class="math">\\(x\\)</span>', "0 typeset formulas"),
        (overflow_problems, '<pre style="width: 500px; overflow: auto">a</pre>', "the page is 516 wide"),
        (
            overflow_problems,
            '<div style="overflow: hidden"><table style="width: 500px"><tr><td>a</td></tr></table></div>',
            "cut off",
        ),
        (axe_problems, '<h1>Title</h1><p style="color: #999">Faint.</p>', "color-contrast"),
        (axe_problems, '<h1>Title</h1><a href="#"></a>', "link-name"),
    ],
)
def test_rule_finds(broken, rule, html, words):
    put, _ = broken
    page = put(html)
    settle(page)
    problems = rule(page)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    "tex, words",
    [
        ("\\left( a", "formula in error"),
        ("\\undefinedmacro", "formula in error"),
        ("x + " * 80, "keyboard"),
    ],
)
def test_formula_problems_finds(broken, tex, words):
    put, _ = broken
    page = put(f'<div class="math">\\[{tex}y\\]</div>')
    page.evaluate(
        "MathJax.typesetPromise([document.querySelector('.math')])"
    )  # which math.js does not watch
    assert any(words in problem for problem in formula_problems(page)), formula_problems(page)


def test_watch_hears(broken):
    put, watch = broken
    page = put("")
    assert not watch.problems()
    page.evaluate("console.warn('careful'); setTimeout(() => nowhere())")
    page.evaluate("fetch('http://elsewhere.invalid/').catch(() => 0)")
    page.wait_for_timeout(100)
    heard = "\n".join(watch.problems())
    assert all(words in heard for words in ("careful", "nowhere", "elsewhere.invalid")), heard
