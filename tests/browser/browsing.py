"""What the browser's tests share: the built book, a server for it, and the rules that its pages keep.

A rule is a function of an open page that returns the problems it found, in words; no problem, no words.
"""

import contextlib
import functools
import gzip
import io
import os
import shutil
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build/html"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
OPTIONS += ["disable-component-update", "disable-sync"]

VIEWS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
PATIENCE = 120_000  # ms: long pages on a busy machine

# Without `preload`, axe itself would look for style sheets where they are not.
WCAG = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "preload": False,
    "resultTypes": ["violations"],
}
COLOURS = {**WCAG, "runOnly": ["color-contrast", "link-in-text-block"]}
BUT_COLOURS = {**WCAG, "rules": {rule: {"enabled": False} for rule in COLOURS["runOnly"]}}


# ---- The book, served ------------------------------------------------------------------------


@functools.cache
def compressed(path):
    return gzip.compress(path.read_bytes(), compresslevel=6)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the usual 5 drops connections of a page with many files, which then waits


class Handler(SimpleHTTPRequestHandler):
    """Serves text compressed, as every host of static pages does."""

    def log_message(self, *_):
        pass

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".html", ".css", ".js", ".svg") or not path.is_file():
            return super().send_head()
        body = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return io.BytesIO(body)

    def copyfile(self, source, outputfile):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the page was left early
            super().copyfile(source, outputfile)


class Watch:
    """What the pages of a context say to the console, and whom they ask."""

    def __init__(self, context, site):
        self.site, self.said, self.requests = site, [], []
        context.on("console", self.hear)
        context.on("weberror", lambda error: self.said.append(str(error.error)))
        context.on("request", lambda request: self.requests.append(request.url))

    def hear(self, message):
        if message.type in ("error", "warning"):
            self.said.append(f"{message.text} {message.location}")

    def problems(self):
        """What was heard since it was last asked."""
        said, requests = self.said[:], self.requests[:]
        self.said.clear()
        self.requests.clear()
        foreign = [url for url in requests if not url.startswith((self.site, "data:", "blob:"))]
        return [f"console: {text}" for text in said] + [f"asks another host: {url}" for url in foreign]


def settle(page):
    """Wait until a page is complete: all formulas, and what comes only when it is scrolled to."""
    page.wait_for_load_state("load")
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate(
        """async () => {
            for (let y = 0; y < document.documentElement.scrollHeight; y += 2 * innerHeight) {
                scrollTo({ top: y, behavior: "instant" });
                await new Promise((done) => requestAnimationFrame(done));
            }
            const images = [...document.images].filter((image) => !image.complete);
            const loaded = (image) => new Promise((done) => image.onload = image.onerror = done);
            await Promise.all(images.map(loaded));
            scrollTo({ top: 0, behavior: "instant" });
        }"""
    )
    page.wait_for_load_state("networkidle")


def unfold(page):
    """Open whatever is folded in the text: solutions, hidden cells, parts of the table of contents."""
    page.evaluate(
        """async () => {
            document.querySelectorAll("details").forEach((folded) => folded.open = true);
            document.querySelectorAll(".toggle-hidden button.toggle-button").forEach((b) => b.click());
            await new Promise((done) => setTimeout(done, 50));  // for observers
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        }"""
    )


# ---- The rules -------------------------------------------------------------------------------

# Whether a box is on the page at all; what closes it in; what it is in words.
COMMON = """
const shown = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
const words = (element) =>
    (element.tagName.toLowerCase() + " " + (element.getAttribute("class") ?? "") + " "
     + (element.closest("[id]")?.id ?? "") + " " + element.textContent.trim()).slice(0, 120);
const overflowOf = (element) => getComputedStyle(element).overflowX;
"""


def formula_problems(page):
    """Every formula is typeset, without errors; a wide one scrolls, and says so to hands and ears."""
    return page.evaluate(
        COMMON
        + """
        const found = [], all = [...document.querySelectorAll(".math")];
        for (const formula of all) {
            const sets = formula.querySelectorAll("mjx-container").length;
            if (sets !== 1) found.push(`${sets} typeset formulas in ${words(formula)}`);
        }
        const containers = document.querySelectorAll("mjx-container");
        if (containers.length !== all.length)
            found.push(`${containers.length} typeset formulas for ${all.length} in the page`);
        // an unknown macro is no error to MathJax: its name stands in the formula, in red
        const errors = "mjx-merror, [data-mjx-error], mjx-container [mathcolor=red]";
        for (const error of document.querySelectorAll(errors))
            found.push(`formula in error: ${words(error)} ${error.getAttribute("data-mjx-error") ?? ""}`);
        for (const box of containers) {
            if (!shown(box)) continue;
            // in a line of text, a box is as wide as its formula; the other rule sees whether that fits
            const closed = box.hasAttribute("display") || overflowOf(box) !== "visible";
            if (closed && box.scrollWidth - box.clientWidth > 1) {
                if (!["auto", "scroll"].includes(overflowOf(box)))
                    found.push(`wide formula does not scroll: ${words(box)}`);
                if (box.tabIndex !== 0 || !box.getAttribute("aria-label"))
                    found.push(`no keyboard or no name for a wide formula: ${words(box)}`);
                if (matchMedia("screen").matches && getComputedStyle(box).maskImage === "none")
                    found.push(`nothing shows that a formula goes on: ${words(box)}`);
            }
        }
        found;
        """
    )


def overflow_problems(page):
    """The page does not scroll sideways, and nothing in it is cut off where no one can scroll to."""
    return page.evaluate(
        COMMON
        + """
        const out = [], root = document.documentElement;
        if (root.scrollWidth > root.clientWidth)
            out.push(`the page is ${root.scrollWidth} wide in a window of ${root.clientWidth}`);
        const boxes = "mjx-container, img, table, pre, figure, svg, dt.sig, .admonition, .sd-card";
        for (const box of document.querySelectorAll(`main :is(${boxes})`)) {
            if (!shown(box)) continue;
            const { left, right } = box.getBoundingClientRect();
            let frame = { left: 0, right: root.clientWidth }, name = "window";
            for (let around = box.parentElement; around; around = around.parentElement) {
                const overflow = overflowOf(around);
                if (overflow === "visible") continue;
                if (["auto", "scroll"].includes(overflow) && around !== document.body && around !== root) {
                    frame = null;  // one scrolls there; axe asks whether the keyboard can
                    break;
                }
                frame = around.getBoundingClientRect();
                name = words(around).slice(0, 40);
                break;
            }
            if (frame && (left < frame.left - 1 || right > frame.right + 1))
                out.push(`${words(box)} at ${left} to ${right} is cut off by ${name}`);
        }
        out;
        """
    )


def picture_problems(page):
    """Every picture has words for those who do not see it, and these are not its file's name."""
    return page.evaluate(
        COMMON
        + r"""
        const out = [];
        for (const image of document.querySelectorAll("img")) {
            const alt = image.getAttribute("alt") ?? "", source = image.getAttribute("src") ?? "";
            const name = source.split("/").pop().split(".")[0];
            // beside a link's own words a picture needs none: the logo
            if (image.getAttribute("alt") === "" && image.closest("a")?.textContent.trim()) continue;
            const isFile = alt === name || /\.(png|svg|jpe?g|gif|webp)\b/i.test(alt);
            if (isFile || !/\p{L}+\s+\p{L}+/u.test(alt))
                out.push(`image without words: ${source.slice(-60)}, alt "${alt}"`);
            if (!image.naturalWidth) out.push(`image not loaded: ${source.slice(-60)}`);
        }
        for (const svg of document.querySelectorAll("svg")) {
            if (svg.closest("[aria-hidden=true], mjx-container, button")) continue;
            if (svg.getAttribute("role") === "presentation") continue;
            const by = document.getElementById(svg.getAttribute("aria-labelledby"));
            const title = by ?? svg.querySelector(":scope > title");
            if (!(svg.getAttribute("aria-label") ?? title?.textContent ?? "").trim())
                out.push(`drawing without words: ${svg.outerHTML.slice(0, 100)}`);
        }
        for (const figure of document.querySelectorAll("figure"))
            if (!figure.querySelector("img, svg, table, pre, canvas"))
                out.push(`figure without a picture: ${words(figure)}`);
        out;
        """
    )


# A long chapter has thousands of coloured words of code, and axe compares each of them to its ground, for
# half a minute a page. Three of a kind do: the others become plain text of the same block. The glyphs of
# formulas are thousands more; they are hidden from screen readers, and axe does not see their ink, which
# style sheets put there. Those of a formula that scrolls stay.
THINNED = """() => {
    const seen = new Map();
    for (const word of document.querySelectorAll("pre span[class]")) {
        if (!word.isConnected || word.children.length) continue;
        const kind = word.className + " in " + word.closest("div, pre").parentElement.className;
        const count = (seen.get(kind) ?? 0) + 1;
        seen.set(kind, count);
        if (count > 3) word.replaceWith(word.textContent);
    }
    document.querySelectorAll("pre").forEach((block) => block.normalize());
    const glyphs = "mjx-container:not([tabindex]) > mjx-math[aria-hidden=true]";
    document.querySelectorAll(glyphs).forEach((formula) => formula.replaceChildren());
}"""


# The same element of the same class in the same place has the same colours, but for stripes: two of each do
# where only colours are asked about.
MARKED = """() => {
    const seen = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        if (!walker.currentNode.data.trim()) continue;
        let path = "";
        for (let at = walker.currentNode.parentElement; at !== document.body; at = at.parentElement) {
            path += `${at.tagName}.${at.getAttribute("class")} `;
            if (at.tagName === "TR") path += at.rowIndex % 2;
        }
        seen.set(path, (seen.get(path) ?? 0) + 1);
        if (seen.get(path) <= 2) walker.currentNode.parentElement.dataset.marked = "";
    }
}"""


def axe_problems(page, options=WCAG, context=None):
    """Violations of WCAG 2.1 AA that axe-core finds; it leaves the page THINNED."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(THINNED)
    # A theme's colours fade in, and axe would see some half way.
    page.add_style_tag(
        content="*, ::before, ::after { transition: none !important; animation: none !important }"
    )
    if options is COLOURS:
        page.evaluate(MARKED)
        context = "[data-marked]"
    response = Axe().run(page, context=context, options=options).response
    assert response["testEngine"]["name"] == "axe-core"
    return [
        f"{violation['id']} ({len(violation['nodes'])} times): {node['html'][:120]} "
        f"{(node['any'] or node['all'] or node['none'] or [{'message': ''}])[0]['message'][:160]}"
        for violation in response["violations"]
        for node in violation["nodes"][:3]
    ]


def size_of(page):
    """Bytes that a first visit brings, pictures apart, as compressed: (all, by kind)."""
    entries = page.evaluate(
        """() => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
            .map(({ name, encodedBodySize }) => [name.split(/[?#]/)[0], encodedBodySize])"""
    )
    kinds = {}
    for name, size in dict(entries).items():
        kind = Path(name).suffix.lstrip(".") or "html"
        if kind not in ("png", "svg", "jpg", "jpeg", "gif", "webp", "ico"):
            kinds[kind] = kinds.get(kind, 0) + size
    return sum(kinds.values()), kinds
