"""A kernel matrix that nobody has: an operator whose blocks are computed, or read, where they are used."""

import hashlib
import io
import os
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import torch
import zarr
from dask.utils import format_bytes
from distributed import Client, Future
from torch import Tensor

from .cluster import gathered, memory_limits
from .files import explained, write_at_once
from .kernel import Array, Kernel, aligned, by_name, evaluate


class Blocks:
    """A symmetric kernel matrix, shape (n, n), as an operator; its blocks are with the workers."""

    def __init__(
        self,
        client: Client,
        x: Tensor,
        kernel: Kernel,
        network: dict[str, Any],
        side: int,
        store: str | os.PathLike[str] | None,
    ) -> None:
        self.client, self.x, self.kernel = client, x, partial(kernel, **by_name(network))
        side = min(side, len(x))
        needed = 3 * 8 * side**2  # a block, its copy in float64, and what comes on the way
        room = min(memory_limits(client), default=needed)
        if needed > room:
            raise MemoryError(
                f"block: expected room for {format_bytes(needed)} in each worker, three times a block of "
                f"{side} x {side} points, got {format_bytes(room)}; give a smaller block"
            )
        self.slices = [slice(i, min(i + side, len(x))) for i in range(0, len(x), side)]
        self.pairs = [(i, j) for i in range(len(self.slices)) for j in range(i, len(self.slices))]
        self.points = [self.hold(x[a].numpy()) for a in self.slices]
        self.store = None if store is None else str(Path(store).absolute() / "kernel.zarr")
        if self.store is not None:
            self._open(self.store, side)

    def hold(self, values: Array) -> "Future[Array]":
        """Give the workers an array, by way of the scheduler: it outlives the worker that holds it."""
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self.client.submit(np.asarray, values, pure=False)

    def __matmul__(self, v: Tensor) -> Tensor:
        """Multiply by columns, shape (n, o), in float64."""
        pairs = [(self.slices[i], self.slices[j]) for i, j in self.pairs]
        futures = self.client.map(
            _products,
            [self.points[i] for i, _ in self.pairs],
            [None if i == j else self.points[j] for i, j in self.pairs],
            pairs,
            v=self.hold(v.numpy()),
            kernel=self.kernel,
            store=self.store,
            pure=False,
        )
        product = torch.zeros_like(v)
        for (a, b), (above, below) in zip(pairs, gathered(self.client, futures), strict=True):
            product[a] += torch.from_numpy(above)
            if below is not None:
                product[b] += torch.from_numpy(below)
        return product

    def across(self, x_test: Tensor, v: Tensor) -> Tensor:
        """Multiply the kernel of test points and training points by columns, shape (m, o)."""
        tests = [self.hold(z.numpy()) for z in x_test.split(self.slices[0].stop)]
        pairs = [(i, j) for i in range(len(tests)) for j in range(len(self.slices))]
        futures = self.client.map(
            _product,
            [tests[i] for i, _ in pairs],
            [self.points[j] for _, j in pairs],
            [self.slices[j] for _, j in pairs],
            v=self.hold(v.numpy()),
            kernel=self.kernel,
            pure=False,
        )
        parts = gathered(self.client, futures)
        columns = len(self.slices)
        rows = [sum(parts[i : i + columns]) for i in range(0, len(parts), columns)]
        return torch.from_numpy(np.concatenate(rows)) if rows else v[:0]

    def _open(self, store: str, side: int) -> None:
        """Find a store of this kernel, or make one; NaN marks what is not computed yet."""
        n = len(self.x)
        made_of = hashlib.sha256(self.x.contiguous().numpy().tobytes())
        made_of.update(
            cloudpickle.dumps(
                (self.kernel.func, sorted(self.kernel.keywords.items()), side, str(self.x.dtype))
            )
        )
        self.made_of = made_of.hexdigest()
        if Path(store).exists():
            found = zarr.open_array(store, mode="r").attrs.get("made of")
            if found != self.made_of:
                raise ValueError(
                    f"store: expected an empty folder or a store of this kernel, got {store}, which is of "
                    "other points, another kernel or other blocks"
                )
            return
        zarr.create_array(
            store,
            shape=(n, n),
            chunks=(side, side),
            dtype=self.x.numpy().dtype,
            fill_value=np.nan,
            compressors=None,  # digits of a kernel do not compress
            attributes={"made of": self.made_of},
        )

    def saved(self, b: Tensor, ridge: float) -> Path | None:
        """Return where the store has the coefficients of these targets and this ridge."""
        if self.store is None:
            return None
        name = hashlib.sha256(self.made_of.encode() + b.numpy().tobytes() + str(ridge).encode()).hexdigest()
        return Path(self.store).with_name(f"coefficients-{name[:16]}.npy")

    @staticmethod
    def save(path: Path, coefficients: Tensor) -> None:
        """Write the coefficients down for another run."""
        content = io.BytesIO()
        np.save(content, coefficients.numpy())
        write_at_once(path, content.getbuffer(), "the coefficients")


# ---- What the workers do; NumPy's arrays, as Dask sends and measures them ------------------------


def _products(
    x1: Array,
    x2: Array | None,
    at: tuple[slice, slice],
    *,
    v: Array,
    kernel: Kernel,
    store: str | None,
) -> tuple[Array, Array | None]:
    """A block times its part of the columns, and its transpose, if it is another, times its part."""
    K = evaluate(kernel, x1, x2) if store is None else _kept(store, at, kernel, x1, x2)
    A, here, there = aligned(K), aligned(v[at[1]]), aligned(v[at[0]])
    return (A @ here).numpy(), None if x2 is None else (A.T @ there).numpy()


def _kept(
    store: str,
    at: tuple[slice, slice],
    kernel: Kernel,
    x1: Array,
    x2: Array | None,
) -> Array:
    stored = zarr.open_array(store, mode="r+")
    K = np.asarray(stored[at])
    if np.isnan(K[0, 0]):
        K = evaluate(kernel, x1, x2)
        try:
            stored[at] = K
        except OSError as error:
            room = format_bytes(stored.nbytes // 2)
            raise explained(error, f"the kernel's blocks, {room}", store) from error
    return K


def _product(x1: Array, x2: Array, at: slice, *, v: Array, kernel: Kernel) -> Array:
    product: Array = (aligned(evaluate(kernel, x1, x2)) @ aligned(v[at])).numpy()
    return product
