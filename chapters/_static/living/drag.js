// Drag the data: what infinitely wide networks have learned from them at a time, mean and band.

import { Figure, d3, format, grid } from "./figure.js";
import { trainedEnsemble } from "./kernels.js";

const X = [-2, 2];
const Y = [-2.5, 2.5];
const AT = grid(...X, 161);
const MOST = 12; // points
const STEP = 0.05; // of an arrow key; five times that with Shift
const BIAS_STD = 0.5;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

const number = format(".2f");
const within = ([low, high], value) => Math.min(high, Math.max(low, value));

export function start(picture) {
  const figure = new Figure(picture, "Drag the data");
  let points = [[-1.5, -0.8], [-0.7, 0.9], [0.3, 0.4], [1.3, -1.2]].map(([x, y], id) => ({ id, x, y }));
  let nextId = points.length;
  let chosen = points[1];

  const time = figure.slider(
    ["Training time t"],
    { min: -3, max: 3, step: 0.05, value: 1 },
    (power) => format(",.3~r")(10 ** power),
  );
  const depth = figure.slider(["Hidden layers"], { min: 1, max: 5, step: 1, value: 2 }, String);
  const activation = figure.choice("Activation", [["relu", "ReLU"], ["erf", "erf"], ["gelu", "GELU"]]);
  const add = figure.button("Add a point", () => {
    // in the middle of the widest gap, on the axis
    const places = [X[0], ...points.map(({ x }) => x).sort(d3.ascending), X[1]];
    const [a, b] = d3.greatest(d3.pairs(places), ([low, high]) => high - low);
    addPoint((a + b) / 2, 0);
    focusOnChosen();
  });
  const remove = figure.button("Remove the chosen point", () => {
    removePoint(chosen);
    if (remove.disabled) focusOnChosen(); // a button that cannot be pressed loses the focus
  });
  figure.key("first", "mean");
  figure.key("range", "two standard deviations");
  figure.key("handle", "data");

  const plot = figure.panel({ x: X, y: Y, xLabel: "input x", yLabel: "output" });
  plot.svg.attr("role", "group").attr("aria-label", "Data points on a plot of the prediction");
  const ground = plot.svg.insert("rect", "g").attr("class", "living-ground");
  const handles = plot.svg.append("g");

  ground.on("click", (event) => {
    const [px, py] = d3.pointer(event);
    addPoint(plot.x.invert(px), plot.y.invert(py));
    figure.change();
  });

  function addPoint(x, y) {
    if (points.length === MOST) return;
    chosen = { id: nextId++, x: within(X, x), y: within(Y, y) };
    points.push(chosen);
    update();
  }

  function removePoint(point) {
    if (points.length === 1) return;
    const index = points.indexOf(point);
    points = points.filter((other) => other !== point);
    chosen = points[Math.min(index, points.length - 1)];
    update();
  }

  function move(point, x, y) {
    [point.x, point.y] = [within(X, x), within(Y, y)];
    chosen = point;
    figure.change();
  }

  function focusOnChosen() {
    handles.selectAll("g").filter((point) => point === chosen).node().focus({ preventScroll: true });
  }

  function update() {
    add.disabled = points.length === MOST;
    remove.disabled = points.length === 1;
    handles
      .selectAll("g")
      .data(points, ({ id }) => id)
      .join(makeHandle);
  }

  function makeHandle(enter) {
    const handle = enter
      .append("g")
      .attr("class", "living-handle")
      .attr("tabindex", 0)
      .attr("role", "slider")
      .attr("aria-roledescription", "point that moves in two directions")
      .attr("aria-valuemin", Y[0])
      .attr("aria-valuemax", Y[1]);
    handle.append("circle").attr("class", "living-reach").attr("r", 22);
    handle.append("circle").attr("class", "living-focus").attr("r", 13);
    handle.append("circle").attr("class", "living-point").attr("r", 7);
    let grip; // from the pointer to the point's centre: it does not jump when it is taken
    return handle
      .on("focus", (_, point) => {
        chosen = point;
        figure.change();
      })
      // a finger on a point moves the point, and elsewhere the page; Chromium scrolls in spite of a
      // touch-action on a part of an SVG
      .on("touchstart", (event) => event.preventDefault(), { passive: false })
      .on("pointerdown", (event, point) => {
        if (event.button !== 0) return;
        const [px, py] = d3.pointer(event, plot.svg.node());
        grip = [plot.x(point.x) - px, plot.y(point.y) - py];
        event.currentTarget.setPointerCapture(event.pointerId);
        event.currentTarget.focus({ preventScroll: true });
        event.preventDefault();
      })
      .on("pointermove", (event, point) => {
        if (!event.currentTarget.hasPointerCapture(event.pointerId)) return;
        const [px, py] = d3.pointer(event, plot.svg.node());
        move(point, plot.x.invert(px + grip[0]), plot.y.invert(py + grip[1]));
      })
      .on("keydown", (event, point) => {
        const step = event.shiftKey ? 5 * STEP : STEP;
        if (event.key in ARROWS) {
          const [right, up] = ARROWS[event.key];
          move(point, point.x + right * step, point.y + up * step);
        } else if (event.key === "Delete" || event.key === "Backspace") {
          removePoint(point);
          focusOnChosen();
          figure.change();
        } else {
          return;
        }
        event.preventDefault();
      });
  }

  update();
  figure.begin(() => {
    const network = { depth: depth.valueAsNumber, activation: activation.value, biasStd: BIAS_STD };
    const [x, y] = [points.map((point) => point.x), points.map((point) => point.y)];
    const t = 10 ** time.valueAsNumber;
    const { mean, variance } = trainedEnsemble(x, y, Array.from(AT), t, network);
    const twice = variance.map((v) => 2 * Math.sqrt(Math.max(v, 0))); // below 0 by rounding
    plot.band("range", AT, mean.map((m, i) => m - twice[i]), mean.map((m, i) => m + twice[i]));
    plot.line("first", AT, mean);

    for (const side of ["x", "y", "width", "height"]) ground.attr(side, plot.clip.attr(side));
    handles
      .selectAll("g")
      .attr("transform", (point) => `translate(${plot.x(point.x)},${plot.y(point.y)})`)
      .classed("living-chosen", (point) => point === chosen)
      .attr("aria-label", (_, i) => `Data point ${i + 1}`)
      .attr("aria-valuenow", (point) => point.y.toFixed(2))
      .attr("aria-valuetext", (point) => `x ${number(point.x)}, y ${number(point.y)}`);

    const off = d3.max(points, (point) => {
      const i = d3.bisectCenter(AT, point.x);
      return Math.abs(mean[i] - point.y);
    });
    figure.say(
      `${points.length} ${points.length === 1 ? "point" : "points"}; the chosen one is at x ` +
        `${number(chosen.x)}, y ${number(chosen.y)}. At time ${format(",.3~r")(t)} the mean is at most ` +
        `${number(off)} from the data.`,
    );
    figure.root.drawn = { network, time: t, x, y, at: AT, mean, variance };
  });
}
