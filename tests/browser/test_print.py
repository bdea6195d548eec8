"""What comes out of a printer: white paper in the dark theme too, solutions unfolded, nothing to press."""

import pytest

VISIBLE = """(selector) => [...document.querySelectorAll(selector)].filter(
    (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: true})).length"""


@pytest.fixture
def printed(visit):
    """A page of exercises in the dark theme, as it is laid out for paper."""
    page = visit("chapters/linearization.html", color_scheme="dark")
    page.wait_for_selector(".solution .toggle-button", state="attached")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(VISIBLE, ".solution .cell") == 0
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    return page


def test_paper_is_white_and_nothing_is_folded_or_to_be_pressed(printed):
    assert printed.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cells = printed.evaluate("document.querySelectorAll('.solution .cell').length")
    assert printed.evaluate(VISIBLE, ".solution .cell") == cells > 0
    assert printed.evaluate(VISIBLE, "button, .headerlink, .bd-sidebar, .prev-next-footer") == 0
    printed.evaluate("dispatchEvent(new Event('afterprint'))")
    assert printed.evaluate("document.documentElement.dataset.theme") == "dark"
