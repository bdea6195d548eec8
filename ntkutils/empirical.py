r"""The neural tangent kernel of a network of finite width: inner products of its gradients."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import _validation as check_that
from .linear_layers import inner_products
from .mlp import MLP
from .modules import Function, layers_of
from .roads import Road, one_row

BYTES_A_CHUNK = 2**28  # what the gradients of one chunk of examples may take at least: 256 MiB


def empirical_ntk_by_backward(model: nn.Module, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    r"""Return :math:`\langle\nabla f_x(w), \nabla f_{\tilde x}(w)\rangle`, the slow and obvious way.

    Two backward passes for every entry. The reference that :func:`empirical_ntk` is held against.

    Args:
        model: a module that treats the examples of a batch independently.
        x1: examples, shape (n1, ...).
        x2: examples, shape (n2, ...); ``x1`` if not given.

    Returns:
        The kernel, shape (n1, n2), or (n1, n2, o, o) for o > 1 outputs.

    Raises:
        TypeError, ValueError: as :func:`empirical_ntk`, and for an MLP with copies.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(2, width=50, depth=2, generator=generator, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> torch.allclose(nu.empirical_ntk_by_backward(model, x), nu.empirical_ntk(model, x))
        True
    """
    check_that.require_one_network(model)
    x1, x2 = _examples(model, x1, x2)
    function = Function.of(model)
    if not (len(x1) and len(x2)):
        return function.like.new_empty(len(x1), len(x2))
    function.require_one_example(x1.detach(), x2.detach())
    o = function.call(x1[:1]).numel()
    kernel = function.like.new_empty(len(x1), len(x2), o, o)
    for i, j, a, b in itertools.product(range(len(x1)), range(len(x2)), range(o), range(o)):
        grads = [one_row(function, z[None].detach(), c) for z, c in ((x1[i], a), (x2[j], b))]
        kernel[i, j, a, b] = sum((grads[0][name] * grads[1][name]).sum() for name in grads[0])
    return _scalar_if_one(kernel)


def empirical_ntk(
    model: nn.Module, x1: Tensor, x2: Tensor | None = None, *, chunk_size: int | None = None
) -> Tensor:
    r"""Return :math:`\langle\nabla f_x(w), \nabla f_{\tilde x}(w)\rangle` at the model's weights.

    The sum runs over all parameters that require a gradient. They are differentiated through
    :mod:`torch.func`, in chunks of examples, and the gradients of linear layers' weights are not
    formed if each example is one vector to them. All of them are held to a backward pass of plain
    autograd, along a random direction of the outputs (within a transform of torch.func, those of two
    of the examples); a module that torch.func refuses or gets wrong is differentiated by plain autograd,
    an example at a time, with a :class:`ntkutils.SlowRoadWarning` that says why.
    The model itself is never called, but a copy of it: it stays as it is, and threads can share it.
    In neural-tangents: ``nt.empirical_ntk_fn(f, trace_axes=())``.

    Args:
        model: any module whose outputs for one example do not depend on the others in a batch, and are
            the same at every call.
        x1: examples, shape (n1, ...), of the weights' dtype or of whole numbers such as tokens.
        x2: examples, shape (n2, ...); ``x1`` if not given.
        chunk_size: how many examples' gradients are held at a time; if not given, as many as fit
            into 256 MiB or a quarter of the memory that is free, whichever is more.

    Returns:
        Shape (n1, n2) if the output for one example is a scalar or has one entry; else
        (n1, n2, o, o), where [i, j, a, b] belongs to outputs a at x1[i] and b at x2[j]. After a
        leading axis of copies for an MLP that has them. It can be differentiated in x1 and x2.

    Raises:
        TypeError, ValueError: for input that does not fit the model or is not finite, and for a
            module that has no tangent kernel: its outputs mix examples (batch normalization in
            training mode), are random or differ from call to call, are no tensor, or have no graph.
        MemoryError: before any work, for a kernel that does not fit; says what to do instead.

    Example:
        >>> model = nu.MLP(2, width=1, depth=0, dtype=torch.float64)  # f = w·x, whose gradient is x
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> nu.empirical_ntk(model, x)
        tensor([[ 5.,  1.],
                [ 1., 10.]], dtype=torch.float64)
    """
    x1, x2 = _examples(model, x1, x2)
    if chunk_size is not None:
        check_that.require_count(chunk_size, "chunk_size", least=1)
    with torch.inference_mode(False):
        if len(x2) < len(x1):  # the gradients of x2 are computed again for every chunk of x1
            return _scalar_if_one(_in_chunks(model, x2, x1, chunk_size).transpose(-4, -3).mT)
        return _scalar_if_one(_in_chunks(model, x1, x2, chunk_size))


def empirical_ntk_by_layer(model: nn.Module, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    r"""Return the share of each layer's parameters in :func:`empirical_ntk`.

    Args:
        model: an :class:`ntkutils.MLP` with L hidden layers, or any other module that has a kernel; its
            layers are then the submodules with parameters of their own, in the order of
            ``model.named_parameters()``.
        x1: examples, shape (n1, ...).
        x2: examples, shape (n2, ...); ``x1`` if not given.

    Returns:
        Shape (L+1, n1, n2), or (L+1, n1, n2, o, o): entry j-1 is the share of w^(j) and b^(j), 0 if
        they do not require a gradient; their sum over the first axis is the kernel. An axis of copies
        comes second: (L+1, S, ...).

    Raises:
        TypeError, ValueError: as :func:`empirical_ntk`, and without examples.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(2, width=50, depth=2, generator=generator, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> shares = nu.empirical_ntk_by_layer(model, x)
        >>> len(shares), torch.allclose(sum(shares), nu.empirical_ntk(model, x))
        (3, True)
    """
    x1, x2 = _examples(model, x1, x2)
    if not (len(x1) and len(x2)):
        raise ValueError(f"x1 and x2: expected at least one example each, got {len(x1)} and {len(x2)}")
    road = Road.to(model, x1, x2)
    shares = dict(road.shares(x1, x2))
    nothing = torch.zeros_like(next(iter(shares.values())))
    layers = [
        sum((shares[name] for name in names if name in shares), nothing) for names in layers_of(model)
    ]
    return _scalar_if_one(_settled(torch.stack(layers), road))


def _examples(model: nn.Module, x1: object, x2: object | None) -> tuple[Tensor, Tensor]:
    """Two sets of examples that fit together and the model; ``x2=None`` stands for ``x1``."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, MLP):
        x1, x2 = check_that.require_pair(x1, x2)
        check_that.require_inputs(model, x1, "x1")
        return x1, x2
    x1 = check_that.require_examples(x1, "x1")
    x2 = x1 if x2 is None else check_that.require_examples(x2, "x2")
    check_that.require_alike(x1, x2, "x1", "x2")
    if x1.ndim == 0 or x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x1 and x2: expected shapes (n1, ...) and (n2, ...) with equal examples, "
            f"got {tuple(x1.shape)} and {tuple(x2.shape)}"
        )
    for weights in model.parameters():
        if weights.requires_grad:
            check_that.require_fitting(weights, x1, "the model's weights", "x1")
    return x1, x2


def _scalar_if_one(kernel: Tensor) -> Tensor:
    return kernel[..., 0, 0] if kernel.shape[-2:] == (1, 1) else kernel


def _in_chunks(model: nn.Module, x1: Tensor, x2: Tensor, chunk_size: int | None) -> Tensor:
    same = x1 is x2  # then one half is the transpose of the other
    leading = (model.copies,) if isinstance(model, MLP) and model.copies is not None else ()
    if not len(x1):
        o = model.w[-1].shape[-2] if isinstance(model, MLP) else 1  # of others nobody knows
        like = next(iter(model.parameters()), x1)
        return like.new_empty(*leading, 0, len(x2), o, o)
    road = Road.to(model, x1, x2)
    like, o = road.function.like, road.outputs
    shape = (*leading, len(x1), len(x2), o, o)
    _require_memory(shape, like)
    size = road.numbers * like.element_size()
    # Gradients of x2 are computed again for every chunk of x1, so the chunks of x1 are the large ones.
    chunk1, chunk2 = (_chunk(chunk_size, share * size, like.device) for share in (4 / 3, 4))
    if max(len(x1), len(x2)) <= (chunk1 if same else chunk2):
        kernel = _total(road.shares(x1, x2))
        return _settled(kernel, road)
    kernel = like.new_empty(shape)
    for a in _parts(0, len(x1), chunk1):
        gradients1 = road.gradients(x1[a])
        if same:
            kernel[..., a, a, :, :] = _total(inner_products(gradients1, gradients1, len(leading)))
        for b in _parts(a.stop if same else 0, len(x2), chunk2):
            block = _total(inner_products(gradients1, road.gradients(x2[b]), len(leading)))
            kernel[..., a, b, :, :] = block
            if same:
                kernel[..., b, a, :, :] = block.transpose(-4, -3).mT
    return _settled(kernel, road)


def _settled(kernel: Tensor, road: Road) -> Tensor:
    """Return a kernel if its numbers are finite, and the module is still what it was."""
    road.require_as_before()
    finite = torch.isfinite(torch.func.debug_unwrap(kernel))
    if not finite.all():
        i, j = (~finite).nonzero()[0, -4:-2].tolist()
        raise ValueError(
            f"model: expected gradients that are finite, got a kernel that is not at examples {i} and {j}; "
            f"{kernel.dtype} may be too small for them, or an operation has no derivative there"
        )
    return kernel


def _total(shares: Iterator[tuple[str, Tensor]]) -> Tensor:
    _, total = next(shares)
    for _, share in shares:
        total = total + share
    return total


def _chunk(chunk_size: int | None, size: float, device: torch.device) -> int:
    """How many examples of so many bytes each are held at a time."""
    if chunk_size is not None:
        return chunk_size
    return max(1, int(_bytes_held(device) // size))


def _bytes_held(device: torch.device) -> float:
    free = check_that.free_memory(device)
    return BYTES_A_CHUNK if math.isinf(free) else max(BYTES_A_CHUNK, free / 4)


def _require_memory(shape: tuple[int, ...], like: Tensor) -> None:
    """Raise MemoryError when a kernel of that shape is larger than what the device has free."""
    needed, free = math.prod(shape) * like.element_size(), check_that.free_memory(like.device)
    if needed > free:
        o = shape[-1]
        outputs = f"; a module that returns one of its {o} outputs needs 1/{o * o} of it" if o > 1 else ""
        raise MemoryError(
            f"x1 and x2: expected a kernel that fits into memory, got shape {shape}, "
            f"{check_that.readable(needed)}, where {check_that.readable(free)} are free; compute blocks of "
            f"rows, empirical_ntk(model, x1[i:j], x2), and use each before the next{outputs}"
        )


def _parts(start: int, stop: int, chunk: int) -> list[slice]:
    """As few parts as chunks of that size allow, of nearly equal length."""
    count = math.ceil((stop - start) / chunk)
    edges = [start + (stop - start) * c // count for c in range(count + 1)] if count else []
    return [slice(*edge) for edge in itertools.pairwise(edges)]
