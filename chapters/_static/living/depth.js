// Depth and activation: the kernel on the circle, and the map that one layer makes of correlations.

import { ANGLE_TICKS, Figure, element, format, grid } from "./figure.js";
import { activations, circle, correlationMap, kernels } from "./kernels.js";

const ANGLES = grid(-Math.PI, Math.PI, 241);
const MIDDLE = (ANGLES.length - 1) / 2;
const CORRELATIONS = grid(-1, 1, 201);
const NAMES = { relu: "ReLU", abs: "absolute value", gelu: "GELU", sin: "sine", cos: "cosine", rbf: "RBF" };

export function start(picture) {
  const figure = new Figure(picture, "Depth and activation");
  const named = Object.keys(activations).map((name) => [name, NAMES[name] ?? name]);
  const activation = figure.choice("Activation", named);
  const depth = figure.slider(["Hidden layers"], { min: 0, max: 20, step: 1, value: 3 }, String);
  const bias = figure.slider(
    ["Bias σ", element("sub", {}, "b")],
    { min: 0, max: 0.95, step: 0.01, value: 0 },
    (value) => format(".2f")(value),
  );
  const angle = figure.slider(
    ["Angle of the pair"],
    { min: 0, max: 3.14, step: 0.02, value: 2 },
    (value) => format(".2f")(value),
  );
  figure.key("first", "tangent kernel, over its value at 0");
  figure.key("second", "NNGP kernel; one layer's map");
  figure.key("steps", "the pair, layer after layer");

  const kernel = figure.panel({
    x: [-Math.PI, Math.PI],
    y: [-1, 1.05],
    xLabel: "angle θ",
    yLabel: "kernel",
    xTicks: ANGLE_TICKS,
    label: "The tangent kernel and the NNGP kernel over the angle.",
  });
  const map = figure.panel({
    x: [-1, 1.05],
    y: [-1, 1.05],
    xLabel: "correlation before a layer",
    yLabel: "correlation after it",
    square: true,
    label: "The map of correlations, the diagonal, and the staircase of the pair between them.",
  });

  figure.begin(() => {
    // σ_w² = 1 - σ_b² keeps all variances at 1, so that every layer has the same map
    const network = {
      depth: depth.valueAsNumber,
      activation: activation.value,
      weightStd: Math.sqrt(1 - bias.valueAsNumber ** 2),
      biasStd: bias.valueAsNumber,
    };
    const onCircle = Array.from(ANGLES, (theta) => kernels(circle(theta), network));
    const nngp = onCircle.map((kernelsOf) => kernelsOf.nngp);
    const ntk = onCircle.map((kernelsOf) => kernelsOf.ntk);
    const diagonal = ntk[MIDDLE];
    const ratio = ntk.map((K) => K / diagonal);
    kernel.line("second", ANGLES, nngp);
    kernel.line("first", ANGLES, ratio);

    const pair = circle(angle.valueAsNumber);
    const path = Array.from({ length: network.depth + 1 }, (_, l) =>
      kernels(pair, { ...network, depth: l }),
    );
    const correlations = path.map((kernelsOf) => kernelsOf.nngp);
    const last = path[network.depth];
    kernel.dot("dot-first", angle.valueAsNumber, last.ntk / diagonal);
    kernel.dot("dot-second", angle.valueAsNumber, last.nngp);

    const mapped = Array.from(CORRELATIONS, (xi) => correlationMap(xi, network));
    map.line("diagonal", [-1, 1], [-1, 1]);
    map.line("second", CORRELATIONS, mapped);
    const stairs = correlations.flatMap((xi, l) => [
      [xi, l === 0 ? -1 : xi],
      [xi, correlations[l + 1] ?? xi],
    ]);
    map.line("steps", stairs.map(([x]) => x), stairs.map(([, y]) => y));
    map.dot("dot-second", correlations.at(-1), correlations.at(-1));

    const slope = network.weightStd ** 2 * activations[network.activation].slopes(circle(0));
    const number = format(".3~f");
    figure.say(
      `The pair's correlation goes from ${number(correlations[0])} to ${number(last.nngp)}; its ` +
        `tangent kernel is ${number(last.ntk)}, and ${number(diagonal)} on the diagonal: ` +
        `a ratio of ${number(last.ntk / diagonal)}. The map's slope at 1 is χ = ${number(slope)}.`,
    );
    figure.root.drawn = { network, angles: ANGLES, nngp, ntk, mapped, correlations };
  });
}
