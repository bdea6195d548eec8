"""What comes out of a printer: white paper in the dark theme too, solutions unfolded, nothing to press.

Needs the built book and Chromium, as test_living.py says.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SITE = Path(__file__).parents[2] / "_build/html"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("needs Chromium: apt install chromium", allow_module_level=True)
if not SITE.exists():
    pytest.skip("needs the built book: make book", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make environment")

PATIENCE = 120_000  # ms: long pages on a busy machine
VISIBLE = """(selector) => [...document.querySelectorAll(selector)].filter(
    (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: true})).length"""


@pytest.fixture
def printed():
    """A page of exercises in the dark theme, as it is laid out for paper."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        page.set_default_timeout(PATIENCE)
        page.route("**/*", lambda route: route.fulfill(path=SITE / urlsplit(route.request.url).path[1:]))
        page.goto("http://book.example/chapters/linearization.html")
        page.wait_for_selector(".solution .toggle-button", state="attached")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate(VISIBLE, ".solution .cell") == 0
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        yield page
        browser.close()


def test_paper_is_white_and_nothing_is_folded_or_to_be_pressed(printed):
    assert printed.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cells = printed.evaluate("document.querySelectorAll('.solution .cell').length")
    assert printed.evaluate(VISIBLE, ".solution .cell") == cells > 0
    assert printed.evaluate(VISIBLE, "button, .headerlink, .bd-sidebar, .prev-next-footer") == 0
    printed.evaluate("dispatchEvent(new Event('afterprint'))")
    assert printed.evaluate("document.documentElement.dataset.theme") == "dark"
