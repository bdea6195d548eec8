// Every page of the book has this script, and it does one thing: a picture of the class `living-widen`,
// `living-depth` or `living-drag` comes to life when it is about to be seen. Without a script, in print
// and in Jupyter the picture stays.

const FIGURES = ["widen", "depth", "drag"];

async function enliven(picture, name) {
  const [{ styled }, { start }] = await Promise.all([import("./figure.js"), import(`./${name}.js`)]);
  await styled;
  start(picture);
}

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      enliven(target, FIGURES.find((name) => target.classList.contains(`living-${name}`)));
    }
  },
  { rootMargin: "800px" },
);

for (const name of FIGURES) {
  document.querySelectorAll(`img.living-${name}`).forEach((picture) => watcher.observe(picture));
}
