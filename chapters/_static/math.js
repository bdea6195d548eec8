// The order in which MathJax sets a page's formulas: what the reader sees first, the rest while nothing
// else is to be done. All at once, the five hundred formulas of a long chapter hold up the page for seconds.
// `MathJax.startup.promise` waits for all of them, as it always does.

const AT_ONCE = 16; // formulas; a click in between waits some 50 ms
const NEAR = "600px";

function idle() {
  return new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done, { timeout: 300 }));
}

async function typesetAll() {
  const waiting = new Set(document.querySelectorAll(".math"));
  const near = new Set();
  await new Promise((done) => {
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) near[isIntersecting ? "add" : "delete"](target);
        done();
      },
      { rootMargin: NEAR },
    );
    waiting.forEach((formula) => watcher.observe(formula));
    setTimeout(done, 200); // a page in the background sees nothing
  });

  // Printing does not wait.
  window.addEventListener("beforeprint", () => {
    if (waiting.size) MathJax.typeset([...waiting]);
    waiting.clear();
  });

  while (waiting.size) {
    const seen = [...near].filter((formula) => waiting.has(formula));
    if (!seen.length) await idle();
    const next = (seen.length ? seen : [...waiting]).slice(0, AT_ONCE);
    next.forEach((formula) => waiting.delete(formula));
    await MathJax.typesetPromise(next);
    next.forEach(watchWidth);
  }
}

// A formula that is wider than its box scrolls there. Its edge fades where there is more (book.css), and the
// keyboard reaches it.

const NAME = "Formula, wider than the page: arrow keys scroll it";

function mark(box) {
  const hidden = box.scrollWidth - box.clientWidth;
  const wide = hidden > 1;
  box.classList.toggle("wide-before", wide && box.scrollLeft > 1);
  box.classList.toggle("wide-after", wide && box.scrollLeft < hidden - 1);
  if (wide === box.hasAttribute("tabindex")) return;
  if (wide) {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", NAME);
  } else ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
}

const widths = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));

function watchWidth(formula) {
  for (const box of formula.querySelectorAll("mjx-container[display]")) {
    widths.observe(box);
    box.addEventListener("scroll", () => mark(box), { passive: true });
  }
}

// A link to a place on this page was followed before the formulas above it had their size.
async function returnToTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let moved = false;
  const hands = ["wheel", "touchmove", "pointerdown", "keydown"];
  hands.forEach((name) => window.addEventListener(name, () => (moved = true), { once: true, passive: true }));
  await MathJax.startup.promise;
  if (!moved) target.scrollIntoView();
}

if (window.MathJax) {
  window.MathJax.startup = { pageReady: typesetAll, ready() { MathJax.startup.defaultReady(); returnToTarget(); } };
}
