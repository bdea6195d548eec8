// Widen the network: the tangent kernel of one hidden layer of ReLU on the circle, and its limit.

import { ANGLE_TICKS, Figure, format, grid } from "./figure.js";
import { drawNeurons, finiteKernel, limitAndVariance } from "./kernels.js";

const WIDEST = 4096;
const ANGLES = grid(-Math.PI, Math.PI, 241);
const LAW = Array.from(ANGLES, limitAndVariance);
const LIMIT = LAW.map(({ limit }) => limit);
const UNIT_SD = LAW.map(({ variance }) => Math.sqrt(variance)); // of the root of k times K_k

export function start(picture) {
  const figure = new Figure(picture, "Widen the network");
  const width = figure.slider(
    ["Hidden units"],
    { min: 2, max: 12, step: 0.25, value: 6 },
    (power) => format(",")(Math.round(2 ** power)),
  );
  let seed = 3;
  let neurons = drawNeurons(seed, WIDEST);
  figure.button("Draw a new network", () => {
    seed += 1;
    neurons = drawNeurons(seed, WIDEST);
  });
  figure.key("first", "this network");
  figure.key("second", "infinite width");
  figure.key("range", "two standard deviations");

  const x = { x: [-Math.PI, Math.PI], xLabel: "angle θ", xTicks: ANGLE_TICKS };
  const kernel = figure.panel({
    ...x,
    y: [-1.5, 6],
    yLabel: "kernel Kₖ(θ)",
    label: "The kernel of this network over the angle, around the limit of infinite width.",
  });
  const error = figure.panel({
    ...x,
    y: [-12, 12],
    yLabel: "its error times √k",
    label: "Their difference times the root of the width, in a band that is the same at all widths.",
  });

  figure.begin(() => {
    const k = Math.round(2 ** width.valueAsNumber);
    const finite = finiteKernel(neurons, k, ANGLES);
    const twice = UNIT_SD.map((sd) => (2 * sd) / Math.sqrt(k));
    kernel.band("range", ANGLES, LIMIT.map((K, i) => K - twice[i]), LIMIT.map((K, i) => K + twice[i]));
    kernel.line("second", ANGLES, LIMIT);
    kernel.line("first", ANGLES, finite);
    error.band("range", ANGLES, UNIT_SD.map((sd) => -2 * sd), UNIT_SD.map((sd) => 2 * sd));
    error.line("second", ANGLES, LIMIT.map(() => 0));
    error.line("first", ANGLES, finite.map((K, i) => Math.sqrt(k) * (K - LIMIT[i])));

    const inside = finite.filter((K, i) => Math.abs(K - LIMIT[i]) <= twice[i] + 1e-12).length;
    const [middle, number] = [(ANGLES.length - 1) / 2, format(".2f")];
    figure.say(
      `Seed ${seed}, ${format(",")(k)} units: the kernel at angle 0 is ${number(finite[middle])}, ` +
        `and 2 ± ${number(twice[middle])} is predicted. ` +
        `${format(".0%")(inside / finite.length)} of the curve is inside the band.`,
    );
    figure.root.drawn = { width: k, seed, neurons, angles: ANGLES, finite, limit: LIMIT, twice };
  });
}
