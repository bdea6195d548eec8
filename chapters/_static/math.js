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

// A displayed formula that is wider than its box becomes smaller, down to the size of the text on a phone;
// then it scrolls, as one in a line of text does that is wider than its paragraph. Its edge fades where there
// is more (book.css), and the keyboard reaches it.

const SMALLEST = 0.76; // of MathJax's own size, some 127 % of the text's
const SCROLLED = 0.87; // what scrolls in any case need not be that small
const NAME = "Formula, wider than the page: arrow keys scroll it";

function around(box) {
  let block = box.parentElement;
  while (getComputedStyle(block).display === "inline") block = block.parentElement;
  return block;
}

function fit(box) {
  const inline = !box.hasAttribute("display");
  // In a line of text the box grows with its formula, up to the width of the paragraph.
  const roomOf = () => (inline ? box.block.clientWidth : box.clientWidth);
  const needed = () => (inline ? box.firstElementChild.offsetWidth : box.scrollWidth);
  if (!roomOf()) return; // folded away
  if (roomOf() === box.room && (box.tabIndex === 0 || needed() - box.room <= 1)) return; // nothing new
  if (!inline) {
    box.style.fontSize = box.size ??= box.style.fontSize;
    if (needed() > roomOf()) {
      const part = (0.99 * roomOf()) / needed();
      box.style.fontSize = `${(part < SMALLEST ? SCROLLED : part) * parseFloat(box.size)}%`;
    }
  }
  box.room = roomOf();
  if (needed() - box.room > 1) {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", NAME);
  } else ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
  fade(box);
}

function fade(box) {
  const hidden = box.tabIndex === 0 ? box.scrollWidth - box.clientWidth : 0;
  box.classList.toggle("wide-before", hidden > 1 && box.scrollLeft > 1);
  box.classList.toggle("wide-after", hidden > 1 && box.scrollLeft < hidden - 1);
}

const formulasIn = new Map(); // a block's
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) formulasIn.get(target).forEach(fit);
});

// The fonts come after the formulas that they are for, and are not as wide as what stood in for them.
document.fonts.addEventListener("loadingdone", () => formulasIn.forEach((boxes) => boxes.forEach(fit)));

function watchWidth(formula) {
  for (const box of formula.querySelectorAll("mjx-container")) {
    box.block = around(box);
    if (!formulasIn.has(box.block)) formulasIn.set(box.block, []);
    formulasIn.get(box.block).push(box);
    widths.unobserve(box.block); // and once more, for this formula
    widths.observe(box.block);
    box.addEventListener("scroll", () => fade(box), { passive: true });
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
