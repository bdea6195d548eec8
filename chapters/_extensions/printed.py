"""Which function of `ntkutils` a formula on the page is, symbol for symbol.

A formula can be checked in code and still be wrong in print. So tests/test_printed.py parses the
LaTeX of the formulas below from the chapters and compares it with the function named here.
Every result (`eq-...`) is in one of the two tables; some definitions and steps are too.
"""

# {label: an expression for each equation of the display, in the symbols that stand on the page}.
# Several equations stand on lines of their own or are separated by \qquad; what is parsed is the
# text after the last "=".
PRINTED = {
    # dual activations
    "eq-step": ["activations.step.dual(xi)"],
    "eq-sign": ["activations.sign.dual(xi)"],
    "eq-relu": ["activations.relu.dual(xi)"],
    "eq-relu-derivative": ["activations.relu.dual_derivative(xi)"],
    "eq-abs": ["activations.get('abs').dual(xi)"],
    "eq-leaky-relu": ["activations.leaky_relu(alpha).dual(xi)"],
    "eq-rectified-square": ["activations.rectified_monomial(2).dual(xi)"],
    "eq-exp": ["activations.exp.dual(xi)"],
    "eq-sin": ["activations.sin.dual(xi)"],
    "eq-cos": ["activations.cos.dual(xi)"],
    "eq-rbf": ["activations.rbf(g).dual(xi)"],
    "eq-gaussian": ["activations.gaussian.dual(xi)"],
    "eq-erf": ["activations.erf.dual(xi)"],
    "eq-gelu": ["activations.gelu.dual(xi)"],
    "eq-cube": ["activations.monomial(3).dual(xi)"],
    "eq-identity": ["activations.identity.dual(xi)"],
    # one hidden layer
    "eq-relu-ntk": ["relu_ntk(xi)"],
    "eq-relu-ntk-angle": ["relu_ntk(theta.cos())"],
    "step-cho-saul": ["cho_saul(0, theta)", "cho_saul(1, theta)", "cho_saul(2, theta)"],
    "step-second-moment-relu": ["relu_second_moment(theta)"],
    "step-gap": ["1 - activations.relu.dual(theta.cos())"],
    "step-next-angle": ["activations.relu.dual(theta.cos()).acos()"],
    # the recursion
    "eq-critical-weights": ["1 / activations.erf.dual_derivative(q, q, q)"],
    "eq-critical-biases": ["q - activations.erf.dual(q, q, q) / activations.erf.dual_derivative(q, q, q)"],
    # linearization, for one training point
    "eq-descent": ["descent(s)"],
    "eq-flow": ["flow(t)"],
    "eq-regression": ["flow(math.inf)"],
    "eq-modes": ["mode_descent(s)", "mode_flow(t)"],
    "eq-ridge": ["flow(math.inf, ridge=lamda)"],
}

# {label: replacements in its LaTeX before it is parsed}.
ONE_POINT = {
    "K(x,X)": r"\kappa",
    "f_0(x)": "a",
    "f_0(X)": "b",
    "I": "1",
    r"v_i^{T} r_0": "b",
    r"\lambda_i": r"\mu",
    "K": r"\mu ",  # the parser reads capitals as small letters
}
READ_AS = {
    "eq-rbf": {r"\gamma": "g"},  # which is Euler's constant to the parser
    "eq-descent": ONE_POINT,
    "eq-flow": ONE_POINT,
    "eq-regression": ONE_POINT,
    "eq-modes": ONE_POINT,
    "eq-ridge": ONE_POINT,
    "step-second-moment-relu": {
        "J_0": r"(\pi-\theta)",
        "J_1": r"(\sin\theta+(\pi-\theta)\cos\theta)",
        "J_2": r"(3\sin\theta\cos\theta+(\pi-\theta)(1+2\cos^2\theta))",
    },
    "step-next-angle": {r"\check\phi(\cos\theta)": r"\frac{\sin\theta+(\pi-\theta)\cos\theta}{\pi}"},
}

# {label of a result that is not parsed: why}.
NOT_PARSED = {
    "eq-remainder": "holds up to a term of higher order, and has a Hessian",
    "eq-layers": "a sum of inner products of vectors",
    "eq-rate": "an absolute value of one component; its factor is parsed where the modes are",
    "eq-minimum-norm": "a vector of weights",
    "eq-distance": "a quadratic form that is no function of ntkutils",
    "eq-singular": "has a pseudo-inverse",
    "eq-features": "a limit",
    "eq-hermite": "a series with coefficients of any activation",
    "eq-derivative": "an expectation for any activation",
    "eq-nngp": "an expectation for any activation",
    "eq-fourth-moment": "has a moment of any activation",
    "eq-posterior-mean": "matrix products",
    "eq-posterior-covariance": "matrix products",
    "eq-finite": "sums over units",
    "eq-limit": "a limit, for any activation",
    "eq-limit-hermite": "a series with coefficients of any activation",
    "eq-cusp": "holds up to a term of higher order",
    "eq-second-moment": "expectations for any activation",
    "eq-variance": "a variance; its right side is parsed in its parts",
    "eq-sigma": "a map of any activation",
    "eq-recursion": "a map of any activation; the loop of recursion.recursion, shown on the page",
    "eq-unrolled": "a sum of products of any length",
    "eq-general-nngp": "an expectation for any activation",
    "eq-general": "an expectation for any activation",
    "eq-standard": "a sum over layers of a finite network",
    "eq-layer-rates": "learning rates, compared by training",
    "eq-diagonal": "a sum of any length",
    "eq-quarter": "an expansion with a number that is known by computation only",
    "eq-chaos": "an expansion with numbers that are known by computation only",
    "eq-order": "a limit",
    "eq-condition": "a ratio of eigenvalues of a matrix",
    "eq-depth-width": "a sum of any length",
    "eq-small-ratio": "holds to first order",
    "eq-hessian": "has the second derivative of any activation",
    "eq-hessian-relu": "a norm",
    "eq-hessian-growth": "a limit",
    "eq-lazy-weights": "an inequality",
    "eq-lazy-kernel": "an inequality",
    "eq-lazy-train": "an inequality",
    "eq-lazy-test": "an inequality",
    "eq-positive": "an inequality",
    "eq-flips-count": "a limit",
    "eq-flips-kernel": "a limit",
    "eq-flips-cross": "a limit",
    "eq-flips-test": "a limit",
    "eq-smooth-law": "expectations for any activation",
    "eq-alpha": "an identity of two losses",
    "eq-main": "a limit",
    "eq-main-descent": "a limit",
    "eq-ensemble-mean": "matrix products",
    "eq-ensemble-covariance": "matrix products",
    "eq-ensemble-excess": "matrix products",
    "eq-nt-inputs": "an identity of two kernels",
    "eq-nt-time": "identities of two dynamics",
    "eq-nt-ridge": "an identity with an option of neural-tangents",
    "eq-shift": "an identity of two kernel values",
    "eq-circle-even": "an integral, for even whole numbers",
    "eq-odd-part": "a difference of two outputs",
    "eq-decay": "holds up to a term of higher order",
    "eq-corners": "coefficients of expansions at the ends",
    "eq-cg": "an inequality",
    "eq-nystroem": "an inequality",
    "eq-timetable": "a ratio that is measured; its factor is parsed where the modes are",
}
