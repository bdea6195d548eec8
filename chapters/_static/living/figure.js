// What the living figures share: controls with labels, panels with axes, one drawing a frame.

import "./vendor/d3-7.9.2/d3.min.js"; // as published, not a module: it leaves a global d3

export const { d3 } = globalThis;

/** Resolves when the style sheet is there, so that nothing is seen without it. */
export const styled = new Promise((resolve) => {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./living.css", import.meta.url).href;
  link.onload = link.onerror = resolve;
  document.head.append(link);
});

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

let ids = 0;
const freshId = (what) => `living-${what}-${++ids}`;

/** Numbers with a minus sign, and not with a hyphen. */
export const format = (specifier) => {
  const number = d3.format(specifier);
  return (value) => number(Object.is(value, -0) ? 0 : value).replace(/^−0(\.0*)?$/, "0$1");
};

const ANNOUNCE_AFTER = 800; // ms without a change: a slider that moves says nothing

export class Figure {
  /** Takes the place of `picture` on the screen. `draw` is called once a frame, if something changed. */
  constructor(picture, label) {
    this.controls = element("div", { class: "living-controls" });
    this.legend = element("ul", { class: "living-legend" });
    this.stage = element("div", { class: "living-stage" });
    this.readout = element("p", { class: "living-readout" });
    this.status = element("p", { class: "living-status", role: "status" });
    this.root = element("div", { class: "living", role: "group", "aria-label": label });
    this.root.append(this.controls, this.legend, this.stage, this.readout, this.status);
    this.panels = [];
    picture.after(this.root);
    picture.classList.add("living-replaced");
  }

  begin(draw) {
    this.draw = draw;
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width === 0 || contentRect.width === this.width) return; // 0: in print
      this.width = contentRect.width;
      this.change();
    }).observe(this.stage);
  }

  change() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const columns = this.width < 560 ? 1 : this.panels.length;
      const width = Math.floor((this.width - 16 * (columns - 1)) / columns);
      this.panels.forEach((panel) => panel.resize(width));
      this.draw();
    });
  }

  /** What the figure says, at once to eyes and, when it has come to rest, to screen readers. */
  say(text) {
    const first = !this.readout.textContent;
    this.readout.textContent = text;
    clearTimeout(this.announcing);
    if (!first) this.announcing = setTimeout(() => (this.status.textContent = text), ANNOUNCE_AFTER);
  }

  /** A slider, labelled by strings or elements; `text` puts its value into words. Returns the input. */
  slider(label, { min, max, step, value }, text) {
    const id = freshId("slider");
    const shown = element("output", { for: id, "aria-live": "off" });
    const input = element("input", { type: "range", id, min, max, step, value });
    const show = () => {
      shown.textContent = text(input.valueAsNumber);
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => {
      show();
      this.change();
    });
    show();
    const heading = element("span", {}, element("label", { for: id }, ...label), " ", shown);
    this.controls.append(element("div", { class: "living-control" }, heading, input));
    return input;
  }

  choice(label, options) {
    const id = freshId("choice");
    const choices = options.map(([value, name]) => element("option", { value }, name));
    const select = element("select", { id }, ...choices);
    select.addEventListener("change", () => this.change());
    const heading = element("label", { for: id }, label);
    this.controls.append(element("div", { class: "living-control" }, heading, select));
    return select;
  }

  button(label, action) {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => {
      action();
      this.change();
    });
    this.controls.append(button);
    return button;
  }

  key(name, text) {
    const swatch = element("span", { class: `living-swatch living-${name}`, "aria-hidden": "true" });
    this.legend.append(element("li", {}, swatch, text));
  }

  panel(options) {
    const panel = new Panel(this.stage, options);
    this.panels.push(panel);
    return panel;
  }
}

const MARGIN = { top: 26, right: 10, bottom: 38, left: 40 };
const HEIGHT = 270;

class Panel {
  /** Axes over the intervals x and y. With `label`, an image for screen readers; else its parts speak. */
  constructor(stage, { x, y, xLabel, yLabel, label, xTicks, square = false }) {
    this.x = d3.scaleLinear().domain(x);
    this.y = d3.scaleLinear().domain(y);
    this.xTicks = xTicks;
    this.square = square;
    this.svg = d3.select(stage).append("svg");
    if (label) this.svg.attr("role", "img").attr("aria-label", label);
    const clip = freshId("clip");
    this.clip = this.svg.append("clipPath").attr("id", clip).append("rect");
    this.xAxis = this.svg.append("g").attr("class", "living-axis").attr("aria-hidden", "true");
    this.yAxis = this.svg.append("g").attr("class", "living-axis").attr("aria-hidden", "true");
    this.names = this.svg.append("g").attr("class", "living-names").attr("aria-hidden", "true");
    this.names.append("text").attr("class", "living-x-name").text(xLabel);
    this.names.append("text").attr("y", 14).text(yLabel);
    this.marks = this.svg.append("g").attr("clip-path", `url(#${clip})`);
    this.paths = new Map();
  }

  resize(width) {
    if (width === this.width) return;
    this.width = width;
    const height = this.square ? Math.min(width, HEIGHT + 60) : HEIGHT;
    const [left, right] = [MARGIN.left, width - MARGIN.right];
    const [top, bottom] = [MARGIN.top, height - MARGIN.bottom];
    this.svg.attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
    this.x.range([left, right]);
    this.y.range([bottom, top]);
    const across = d3.axisBottom(this.x).tickSize(top - bottom).tickPadding(9);
    if (this.xTicks) across.tickValues(this.xTicks.map(([at]) => at));
    if (this.xTicks) across.tickFormat((at) => this.xTicks.find(([value]) => value === at)[1]);
    else across.ticks(Math.max(3, width / 90));
    this.xAxis.attr("transform", `translate(0,${bottom})`).call(across);
    this.yAxis.attr("transform", `translate(${left},0)`);
    this.yAxis.call(d3.axisLeft(this.y).tickSize(left - right).tickPadding(6).ticks(6));
    this.names.select(".living-x-name").attr("x", right).attr("y", height - 4);
    this.clip.attr("x", left).attr("y", top).attr("width", right - left).attr("height", bottom - top);
  }

  path(name) {
    if (!this.paths.has(name)) {
      this.paths.set(name, this.marks.append("path").attr("class", `living-${name}`));
    }
    return this.paths.get(name);
  }

  line(name, xs, ys) {
    const line = d3.line((_, i) => this.x(xs[i]), (value) => this.y(value));
    this.path(name).attr("d", line(ys));
  }

  band(name, xs, low, high) {
    const area = d3.area((_, i) => this.x(xs[i]), (value) => this.y(value), (_, i) => this.y(high[i]));
    this.path(name).attr("d", area(low));
  }

  dot(name, x, y) {
    const circle = this.path(name);
    circle.attr("d", d3.symbol(d3.symbolCircle, 70)());
    circle.attr("transform", `translate(${this.x(x)},${this.y(y)})`);
  }
}

/** `count` numbers from `low` to `high`. */
export const grid = (low, high, count) =>
  Float64Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

export const ANGLE_TICKS = [
  [-Math.PI, "−π"],
  [-Math.PI / 2, "−π/2"],
  [0, "0"],
  [Math.PI / 2, "π/2"],
  [Math.PI, "π"],
];
