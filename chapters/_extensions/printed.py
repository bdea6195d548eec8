"""Which formulas of the book are evaluated as they are printed, and why the others are not.

A formula can be checked in code and still be wrong in print. So tests/test_printed.py reads the LaTeX
of every labelled formula from the chapters and evaluates it, both sides, with the meanings that
tests/meanings.py gives its symbols. What it does not evaluate is pinned here: a change of its LaTeX is
an error until somebody has looked at the formula again, beside the check that covers it.
"""

from typing import NamedTuple


class Pin(NamedTuple):
    """A formula that is not evaluated."""

    hash: str  # of its LaTeX; tests/test_printed.py says which
    reason: str
    covered_by: str = ""  # the label of a check; of a result, its own


# {label of a formula that is not evaluated: its pin}
PINNED = {
    "def-direct": Pin("0baece21ae", "costs of an algorithm, in words"),
    "def-compute-or-disk": Pin(
        "a5fc690076", "a model of how long something takes; Fig. 7.3 has the measured times"
    ),
    "def-traffic": Pin("b21ecd9876", "a count of bytes, in words"),
    "def-krylov": Pin("86fdcfb402", "a set", "eq-cg"),
    "eq-cg": Pin("8c27b45bc4", "an inequality between two norms after an iteration", "eq-cg"),
    "step-polynomial": Pin("8fe9635d56", "an inequality, for every polynomial", "eq-cg"),
    "step-chebyshev": Pin("9583f75919", "a definition of a polynomial", "eq-cg"),
    "eq-nystroem": Pin(
        "4a3f109a45", "an inequality between numbers that the check computes", "eq-nystroem"
    ),
    "def-cluster": Pin(
        "4e852ee4af", "a model of how long something takes; Fig. 7.3 has the measured times"
    ),
    "def-hidden": Pin("ec8d2e784f", "a definition, with random weights", "eq-features"),
    "eq-nt-time": Pin("1a70736f34", "the other side is what neural-tangents returns", "eq-nt-time"),
    "eq-nt-ridge": Pin("835c90d763", "the other side is an option of neural-tangents", "eq-nt-ridge"),
    "eq-shift": Pin("a683be8c1e", "the kernel of a network that ntkutils does not have", "eq-shift"),
    "def-corrected": Pin("e68f900268", "an interval of the literature"),
    "def-distance": Pin("d56473595d", "a definition"),
    "eq-fluctuation": Pin(
        "f10dc7ee3f", "a limit; both of its sides are means that the check takes", "eq-fluctuation"
    ),
    "def-features": Pin("2c3c8abc2e", "a name for a gradient", "def-ntk"),
    "def-unit": Pin("468f79bd8a", "a name for a product", "eq-second-moment"),
    "def-gram": Pin("e94fde9a7a", "a name for a matrix", "eq-sigma"),
    "step-average": Pin("542b107e9d", "a law of large numbers", "eq-sigma"),
    "step-nngp": Pin(
        "d7801b48f1", "a limit in probability; its right side is evaluated where the result is", "eq-sigma"
    ),
    "step-induction": Pin(
        "7a2ceff219",
        "a limit in probability; its right side is evaluated where the result is",
        "eq-unrolled",
    ),
    "step-second-order": Pin(
        "80afa3e7ab",
        "a remainder on each of two lines; what follows, step-inverse-kernel, is evaluated",
        "eq-quarter",
    ),
    "eq-hessian-growth": Pin("b1841f9537", "a limit that is approached like 1/log k", "eq-hessian-growth"),
    "def-lazy": Pin("8e1a5bb0e5", "a hypothesis", "eq-lazy-weights"),
    "eq-lazy-weights": Pin(
        "62dae5ac55", "an inequality along a training that the check runs", "eq-lazy-weights"
    ),
    "eq-lazy-kernel": Pin(
        "dbc86a5bb8", "an inequality along a training that the check runs", "eq-lazy-kernel"
    ),
    "eq-lazy-train": Pin(
        "5405071adb", "an inequality along a training that the check runs", "eq-lazy-train"
    ),
    "eq-lazy-test": Pin("a6f1707289", "an inequality along a training that the check runs", "eq-lazy-test"),
    "step-descent": Pin("cfebf9045c", "inequalities of derivatives in time", "eq-lazy-weights"),
    "def-beta": Pin("5e84dcc2a9", "bounds by suprema", "eq-lazy-kernel"),
    "eq-positive": Pin("41c60edd25", "an inequality of an eigenvalue", "eq-positive"),
    "step-neuron-kernel": Pin("2d06cbba42", "a name for one term of a sum", "eq-smooth-law"),
    "def-neuron-derivative": Pin(
        "e37515a703",
        "an operator on functions; step-smooth-constants is evaluated with it",
        "eq-smooth-law",
    ),
    "step-odd": Pin("17fb141e5a", "derivatives in time, with a sum for each", "eq-smooth-law"),
    "eq-smooth-law": Pin(
        "e1c87dc144", "two values in a sentence; the constants in them are evaluated", "eq-smooth-law"
    ),
    "step-neuron-moves": Pin("ad0d95a7d7", "an inequality with any constant", "eq-main-descent"),
    "step-mean-kernel": Pin("c16d6b309d", "an integral of a kernel along a step", "eq-main-descent"),
    "step-displacement": Pin("d5b711c26d", "a definition, of what is left of a sum"),
    "step-odd-mean": Pin("5bb6ab371b", "means over neurons, with terms of lower order", "eq-smooth-law"),
    "step-outputs": Pin("49315ded6a", "an inequality with suprema over time"),
    "step-kinks": Pin("5ddb8ad53d", "an inequality with any constant"),
    "eq-flips-count": Pin("a04d983262", "a limit of networks that the check trains", "eq-flips-count"),
    "eq-flips-kernel": Pin("ce37e2b3e5", "a limit of networks that the check trains", "eq-flips-kernel"),
    "step-clock": Pin("e184be8d86", "a change of time, and a rotation in words", "eq-flips-kernel"),
    "eq-flips-cross": Pin("513f8ec98a", "a limit of networks that the check trains", "eq-flips-cross"),
    "eq-flips-test": Pin("d33ce0dcaf", "a limit of networks that the check trains", "eq-flips-test"),
    "def-kappa": Pin("ea0324bf29", "a name for a quotient"),
}
