// Paper is white: the dark theme is off while a page is printed.

const root = document.documentElement;
let theme;

window.addEventListener("beforeprint", () => {
  theme = root.dataset.theme;
  root.dataset.theme = "light";
});

window.addEventListener("afterprint", () => {
  root.dataset.theme = theme;
});
