r"""How the gradients of a module's outputs are computed: the fastest way that plain autograd confirms.

:mod:`torch.func` is fast, and refuses some modules; on others it has been seen to give wrong numbers
without an error (in torch 2.13 the gradients of PReLU and cdist in a batch, and LayerNorm's second
derivatives).
Which layers are linear is a guess. So a road is tried on two of the examples before it is taken, and all
gradients that it gives are held to one backward pass of plain autograd, along a random direction.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .covariance import is_followed
from .linear_layers import Gradients, gradients_of, inner_products, survey
from .modules import (
    Function,
    Weights,
    are_transforms_active,
    concrete,
    in_short,
    outside_transforms,
    tolerance,
    warn_slow,
)


class Road:
    """How the gradients of a module are computed: the fastest way that plain autograd confirms.

    Attributes:
        function: the module as a function.
        outputs: the number o of outputs.
        numbers: how many numbers the gradients of one example are.
        tried: two examples and the outputs for the first.
    """

    def __init__(
        self,
        function: Function,
        fast: Callable[[Tensor], Gradients] | None,
        linear: set[str],
        tried: tuple[Tensor, Tensor],
        follow: bool,
    ) -> None:
        self.function, self.fast, self.tried, self.follow = function, fast, tried, follow
        self.axes = 0 if function.copies is None else 1
        self.outputs = o = tried[1].numel() // (function.copies or 1)
        # delta and h of a linear layer W, of shape (k, d), in place of its gradient
        self.numbers = sum(
            (o * w.shape[-2] + w.shape[-1]) * (function.copies or 1) if name in linear else o * w.numel()
            for name, w in function.weights.items()
        )

    def gradients(self, x: Tensor) -> Gradients:
        """The gradients of the outputs for examples (n, ...)."""
        if self.fast is None:
            return _by_plain_autograd(self.function, self.outputs, x, self.follow)
        gradients = self.fast(x)
        # within a transform of torch.func there are no numbers to look at, but those of the two examples
        error = 0.0 if are_transforms_active() else self._error(gradients, x.detach())
        if error <= tolerance(self.function.like):
            return gradients
        self.leave(f"its gradients by torch.func are {error:.2g} of their size from plain autograd's")
        return self.gradients(x)

    def leave(self, reason: str) -> None:
        """Go on by plain autograd, with a warning; ValueError where it cannot be had."""
        if self.function.copies is not None:
            raise ValueError(
                f"model: {reason}, and it has copies; model.member(s), one of them, can go a slower road"
            )
        warn_slow(self.function.module, reason, "an example and an output at a time")
        self.fast = None

    def _error(self, gradients: Gradients, x: Tensor) -> float:
        """How far gradients are from plain autograd's, in one batch, along a direction of all outputs."""
        try:
            out = self.function.call(x)
            v = _normal(self.function.rows(out, len(x)))
            expected = self.function.gradient(out, v.view_as(out))
        except (RuntimeError, ValueError):  # so many examples are too many for it: one by one, then
            return math.inf
        held = {n: (g.detach(), h if h is None else h.detach()) for n, (g, h) in gradients.items()}
        return _disagreement(held, expected, v, self.axes)

    @classmethod
    def to(cls, model: nn.Module, x1: Tensor, x2: Tensor) -> "Road":
        """Choose one, on two of the examples."""
        within = are_transforms_active()
        follow = within or is_followed(x1) or is_followed(x2)
        a, b = (concrete(z, z.shape) for z in (x1, x2))
        return outside_transforms(lambda: cls._chosen(model, a, b, follow, within))

    @classmethod
    def _chosen(cls, model: nn.Module, x1: Tensor, x2: Tensor, follow: bool, within: bool) -> "Road":
        function = Function.of(model)
        pair, alone = function.require_one_example(x1, x2)
        road = cls(function, None, set(), (pair, alone[0].detach()), follow)
        copies, outputs, axes = function.copies, function.one_of_the_copies(), road.axes
        v = _normal(torch.cat([function.rows(out, 1) for out in alone], -2))
        each = [
            function.gradient(out, v.narrow(axes, i, 1).reshape(out.shape)) for i, out in enumerate(alone)
        ]
        expected = {name: g + each[1][name] for name, g in each[0].items()}
        everything = function.weights | function.constants
        one = {name: w if copies is None else w[0] for name, w in everything.items()}
        guesses: list[Callable[[], set[str]]] = [
            lambda: survey(outputs, one, pair[0]) & function.weights.keys(), set,
        ]  # fmt: skip
        reason, tried = "", None
        for guess in guesses:
            try:
                linear = guess()
                if linear == tried:
                    continue
                tried = linear
                gradients = gradients_of(outputs, function.weights, linear, copies, function.constants)
                error = _disagreement(gradients(pair), expected, v, axes)
                if within:
                    nested = torch.func.vmap(lambda z, f=gradients: _tensors(f(z)))(pair[None])
                    again = {n: (gh[0][0], gh[1][0] if len(gh) > 1 else None) for n, gh in nested.items()}
                    error = max(error, _disagreement(again, expected, v, axes))
                if follow and pair.is_floating_point() and error <= tolerance(function.like):
                    error = _disagreement_of_slopes(function, gradients, pair, v, axes)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as refusal:
                reason = f"torch.func refuses it ({in_short(refusal)})"
                continue
            if error <= tolerance(function.like):
                return cls(function, gradients, linear, road.tried, follow)
            reason = f"its derivatives by torch.func are {error:.2g} of their size from plain autograd's"
        road.leave(reason)
        return road

    def require_as_before(self) -> None:
        """Raise ValueError if the module has come to compute something else meanwhile."""
        pair, out = self.tried
        outside_transforms(lambda: self.function.require_same(pair, out))

    def shares(self, x1: Tensor, x2: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each weight's name and share in the kernel, shape ([S,] n1, n2, o, o)."""
        gradients1 = self.gradients(x1)
        gradients2 = gradients1 if x1 is x2 else self.gradients(x2)
        return inner_products(gradients1, gradients2, self.axes)


def _normal(like: Tensor) -> Tensor:
    """A direction that no coincidence makes special."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _tensors(gradients: Gradients) -> dict[str, tuple[Tensor, ...]]:
    return {name: tuple(z for z in pair if z is not None) for name, pair in gradients.items()}


def _along(gradients: Gradients, v: Tensor, axes: int, probes: Weights) -> Weights:
    """The sum of gradients of n examples along a direction v ([S,] n, o), of linear layers times a probe.

    Of a matrix, the product with a vector tells as much as the matrix.
    """
    along: Weights = {}
    for name, (g, h) in gradients.items():
        if h is None:
            flat = g[..., None].flatten(axes, axes + 1).flatten(axes + 1)
            along[name] = (v.flatten(axes)[..., None, :] @ flat).squeeze(-2)
        else:
            delta = (v[..., None] * g).sum(axes + 1)
            along[name] = (delta * (h * probes[name][..., None, :]).sum(-1, keepdim=True)).sum(axes)
    return along


def _probes(gradients: Gradients, axes: int) -> Weights:
    return {name: _normal(h.select(axes, 0)) for name, (_, h) in gradients.items() if h is not None}


def _disagreement(gradients: Gradients, expected: Weights, v: Tensor, axes: int) -> float:
    """How far the sum of gradients along a direction v of the outputs is from the expected one."""
    probes, gap, size = _probes(gradients, axes), 0.0, 0.0
    for name, mine in _along(gradients, v, axes, probes).items():
        theirs = expected[name]
        theirs = theirs @ probes[name][..., None] if name in probes else theirs
        theirs = theirs.reshape(mine.shape)
        gap = math.hypot(gap, torch.linalg.vector_norm(mine - theirs).item())
        size = math.hypot(size, torch.linalg.vector_norm(theirs).item())
    return _part(gap, size)


def _part(gap: float, size: float) -> float:
    return (gap / size if size else gap and math.inf) if math.isfinite(gap) else math.inf


def _disagreement_of_slopes(
    function: Function, gradients: Callable[[Tensor], Gradients], x: Tensor, v: Tensor, axes: int
) -> float:
    """How far the derivatives in x of a number made from the gradients are from plain autograd's."""
    by_name = {name: _normal(w) for name, w in function.weights.items()}
    slopes = []
    for plain in (False, True):
        z = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            if plain:
                outs = [function.call(z[i : i + 1]) for i in range(len(z))]
                rows = [
                    function.gradient(out, v.narrow(axes, i, 1).reshape(out.shape), follow=True)
                    for i, out in enumerate(outs)
                ]
                terms = [(row[name] * r).sum() for row in rows for name, r in by_name.items()]
            else:
                terms = []
                for name, (g, h) in gradients(z).items():
                    along = (v.reshape(*v.shape, *[1] * (g.ndim - v.ndim)) * g).sum(axes + 1)
                    r = by_name[name].unsqueeze(axes)
                    terms.append((along * (r if h is None else (h[..., None, :] * r).sum(-1))).sum())
            number = torch.stack(terms).sum()
            slopes.append(torch.autograd.grad(number, z, allow_unused=True, materialize_grads=True)[0])
    ours, right = slopes
    size = torch.linalg.vector_norm(right).item()
    gap = torch.linalg.vector_norm(ours - right).item()
    return _part(gap, size)


def _by_plain_autograd(function: Function, outputs: int, x: Tensor, follow: bool) -> Gradients:
    if are_transforms_active():
        raise ValueError(
            "model: expected a module that torch.func can differentiate, for the derivatives of its kernel "
            "by torch.func; use torch.autograd, with x.requires_grad_()"
        )
    rows = [[one_row(function, z[None], a, follow) for a in range(outputs)] for z in x]
    return {
        name: (torch.stack([torch.stack([row[name] for row in each]) for each in rows]), None)
        for name in function.weights
    }


def one_row(function: Function, x: Tensor, output: int, follow: bool = False) -> Weights:
    """The gradient of one output for a batch of one example, by plain autograd."""
    out = function.call(x)
    direction = torch.zeros_like(out)
    direction.view(-1)[output] = 1
    return function.gradient(out, direction, follow)
