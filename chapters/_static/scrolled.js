// The keyboard reaches what scrolls. The theme sees to that when a page is loaded or its window changes;
// what was folded then had no size.

const boxes = new ResizeObserver((entries) => {
  for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});

document
  .querySelectorAll("pre, .cell_output > .output, .pst-scrollable-table-container")
  .forEach((box) => boxes.observe(box));
