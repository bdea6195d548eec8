// The keyboard reaches what scrolls. The theme sees to that when a page is loaded or its window changes;
// what was folded then had no size. A table fades where it goes on, as formulas do (book.css).

const TABLE = ".pst-scrollable-table-container";

function fade(box) {
  box.classList.toggle("wide-after", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
}

const boxes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
    if (target.matches(TABLE)) fade(target);
  }
});

for (const box of document.querySelectorAll(`pre, .cell_output > .output, ${TABLE}`)) {
  boxes.observe(box);
  if (box.matches(TABLE)) box.addEventListener("scroll", () => fade(box), { passive: true });
}
