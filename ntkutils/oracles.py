"""The same networks in Google's neural-tangents, as an independent opinion on every formula.

The only module that needs neural-tangents and jax (``pip install ".[test]"`` in a copy of the book's
repository, with Python 3.11 or 3.12), and it needs them when a function is called, not when it is
imported.
"""

import ast
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _validation as check_that
from .activations import Activation, get
from .mlp import MLP

Function = Callable[..., Any]  # jax and neural-tangents say no more of theirs


def neural_tangents() -> ModuleType:
    """Import neural-tangents, and let jax compute in float64.

    Switching on jax's float64 holds for the whole process. ``neural_tangents.experimental``, the
    kernels of TensorFlow's networks, is loaded when it is first used: TensorFlow takes half a
    gigabyte and seconds to start.
    """
    try:
        with _put_off("neural_tangents.experimental"):
            import jax
            import neural_tangents
    except ImportError as error:
        raise check_that.missing("ntkutils.oracles", "neural-tangents and jax", "test", error) from error

    jax.config.update("jax_enable_x64", True)
    module: ModuleType = neural_tangents
    return module


@contextmanager
def _put_off(name: str) -> Iterator[None]:
    """Inside, importing the package of this module does not run the module: its first use does.

    As :class:`importlib.util.LazyLoader`, whose module runs already when its package imports it.
    """
    package = find_spec(name.partition(".")[0])
    if package is None or package.name in sys.modules:  # to fail as an import does, or all of it is there
        yield
        return
    spec = PathFinder.find_spec(name, package.submodule_search_locations)
    assert spec is not None and spec.loader is not None
    run = spec.loader.exec_module
    module = module_from_spec(spec)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):  # who goes through all modules, as inspect does, asks for these
            raise AttributeError(f"module {name!r} has no attribute {attribute!r} before its first use")
        del module.__dict__["__getattr__"]
        try:
            run(module)
        except BaseException:
            module.__dict__["__getattr__"] = load
            raise
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[name] = module
    try:
        yield
    except BaseException:
        del sys.modules[name]
        raise


def stax_network(
    in_features: int,
    width: int,
    depth: int,
    out_features: int = 1,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> tuple[Function, Function, Function]:
    """Return neural-tangents' ``init_fn, apply_fn, kernel_fn`` of a network with the book's scaling.

    ``stax.Dense`` divides by the square root of its number of inputs, the first one too. The book
    does not divide the data, so apply_fn and kernel_fn here take the book's x and multiply it by
    sqrt(d) before stax divides.
    """
    stax = neural_tangents().stax
    phi = _counterpart(get(activation).name)

    def dense(units: int) -> Any:
        return stax.Dense(units, W_std=weight_std, b_std=bias_std or None)

    hidden = [layer for _ in range(depth) for layer in (dense(width), phi)]
    init_fn, apply, kernel = stax.serial(*hidden, dense(out_features))
    root_d = in_features**0.5

    def apply_fn(params: Any, x: Any) -> Any:
        return apply(params, root_d * to_numpy(x))

    def kernel_fn(x1: Any, x2: Any = None, get: Any = "ntk") -> Any:
        scaled = None if x2 is None else root_d * to_numpy(x2)
        return kernel(root_d * to_numpy(x1), scaled, get)

    return init_fn, apply_fn, kernel_fn


def _counterpart(name: str) -> tuple[Function, Function, Function]:
    """neural-tangents' layer for an activation's name, such as "relu" or "leaky_relu(0.2)".

    Normalised with neural-tangents' own E[phi(z)²], so that no constant of ours enters. Its
    RectifiedMonomial gives NaN on the diagonal, and so for anything deeper than one hidden layer.
    """
    stax = neural_tangents().stax
    kind, _, arguments = name.partition("(")
    make = {
        "relu": stax.Relu,
        "leaky_relu": stax.LeakyRelu,
        "abs": stax.Abs,
        "identity": stax.Identity,
        "sign": stax.Sign,
        "step": stax.Sign,  # made a step function below
        "rectified_monomial": stax.RectifiedMonomial,
        "polynomial": stax.Polynomial,
        "monomial": lambda n: stax.Polynomial([0] * n + [1]),  # stax.Monomial stops at degree 5
        # stax.Hermite is for unit variances only
        "hermite": lambda n: stax.Polynomial(np.polynomial.hermite_e.herme2poly([0] * n + [1])),
        "sin": stax.Sin,
        "cos": stax.Cos,
        "sinusoid": lambda frequency, phase: stax.Sin(1.0, frequency, phase),
        "rbf": stax.Rbf,
        "exp": stax.Exp,
        "gaussian": lambda: stax.Gaussian(1.0, -0.5),
        "erf": stax.Erf,
        "sigmoid_like": stax.Sigmoid_like,
        "gelu": stax.Gelu,
    }[kind]
    layer: tuple[Function, Function, Function]
    layer = make(*ast.literal_eval(f"({arguments[:-1]},)")) if arguments else make()
    if kind == "identity":
        return layer
    # The variance of a layer whose pre-activation has variance 1; of max(0, z)^n, half that of z^n
    rectified = kind == "rectified_monomial"
    even = stax.Polynomial([0] * int(arguments[:-1]) + [1]) if rectified else layer
    moment = np.asarray(stax.serial(stax.Dense(1), even)[2](np.ones((1, 1)), None, "cov1")).item()
    norm, shift = math.sqrt(moment / 2 if rectified else moment), 0.0
    if kind == "step":  # sqrt(2)(1 + sign)/2
        norm, shift = 2**0.5, 0.5**0.5
    init_fn, apply_fn, kernel_fn = layer

    def affine_apply_fn(*args: Any, **kwargs: Any) -> Any:
        return apply_fn(*args, **kwargs) / norm + shift

    @functools.wraps(kernel_fn)  # which carries over what the layer requires of its input
    def affine_kernel_fn(*args: Any, **kwargs: Any) -> Any:
        return kernel_fn(*args, **kwargs) * (1 / norm) + shift

    return init_fn, affine_apply_fn, affine_kernel_fn


def same_network(model: MLP) -> tuple[Function, list[Any]]:
    """Return neural-tangents' ``apply_fn, params`` of the network that ``model`` is, same weights.

    Raises:
        ValueError: for an MLP with copies.
    """
    check_that.require_one_network(model)
    import jax.numpy as jnp

    sizes = [model.w[0].shape[1], *(w.shape[0] for w in model.w)]
    _, apply_fn, _ = stax_network(
        sizes[0], max(sizes[1:]), model.depth, sizes[-1], model.activation, model.weight_std,
        model.bias_std,
    )  # fmt: skip
    biases = [None] * len(model.w) if model.b is None else [jnp.array(to_numpy(b)) for b in model.b]
    params: list[Any] = []
    for w, b in zip(model.w, biases, strict=True):
        params += [(jnp.array(to_numpy(w).T), b), ()]  # a Dense layer, then an activation
    return apply_fn, params[:-1]


def to_numpy(x: Any) -> Any:
    """Return a tensor as a numpy array; anything else as it is."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else x


def to_torch(x: Any) -> Tensor:
    """Return a jax or numpy array as a tensor that owns its memory."""
    return torch.from_numpy(np.array(x))
