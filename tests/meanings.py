r"""What the symbols of each printed formula mean: numbers, random matrices, functions of `ntkutils`.

A formula is evaluated as it is printed, both sides, by `reading_latex`. As far as it can, the left
side's meaning is a function of `ntkutils` or a network, and the right side is made of its parts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from reading_latex import Lazy
from torch.func import hessian, jacfwd, jacrev

import ntkutils as nu
from ntkutils import activations, oracles, spectrum
from ntkutils.activations import erf, relu

PI = math.pi


class Says(NamedTuple):
    """The meanings of a formula's symbols; several cases, if it says something of several."""

    cases: Callable[[], dict | list]
    tolerance: float
    drop: tuple[str, ...]
    lines: bool


MEANINGS: dict[str, Says] = {}


def of(*labels, tolerance=1e-12, drop=(), lines=False):
    """Give the formulas of these labels the meanings that a function returns.

    `drop` are words in them; with `lines` each line of the display is a case of its own.
    """

    def decorate(function):
        for label in labels:
            assert label not in MEANINGS, label
            MEANINGS[label] = Says(function, tolerance, tuple(drop), lines)
        return function

    return decorate


class Small:
    """O(·) or o(·): 0, and up to `factor` times what stands there is allowed between the sides."""

    def __init__(self, factor, relative=False):
        self.factor, self.relative = factor, relative
        self.allowed = self.used = 0.0  # of the statement at hand; the largest part of it that was needed
        self.called = False

    def __call__(self, size):
        self.called = True
        self.allowed = self.factor * float(torch.as_tensor(size).abs().max())
        return 0.0


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(normal(*shape, seed=seed), dim=-1)


def one(x):
    return torch.tensor([x], dtype=torch.float64)


def column(x):
    return x.reshape(-1, 1)


# ---- Expectations by quadrature ---------------------------------------------------------------

_NODES, _WEIGHTS = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(60))
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
Z, Z_MEAN = _NODES, lambda a: (_WEIGHTS * a).sum()
ROOT_WEIGHTS = (_WEIGHTS[:, None] * _WEIGHTS).flatten().sqrt()


def pair(var1, var2, cov):
    """Values of two Gaussian variables on a grid, and how the mean over it is taken."""
    a, b = (n.flatten() for n in torch.meshgrid(_NODES, _NODES, indexing="ij"))
    u = math.sqrt(var1) * a
    v = cov / math.sqrt(var1) * a + math.sqrt(var2 - cov**2 / var1) * b
    return u, v, lambda values: (ROOT_WEIGHTS**2 * values).sum()


def hermite(n, z):
    coefficients = [0.0] * int(n) + [1.0]
    values = torch.as_tensor(np.polynomial.hermite_e.hermeval(z, coefficients))
    return values / math.sqrt(math.factorial(int(n)))


def hermite_slope(n, z):
    return math.sqrt(n) * hermite(n - 1, z) if n else torch.zeros_like(z)


def derivative(function):
    return lambda u: torch.func.vmap(torch.func.grad(function))(u.flatten()).reshape(u.shape)


# for expectations: entire, so that 60 nodes are enough, and neither even nor odd
WAVE = activations.rbf(0.7)
PHI = {r"\phi(*)": erf, r"\phi'(*)": erf.derivative}
PHI2 = derivative(erf.derivative)

# ---- A network, and its linearization ---------------------------------------------------------


class Net:
    """An MLP, and by hand: h, u and delta of each layer, and the derivatives of the output."""

    def __init__(self, *widths, d=3, activation=erf, seed=0, **options):
        generator = torch.Generator().manual_seed(seed)
        self.model = nu.MLP(
            d,
            list(widths),
            len(widths),
            activation=activation,
            generator=generator,
            dtype=torch.float64,
            **options,
        )
        self.w, self.phi = [w.detach() for w in self.model.w], activation
        self.L = len(widths)

    def h(self, j, x):
        value = column(x)
        for w in self.w[: int(j)]:
            value = self.phi(w @ value) / math.sqrt(len(w))
        return value

    def u(self, j, x):
        return self.w[int(j) - 1] @ self.h(j - 1, x)

    def delta(self, j, x):
        """The derivative of the output in u of layer j, by autograd."""
        if j == self.L + 1:
            return torch.ones(1, 1, dtype=torch.float64)

        def rest(u):
            for w in self.w[int(j) :]:
                u = w @ (self.phi(u) / math.sqrt(len(u)))
            return u.squeeze()

        return torch.func.grad(rest)(self.u(j, x))

    def flat(self):
        return torch.cat([w.flatten() for w in self.w])

    def of_flat(self, weights, x):
        shapes = [w.shape for w in self.w]
        parts = weights.split([s.numel() for s in shapes])
        value = column(x)
        for part, shape in zip(parts[:-1], shapes[:-1], strict=True):
            value = self.phi(part.reshape(shape) @ value) / math.sqrt(shape[0])
        return (parts[-1].reshape(shapes[-1]) @ value).squeeze()

    def f(self, x):
        return self.model(x.reshape(1, -1)).detach().squeeze()

    def kernel(self, x, other):
        return nu.empirical_ntk(self.model, x.reshape(1, -1), other.reshape(1, -1)).squeeze()


X1, X2 = normal(3, seed=1), normal(3, seed=2)
DEEP = Net(4, 5)


def deep_symbols():
    net = DEEP
    return {
        "L": 2,
        r"h^{(*)}(x)": lambda j: net.h(j, X1),
        r"h^{(*)}(\tilde x)": lambda j: net.h(j, X2),
        r"h^{(*)}": lambda j: net.h(j, X1),
        r"\tilde h^{(*)}": lambda j: net.h(j, X2),
        "w^{(*)}": lambda j: net.w[int(j) - 1],
        "u^{(*)}": lambda j: net.u(j, X1),
        r"\delta^{(*)}(x)": lambda j: net.delta(j, X1),
        r"\delta^{(*)}(\tilde x)": lambda j: net.delta(j, X2),
        r"\delta^{(*)}": lambda j: net.delta(j, X1),
        r"\tilde\delta^{(*)}": lambda j: net.delta(j, X2),
        "k_{*}": lambda j: [3, 4, 5][int(j)],
        "x": column(X1),
        r"K(x,\tilde x)": net.kernel(X1, X2),
        r"K_{k}(x,\tilde x)": net.kernel(X1, X2),
        "f": net.f(X1),
        "f(w;x)": net.f(X1),
        **PHI,
    }


@of("def-network", drop=[r"\in\mathbf{R}^d"])
@of("def-deep")
def _():
    return [{**deep_symbols(), "j": j} for j in (1, 2)]


@of("eq-layers", "def-shares")
def _():
    return deep_symbols()


@of("def-backward")
def _():
    return [{**deep_symbols(), "j": j} for j in (1, 2)]


def weights_symbols():
    net = Net(4, 5)
    w0, p = net.flat(), len(net.flat())
    move = column(normal(p, seed=3))
    f = lambda w: net.of_flat(w, X1)  # noqa: E731
    gradient = column(torch.func.grad(f)(w0))
    linear = nu.linearize(net.model)
    names = list(dict(net.model.named_parameters()))

    def f_lin(w):
        parts = w.flatten().split([v.numel() for v in net.w])
        params = {n: part.reshape(v.shape) for n, part, v in zip(names, parts, net.w, strict=True)}
        return linear(params, X1.reshape(1, -1)).squeeze()

    return {
        "w^{(0)}": column(w0),
        "w": column(w0) + move,
        r"\varepsilon": 1e-3,
        "u": move / move.norm(),
        r"\tilde f_{x}(*)": f_lin,
        "f_{x}(*)": lambda w: f(w.flatten()),
        r"\nabla f_{x}(w^{(0)})": gradient,
        r"\nabla^{2}f_{x}(w^{(0)})": hessian(f)(w0),
        "O(*)": Small(0.005),
        "p": p,
        r"\frac{\partial f_{x}}{\partial w_{*}}": lambda i: gradient[int(i) - 1, 0],
        r"\frac{\partial f_{\tilde x}}{\partial w_{*}}": lambda i: torch.func.grad(
            lambda w: net.of_flat(w, X2)
        )(w0)[int(i) - 1],
        r"\psi(x)": gradient,
        r"\psi(\tilde x)": column(torch.func.grad(lambda w: net.of_flat(w, X2))(w0)),
        r"K(x,\tilde x)": net.kernel(X1, X2),
    }


@of("def-linearization", "eq-remainder", "def-ntk")
def _():
    return weights_symbols()


N, M = 4, 3  # training points and test points: matrices of different shapes do not commute by chance
PSI, PSI_TEST = normal(N, 7, seed=4), normal(M, 7, seed=5)
KERNEL, ROWS = PSI @ PSI.T, PSI_TEST @ PSI.T
F0, F0_TEST, Y = normal(N, 1, seed=6), normal(M, 1, seed=7), normal(N, 1, seed=8)
ETA = 0.3 / torch.linalg.eigvalsh(KERNEL)[-1].item()
LAMBDA_I, V = torch.linalg.eigh(KERNEL)


def trained(function, *amount, kernel=KERNEL, rows=ROWS, **options):
    done = function(
        kernel,
        Y.flatten(),
        *amount,
        initial=F0.flatten(),
        test_kernel=rows,
        test_initial=F0_TEST.flatten(),
        **options,
    )
    return column(done.train), column(done.test)


def linear_symbols():
    flow = {t: trained(nu.gradient_flow, t) for t in (0.07, math.inf)}
    descent = {s: trained(nu.gradient_descent, s, learning_rate=ETA) for s in range(6)}
    start, end = normal(7, 1, seed=9), None
    end = start + torch.linalg.lstsq(PSI, Y - F0, driver="gelsd").solution
    return {
        "K": KERNEL,
        "K(x,X)": ROWS,
        "I": torch.eye(N).double(),
        r"\eta": ETA,
        "s": 5,
        "t": 0.07,
        "y": Y,
        "f_{0}(x)": F0_TEST,
        "f_{0}(X)": F0,
        r"\tilde f_{s}(x)": descent[5][1],
        r"\lambda": 0.4,
        r"\tilde f_{t}(x)": flow[0.07][1],
        r"\tilde f_{\infty}(x)": flow[math.inf][1],
        "n": N,
        "r_{s+1}": descent[5][0] - Y,
        "r_{s}": descent[5][0] - Y,
        "r_{0}": F0 - Y,
        "r_{t}": flow[0.07][0] - Y,
        r"\Psi": PSI,
        r"w^{(\infty)}": end,
        "w^{(0)}": start,
    }


@of("eq-descent", "eq-flow", "eq-regression", tolerance=1e-11)
def _():
    return linear_symbols()


@of("eq-minimum-norm", "eq-distance", tolerance=1e-11)
def _():
    return linear_symbols()


@of("eq-ridge")
def _():
    return {**linear_symbols(), r"\tilde f_{\infty}(x)": trained(nu.gradient_flow, ridge=0.4)[1]}


@of("eq-singular", tolerance=1e-10)
def _():
    twice = torch.cat([PSI[:2], PSI[:2]])  # two points, each of them twice, with equal targets
    y, f0 = torch.cat([Y[:2], Y[:2]]), torch.cat([F0[:2], F0[:2]])
    once = torch.linalg.lstsq(PSI[:2], Y[:2] - F0[:2], driver="gelsd").solution
    return {
        **linear_symbols(),
        "K": twice @ twice.T,
        "K(x,X)": PSI_TEST @ twice.T,
        "y": y,
        "f_{0}(X)": f0,
        r"\tilde f_{\infty}(x)": F0_TEST + PSI_TEST @ once,
    }


@of("step-residual")
def _():
    shared, residual = linear_symbols(), F0 - Y
    cases = []
    for s in range(4):
        after = residual - ETA * KERNEL @ residual
        cases.append({**shared, "s": s, "r_{s}": residual, "r_{s+1}": after})
        residual = after
    return cases


@of("eq-modes")
def _():
    shared = linear_symbols()
    return [{**shared, "v_{i}": V[:, [i]], r"\lambda_{i}": LAMBDA_I[i].item()} for i in range(N)]


@of("eq-rate")
def _():
    top = LAMBDA_I[-1].item()
    for_rate = [trained(nu.gradient_descent, 5, learning_rate=rate / top)[0] - Y for rate in (0.7, 1.6)]
    return [
        {**linear_symbols(), "v_{1}": V[:, [-1]], r"\lambda_{\max}": top, r"\eta": rate / top, "r_{s}": r}
        for rate, r in zip((0.7, 1.6), for_rate, strict=True)
    ]


@of("def-loss")
def _():
    parts, move = linear_symbols(), normal(7, 1, seed=10)
    f = lambda w: F0 + PSI @ (w - parts["w^{(0)}"])  # noqa: E731
    w = parts["w^{(0)}"] + move
    half = lambda w: (f(w) - Y).square().sum() / 2  # noqa: E731
    return {
        **parts,
        r"\mathcal{L}(w)": half(w),
        r"\nabla\mathcal{L}(w)": torch.func.grad(half)(w),
        r"\tilde f(X)": f(w),
        r"\tilde f_{x_{*}}(w)": lambda i: f(w)[int(i) - 1, 0],
        "y_{*}": lambda i: Y[int(i) - 1, 0],
    }


# ---- Dual activations --------------------------------------------------------------------------

XI = torch.linspace(-0.95, 0.95, 12, dtype=torch.float64)
DUALS = {
    "step": activations.step,
    "sign": activations.sign,
    "relu": relu,
    "abs": activations.get("abs"),
    "leaky": activations.leaky_relu(0.3),
    "resquare": activations.rectified_monomial(2),
    "exp": activations.exp,
    "sin": activations.sin,
    "cos": activations.cos,
    "rbf": activations.rbf(0.7),
    "gaussian": activations.gaussian,
    "erf": erf,
    "gelu": activations.gelu,
    "cube": activations.monomial(3),
    "identity": activations.identity,
}


def dual_symbols():
    named = {rf"\check\phi_{{\text{{{name}}}}}(*)": phi.dual for name, phi in DUALS.items()}
    slopes = {rf"\check\phi'_{{\text{{{name}}}}}(*)": phi.dual_derivative for name, phi in DUALS.items()}
    return {**named, **slopes, r"\xi": XI, r"\alpha": 0.3, r"\gamma": 0.7, "1": 1.0}


@of(
    "eq-step",
    "eq-sign",
    "eq-relu",
    "eq-relu-derivative",
    "eq-abs",
    "eq-leaky-relu",
    "eq-rectified-square",
    "eq-exp",
    "eq-sin",
    "eq-cos",
    "eq-rbf",
    "eq-gaussian",
    "eq-erf",
    "eq-gelu",
    "eq-cube",
    "eq-identity",
)
def _():
    symbols = dual_symbols()
    del symbols["1"]
    return symbols


def grid_symbols(xi=0.6, phi=WAVE):
    u, v, mean = pair(1.0, 1.0, xi)
    return {
        "u": u,
        "v": v,
        r"\mathbf{E}[*]": mean,
        r"\mathbf{E}u^{2}": mean(u * u),
        r"\xi": xi,
        "z": Z,
        r"\mathbf{E}v^{2}": mean(v * v),
        r"\mathbf{E}uv": mean(u * v),
        r"\check\phi(*)": phi.dual,
        r"\check\phi'(*)": phi.dual_derivative,
        r"\phi(*)": phi,
        r"\phi'(*)": phi.derivative,
        r"\Phi(*)": torch.special.ndtr,
        r"\Phi'(*)": lambda u: (-u * u / 2).exp() / math.sqrt(2 * PI),
        "h_{*}(*)": hermite,
        "h_{*}'(*)": hermite_slope,
        "a_{*}": lambda n: Z_MEAN(phi(Z) * hermite(n, Z)),
    }


@of("def-dual-activation", drop=[r"(u,v)\ \text{Gaussian},\ "])
def _():
    symbols = grid_symbols()
    return {**symbols, r"\check\phi(*)": lambda xi: WAVE.dual(one(xi))[0]}


@of("eq-features")
def _():
    x, other = unit(3, seed=1), unit(3, seed=2)
    u, v, _ = pair(1.0, 1.0, (x @ other).item())
    # neurons at the nodes of a quadrature, weighted: a layer that is infinitely wide
    h = [column(ROOT_WEIGHTS * erf(a)) for a in (u, v)]
    return {
        "h(x)": h[0],
        r"h(\tilde x)": h[1],
        "x": column(x),
        r"\tilde x": column(other),
        r"\check\phi(*)": erf.dual,
    }


@of("eq-nngp")
def _():
    x, other = unit(3, seed=1), unit(3, seed=2)
    u, v, _ = pair(1.0, 1.0, (x @ other).item())
    h = [column(ROOT_WEIGHTS * erf(a)) for a in (u, v)]
    return {
        "h(x)": h[0],
        r"h(\tilde x)": h[1],
        "x": column(x),
        r"\tilde x": column(other),
        r"\check\phi(*)": erf.dual,
        r"\mathbf{E}[f(x)f(\tilde x)]": nu.nngp(x[None], other[None], depth=1, activation="erf").squeeze(),
        r"\mathbf{E}\langle h(x),h(\tilde x)\rangle": (h[0] * h[1]).sum(),
    }


@of("def-hermite")
def _():
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return {"s": 0.4, "z": z, "h_{*}(*)": hermite}


HERMITE_EXP = {"a_{*}": lambda n: math.exp(-0.5) / math.sqrt(math.factorial(int(n))), r"\xi": XI}


@of("eq-hermite", "eq-limit-hermite")
def _():
    kernel = lambda xi: activations.exp.dual(xi) + xi * activations.exp.dual_derivative(xi)  # noqa: E731
    return {**HERMITE_EXP, r"\check\phi(*)": activations.exp.dual, r"K_{\infty}(*)": kernel}


@of("step-mehler")
def _():
    equal = lambda m, n: float(m == n)  # noqa: E731
    return [
        {**grid_symbols(), "m": m, "n": n, r"\delta_{mn}": equal(m, n)} for m in range(4) for n in range(4)
    ]


@of("eq-derivative")
def _():
    xi = torch.tensor([0.6], dtype=torch.float64)
    slope = jacfwd(lambda a: WAVE.dual(a[None])[0])(xi[0])
    return {**grid_symbols(), r"\frac{d}{d\xi}\check\phi(\xi)": slope}


@of("step-parts")
def _():
    density = lambda t: torch.exp(-t * t / 2) / math.sqrt(2 * PI)  # noqa: E731
    shared = {**grid_symbols(), r"\mathbf{E}[*]": Z_MEAN, r"\gamma(*)": density}
    shared[r"\phi(0)"] = float(WAVE(torch.zeros(1).double()))
    return [{**shared, "n": n} for n in range(4)]


@of("step-gaussian-parts")
def _():
    symbols = grid_symbols()
    u, v = symbols["u"], symbols["v"]
    g = u**3 * v + u * v**2 + v
    slopes = 3 * u**2 * v + v**2, u**3 + 2 * u * v + 1
    return {
        **symbols,
        "g(u,v)": g,
        r"\partial_{u}g(u,v)": slopes[0],
        r"\partial_{v}g(u,v)": slopes[1],
    }


@of("step-skewness")
def _():
    z, weights = half_line()
    unit = (2 * z**2)[:, None] + 2 * _NODES**2  # what an active unit adds; an inactive one adds 0
    mean = lambda a: (weights[:, None] * _WEIGHTS * a).sum()  # noqa: E731
    third = mean((unit - 2) ** 3) + 0.5 * (0 - 2) ** 3
    k = 7
    return {r"\mathbf{E}(K_{k}-2)^{3}": third / k**2, "k": k}


@of("step-gelu")
def _():
    symbols = grid_symbols()
    u, v, mean, Phi, density = (
        symbols[key] for key in ("u", "v", r"\mathbf{E}[*]", r"\Phi(*)", r"\Phi'(*)")
    )
    G = mean(v * density(u) * Phi(v)) + 0.6 * mean(v * Phi(u) * density(v))
    return {**symbols, "G": G}


@of("eq-fourth-moment")
def _():
    k, fourth, second = 5, Z_MEAN(WAVE(Z) ** 4), Z_MEAN(WAVE(Z) ** 2)
    of_norm = (k * fourth + k * (k - 1) * second**2) / k**2  # E|h|^4; given h, f is N(0, |h|^2)
    return {
        r"\phi(*)": WAVE,
        "z": Z,
        r"\mathbf{E}[*]": Z_MEAN,
        "k": k,
        r"\mathbf{E}[f(x)^{4}]": 3 * of_norm,
    }


def posterior_symbols():
    x, one_, other = normal(N, 3, seed=11), normal(M, 3, seed=12), normal(M, 3, seed=13)
    kernel = lambda a, b: nu.nngp(a, b, depth=1, activation="erf")  # noqa: E731
    found = nu.posterior(x, Y.flatten(), torch.cat([one_, other]), depth=1, activation="erf")
    return {
        r"\mathbf{E}f_{\infty}(x)": column(found.mean[:M]),
        r"\operatorname{Cov}(f_{\infty}(x),f_{\infty}(\tilde x))": found.covariance[:M, M:],
        "K_{h}(x,X)": kernel(one_, x),
        "K_{h}": kernel(x, x),
        "y": Y,
        r"K_{h}(x,\tilde x)": kernel(one_, other),
        r"K_{h}(X,\tilde x)": kernel(x, other),
    }


@of("eq-posterior-mean", "eq-posterior-covariance", tolerance=1e-11)
def _():
    return posterior_symbols()


# ---- One hidden layer --------------------------------------------------------------------------


def one_layer_symbols():
    net = Net(5)
    w1, w2 = net.w
    x, other = X1, X2
    grads = [
        jacrev(lambda a, b: (b @ (erf(a @ x) / math.sqrt(5))).squeeze(), argnums=n)(w1, w2) for n in (0, 1)
    ]
    return {
        "k": 5,
        "f(w;x)": net.f(x),
        "w^{(2)}_{*}": lambda i: w2[0, int(i) - 1],
        "x_{*}": lambda j: x[int(j) - 1],
        "u_{*}": lambda i: (w1 @ x)[int(i) - 1],
        "v_{*}": lambda i: (w1 @ other)[int(i) - 1],
        **PHI,
        r"\frac{\partial f_{x}}{\partial w^{(2)}_{*}}": lambda i: grads[1][0, int(i) - 1],
        "x": column(x),
        r"\tilde x": column(other),
        r"K_{k}(x,\tilde x)": net.kernel(x, other),
    }


@of("def-one-layer", "eq-finite")
def _():
    return one_layer_symbols()


@of("step-gradients")
def _():
    net = Net(5)
    w1, w2 = net.w
    grads = [
        jacrev(lambda a, b: (b @ (erf(a @ X1) / math.sqrt(5))).squeeze(), argnums=n)(w1, w2) for n in (0, 1)
    ]
    shared = one_layer_symbols()
    return [
        {**shared, "i": i, "j": j, r"\frac{\partial f_{x}}{\partial w^{(1)}_{ij}}": grads[0][i - 1, j - 1]}
        for i in (1, 4)
        for j in (1, 3)
    ]


@of("eq-limit")
def _():
    x, other = unit(3, seed=1), unit(3, seed=2)
    kernel = nu.ntk(x[None], other[None], depth=1, activation="erf").squeeze()
    at = {(x @ other).item(): kernel}
    return {
        r"K_{k}(x,\tilde x)": kernel,
        r"K_{\infty}(*)": lambda xi: at[float(xi)],
        r"\xi": x @ other,
        r"\check\phi(*)": erf.dual,
        r"\check\phi'(*)": erf.dual_derivative,
    }


def relu_ntk(xi):
    points = torch.stack([xi, (1 - xi**2).sqrt()], dim=1)
    return nu.ntk(torch.eye(2, dtype=torch.float64)[:1], points, depth=1)[0]


@of("eq-relu-ntk")
def _():
    return {r"K_{\infty}(*)": relu_ntk, r"\xi": XI}


def rectified(n):
    return lambda z: z.clamp(min=0) ** n * (z > 0)


def dual_of(function, xi):
    return activations.from_function(function, kinks=(0.0,), normalise=False).dual(xi)


def relu_second_moment(theta):
    parts = [
        lambda z: relu(z) ** 2,
        lambda z: relu(z) * relu.derivative(z),
        lambda z: relu.derivative(z) ** 2,
    ]
    xi = theta.cos()
    return sum(c * xi**n * dual_of(f, xi) for n, (c, f) in enumerate(zip((1, 2, 3), parts, strict=True)))


@of("eq-relu-ntk-angle", "step-cho-saul", "step-second-moment-relu", "step-gap", "step-next-angle")
def _():
    theta = XI.acos()
    J = [2 * PI * dual_of(rectified(n), theta.cos()) for n in range(3)]
    return {
        r"K_{\infty}(\theta)": relu_ntk(theta.cos()),
        r"\theta": theta,
        r"\check\phi(*)": relu.dual,
        "J_{*}": lambda n: J[int(n)],
        r"M_{2}(\theta)": relu_second_moment(theta),
        r"\theta^{(1)}": relu.dual(theta.cos()).acos(),
    }


@of("eq-cusp", tolerance=2e-15)
def _():
    cases = []
    for theta in (1e-4, 3e-4, 0.02):
        points = torch.tensor([[1.0, 0.0], [math.cos(theta), math.sin(theta)]], dtype=torch.float64)
        kernel = nu.ntk(points[:1], points[1:], depth=1).squeeze()
        cosine = nu.nngp(points[:1], points[1:], depth=1).squeeze()
        cases.append(
            {
                r"K_{\infty}(\theta)": kernel,
                r"\theta": theta,
                "O(*)": Small(1.0),
                r"\check\phi(\cos\theta)": cosine,
            }
        )
    return cases


def second_moment_symbols():
    symbols = grid_symbols()
    u, v = symbols["u"], symbols["v"]
    w, w_weights = _NODES[:, None], _WEIGHTS[:, None]
    Z2 = (WAVE(u) * WAVE(v) + 0.6 * w**2 * WAVE.derivative(u) * WAVE.derivative(v)) ** 2
    return symbols, (w_weights * (ROOT_WEIGHTS**2 * Z2)).sum()


@of("eq-second-moment")
def _():
    symbols, moment = second_moment_symbols()
    return {**symbols, "M_{2}": moment, r"\mathbf{E}Z^{2}": moment}


@of("eq-variance")
def _():
    _, moment = second_moment_symbols()
    at = one(0.6)
    kernel = WAVE.dual(at) + 0.6 * WAVE.dual_derivative(at)
    # k independent neurons, each with these moments
    return {
        "k": 5,
        r"\operatorname{Var}K_{k}(\theta)": (moment - kernel**2) / 5,
        r"M_{2}(\theta)": moment,
        r"K_{\infty}(\theta)": kernel,
    }


@of("step-kahan")
def _():
    x, other = unit(3, seed=1), unit(3, seed=2)
    return {"x": column(x), r"\tilde x": column(other), r"\theta": (x @ other).acos()}


# ---- The recursion -----------------------------------------------------------------------------


def recursion_symbols():
    x, other = unit(1, 3, seed=1), unit(1, 3, seed=2)
    sigma = lambda l: nu.nngp(x, other, depth=int(l), activation="erf").squeeze()  # noqa: E731
    kernel = lambda l: nu.ntk(x, other, depth=int(l), activation="erf").squeeze()  # noqa: E731
    return {
        r"\Sigma^{(*)}(x,\tilde x)": sigma,
        r"\Sigma^{(*)}": sigma,
        r"K^{(*)}(x,\tilde x)": kernel,
        "K^{(*)}": kernel,
        r"\check\phi(*)": erf.dual,
        r"\check\phi'(*)": erf.dual_derivative,
        r"K^{(*)}(x,x)": lambda l: nu.ntk(x, depth=int(l), activation="erf").squeeze(),
        r"\chi": erf.dual_derivative(torch.ones(1).double())[0],
    }


@of("eq-sigma", "eq-recursion", "eq-unrolled", "eq-diagonal")
def _():
    return [{**recursion_symbols(), "L": L} for L in (1, 2, 5)]


SW, SB = 1.3, 0.4


def general_symbols():
    x, other = normal(1, 3, seed=1), normal(1, 3, seed=2)
    both = torch.cat([x, other])
    options = dict(activation=WAVE, weight_std=SW, bias_std=SB)

    def expectation(bound, read, layer, inside):
        a, c, _, b = nu.nngp(both, depth=int(read(bound, layer)), **options).flatten()
        u, v, mean = pair(a.item(), b.item(), c.item())
        return mean(read({**bound, "u": u, "v": v}, inside))

    kernel = lambda which: lambda l: which(x, other, depth=int(l), **options).squeeze()  # noqa: E731
    return {
        r"\sigma_{w}": SW,
        r"\sigma_{b}": SB,
        r"\Lambda^{(*)}": kernel(nu.nngp),
        "K^{(*)}": kernel(nu.ntk),
        r"\mathbf{E}_{\Lambda^{(*)}}[*]": Lazy(expectation),
        r"\phi(*)": WAVE,
        r"\phi'(*)": WAVE.derivative,
        "x": x.T,
        r"\tilde x": other.T,
    }


@of("eq-general-nngp", "eq-general")
def _():
    return [{**general_symbols(), "l": l} for l in (1, 2, 3)]


@of("step-split")
def _():
    rng = iter(normal(8, 200, seed=13))
    G, Q = next(rng)[:10].reshape(5, 2), torch.linalg.qr(next(rng)[:8].reshape(4, 2)).Q
    N_, delta = next(rng)[:20].reshape(5, 4), next(rng)[:5].reshape(5, 1)
    w = G @ Q.T + N_ @ (torch.eye(4).double() - Q @ Q.T)
    g = N_.T @ delta
    return {"(w^{(j+1)})^{T}": w.T, r"\delta": delta, "g": g, "r": w.T @ delta - g, "N": N_, "Q": Q, "G": G}


@of("step-conditioning")
def _():
    w, h = normal(5, 4, seed=13), normal(4, 2, seed=14)
    Q = torch.linalg.qr(h).Q
    return {
        "w^{(j)}": w,
        "G^{(j)}": w @ Q,
        "Q": Q,
        "I": torch.eye(4).double(),
        "N^{(j)}": w + normal(5, 2, seed=15) @ Q.T,  # any matrix that equals w across Q
    }


def split_sums():
    k, a = 4, normal(7, 4, seed=16)
    u, v, g, r, gt, rt, G = a
    d1 = erf.derivative(u) * (g + r) / 2
    d2 = erf.derivative(v) * (gt + rt) / 2
    at = lambda t: lambda i: t[int(i) - 1]  # noqa: E731
    return {
        "range i": (1, k),
        "k_{j}": k,
        r"\delta^{(j)}": column(d1),
        r"\tilde\delta^{(j)}": column(d2),
        **PHI,
        "u_{*}": at(u),
        "v_{*}": at(v),
        "g_{*}": at(g),
        "r_{*}": at(r),
        r"\tilde g_{*}": at(gt),
        r"\tilde r_{*}": at(rt),
        "G_{*}": at(G),
        "G^{(j)}": column(G),
    }


@of("step-expand", "step-second-claim")
def _():
    return split_sums()


@of("eq-standard")
def _():
    ours = nu.MLP(
        3,
        (4, 5),
        2,
        activation="erf",
        weight_std=SW,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    shares = nu.empirical_ntk_by_layer(ours, X1[None], X2[None])
    W = [SW * w.detach() / (1 if j == 0 else math.sqrt(w.shape[1])) for j, w in enumerate(ours.w)]

    def standard(weights, x):
        return (weights[2] @ erf(weights[1] @ erf(weights[0] @ x))).squeeze()

    grads = [torch.cat([g.flatten() for g in torch.func.grad(standard)(W, x)]) for x in (X1, X2)]
    return {
        r"K_{\text{standard}}": grads[0] @ grads[1],
        r"\sigma_{w}": SW,
        "L": 2,
        "K_{*}": lambda j: shares[int(j) - 1].squeeze(),
        "k_{*}": lambda j: [3, 4, 5][int(j)],
    }


@of("eq-layer-rates", drop=[r"\quad(j\ge2)"])
def _():
    # W = s w and dW = -s·eta·dL/dw = -s²·eta·dL/dW: the rates of the same step
    scale = lambda j: SW / (1 if j == 1 else math.sqrt([3, 4, 5][j - 1]))  # noqa: E731
    return [
        {
            r"\eta": 0.1,
            r"\eta_{1}": 0.1 * scale(1) ** 2,
            r"\eta_{j}": 0.1 * scale(j) ** 2,
            "j": j,
            "k_{*}": lambda j: [3, 4, 5][int(j)],
            r"\sigma_{w}": SW,
        }
        for j in (2, 3)
    ]


def relu_depths(*depths):
    """K(x,y)/K(x,x) of deep ReLU networks, and the angles, by the recursion of angles."""
    theta, kernel, found, angles = 1.0, math.cos(1.0), {}, {}
    for l in range(1, max(depths) + 2):
        angles[l - 1] = theta
        gap = 2 * math.sin(theta / 2) ** 2 - (math.sin(theta) - theta * math.cos(theta)) / PI
        slope, theta = 1 - theta / PI, 2 * math.asin(math.sqrt(gap / 2))
        kernel = math.cos(theta) + slope * kernel
        if l in depths:
            found[l] = kernel / (l + 1)
    return found, angles


@of("eq-quarter")
def _():
    far, near = 100_000, 3_000
    found, _ = relu_depths(far, near)
    C = far * (found[far] - 0.25 - 3 / 8 * math.log(far) / far)
    return {
        r"\frac{K^{(L)}(x,\tilde x)}{K^{(L)}(x,x)}": found[near],
        "L": near,
        "C": C,
        "o(*)": Small(0.05),
    }


@of("step-inverse-angle")
def _():
    cases = []
    for theta in (1e-2, 1e-3):
        gap = 2 * math.sin(theta / 2) ** 2 - (math.sin(theta) - theta * math.cos(theta)) / PI
        after = 2 * math.asin(math.sqrt(gap / 2))
        cases.append({r"\theta_{l}": theta, r"\theta_{l+1}": after, "O(*)": Small(0.1)})
    return cases


@of("step-inverse-kernel")
def _():
    far, near = 3_000_000, 30_000
    found, angles = relu_depths(far, near)
    return {
        "K^{(L)}": found[near] * (near + 1),
        r"\theta_{L}": angles[near],
        "L": near,
        "c": 3 * PI / angles[far] - far - 1.5 * math.log(far),
        "O(*)": Small(3),
        "o(*)": Small(0.01),
    }


@of("step-angle", tolerance=2e-7)
def _():
    _, angles = relu_depths(3_000_000)
    c = 3 * PI / angles[3_000_000] - 3_000_000 - 1.5 * math.log(3_000_000)
    near = 30_000
    return {r"\theta_{l}": angles[near], "l": near, "c": c, "o(*)": lambda x: 0.0}


@of("eq-chaos", tolerance=2e-3, drop=[r"\ \text{ for erf.}"])
def _():
    pair_ = torch.tensor([[1.0, 0.0], [math.cos(1.0), math.sin(1.0)]], dtype=torch.float64)
    down = erf.dual_derivative(torch.zeros(1).double()).item()
    at = lambda f, L: f(pair_, depth=L, activation="erf")  # noqa: E731
    c = at(nu.nngp, 90)[0, 1].item() / down**90
    b = at(nu.ntk, 90)[0, 1].item() / down**90 - c * 90
    chi = erf.dual_derivative(torch.ones(1).double()).item()
    K = at(nu.ntk, 40)
    return {
        r"\frac{K^{(L)}(x,\tilde x)}{K^{(L)}(x,x)}": (K[0, 1] / K[0, 0]).item(),
        r"\chi": chi,
        "c": c,
        "b": b,
        "L": 40,
        r"\check\phi'(0)": down,
    }


@of("def-chi")
def _():
    q, sin = 0.8, activations.sin
    chi = SW**2 * sin.dual_derivative(*(one(q) for _ in range(3)))[0]
    return {
        r"\chi": chi,
        r"\sigma_{w}": SW,
        r"\mathbf{E}[*]": Z_MEAN,
        r"\phi'(*)": sin.derivative,
        r"q^{\ast}": q,
        "z": Z,
    }


@of("eq-order", tolerance=1e-10, drop=[r"\qquad(\chi<1)"])
def _():
    q, w = 0.3, 0.6
    at = one(q)
    b = math.sqrt(q - w**2 * erf.dual(at, at, at).item())
    chi = w**2 * erf.dual_derivative(at, at, at).item()
    points = math.sqrt((q - b**2) / w**2) * unit(2, 3, seed=1)
    K = nu.ntk(points, depth=400, activation="erf", weight_std=w, bias_std=b)
    return {r"\lim_{L\to\infty}K^{(L)}(x,\tilde x)": K[0, 1], r"q^{\ast}": q, r"\chi": chi}


@of("eq-critical-weights", "eq-critical-biases")
def _():
    q = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    w2 = 1 / erf.dual_derivative(q, q, q)
    return {"q": q, r"\sigma_{w}": w2.sqrt(), r"\sigma_{b}": (q - w2 * erf.dual(q, q, q)).sqrt()}


@of("eq-condition")
def _():
    n, rho = 5, 0.3
    values = torch.linalg.eigvalsh((1 - rho) * torch.eye(n).double() + rho * torch.ones(n, n).double())
    return {r"\lambda_{1}": values[-1], r"\lambda_{n}": values[0], "n": n, r"\rho_{L}": rho}


def depth_width_moment(L, k):
    """E K² of the product of layers, by sums over the pairs of layers' shares, one layer at a time."""
    both, mixed = 1 + 5 / k, 1 + 1 / k
    shares = [
        [both ** min(l, m) * mixed ** abs(l - m) * both ** (L - max(l, m)) for m in range(L + 1)]
        for l in range(L + 1)
    ]
    return sum(map(sum, shares))


@of("eq-depth-width")
def _():
    return [
        {"L": L, "k": k, r"\mathbf{E}[K_{k}(x,x)^{2}]": depth_width_moment(L, k)}
        for L, k in ((1, 7), (4, 9))
    ]


@of("eq-small-ratio", tolerance=1e-4)
def _():
    k = 1e6
    return [
        {"L": L, "k": k, r"\operatorname{Var}K_{k}(x,x)": depth_width_moment(L, k) - (L + 1) ** 2}
        for L in (1, 4)
    ]


@of("step-factors")
def _():
    k, mean = 7, lambda a: 2 * (_half_weights * a).sum()  # over z > 0, and half of all z there
    _half, _half_weights = half_line()
    fourth, second = mean(_half**4) / 2 * 4, mean(_half**2) / 2 * 2
    slopes, mixed = 2 * 3.0, mean(2 * _half**2 * 2) / 2
    square = lambda a, b: (k * a + k * (k - 1) * b) / k**2  # noqa: E731
    return {
        "k": k,
        r"\mathbf{E}F_{j}^{2}": square(fourth, second**2),
        r"\mathbf{E}B_{j}^{2}": square(slopes, 1.0),
        r"\mathbf{E}[F_{j}B_{j}]": square(mixed, second * 1.0),
    }


def half_line():
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(200))
    z = 6 * (nodes + 1)
    return z, 6 * weights * torch.exp(-z * z / 2) / math.sqrt(2 * PI)


# ---- Slow learning -----------------------------------------------------------------------------


@of("eq-hessian")
def _():
    k, x = 4, unit(3, seed=1)
    w, A = normal(k, 3, seed=17), normal(k, seed=18)

    def f(both):
        return both[3 * k :] @ erf(both[: 3 * k].reshape(k, 3) @ x) / math.sqrt(k)

    cases = []
    for i in range(k):
        block = hessian(f)(torch.cat([w.flatten(), A]))
        which = [*range(3 * i, 3 * i + 3), 3 * k + i]
        values = torch.linalg.eigvalsh(block[which][:, which])
        u = (w @ x)[[i]]
        for sign, value in ((1, values[-1]), (-1, values[0])):
            cases.append(
                {
                    "k": k,
                    r"\mu_{i}^{\pm}": value,
                    r"\pm": sign,
                    "A_{i}": A[i],
                    "u_{i}": u,
                    r"\phi'(*)": erf.derivative,
                    r"\phi''(*)": PHI2,
                }
            )
    return cases


@of("step-block")
def _():
    k, x = 4, unit(3, seed=1)
    w, A = normal(3, seed=17), normal(1, seed=18)
    f = lambda w, A: A[0] * erf(w @ x) / math.sqrt(k)  # noqa: E731
    H = hessian(f, argnums=(0, 1))(w, A)
    return {
        r"\frac{\partial^{2}f}{\partial A_{i}^{2}}": H[1][1].squeeze(),
        "x": column(x),
        "x^{T}": x[None],
        r"\frac{\partial^{2}f}{\partial A_{i}\partial w_{i}}": H[0][1],
        "k": k,
        "A_{i}": A[0],
        r"\phi'(*)": erf.derivative,
        r"\frac{\partial^{2}f}{\partial w_{i}\partial w_{i}^{T}}": H[0][0],
        "u_{i}": (w @ x)[None],
        r"\phi''(*)": PHI2,
    }


@of("eq-hessian-relu")
def _():
    model = nu.MLP(3, 9, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    norm = nu.one_layer_hessian_eigenvalues(model, unit(1, 3, seed=1)).abs().max()
    return {r"\|\nabla_{w}^{2}f\|": norm, "k": 9}


@of("step-duhamel", tolerance=1e-11)
def _():
    # nearly equal for rates that are nearly alike, at the time where the last bound is largest
    rate, mu, D, r0 = 0.7, 0.699, 0.3, 1.4
    t = 1.0001 / mu
    s = torch.linspace(0, t, 20001, dtype=torch.float64)
    e = torch.trapezoid(torch.exp(-rate * (t - s)) * D * r0 * torch.exp(-mu * s), s)
    return {
        r"|e_{t}|": e * (1 - 1e-8),
        r"\lambda": rate,
        r"\mu": mu,
        "t": t,
        "D": D,
        "|r_{0}|": r0,
        "e": math.e,
    }


@of("step-smooth-constants")
def _():
    D1 = derivative(erf)
    D2, D3 = derivative(D1), derivative(derivative(D1))
    z, A = Z[:, None], Z[None, :]
    weights = _WEIGHTS[:, None] * _WEIGHTS

    def step(g):  # D g = phi·dg/dA + A·phi'·dg/du, for |x| = 1, by automatic differentiation
        def value(u, a):
            du, da = torch.func.grad(g, argnums=(0, 1))(u, a)
            return erf(u) * da + a * erf.derivative(u) * du

        return value

    def on_grid(f):
        points = (a.flatten() for a in torch.broadcast_tensors(z, A))
        return torch.func.vmap(f)(*points).reshape(60, 60)

    g = lambda u, a: erf(u) ** 2 + a**2 * erf.derivative(u) ** 2  # noqa: E731
    once, twice = on_grid(step(g)), on_grid(step(step(g)))
    plain = {r"\phi": erf(Z), r"\phi'": D1(Z), r"\phi''": D2(Z), r"\phi'''": D3(Z)}
    return {
        **plain,
        r"\mathbf{E}[*]": Z_MEAN,
        r"\tau": (weights * once**2).sum().sqrt(),
        "q": (weights * twice).sum(),
    }


@of("step-neuron")
def _():
    # minus the derivative of half the sum of squared residuals
    k, n, x = 4, 3, unit(3, 3, seed=1)
    w, A, y = normal(k, 3, seed=17), normal(k, seed=18), normal(n, seed=19)
    f = lambda w, A: (erf(x @ w.T) @ A) / math.sqrt(k)  # noqa: E731
    loss = lambda w, A: (f(w, A) - y).square().sum() / 2  # noqa: E731
    dw, dA = torch.func.grad(loss, argnums=(0, 1))(w, A)
    r = f(w, A) - y
    return [
        {
            "k": k,
            "range c": (1, n),
            "r_{*}": lambda c: r[int(c) - 1],
            "x_{*}": lambda c: column(x[int(c) - 1]),
            "u_{ic}": Lazy(lambda bound, read, i=i: (x[int(bound["c"]) - 1] @ w[i])[None]),
            "A_{i}": A[i],
            r"\dot w_{i}": column(-dw[i]),
            r"\dot A_{i}": -dA[i][None],
            **PHI,
        }
        for i in range(2)
    ]


@of("eq-alpha")
def _():
    n, alpha = 3, 1.7
    f, f0, y = normal(3, n, seed=20)
    at = lambda t: lambda i: t[int(i) - 1]  # noqa: E731
    return {
        "range i": (1, n),
        r"\alpha": alpha,
        "f(w;x_{*})": at(f),
        "f_{0}(x_{*})": at(f0),
        "y_{*}": at(y),
    }


@of("eq-main")
def _():
    t = 0.07
    return {
        "f_{t}(x)": trained(nu.gradient_flow, t)[1],
        "f_{0}(x)": F0_TEST,
        "f_{0}(X)": F0,
        "y": Y,
        "t": t,
        r"K_{\infty}(x,X)": ROWS,
        r"K_{\infty}": KERNEL,
        "I": torch.eye(N).double(),
    }


@of("eq-main-descent")
def _():
    s, eta = 5, 0.07
    return {
        "f_{s}(x)": trained(nu.gradient_descent, s, learning_rate=eta)[1],
        "f_{0}(x)": F0_TEST,
        "f_{0}(X)": F0,
        "y": Y,
        "s": s,
        r"\eta": eta,
        r"K_{\infty}(x,X)": ROWS,
        r"K_{\infty}": KERNEL,
        "I": torch.eye(N).double(),
    }


def ensemble_symbols():
    x, one_, other, t = normal(N, 3, seed=11), normal(M, 3, seed=12), normal(M, 3, seed=13), 0.8
    options, both = dict(depth=1, activation="erf"), torch.cat([one_, other])
    found = nu.trained_ensemble(x, Y.flatten(), both, t, **options)
    posterior = nu.posterior(x, Y.flatten(), both, **options)
    K = nu.ntk(x, **options)
    left = torch.linalg.inv(K) @ (torch.eye(N).double() - torch.matrix_exp(-K * t))
    S = [nu.ntk(test, x, **options) @ left for test in (one_, other)]
    sigma = lambda a, b: nu.nngp(a, b, **options)  # noqa: E731
    B = [sigma(test, x) @ torch.linalg.inv(sigma(x, x)) for test in (one_, other)]
    return {
        r"\mathbf{E}f_{t}(x)": column(found.mean[:M]),
        r"\operatorname{Cov}(f_{t}(x),f_{t}(\tilde x))": found.covariance[:M, M:],
        "S_{t}(x)": S[0],
        r"S_{t}(\tilde x)": S[1],
        "B(x)": B[0],
        r"B(\tilde x)": B[1],
        "y": Y,
        r"\Sigma(x,\tilde x)": sigma(one_, other),
        r"\Sigma(X,X)": sigma(x, x),
        r"\Sigma(X,\tilde x)": sigma(x, other),
        r"\Sigma(x,X)": sigma(one_, x),
        # what stands without a relation is compared with this
        "": (found.covariance - posterior.covariance)[:M, M:],
    }


@of("eq-ensemble-mean", "eq-ensemble-covariance", "eq-ensemble-excess", tolerance=1e-10)
def _():
    return ensemble_symbols()


# ---- Experiments -------------------------------------------------------------------------------


@of("eq-nt-inputs", tolerance=1e-9)
def _():
    x, other, d = normal(2, 3, seed=1), normal(2, 3, seed=2), 3

    ours = dict(depth=2, activation="erf")
    return {
        r"K^{\text{nt}}(*,*)": plain_nt("ntk"),
        r"\Sigma^{\text{nt}}(*,*)": plain_nt("nngp"),
        "d": d,
        "x": x.T,
        r"\tilde x": other.T,
        r"K(x,\tilde x)": nu.ntk(x, other, **ours),
        r"\Sigma(x,\tilde x)": nu.nngp(x, other, **ours),
    }


def plain_nt(get):
    """neural-tangents' own layers on the inputs as they come, which it divides by the root of d."""
    nt_stax = oracles.neural_tangents().stax
    layers = [nt_stax.Dense(8), erf_of(nt_stax)] * 2 + [nt_stax.Dense(1)]
    kernel = nt_stax.serial(*layers)[2]
    return lambda a, b: oracles.to_torch(kernel(oracles.to_numpy(a.T), oracles.to_numpy(b.T), get))


def erf_of(stax):
    norm = erf.dual(torch.ones(1).double()).item()
    raw = activations.from_function(torch.special.erf, normalise=False).dual(torch.ones(1).double()).item()
    return stax.Erf(a=math.sqrt(norm / raw))


@of("eq-eigenvalues", tolerance=1e-11)
def _():
    d = 5
    kernel = lambda xi: activations.exp.dual(xi)  # noqa: E731
    as_kernel = lambda a, b=None: activations.exp.dual((a @ (a if b is None else b).T).clamp(-1, 1))  # noqa: E731
    values = spectrum.zonal_eigenvalues(as_kernel, d, 5)
    c = math.gamma(d / 2) / (math.sqrt(PI) * math.gamma((d - 1) / 2))
    return [
        {
            "d": d,
            "m": m,
            "c_{d}": c,
            r"\lambda_{m}": values[m],
            r"\kappa(*)": kernel,
            "P_{m}(*)": lambda xi, m=m: spectrum.zonal_polynomials(xi, d, m)[-1],
        }
        for m in (0, 1, 4)
    ]


@of("eq-circle-even", tolerance=1e-10)
def _():
    values = spectrum.zonal_eigenvalues(lambda a, b=None: nu.ntk(a, b, depth=1), 2, 8)
    return [{"m": m, r"\lambda_{m}": values[m]} for m in (0, 2, 4, 8)]


@of("eq-odd-part")
def _():
    model = nu.MLP(3, 7, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value = lambda x: model(x.T).detach()  # noqa: E731
    return {
        "f(*)": value,
        "k": 7,
        "w^{(2)}": model.w[1].detach(),
        "w^{(1)}": model.w[0].detach(),
        "x": column(X1),
    }


def corner_values(get, L):
    """a_0 and a_pi by fits of the kernel near both ends."""
    kernel = nu.ntk if get == "ntk" else nu.nngp
    power_, found = (1 if get == "ntk" else 3), []
    first = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for end in (1.0, -1.0):
        t = torch.tensor([0.01 * 2 ** (-n / 4) for n in range(12)], dtype=torch.float64)
        points = torch.stack([end * t.cos(), t.sin()], 1)
        values = kernel(first, points, depth=L)[0]
        basis = torch.stack([t**p for p in range(9)], 1)
        scale = basis.abs().max(0).values
        found.append(
            (torch.linalg.lstsq(basis / scale, values[:, None], driver="gelsd").solution[:, 0] / scale)[
                power_
            ].item()
        )
    return found


@of("eq-decay", tolerance=1e-12)
def _():
    cases = []
    for get, L, d, m in (("ntk", 2, 3, 60), ("ntk", 3, 2, 61), ("nngp", 2, 3, 60), ("nngp", 3, 4, 61)):
        alpha = 1 if get == "ntk" else 3
        x = torch.eye(2, dtype=torch.float64)[:1]
        q = math.prod(1 - math.acos(nu.nngp(x, -x, depth=l).item()) / PI for l in range(1, L))
        a0, api = (-L * (L + 1) / (2 * PI), -q / PI) if get == "ntk" else (L / (3 * PI), q / (3 * PI))
        kernel = nu.ntk if get == "ntk" else nu.nngp
        values = spectrum.zonal_eigenvalues(
            lambda a, b=None, kernel=kernel, L=L: kernel(a, b, depth=L), d, m
        )
        C = 2 ** (d - 2 + alpha) * math.gamma(d / 2) * math.gamma((d - 1 + alpha) / 2)
        C /= math.sqrt(PI) * math.gamma(-alpha / 2)
        cases.append(
            {
                "d": d,
                "m": m,
                r"\alpha": alpha,
                "a_{0}": a0,
                r"a_{\pi}": api,
                r"\lambda_{m}": values[m],
                r"C_{d,\alpha}": C,
                r"\Gamma(*)": math.gamma,
                "O(*)": Small(20.0, relative=True),
            }
        )
    return cases


@of("eq-corners", tolerance=1e-3, drop=[r"\text{NTK:}\quad", r"\text{NNGP:}\quad"], lines=True)
def _():
    x, L = torch.eye(2, dtype=torch.float64)[:1], 3
    q = math.prod(1 - math.acos(nu.nngp(x, -x, depth=l).item()) / PI for l in range(1, L))
    lines = []
    for get, alpha in (("ntk", 1), ("nngp", 3)):
        a0, api = corner_values(get, L)
        lines.append({r"\alpha": alpha, "L": L, "q": q, "a_{0}": a0, r"a_{\pi}": api})
    return lines


@of("step-beta", tolerance=1e-9)
def _():
    cases = []
    for d, m, n in ((4, 2, 1.5), (5, 3, 2.5)):
        nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(300))
        theta = PI / 2 * (nodes + 1)
        P = spectrum.zonal_polynomials(theta.cos(), d, m)[-1]
        c = math.gamma(d / 2) / (math.sqrt(PI) * math.gamma((d - 1) / 2))
        value = c * PI / 2 * (weights * (1 - theta.cos()) ** n * P * theta.sin() ** (d - 2)).sum()
        cases.append(
            {r"\lambda_{m}[(1-\xi)^{\nu}]": value, "d": d, "m": m, r"\nu": n, r"\Gamma(*)": math.gamma}
        )
    return cases


@of("eq-timetable")
def _():
    n = 16
    angle = 2 * PI * torch.arange(n, dtype=torch.float64) / n
    x = torch.stack([angle.cos(), angle.sin()], 1)
    kernel = lambda a, b=None: activations.exp.dual((a @ (a if b is None else b).T).clamp(-1, 1))  # noqa: E731
    K, values, cases = kernel(x), spectrum.zonal_eigenvalues(kernel, 2, 3), []
    part = r"\text{residual of degree }m\text{ after }s\text{ steps}"
    for m in (1, 2, 3):
        wave, rate = (m * angle).cos(), 0.8 / (n * values[0].item())
        left = nu.gradient_descent(K, wave, 5, learning_rate=rate).train - wave
        cases.append(
            {
                rf"\frac{{{part}}}{{\text{{at the start}}}}": -left @ wave / (wave @ wave),
                r"\eta": rate,
                "n": n,
                r"\lambda_{m}": values[m],
                "s": 5,
            }
        )
    return cases


# ---- Beyond one machine ------------------------------------------------------------------------


def nystroem_symbols():
    x, z = normal(N, 3, seed=11), normal(2, 3, seed=12)
    kernel = lambda a, b: nu.ntk(a, b, depth=1)  # noqa: E731
    values, vectors = torch.linalg.eigh(kernel(z, z))
    B = kernel(x, z) @ vectors / values.sqrt()
    K, lam, eye = kernel(x, x), 0.3, torch.eye(N).double()
    low = B @ B.T
    return {
        r"\hat K": low,
        "K(X,Z)": kernel(x, z),
        "K(Z,Z)": kernel(z, z),
        "K(Z,X)": kernel(z, x),
        "E": K - low,
        "K": K,
        "P": low + lam * eye,
        "I": eye,
        r"\lambda": lam,
        "B": B,
        "r": Y,
        r"d_{\text{eff}}(\lambda)": torch.trace(K @ torch.linalg.inv(K + lam * eye)),
        r"\operatorname{tr}": torch.trace,
    }


@of("def-nystroem", "step-identity")
def _():
    return nystroem_symbols()


@of("step-woodbury")
def _():
    symbols = nystroem_symbols()
    symbols["(B^{T}B+\\lambda I)"] = symbols["B"].T @ symbols["B"] + 0.3 * torch.eye(2).double()
    return symbols


@of("def-effective")
def _():
    symbols = nystroem_symbols()
    values = torch.linalg.eigvalsh(symbols["K"])
    return {
        **symbols,
        "range i": (1, N),
        r"\lambda_{*}": lambda i: values[int(i) - 1],
        r"\operatorname{tr}K(K+\lambda I)^{-1}": symbols[r"d_{\text{eff}}(\lambda)"],
    }
