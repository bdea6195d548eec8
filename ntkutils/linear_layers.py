r"""Gradients of any module, where those of its linear layers are left as the outer products that they are.

A layer that takes a vector h to Wh + b has the gradient :math:`\delta h^T` in W, where :math:`\delta` is
the derivative of the output in what the layer returns. So the inner product of two such gradients is
:math:`(\delta\cdot\tilde\delta)(h\cdot\tilde h)`, and a few numbers stand for thousands.
Which layers are such is a guess from one run of the module; :mod:`ntkutils.empirical` holds it to plain
autograd before it is used.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .modules import leaves_of

Outputs = Callable[[dict[str, Tensor], Tensor], Tensor]  # f(weights, x) for one example
# by weight: the gradients of n examples ([S,] n, o, ...), None; or delta ([S,] n, o, k), h ([S,] n, d)
Gradients = dict[str, tuple[Tensor, Tensor | None]]


class _Linear(TorchFunctionMode):
    """Inside, notes what linear functions with these weights are given, and shifts what they return."""

    def __init__(self, weights: dict[str, Tensor], shifts: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(w): name for name, w in weights.items()}
        self.shifts = shifts
        self.given: dict[str, list[Tensor]] = collections.defaultdict(list)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is functional.linear and len(args) > 1 and id(args[1]) in self.names:
            name = self.names[id(args[1])]
            self.given[name].append(args[0])
            return out + self.shifts[name] if name in self.shifts else out
        return out


def survey(outputs: Outputs, weights: dict[str, Tensor], x: Tensor) -> set[str]:
    """Return the names of the linear weights of f(weights, x).

    These are the W that it meets once, in the layer Wh + b of a vector h.
    """
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with torch.inference_mode(False), torch.enable_grad(), _Linear(leaves, {}) as calls:
        out = outputs(leaves, x)
    uses = collections.Counter(map(id, leaves_of(out)))
    return {
        name
        for name, [h, *others] in calls.given.items()
        if not others and uses[id(w := leaves[name])] == 1 and w.ndim == 2 and h.numel() == w.shape[1]
    }


def gradients_of(
    outputs: Outputs,
    weights: dict[str, Tensor],
    linear: set[str],
    copies: int | None = None,
    constants: dict[str, Tensor] | None = None,
) -> Callable[[Tensor], Gradients]:
    """Return the function that takes examples (n, ...) to their outputs' gradients in the weights.

    With S copies every weight has a first axis of them, and so have the ``constants``, which f takes
    among its weights, and every gradient.
    """
    layers = {name: weights[name] for name in linear}
    rest = {name: w for name, w in weights.items() if name not in linear}
    still = {name: w[..., 0].new_zeros(w.shape[:-1]) for name, w in layers.items()}

    def shifted(
        rest: dict[str, Tensor], shifts: dict[str, Tensor], others: dict[str, Tensor], x: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with _Linear({name: others[name] for name in linear}, shifts) as calls:
            out = outputs(others | rest, x)
        return out, {name: h.flatten() for name, [h] in calls.given.items()}

    jacobian = vmap(jacrev(shifted, argnums=(0, 1), has_aux=True), in_dims=(None, None, None, 0))
    if copies is not None:
        jacobian = vmap(jacobian, in_dims=(0, 0, 0, None))

    def gradients(x: Tensor) -> Gradients:
        (formed, deltas), given = jacobian(rest, still, layers | (constants or {}), x)
        return {name: (g, None) for name, g in formed.items()} | {n: (deltas[n], given[n]) for n in layers}

    return gradients


def inner_products(gradients1: Gradients, gradients2: Gradients, axes: int) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight's name and share in the inner products of n1 gradients with n2.

    Shape ([S,] n1, n2, o, o); ``axes`` is 1 with copies, else 0.
    """
    for name, (g1, h1) in gradients1.items():
        g2, h2 = gradients2[name]
        if (h1 is None) != (h2 is None):  # some were formed and some were not
            g1, h1 = (g1, h1) if h1 is None else (g1[..., None] * h1[..., None, None, :], None)
            g2, h2 = (g2, h2) if h2 is None else (g2[..., None] * h2[..., None, None, :], None)
        products = _of_one(g1, g2, axes)
        if h1 is not None and h2 is not None:
            products = products * (h1 @ h2.mT)[..., None, None]
        yield name, products


def _of_one(gradients1: Tensor, gradients2: Tensor, axes: int) -> Tensor:
    """Of gradients ([S,] n1, o, ...) and ([S,] n2, o, ...) in one parameter: shape ([S,] n1, n2, o, o)."""
    # with one more axis, as a parameter may be a number
    flat1, flat2 = (
        g[..., None].flatten(axes, axes + 1).flatten(axes + 1) for g in (gradients1, gradients2)
    )
    n1, o = gradients1.shape[axes : axes + 2]
    products: Tensor = flat1 @ flat2.mT
    by_output: Tensor = products.unflatten(-1, (-1, o)).unflatten(-3, (n1, o))
    return by_output.transpose(-3, -2)
