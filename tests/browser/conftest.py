"""The built book, served, and a browser that looks at it.

Needs the built book, the Python packages of requirements.txt, and Chromium: `apt install chromium`, or
its path in the variable CHROMIUM.
"""

import functools
import threading

import pytest
from browsing import CHROMIUM, OPTIONS, PATIENCE, SITE, VIEWS, Handler, Server, Watch


@pytest.fixture(scope="session")
def site():
    """The address of the book, served compressed."""
    if not (SITE / "chapters/index.html").exists():
        pytest.skip("needs the built book: make book")
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window."""
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make environment")
    pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: make environment")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--{option}" for option in OPTIONS]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """visit(page, **context) opens a page; at the end, none has erred or asked another host."""
    contexts, watches = [], []

    def open_page(address, **options):
        contexts.append(browser.new_context(**{"viewport": VIEWS["wide"], **options}))
        watches.append(Watch(contexts[-1], site))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(site + address)
        page.requests = watches[-1].requests
        return page

    yield open_page
    for context in contexts:
        context.close()
    problems = [problem for watch in watches for problem in watch.problems()]
    assert not problems, problems
