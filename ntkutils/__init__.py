"""Kernels of infinitely wide networks, and of finite ones beside them, in PyTorch.

The package of the book "The Neural Tangent Kernel": every formula there is a function here.
"""

import importlib
import importlib.util
from typing import Any

from . import activations
from ._validation import SingularKernelError
from .activations import Activation
from .checks import check
from .dynamics import DivergedError, gradient_descent, gradient_flow
from .empirical import empirical_ntk, empirical_ntk_by_backward, empirical_ntk_by_layer
from .ensembles import Gaussian, posterior, trained_ensemble
from .hessian import ConvergenceError, hessian_norm, one_layer_hessian_eigenvalues
from .linearization import linearize, parameters_of
from .mlp import MLP
from .modules import SlowRoadWarning
from .rates import Exponent, exponent
from .recursion import nngp, ntk
from .sampling import sample_ntk_by_layer
from .training import Trace, train, train_linearized

__all__ = [
    "MLP",
    "Activation",
    "ConvergenceError",
    "DivergedError",
    "Exponent",
    "Gaussian",
    "SingularKernelError",
    "SlowRoadWarning",
    "Trace",
    "activations",
    "check",
    "empirical_ntk",
    "empirical_ntk_by_backward",
    "empirical_ntk_by_layer",
    "exponent",
    "gradient_descent",
    "gradient_flow",
    "hessian_norm",
    "linearize",
    "nngp",
    "ntk",
    "one_layer_hessian_eigenvalues",
    "parameters_of",
    "posterior",
    "sample_ntk_by_layer",
    "train",
    "train_linearized",
    "trained_ensemble",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a module of the package when it is first used, such as ``ntkutils.sklearn_kernel``."""
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
