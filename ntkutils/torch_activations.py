"""torch's activations, recognised: what each computes, where it has kinks, and which have a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(NamedTuple):
    """A function that has no closed form here."""

    name: str
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()


def _softplus(beta: float = 1.0, name: str = "softplus") -> Plain:
    # torch's own is z from beta·z = 20 on, which jumps by 2e-9
    return Plain(name, lambda z: torch.logaddexp(beta * z, torch.zeros_like(z)) / beta)


def _threshold(at: float, value: float, name: str) -> Plain:
    return Plain(name, lambda z: F.threshold(z, at, value), (at,))


def _hardtanh(low: float, high: float, name: str) -> Plain:
    return Plain(name, lambda z: F.hardtanh(z, low, high), (low, high))


# By name, with torch's default parameters; none writes into its argument.
PLAIN = {
    plain.name: plain
    for plain in (
        *(Plain("tanh", torch.tanh), Plain("sigmoid", torch.sigmoid), Plain("silu", F.silu)),
        *(Plain("mish", F.mish), _softplus(), Plain("logsigmoid", F.logsigmoid)),
        *(Plain("tanhshrink", F.tanhshrink), Plain("softsign", F.softsign, (0.0,))),
        *(Plain("elu", F.elu, (0.0,)), Plain("celu", F.celu, (0.0,)), Plain("selu", F.selu, (0.0,))),
        *(_hardtanh(-1.0, 1.0, "hardtanh"), _hardtanh(0.0, 6.0, "relu6")),
        Plain("hardsigmoid", F.hardsigmoid, (-3.0, 3.0)),
        Plain("hardswish", F.hardswish, (-3.0, 3.0)),
        Plain("hardshrink", F.hardshrink, (-0.5, 0.5)),
        Plain("softshrink", F.softshrink, (-0.5, 0.5)),
    )
}
CLOSED = ("relu", "leaky_relu", "gelu", "abs", "sign", "sin", "cos", "exp", "erf")
# Functions by their name, wherever torch keeps them; those with an underscore write into their argument.
_PLACES = (torch, F, torch.special, torch.Tensor)
FUNCTIONS: dict[Any, str] = {
    getattr(place, spelling): name
    for name in (*PLAIN, *CLOSED)
    for spelling in (name, f"{name}_")
    for place in _PLACES
    if hasattr(place, spelling)
} | {torch.special.expit: "sigmoid"}


def of_module(module: nn.Module) -> Plain | tuple[str, tuple[float, ...]]:
    """What a module of torch computes: a :class:`Plain` one, or the name and parameters of a closed form.

    Raises:
        TypeError: for a module that is none of torch's elementwise ones, with the reason.
    """
    kind, m, name = type(module), module, repr(module).split("\n", 1)[0].replace(", inplace=True", "")
    name = name.replace("inplace=True", "")
    if kind in _RULES and not _altered(module):
        return _RULES[kind](m, name)
    way_out = "from_function(lambda z: ..., kinks=(...)) makes an activation of an elementwise function"
    if _altered(module):
        reason = "it has hooks or a forward of its own"
    elif kind in _NOT_ELEMENTWISE:
        reason = "it is not elementwise"
    elif kind is nn.RReLU:
        reason = "its slopes are random in training; RReLU(...).eval() is a leaky ReLU"
    elif isinstance(module, nn.modules.dropout._DropoutNd | nn.AlphaDropout):
        reason = "its outputs are random in training; leave it out"
    elif any(True for _ in module.parameters()):
        reason = "it has parameters, which have no place in a kernel"
        way_out = "leaky_relu(alpha) has a fixed slope; " + way_out if kind is nn.PReLU else way_out
    else:
        reason = "it is not known to be elementwise"
    raise TypeError(f"activation: expected an elementwise function, got {name}: {reason}; {way_out}")


def _altered(m: nn.Module) -> bool:
    hooks = (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    return any(map(len, hooks)) or "forward" in vars(m) or nn.utils.parametrize.is_parametrized(m)


def _named(name: str) -> Callable[[Any, str], Plain | tuple[str, tuple[float, ...]]]:
    return lambda m, _: PLAIN.get(name, (name, ()))


_RULES: dict[type, Callable[[Any, str], Plain | tuple[str, tuple[float, ...]]]] = {
    nn.Identity: _named("identity"),
    nn.ReLU: _named("relu"),
    nn.LeakyReLU: lambda m, _: ("leaky_relu", (float(m.negative_slope),)),
    nn.GELU: lambda m, name: ("gelu", ()) if m.approximate == "none" else _gelu(m.approximate, name),
    nn.Softplus: lambda m, name: _softplus(float(m.beta), "softplus" if m.beta == 1 else name),
    nn.ELU: lambda m, name: _scaled_elu(F.elu, float(m.alpha), "elu", name),
    nn.CELU: lambda m, name: _scaled_elu(F.celu, float(m.alpha), "celu", name),
    nn.Hardtanh: lambda m, name: _hardtanh(float(m.min_val), float(m.max_val), name),
    nn.Hardshrink: lambda m, name: _shrink(F.hardshrink, float(m.lambd), name),
    nn.Softshrink: lambda m, name: _shrink(F.softshrink, float(m.lambd), name),
    nn.Threshold: lambda m, name: _threshold(float(m.threshold), float(m.value), name),
    **{
        getattr(nn, kind): _named(kind.lower())
        for kind in (
            "Tanh",
            "Sigmoid",
            "SiLU",
            "Mish",
            "LogSigmoid",
            "Tanhshrink",
            "Softsign",
            "SELU",
            "ReLU6",
        )
    },
    nn.Hardsigmoid: _named("hardsigmoid"),
    nn.Hardswish: _named("hardswish"),
}
_NOT_ELEMENTWISE = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU, nn.MultiheadAttention)


def _gelu(approximate: str, name: str) -> Plain:
    return Plain(name, lambda z: F.gelu(z, approximate=approximate))


def _scaled_elu(function: Callable[..., Tensor], alpha: float, default: str, name: str) -> Plain:
    return PLAIN[default] if alpha == 1 else Plain(name, lambda z: function(z, alpha), (0.0,))


def _shrink(function: Callable[..., Tensor], at: float, name: str) -> Plain:
    return Plain(name, lambda z: function(z, at), (-at, at) if at else ())


def elsewhere(function: object) -> str:
    """How to ask torch for a function of numpy or of the math module, "" for others."""
    if not isinstance(function, np.ufunc) and getattr(function, "__module__", None) not in (
        "math",
        "cmath",
    ):
        return ""
    name = getattr(function, "__name__", "")
    known = f"torch.{name}" if hasattr(torch, name) else "the function of torch"
    return f"; it takes no tensors that autograd follows: use {known}"


def settled(module: nn.Module) -> nn.Module:
    """A module that is elementwise in evaluation only, as what it is there."""
    if type(module) is nn.RReLU and not module.training:
        return nn.LeakyReLU((module.lower + module.upper) / 2)
    if isinstance(module, nn.modules.dropout._DropoutNd) and (not module.training or module.p == 0):
        return nn.Identity()
    return module
