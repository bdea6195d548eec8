r"""Gradients of any module, where those of its linear layers are left as the outer products that they are.

A layer that takes a vector h to Wh + b has the gradient :math:`\delta h^T` in W, where :math:`\delta` is
the derivative of the output in what the layer returns. So the inner product of two such gradients is
:math:`(\delta\cdot\tilde\delta)(h\cdot\tilde h)`, and a few numbers stand for thousands.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Outputs = Callable[[dict[str, Tensor], Tensor], Tensor]  # f(weights, x) for one example
# by weight: the gradients of n examples (n, o, ...), and None; or delta (n, o, k) and h (n, d)
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


def survey(outputs: Outputs, weights: dict[str, Tensor], x: Tensor) -> tuple[int, set[str]]:
    """Return how many outputs an example has, and the names of its linear weights.

    These are the W that it meets once, in the layer Wh + b of a vector h.
    """
    if torch._C._are_functorch_transforms_active():  # an outer transform's tensors show no graph
        with torch.no_grad():
            return outputs(weights, x).numel(), set()
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad(), _Linear(leaves, {}) as calls:
        out = outputs(leaves, x)
    uses = _uses(out)
    return out.numel(), {
        name
        for name, [h, *others] in calls.given.items()
        if not others and uses[id(w := leaves[name])] == 1 and w.ndim == 2 and h.numel() == w.shape[1]
    }


def _uses(out: Tensor) -> collections.Counter[int]:
    """How many operations in the graph of ``out`` take each leaf: also those that Python does not see."""
    uses: collections.Counter[int] = collections.Counter()
    todo: list[Any] = [out.grad_fn] if out.grad_fn is not None else []
    seen = {None, *todo}
    while todo:
        for node, _ in todo.pop().next_functions:
            if hasattr(node, "variable"):
                uses[id(node.variable)] += 1
            elif node not in seen:
                seen.add(node)
                todo.append(node)
    return uses


def gradients_of(
    outputs: Outputs, weights: dict[str, Tensor], linear: set[str]
) -> Callable[[Tensor], Gradients]:
    """Return the function that takes examples (n, ...) to their outputs' gradients in the weights."""
    layers = {name: weights[name] for name in linear}
    rest = {name: w for name, w in weights.items() if name not in linear}
    still = {name: w.new_zeros(len(w)) for name, w in layers.items()}

    def shifted(
        rest: dict[str, Tensor], shifts: dict[str, Tensor], x: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with _Linear(layers, shifts) as calls:
            out = outputs(layers | rest, x)
        return out, {name: h.flatten() for name, [h] in calls.given.items()}

    jacobian = vmap(jacrev(shifted, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0))

    def gradients(x: Tensor) -> Gradients:
        (formed, deltas), given = jacobian(rest, still, x)
        return {name: (g, None) for name, g in formed.items()} | {n: (deltas[n], given[n]) for n in layers}

    return gradients


def inner_products(gradients1: Gradients, gradients2: Gradients) -> Iterator[Tensor]:
    """Yield each weight's share in the inner products of n1 gradients with n2: shape (n1, n2, o, o)."""
    for name, (g1, h1) in gradients1.items():
        g2, h2 = gradients2[name]
        products = _of_one(g1, g2)
        yield products if h1 is None or h2 is None else products * (h1 @ h2.T)[..., None, None]


def _of_one(gradients1: Tensor, gradients2: Tensor) -> Tensor:
    """Of gradients (n1, o, ...) and (n2, o, ...) of outputs in one parameter: shape (n1, n2, o, o)."""
    flat1, flat2 = (g.reshape(g.shape[0] * g.shape[1], -1) for g in (gradients1, gradients2))
    products = flat1 @ flat2.T
    return products.view(*gradients1.shape[:2], *gradients2.shape[:2]).transpose(1, 2)
