"""The first-order Taylor model of a network in its weights."""

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from .covariance import is_followed
from .modules import (
    Function,
    PerThread,
    Weights,
    are_transforms_active,
    concrete,
    in_short,
    outside_transforms,
    tolerance,
    warn_slow,
)

Parameters = Mapping[str, Tensor]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's parameters by name, cut off from the model and from autograd.

    Example:
        >>> model = nu.MLP(3, width=4, depth=1, dtype=torch.float64)
        >>> {name: tuple(p.shape) for name, p in nu.parameters_of(model).items()}
        {'w.0': (4, 3), 'w.1': (1, 4)}
    """
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def linearize(model: nn.Module, params: Parameters | None = None) -> Callable[[Parameters, Tensor], Tensor]:
    r"""Return the linearization of a network about ``params``, as a function of weights and input.

    .. math:: \tilde f(w; x) = f(w^{(0)}; x) + \nabla f_x(w^{(0)})^T (w - w^{(0)}) ,

    by the derivative of a vector-Jacobian product, which is linear in its vector; no gradient is formed,
    and threads may call it at once (they may not use torch's forward mode).
    It is held to plain autograd whenever it meets other inputs than before; for a module that
    :mod:`torch.func` refuses, plain autograd takes its place with a :class:`ntkutils.SlowRoadWarning`.
    In neural-tangents: ``nt.linearize(f, params)``.

    Args:
        model: any module; later changes of its own parameters do not change the result. Its buffers are
            what they are now, also after calls that would move them.
        params: the weights :math:`w^{(0)}` by name; the model's present ones if not given.

    Returns:
        ``f_lin(params, x)``, of the shape of ``model(x)``. It can be differentiated in ``params``.

    Raises:
        TypeError: for what is no module, or cannot be copied; and by ``f_lin``, for outputs that are no
            tensor.
        ValueError: when names or shapes of the weights differ from the model's; and by ``f_lin``, for
            outputs that are random or differ from call to call.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(3, width=4, depth=1, generator=generator, dtype=torch.float64)
        >>> f_lin, x = nu.linearize(model), torch.ones(1, 3).double()
        >>> twice = {name: 2 * p for name, p in nu.parameters_of(model).items()}
        >>> round((f_lin(twice, x) / model(x)).item(), 9)  # f is 4 times what it was, its tangent 1 + 2
        3.0

    Source: Lee et al. 2019 (arXiv:1902.06720), eq. 5.
    """
    function = outside_transforms(lambda: Function.of(model, frozen=True))
    if params is not None:
        _require_same(params, function.weights)
        with torch.no_grad():
            for name, w in function.weights.items():  # which the copy shares
                w.copy_(params[name])
    anchor, mine = function.weights, PerThread(function)
    tried: dict[
        Any, tuple[Any, int, bool]
    ] = {}  # by kind of input: which, and if plain autograd has to do it

    def f_lin(params: Parameters, x: Tensor) -> Tensor:
        _require_same(params, anchor)
        within = are_transforms_active()
        kind = (x.shape, x.dtype, x.device, within)
        last, version, slow = tried.get(kind, (lambda: None, -1, False))
        # other numbers may take other ways through a module; the same tensor, unchanged, has been tried
        if last() is not x or x.is_inference() or version != x._version:
            plain = concrete(x, x.shape)
            slow = outside_transforms(lambda: _is_slow(mine(), plain, within))
            tried[kind] = weakref.ref(x), -1 if x.is_inference() else x._version, slow
        step = {name: params[name] - w for name, w in anchor.items()}
        value, slope = (_by_plain_autograd if slow else _by_transforms)(mine(), step, x)
        return value + slope

    return f_lin


def _by_transforms(function: Function, step: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    value, pull = vjp(lambda w: function.with_weights(w, x), function.weights)[:2]
    # pull is linear, so that its derivative is the same at any point
    _, push = vjp(lambda direction: pull(direction)[0], torch.zeros_like(value))[:2]
    (slope,) = push(step)
    return value, slope


def _by_plain_autograd(function: Function, step: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    if torch.func.debug_unwrap(x) is not x or is_followed(x):
        raise ValueError(
            "model: expected a module that torch.func differentiates, for a batch of linearizations or "
            "derivatives in x; without them plain autograd can take its place"
        )

    def rows() -> tuple[Tensor, list[Weights]]:
        value = function.call(x)
        each = torch.eye(value.numel()).to(value)
        return value.detach(), [function.gradient(value, one.view_as(value)) for one in each]

    value, gradients = outside_transforms(rows)
    slopes = [torch.stack([(g[name] * step[name]).sum() for name in step]).sum() for g in gradients]
    return value, torch.stack(slopes).view_as(value)


def _is_slow(function: Function, x: Tensor, within: bool) -> bool:
    """Whether plain autograd has to take the place of torch.func for such inputs, tried on these."""
    out = function.require_same_twice(x)
    generator = torch.Generator().manual_seed(0)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    step, direction = {name: normal(w) for name, w in function.weights.items()}, normal(out)
    # direction·slope is linear in the step, with this gradient
    gradient = function.gradient(out, direction)
    along = torch.stack([(g * step[name]).sum() for name, g in gradient.items()]).sum()
    size = torch.stack([(g * step[name]).abs().sum() for name, g in gradient.items()]).sum()

    def gap(value: Tensor, slope: Tensor) -> float:
        return max(
            _relative(value - out, out.abs().max()),
            _relative((slope * direction).sum() - along, size),
        )

    try:
        leaves = {name: s.clone().requires_grad_() for name, s in step.items()}
        with torch.enable_grad():
            value, slope = _by_transforms(function, leaves, x)
            grads = torch.autograd.grad(
                (slope * direction).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        gaps = [gap(value.detach(), slope.detach())]
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradient.values()]).max()
        gaps += [
            _relative(g.to_dense() - gradient[name], norm) for name, g in zip(leaves, grads, strict=True)
        ]
        if within:  # a batch of steps and inputs, too
            many = {name: torch.stack([s, -s]) for name, s in step.items()}
            values, slopes = vmap(lambda s, z: _by_transforms(function, s, z))(many, torch.stack([x, x]))
            gaps += [gap(values[0], slopes[0]), gap(values[1], -slopes[1])]
        if max(gaps) <= tolerance(out):
            return False
        reason = f"its derivative by torch.func is {max(gaps):.2g} of its size from plain autograd's"
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as refusal:
        reason = f"torch.func refuses it ({in_short(refusal)})"
    warn_slow(function.module, reason, "an output at a time")
    return True


def _relative(gap: Tensor, size: Tensor) -> float:
    worst = gap.detach().abs().max().item()
    return worst / size.item() if size else (worst and math.inf)


def _require_same(params: Parameters, anchor: Parameters) -> None:
    if params.keys() != anchor.keys():
        raise ValueError(f"params: expected the names {sorted(anchor)}, got {sorted(params)}")
    for name, expected in anchor.items():
        if params[name].shape != expected.shape:
            raise ValueError(
                f"params[{name!r}]: expected shape {tuple(expected.shape)}, got {tuple(params[name].shape)}"
            )
