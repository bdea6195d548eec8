"""Kernels of infinite width as lazy arrays of Dask, whose blocks are computed where they are used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import torch
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray
from torch import Tensor

from .. import _validation as check_that
from .. import recursion
from ..activations import BY_NAME, Activation

Kernel = Callable[..., Tensor]
Array = NDArray[np.floating[Any]]
BLOCK = 6 * recursion.TILE["cpu"]  # points; whole tiles, so that they are those of the kernel in memory


def ntk(x1: Tensor, x2: Tensor | None = None, *, block: int | None = None, **network: Any) -> da.Array:
    """Return :func:`ntkutils.ntk` as a lazy array of Dask, shape (n1, n2): the same numbers, by blocks.

    Without ``x2`` the blocks above the diagonal are computed, each once, and those below are their
    transposes. Nothing is computed before Dask is asked to; then each block is, by the worker that uses it.

    Args:
        x1: data points, shape (n1, d), float32 or float64.
        x2: data points, shape (n2, d); ``x1`` if not given.
        block: points a block has in each direction; a quarter of them, at most 2304, if not given.
        network: depth, activation, weight_std, bias_std, as for :func:`ntkutils.ntk`.

    Raises:
        TypeError, ValueError: at once, for input that :func:`ntkutils.ntk` does not take either, and for
            points that automatic differentiation follows.
        OverflowError, MemoryError: when it is computed, as by :func:`ntkutils.ntk`, for a block.

    Example:
        >>> x = torch.eye(4).double()
        >>> K = nu.distributed.ntk(x, depth=1, block=2)
        >>> K.chunks, bool((K.compute() == nu.ntk(x, depth=1).numpy()).all())
        (((2, 2), (2, 2)), True)
    """
    return _lazy(recursion.ntk, x1, x2, block, network)


def nngp(x1: Tensor, x2: Tensor | None = None, *, block: int | None = None, **network: Any) -> da.Array:
    """Return :func:`ntkutils.nngp` as a lazy array of Dask, shape (n1, n2); see :func:`ntk`.

    Args:
        x1: data points, shape (n1, d), float32 or float64.
        x2: data points, shape (n2, d); ``x1`` if not given.
        block: points a block has in each direction; a quarter of them, at most 2304, if not given.
        network: depth, activation, weight_std, bias_std, as for :func:`ntkutils.nngp`.

    Raises:
        TypeError, ValueError, OverflowError, MemoryError: as :func:`ntk`.

    Example:
        >>> x = torch.eye(4).double()
        >>> nu.distributed.nngp(x, depth=1)[0].compute()  # 1/π beside the diagonal
        array([1.        , 0.31830989, 0.31830989, 0.31830989])
    """
    return _lazy(recursion.nngp, x1, x2, block, network)


def evaluate(kernel: Kernel, x1: Array, x2: Array | None) -> Array:
    """Return a block of a kernel, of points with themselves if ``x2`` is None."""
    points = [torch.tensor(x) for x in (x1, x2) if x is not None]
    block: Array = kernel(*points).numpy()
    return block


def aligned(a: Array) -> Tensor:
    """Copy an array into torch's own memory, as float64: BLAS rounds by where its input lies."""
    return torch.tensor(a, dtype=torch.float64)


def by_name(network: dict[str, Any]) -> dict[str, Any]:
    """Return a network's options with an activation's name in its place, where it has one."""
    phi = network.get("activation")
    if isinstance(phi, Activation) and BY_NAME.get(phi.name) is phi:
        return {**network, "activation": phi.name}
    return network


def require_host(x: Tensor, name: str) -> Tensor:
    """Return points as the workers get them: in main memory, and not followed by differentiation."""
    if x.requires_grad:
        raise ValueError(f"{name}: expected points without gradients, got requires_grad; give x.detach()")
    return x.detach().cpu()


def block_of(n: int, block: object | None) -> int:
    """Return how many points a block has: as was asked, else whole tiles, a quarter of the points."""
    if block is not None:
        return check_that.require_count(block, "block", least=1)
    tile: int = recursion.TILE["cpu"]
    return min(BLOCK, tile * max(1, -(-n // (4 * tile))))


def _lazy(
    kernel: Kernel, x1: Tensor, x2: Tensor | None, block: object | None, network: dict[str, Any]
) -> da.Array:
    symmetric = x2 is None
    x1, x2 = check_that.require_pair(x1, x2)
    x1, x2 = require_host(x1, "x1"), require_host(x2, "x2")
    kernel(x1[:0], **network)  # says what is wrong with the network
    side = block_of(max(len(x1), len(x2)), block)
    parts = [[z.numpy() for z in x.split(side)] for x in (x1, x2)]
    options = partial(kernel, **by_name(network))
    name = f"{kernel.__name__}-{tokenize(options, x1.numpy(), x2.numpy(), side, symmetric)}"
    # Each task has two dependencies at least: Dask puts chains together, and a key that is a chain in
    # one computation and none in the next one was seen to break its scheduler.
    graph: dict[Any, Any] = {f"options-{name}": options}
    graph |= {(f"points-{name}", k, i): z for k in (0, 1) for i, z in enumerate(parts[k])}
    for i in range(len(parts[0])):
        for j in range(i if symmetric else 0, len(parts[1])):
            other = None if symmetric and i == j else (f"points-{name}", 0 if symmetric else 1, j)
            graph[name, i, j] = (evaluate, f"options-{name}", (f"points-{name}", 0, i), other)
            if symmetric and i != j:
                graph[name, j, i] = (_transposed, f"options-{name}", (name, i, j))
    chunks = tuple(tuple(map(len, part)) for part in parts)
    lazy = HighLevelGraph.from_collections(name, graph)
    return da.Array(lazy, name, chunks, dtype=x1.numpy().dtype)


def _transposed(_: Callable[..., Tensor], block: Array) -> Array:
    return block.T
