r"""Any module as a function of its weights and of one example: a private copy, and what it has to do.

A tangent kernel belongs to a function f(w, x). Whether a module is one is seen by what it does and not by
its class: its outputs for one example do not depend on the others in the batch, and are the same twice.
The user's module is copied and never called, so that its buffers, the tensors that it stores and its
parameters stay as they are, in several threads, too.
"""

import copy
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from . import _validation as check_that
from .mlp import MLP

Weights = dict[str, Tensor]
T = TypeVar("T")
ADVICE = "call model.eval() first, or take out of its forward pass what is random or remembered"


class SlowRoadWarning(UserWarning):
    """A module is differentiated by plain autograd, an example at a time; the numbers are as right.

    Example:
        >>> import warnings
        >>> class Branch(torch.nn.Linear):
        ...     def forward(self, x):  # which way an example goes depends on its numbers
        ...         f = super().forward
        ...         return torch.stack([f(z) if z[0] > 0 else 0 * z[:1] for z in x])
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     K = nu.empirical_ntk(Branch(2, 1).double(), torch.eye(2).double())
        >>> caught[0].category.__name__, K.tolist()  # |x|² + 1, and 0
        ('SlowRoadWarning', [[2.0, 0.0], [0.0, 0.0]])
    """


def tolerance(like: Tensor) -> float:
    """How far two ways to compute one thing may be apart by rounding, relative to its size."""
    if like.dtype == torch.float64:
        return 1e-9
    if like.dtype != torch.float32:  # what a network in float32 may return under autocast
        return 3e-2
    # convolutions and products of float32 on a GPU may keep 10 bits
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return 2e-2 if like.device.type == "cuda" and tf32 else 1e-3


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a module that shares no tensor with it, hooks of its parameters included.

    Raises:
        TypeError: for what is no module, or cannot be copied.
        ValueError: for parameters without numbers.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for name, p in model.named_parameters():
        if nn.parameter.is_lazy(p):
            raise ValueError(
                f"model: expected parameters that have a shape, got {name} without; call it once"
            )
    memo: dict[int, Any] = {}
    for z in _tensors_in([module.__dict__ for module in model.modules()]):
        if z.grad_fn is not None:  # stored by an earlier call: deepcopy refuses those
            memo[id(z)] = remembered = z.detach().clone().requires_grad_()
            remembered.ntkutils_remembered = True  # type: ignore[attr-defined]
    try:
        with torch.no_grad():  # a copy of a script would else be a function of it
            copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(
            f"model: expected a module that copy.deepcopy can copy, as the one that is given is never "
            f"called, got {type(model).__name__}, which raises {in_short(error)}"
        ) from error
    for p, q in zip(model.parameters(), copied.parameters(), strict=True):
        q.requires_grad_(p.requires_grad).grad = None
        for hook in (p._backward_hooks or {}).values():
            q.register_hook(hook)
    return copied


def _tensors_in(found: Iterable[object]) -> Iterator[Tensor]:
    """The tensors in objects and what they hold, each once."""
    todo, seen = list(found), set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Mapping):
            todo.extend(one.values())
        elif isinstance(one, list | tuple | set):
            todo.extend(one)
        elif hasattr(one, "__dict__") and not isinstance(one, type | nn.Module) and not callable(one):
            todo.append(vars(one))


def outside_transforms(compute: Callable[[], T]) -> T:
    """Run something where no transform of torch.func is active, since plain autograd cannot be in one."""
    if not are_transforms_active():
        with torch.inference_mode(False):
            return compute()
    with ThreadPoolExecutor(1) as other:  # transforms belong to a thread
        return other.submit(compute).result()


def are_transforms_active() -> bool:
    """Whether this is called within a transform of torch.func."""
    return bool(torch._C._are_functorch_transforms_active())


def concrete(x: Tensor, shape: torch.Size) -> Tensor:
    """The numbers of a tensor that transforms of torch.func may have wrapped; one of a batch of them."""
    plain = torch.func.debug_unwrap(x).detach()
    while plain.ndim > len(shape):  # a batch of vmap: its axis is one that the shape lacks
        extra = next((i for i, size in enumerate(plain.shape[: len(shape)]) if size != shape[i]), -1)
        plain = plain.select(extra, 0)
    return plain


class _Draws(TorchDispatchMode):
    """Inside, notes the first operation that draws random numbers, if there is one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # attention has the tag for the dropout that it may do, which two calls tell
        if (
            torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
            and "attention" not in func.name()
        ):
            self.first = self.first or func.name().removeprefix("aten::")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Function:
    """A module as f(w, x), for one example x, on a private copy.

    Attributes:
        module: the copy that is called.
        weights: the parameters that require a gradient, by name, cut off from the copy and autograd.
        fixed: the other parameters and the buffers.
        theirs: the user's parameters, which the copy is not to reach.
    """

    module: nn.Module
    weights: Weights
    fixed: Weights
    theirs: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, frozen: bool = False) -> "Function":
        """Copy a module. With ``frozen``, the parameters that require no gradient are weights, too.

        Raises:
            TypeError: for what is no module, or cannot be copied.
            ValueError: without weights, or if these are not real.
        """
        module = copy_of(model)
        for p in module.parameters() if frozen else ():
            p.requires_grad_()
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("model: expected parameters that require a gradient, got none")
        for name, p in trained.items():
            if p.dtype not in check_that.FLOATS:
                raise TypeError(
                    f"model: expected parameters of float32 or float64, got {name} of {p.dtype}; "
                    "model.double() or model.float() converts them"
                )
        fixed = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
        fixed |= {n: b.detach().clone() for n, b in module.named_buffers()}
        weights = {name: p.detach() for name, p in trained.items()}
        return cls(module, weights, fixed, dict(model.named_parameters()))

    @property
    def like(self) -> Tensor:
        """One of the weights, for its dtype and device."""
        return next(iter(self.weights.values()))

    @property
    def copies(self) -> int | None:
        """How many independent networks the module is, whose parameters have a first axis of copies."""
        return self.module.copies if isinstance(self.module, MLP) else None

    @property
    def constants(self) -> Weights:
        """The parameters that require no gradient, if they have an axis of copies."""
        names = [] if self.copies is None else [n for n, p in self.module.named_parameters()]
        return {name: self.fixed[name] for name in names if name in self.fixed}

    @property
    def leaves(self) -> list[Tensor]:
        """The weights as the copy's own parameters, for plain autograd; in the order of ``weights``."""
        by_name = dict(self.module.named_parameters())
        return [by_name[name] for name in self.weights]

    def one_of_the_copies(self) -> Callable[[Weights, Tensor], Tensor]:
        """Return f(w, x) for :mod:`torch.func`; with copies, w is one network's and has no axis of them."""
        one = self
        if self.copies is not None:
            # its parameters are replaced in every call
            module = copy.deepcopy(self.module, {id(p): p for p in self.module.parameters()})
            cast(MLP, module).copies = None
            one = replace(self, module=module)
        return lambda weights, x: one.with_weights(weights, x[None]).flatten()

    def with_weights(self, weights: Weights, x: Tensor) -> Tensor:
        """Return the outputs for a batch, with other weights, as a function that torch.func takes."""
        # all are given anew, as what a forward pass writes to its input or buffers is not to stay
        fixed = {name: z.clone() for name, z in self.fixed.items() if name not in weights}
        return one_tensor(functional_call(self.module, weights | fixed, (x.clone(),)))

    def call(self, x: Tensor, restore: bool = True) -> Tensor:
        """Return the copy's outputs for a batch x, with the graph of plain autograd.

        With ``restore`` the buffers are then what they were.
        """
        with torch.inference_mode(False), torch.enable_grad():
            out: Tensor = one_tensor(self.module(x.clone()))
        for name, buffer in list(self.module.named_buffers()) if restore else ():
            if not _equal(buffer, self.fixed[name]):
                owner, _, last = name.rpartition(".")
                # another tensor in its place: autograd may have kept the one that was written to
                setattr(self.module.get_submodule(owner), last, self.fixed[name].clone())
        return out

    def gradient(self, out: Tensor, direction: Tensor, follow: bool = False) -> Weights:
        """The gradients of direction·out in the weights by plain autograd; the graph is kept.

        With ``follow`` they have a graph of their own, for derivatives in x.
        """
        leaves = self.leaves
        if not out.requires_grad:  # a constant for these examples
            return {name: torch.zeros_like(leaf) for name, leaf in zip(self.weights, leaves, strict=True)}
        options: Any = dict(retain_graph=True, allow_unused=True, create_graph=follow)
        grads: tuple[Tensor | None, ...]
        try:
            grads = torch.autograd.grad(out, leaves, direction, **options)
        except RuntimeError as error:
            if "heckpoint" not in str(error):
                raise
            # reentrant checkpointing wants all gradients of a graph, in the place of .grad
            torch.autograd.backward(out, direction, retain_graph=True)
            grads = tuple(leaf.grad for leaf in leaves)
            for leaf in self.module.parameters():
                leaf.grad = None
        dense = [
            torch.zeros_like(leaf) if g is None else g.to_dense() if g.is_sparse else g
            for leaf, g in zip(leaves, grads, strict=True)
        ]
        return {name: g if follow else g.detach() for name, g in zip(self.weights, dense, strict=True)}

    def require_same_twice(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch, with their graph; ValueError if they are random or change."""
        out = self._first_call(x)
        again = self.call(x)
        if not _close(again, out):
            raise ValueError(self._changing(out, again))
        return out

    def require_one_example(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Raise ValueError unless the outputs are a function of one example.

        Returns:
            Two examples that were tried, and the outputs for each alone, with their graphs.
        """
        both = torch.stack(two_examples(x1, x2))
        out = self._first_call(both)
        together = self.rows(out, 2)
        try:
            each = [self.call(both[:1], restore=False), self.call(both[1:])]
        except (RuntimeError, ValueError) as error:
            raise ValueError(self._mixes(f"an error for one alone ({in_short(error)})")) from error
        alone = torch.cat([self.rows(one, 1) for one in each], -2)
        if not _close(together, alone):
            one, two = self.call(both, restore=False), self.call(both)
            if not _close(one, two) or not _close(one, out):
                raise ValueError(self._changing(out, one if _close(one, two) else two))
            raise ValueError(
                self._mixes(f"others in a batch of two than for each alone, {_where(together, alone)}")
            )
        return both, each

    def require_same(self, pair: Tensor, before: Tensor) -> None:
        """Raise ValueError if the outputs for the first of two examples are no longer what they were."""
        now = self.call(pair[:1])
        if not _close(now, before):
            raise ValueError(self._changing(before, now))

    def _mixes(self, got: str) -> str:
        training = any(module.training for module in self.module.modules())
        return (
            f"model: expected outputs that are a function of one example, got {got}: "
            f"{self._mixing()}{' in training mode' if training else ''} mixes examples; call "
            "model.eval() first, keep running statistics, let the first axis be that of the examples"
        )

    def _first_call(self, x: Tensor) -> Tensor:
        """Return outputs, with buffers left as the call leaves them; ValueError if they cannot serve."""
        draws = _Draws()
        try:
            with draws:
                out = self.call(x, restore=False)
        except (RuntimeError, ValueError, IndexError, AssertionError, AttributeError) as error:
            raise ValueError(
                "model: expected a forward pass that takes a batch of examples, the first axis theirs, "
                f"got {in_short(error)} for one of shape {tuple(x.shape)}"
            ) from error
        if draws.first is not None:
            raise ValueError(
                "model: expected outputs that are a function of the input, got random ones "
                f"({self._drawing()}{draws.first}); {ADVICE}"
            )
        if not out.requires_grad:
            raise ValueError(
                "model: expected outputs that autograd follows to the parameters, got some without a "
                "graph; a forward pass under torch.no_grad, or through .data, has no tangent kernel"
            )
        theirs = {id(p): name for name, p in self.theirs.items()}
        for leaf in leaves_of(out):
            if id(leaf) in theirs:
                raise ValueError(
                    f"model: its forward pass reaches {theirs[id(leaf)]} through a closure or a "
                    "global, which copy.deepcopy leaves as it is; let it use what the module holds"
                )
            if hasattr(leaf, "ntkutils_remembered"):
                raise ValueError(
                    "model: its forward pass uses a tensor that was computed before and kept, with a "
                    "graph; compute it in the forward pass, or keep it detached"
                )
        return out

    def _changing(self, out: Tensor, again: Tensor) -> str:
        return (
            "model: expected outputs that are a function of the input, got others at a second call, "
            f"{_where(out, again)}; {ADVICE}"
        )

    def rows(self, out: Tensor, n: int) -> Tensor:
        """Return outputs of n examples as ([S,] n, o); raise ValueError if there is no such axis."""
        axis = 0 if self.copies is None else 1
        if out.ndim <= axis or out.shape[axis] != n:
            raise ValueError(
                f"model: expected outputs with an axis of {n} examples at {axis}, got shape "
                f"{tuple(out.shape)} (a loss, or a mean over examples, is no function of one)"
            )
        return out.detach().flatten(axis + 1) if out.ndim > axis + 1 else out.detach()[..., None]

    def _drawing(self) -> str:
        """The name of a kind of module that is known to draw random numbers, for a hint."""
        kinds = (nn.modules.dropout._DropoutNd, nn.RReLU)
        names = [
            type(m).__name__ for m in self.module.modules() if isinstance(m, kinds) and m.training
        ]  # fmt: skip
        return f"{names[0]} in training mode, " if names else ""

    def _mixing(self) -> str:
        """The name of a kind of module that is known to mix examples, for a hint."""
        kinds = (nn.modules.batchnorm._BatchNorm, nn.RNNBase, nn.MultiheadAttention)
        names = [type(module).__name__ for module in self.module.modules() if isinstance(module, kinds)]
        return names[0] if names else type(self.module).__name__


def one_tensor(out: object) -> Tensor:
    """Return the outputs of a module if they are one real tensor; TypeError says what to do if not."""
    if not isinstance(out, Tensor):
        raise TypeError(
            f"model: expected one tensor as its output, got {type(out).__name__}; wrap it in a module "
            "whose forward pass returns the one that you mean, as self.model(x)[0] or self.model(x).logits"
        )
    if not out.is_floating_point():
        raise TypeError(f"model: expected outputs that are real numbers, got {out.dtype}")
    return out


def leaves_of(out: Tensor) -> list[Tensor]:
    """The leaves in the graph of ``out``, one entry for every operation that takes it."""
    leaves: list[Tensor] = []
    todo: list[Any] = [out.grad_fn] if out.grad_fn is not None else []
    seen = {None, *todo}
    while todo:
        for node, _ in todo.pop().next_functions:
            if hasattr(node, "variable"):
                leaves.append(node.variable)
            elif node not in seen:
                seen.add(node)
                todo.append(node)
    return leaves


def two_examples(x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Two examples that differ, of those that are given as far as there are such."""
    first = x1[0]
    for z in (x1,) if x1 is x2 else (x1, x2):
        others = (z != first).flatten(1).any(1) if z.ndim > 1 else z != first
        if others.any():
            return first, z[others.nonzero()[0, 0]]
    other = first.flatten().flip(0).view_as(first)
    if torch.equal(other, first):
        other = torch.zeros_like(first) if first.any() else torch.ones_like(first)
    return first, other


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    size = b.abs().nan_to_num(0, 0, 0).max().item() if b.numel() else 0.0
    return bool((((a - b).abs() <= tolerance(b) * size) | (a == b) | (a.isnan() & b.isnan())).all())


def _where(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    worst = int((a - b).abs().nan_to_num(math.inf).argmax())
    return f"{a.flatten()[worst].item():.6g} and {b.flatten()[worst].item():.6g}"


def in_short(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def warn_slow(model: nn.Module, reason: str, how: str) -> None:
    """Say why plain autograd takes the place of torch.func, once a place in the user's program."""
    warnings.warn(
        f"{type(model).__name__}: {reason}; plain autograd takes its place, {how}: as right, and slower",
        SlowRoadWarning,
        stacklevel=_depth_here(),
    )


def _depth_here() -> int:
    """How many calls up from :func:`warn_slow` the package is left."""
    frame: FrameType | None = sys._getframe(1)
    depth = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, depth = frame.f_back, depth + 1
    return depth


def layers_of(model: nn.Module) -> list[list[str]]:
    """The names of a module's parameters by layer: w^(j) and b^(j) of an MLP, else a submodule's own."""
    layers: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        owner, _, last = name.rpartition(".")
        layers.setdefault(last if isinstance(model, MLP) and owner in ("w", "b") else owner, []).append(
            name
        )
    return list(layers.values())


class PerThread:
    """A function, copied once more for each thread that asks, as functional calls swap its parameters."""

    def __init__(self, function: Function) -> None:
        self.function, self.mine = function, threading.local()

    def __call__(self) -> Function:
        """Return this thread's copy."""
        if not hasattr(self.mine, "function"):
            module = outside_transforms(lambda: copy_of(self.function.module))
            self.mine.function = replace(self.function, module=module)
        copied: Function = self.mine.function
        return copied
