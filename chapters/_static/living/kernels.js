// The numbers of the living figures: kernels of infinitely wide networks, one of a finite network, and
// what training does with them. No page and no plotting here, so that any JavaScript can run it.
//
// The formulas and the conventions are those of the Python package ntkutils (closed_forms.py,
// covariance.py, recursion.py, ensembles.py), which says where they come from; a test runs both. As
// there, a covariance of (u, v) is {sd1, sd2, xi, sin2} with sin2 = 1 - xi², carried because a
// correlation alone has only half of the digits of a small angle.

const { PI, abs, atan2, cos, exp, expm1, max, min, sin, sqrt } = Math;

const UNIT = { sd1: 1, sd2: 1, xi: 1, sin2: 0 };

const gap = (L) => (L.xi > 0 ? L.sin2 / (1 + L.xi) : 1 - L.xi); // 1 - xi
const negated = (L) => ({ ...L, xi: -L.xi }); // of (u, -v)
const scaled = (factor, L) => ({ ...L, sd1: sqrt(factor) * L.sd1, sd2: sqrt(factor) * L.sd2 });
const nonzero = (x) => (x === 0 ? 1 : x); // a divisor of what is 0 there too

/** The covariance after an independent common term of variance `shift` is added to u and v. */
function shifted(L, shift) {
  if (shift === 0) return L;
  const sd1 = sqrt(L.sd1 ** 2 + shift);
  const sd2 = sqrt(L.sd2 ** 2 + shift);
  const [a, b, c, d] = [L.sd1 / sd1, L.sd2 / sd2, sqrt(shift) / sd1, sqrt(shift) / sd2];
  const sin2 = (a * b) ** 2 * L.sin2 + (a * d - b * c) ** 2 + 2 * a * b * c * d * gap(L);
  return { sd1, sd2, xi: a * b * L.xi + c * d, sin2 };
}

/** Two points of the unit circle at an angle. */
export const circle = (angle) => ({ sd1: 1, sd2: 1, xi: cos(angle), sin2: sin(angle) ** 2 });

/** Two points of the line, as inputs of one feature. */
export const line = (x1, x2) => ({ sd1: abs(x1), sd2: abs(x2), xi: x1 * x2 < 0 ? -1 : 1, sin2: 0 });

// --- What a wide layer of a nonlinearity does to a covariance: {moments, slopes}, not yet normalised ---

/** a·min(z, 0) + max(z, 0): an odd and an even part. */
function piecewiseLinear(a) {
  const [plus2, minus2, total] = [(a + 1) ** 2, (1 - a) ** 2, a ** 2 + 1];
  const [odd, even] = [plus2 / (2 * total), minus2 / (2 * total)];
  return {
    moments(L) {
      const t = atan2(sqrt(L.sin2), abs(L.xi));
      const evenGap = 2 * sin(t / 2) ** 2 - (2 / PI) * (sin(t) - t * cos(t));
      const minus = odd * gap(L) + even * evenGap;
      const plus = odd * gap(negated(L)) + even * (2 - evenGap);
      return scaled(total / 2, { ...L, xi: odd * L.xi + even * (1 - evenGap), sin2: minus * plus });
    },
    slopes: (L) => plus2 / 4 + (minus2 / 4) * (1 - (2 / PI) * atan2(sqrt(L.sin2), L.xi)),
  };
}

/** p·sin(frequency·z) + q·cos(frequency·z), p² + q² = 1. */
function sinusoid(frequency, p, q) {
  const power = frequency ** 2;
  const k = p ** 2 - q ** 2;
  const differenceVar = (L) => (L.sd1 - L.sd2) ** 2 + 2 * L.sd1 * L.sd2 * gap(L);
  return {
    moments(input) {
      const L = scaled(power, input);
      const [A, B] = [L.sd1 ** 2, L.sd2 ** 2];
      const [D, S] = [differenceVar(L), differenceVar(negated(L))];
      const [sd1, sd2] = [A, B].map((v) => sqrt((2 * q ** 2 - k * expm1(-2 * v)) / 2));
      const size = nonzero(sd1) * nonzero(sd2);
      const sign = L.xi < 0 ? -1 : 1;
      const difference = -sign * exp(-min(D, S) / 2) * expm1(-2 * sign * L.sd1 * L.sd2 * L.xi);
      const xi = (2 * q ** 2 * exp(-S / 2) + difference) / 2 / size;
      const apart = (exp(-min(A, B)) * expm1(-abs((L.sd1 - L.sd2) * (L.sd1 + L.sd2)))) / (2 * size);
      const rest = ((2 * p * q) ** 2 - k ** 2 * expm1(-S)) / (2 * size);
      const sin2 = (-expm1(-D) / (2 * size)) * rest - k * apart ** 2;
      return { sd1, sd2, xi, sin2: max(sin2, 0) };
    },
    slopes(input) {
      const L = scaled(power, input);
      return (power * (exp(-differenceVar(L) / 2) + k * exp(-differenceVar(negated(L)) / 2))) / 2;
    },
  };
}

/** What Gaussian, erf and GELU have in common: y = E[uv]/root of (1+A)(1+B), a sine, and its cosine R. */
function sine(L) {
  const [r1, r2] = [1 / (1 + L.sd1 ** 2), 1 / (1 + L.sd2 ** 2)];
  const [p1, p2] = [L.sd1 ** 2 * r1, L.sd2 ** 2 * r2];
  const q = sqrt(p1) * sqrt(p2);
  const y = q * L.xi;
  const rest = r1 + p1 * r2; // 1 - q²
  const [R1, R] = [sqrt(rest), sqrt(rest + q ** 2 * L.sin2)];
  const drop = atan2((q * L.sin2) / (R + abs(L.xi) * R1), R * R1 + q * abs(y)); // asin q - asin |y|
  return { r1, r2, p1, p2, q, y, R1, R, root: sqrt(r1) * sqrt(r2), drop };
}

/** exp(-z²/2). */
const gaussian = {
  moments(L) {
    const s = sine(L);
    const [u, v] = [sqrt(s.r1 * (1 + s.p1)), sqrt(s.r2 * (1 + s.p2))];
    const xi = (sqrt(u) * sqrt(v)) / s.R;
    const t = s.q ** 2 * L.sin2;
    const rest = ((s.r1 - s.r2) / s.R ** 2) ** 2 + (t * (2 * s.R1 ** 2 + t)) / s.R ** 4;
    const [sd1, sd2] = [(1 + 2 * L.sd1 ** 2) ** -0.25, (1 + 2 * L.sd2 ** 2) ** -0.25];
    return { sd1, sd2, xi, sin2: rest / (1 + xi ** 2) };
  },
  slopes(L) {
    const s = sine(L);
    return ((s.root / s.R) ** 2 * s.y) / s.R;
  },
};

/** erf(z/√2), with the angles of ntkutils: 1 - xi'² without cancellation. */
const erfOfHalf = {
  moments(L) {
    const s = sine(L);
    const [cos1, cos2] = [sqrt(s.r1 * (1 + s.p1)), sqrt(s.r2 * (1 + s.p2))];
    const [length1, length2] = [sqrt(atan2(s.p1, cos1)), sqrt(atan2(s.p2, cos2))];
    const apart = s.r1 * (L.sd1 - L.sd2) * (L.sd1 + L.sd2) * s.r2;
    const [root1, root2] = [sqrt(s.p1), sqrt(s.p2)];
    const sine1 = root1 * (apart / nonzero(root1 * s.R1 + root2 * cos1));
    const sine2 = root2 * (apart / nonzero(root2 * s.R1 + root1 * cos2));
    const size = nonzero(length1) * nonzero(length2);
    const middle = atan2(s.q, s.R1) / size;
    const above = atan2(sine1, cos1 * s.R1 + s.p1 * s.q) / size;
    const below = atan2(sine2, cos2 * s.R1 + s.p2 * s.q) / size;
    const drop = s.drop / size;
    const sin2 = middle * (above - below) - above * below + drop * (2 * middle - drop);
    const xi = atan2(s.y, s.R) / size;
    return scaled(2 / PI, { sd1: length1, sd2: length2, xi, sin2: max(sin2, 0) });
  },
  slopes(L) {
    const s = sine(L);
    return ((2 / PI) * s.root) / s.R;
  },
};

const erf = {
  moments: (L) => erfOfHalf.moments(scaled(2, L)),
  slopes: (L) => 2 * erfOfHalf.slopes(scaled(2, L)),
};

/** z·Φ(z): an odd part z/2 and an even one. */
const gelu = {
  moments(L) {
    const defect = (s) =>
      (2 / PI) * (atan2(s.R1, s.q) - s.q * s.R1 - s.q * s.root * (s.root / s.R1));
    const s = sine(L);
    const defect1 = defect(sine({ ...UNIT, sd1: L.sd1, sd2: L.sd1 }));
    const defect2 = defect(sine({ ...UNIT, sd1: L.sd2, sd2: L.sd2 }));
    const defect12 = defect(s);
    const [X1, X2, X] = [2 - defect1, 2 - defect2, 2 - defect12];
    const rr = s.root * (s.root / s.R);
    const RDrop = (s.q ** 2 * L.sin2) / (s.R + s.R1);
    const eDrop =
      s.drop +
      (L.sin2 / (1 + abs(L.xi))) * atan2(abs(s.y), s.R) +
      s.q * (rr * (RDrop / s.R1 + L.sin2) - RDrop);
    const drop = gap(L) + (2 / PI) * eDrop;
    const unequal = 2 * (2 * defect12 - defect1 - defect2) + defect1 * defect2 - defect12 ** 2;
    const sin2 = max((unequal + drop * (2 * X - drop)) / (X1 * X2), 0);
    const [sd1, sd2] = [(L.sd1 * sqrt(X1)) / 2, (L.sd2 * sqrt(X2)) / 2];
    return { sd1, sd2, xi: (X - drop) / sqrt(X1 * X2), sin2 };
  },
  slopes(L) {
    const s = sine(L);
    const rational = (s.y / s.R) * (s.R1 ** 2 + s.root ** 2 + (s.root / s.R) ** 2);
    return 1 / 4 + (atan2(s.y, s.R) + rational) / (2 * PI);
  },
};

const identity = { moments: (L) => L, slopes: () => 1 };

/** Divided by the root of E[φ(z)²], as everywhere in the book. */
function normalised({ moments, slopes }) {
  const norm = moments(UNIT).sd1;
  return {
    moments(L) {
      const M = moments(L);
      return { ...M, sd1: M.sd1 / norm, sd2: M.sd2 / norm };
    },
    slopes: (L) => slopes(L) / norm ** 2,
  };
}

const NAMED = {
  relu: piecewiseLinear(0),
  abs: piecewiseLinear(-1),
  erf,
  gelu,
  sin: sinusoid(1, 1, 0),
  cos: sinusoid(1, 0, 1),
  gaussian,
  rbf: sinusoid(sqrt(2), sqrt(0.5), sqrt(0.5)),
  identity,
};

/** {name: {moments, slopes}}, named as in ntkutils. */
export const activations = Object.fromEntries(
  Object.entries(NAMED).map(([name, activation]) => [name, normalised(activation)]),
);

// --- The recursion ------------------------------------------------------------------------------------

const covarianceOf = (L) => L.sd1 * L.sd2 * L.xi;

/** {nngp, ntk} of two inputs, given their inner products; `network` as in ntkutils.ntk. */
export function kernels(inputs, { depth, activation, weightStd = 1, biasStd = 0 }) {
  const phi = activations[activation];
  const [weightVar, biasVar] = [weightStd ** 2, biasStd ** 2];
  let L = shifted(scaled(weightVar, inputs), biasVar);
  let K = covarianceOf(L);
  for (let l = 0; l < depth; l++) {
    const slopes = weightVar * phi.slopes(L);
    L = shifted(scaled(weightVar, phi.moments(L)), biasVar);
    K = covarianceOf(L) + slopes * K;
  }
  return { nngp: covarianceOf(L), ntk: K };
}

/** σ_w² φ̌(ξ) + σ_b²: one layer's map of correlations, where σ_w² + σ_b² = 1 keeps the variances at 1. */
export function correlationMap(xi, { activation, weightStd = 1, biasStd = 0 }) {
  const L = activations[activation].moments({ sd1: 1, sd2: 1, xi, sin2: (1 - xi) * (1 + xi) });
  return weightStd ** 2 * covarianceOf(L) + biasStd ** 2;
}

// --- One hidden layer of ReLU, at finite width ---------------------------------------------------------

/** Uniform numbers in (0, 1] from a seed: mulberry32, by Tommy Ettinger (public domain). */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 1) / 2 ** 32;
  };
}

/** The weights of `width` neurons: in (two each) and out. Narrower networks take the first of them. */
export function drawNeurons(seed, width) {
  const next = uniform(seed);
  const normals = new Float64Array(4 * width); // four a neuron, one of them unused: Box and Muller's
  for (let i = 0; i < normals.length; i += 2) {
    const radius = sqrt(-2 * Math.log(next()));
    const angle = 2 * PI * next();
    normals[i] = radius * cos(angle);
    normals[i + 1] = radius * sin(angle);
  }
  const pick = (offset) => Float64Array.from({ length: width }, (_, i) => normals[4 * i + offset]);
  return { in1: pick(0), in2: pick(1), out: pick(2) };
}

/** K_k between the angle 0 and each of `angles`, of the network of the first `width` neurons. */
export function finiteKernel({ in1, in2, out }, width, angles) {
  return Array.from(angles, (angle) => {
    const [c, s] = [cos(angle), sin(angle)];
    let sum = 0;
    for (let i = 0; i < width; i++) {
      const u = in1[i];
      const v = c * in1[i] + s * in2[i];
      // φ(u)φ(v) + x·x̃ a² φ'(u)φ'(v), where both are active; each φ has a factor √2
      if (u > 0 && v > 0) sum += 2 * (u * v + c * out[i] ** 2);
    }
    return sum / width;
  });
}

/** {limit, variance}: K_∞ at an angle, and k times the variance of K_k there: M₂ - K_∞². */
export function limitAndVariance(angle) {
  const theta = abs(angle);
  const [s, c, rest] = [sin(theta), cos(theta), PI - theta];
  const J1 = s + rest * c;
  const J2 = 3 * s * c + rest * (1 + 2 * c ** 2);
  const limit = (s + 2 * rest * c) / PI;
  const second = (2 / PI) * (J2 + 2 * c * J1 + 3 * c ** 2 * rest);
  return { limit, variance: max(second - limit ** 2, 0) };
}

// --- Training -----------------------------------------------------------------------------------------

/** {values, vectors} of a small symmetric matrix; vectors[j] belongs to values[j]. Cyclic Jacobi. */
export function eigen(matrix) {
  const n = matrix.length;
  const A = matrix.map((row) => Float64Array.from(row));
  const V = A.map((_, i) => Float64Array.from({ length: n }, (_, j) => +(i === j)));
  const size = max(...A.map((row) => Math.hypot(...row)));
  for (let sweep = 0; sweep < 30; sweep++) {
    let largest = 0;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        largest = max(largest, abs(A[p][q]));
        if (A[p][q] === 0) continue;
        const ratio = (A[q][q] - A[p][p]) / (2 * A[p][q]);
        const t = (ratio < 0 ? -1 : 1) / (abs(ratio) + Math.hypot(ratio, 1));
        const c = 1 / Math.hypot(t, 1);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          [A[k][p], A[k][q]] = [c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]];
        }
        for (let k = 0; k < n; k++) {
          [A[p][k], A[q][k]] = [c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]];
          [V[p][k], V[q][k]] = [c * V[p][k] - s * V[q][k], s * V[p][k] + c * V[q][k]];
        }
      }
    }
    if (largest <= 1e-18 * size) break;
  }
  return { values: A.map((row, i) => row[i]), vectors: V };
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/**
 * {mean, variance} at the points `at`, over the random start, of infinitely wide networks after gradient
 * flow for a time on half the sum of squares: the mean is S y with S = K(x,X) K⁻¹ (I - exp(-K t)), the
 * covariance Σ(x,x̃) + S Σ(X,X) Sᵀ - S Σ(X,x̃) - Σ(x,X) Sᵀ. Inputs are points of the line.
 */
export function trainedEnsemble(x, y, at, time, network) {
  const between = (points) => x.map((a) => points.map((b) => kernels(line(a, b), network)));
  const train = between(x);
  const Sigma = train.map((row) => row.map(({ nngp }) => nngp));
  const { values, vectors } = eigen(train.map((row) => row.map(({ ntk }) => ntk)));
  const learned = values.map((value) => (value === 0 ? time : -expm1(-value * time) / value));
  const test = between(at);
  const mean = [];
  const variance = [];
  at.forEach((point, j) => {
    const row = test.map((kernelsOf) => kernelsOf[j]);
    const modes = vectors.map((v, i) => learned[i] * dot(v, row.map(({ ntk }) => ntk)));
    const S = x.map((_, i) => modes.reduce((sum, mode, m) => sum + mode * vectors[m][i], 0));
    const cross = dot(S, row.map(({ nngp }) => nngp));
    const prior = kernels(line(point, point), network).nngp;
    mean.push(dot(S, y));
    variance.push(prior + dot(S, Sigma.map((SigmaRow) => dot(SigmaRow, S))) - 2 * cross);
  });
  return { mean, variance };
}
