"""The Nyström approximation of a kernel matrix, as a preconditioner."""

import numpy as np
import torch
from torch import Tensor

from .. import _validation as check_that
from .blocks import Blocks
from .cluster import gathered
from .conjugate_gradient import Linear
from .kernel import Array, Kernel, aligned, evaluate


def nystroem(K: Blocks, rank: int, ridge: float, seed: int) -> Linear:
    r"""Return :math:`r\mapsto(BB^T+\lambda I)^{-1}r` with the Nyström approximation :math:`BB^T` of K.

    The rows of B stay with the workers. Without a ridge its smallest eigenvalue takes the ridge's place.
    """
    generator = torch.Generator().manual_seed(check_that.require_count(seed, "seed", least=0))
    z = K.x[torch.randperm(len(K.x), generator=generator)[:rank]]
    eigenvalues, vectors = torch.linalg.eigh(K.kernel(z).double())
    kept = eigenvalues > rank * torch.finfo(z.dtype).eps * eigenvalues[-1]
    root = vectors[:, kept] / eigenvalues[kept].sqrt()
    held = K.hold(z.numpy()), K.hold(root.numpy())
    B = [K.client.submit(_rows, K.kernel, points, *held) for points in K.points]
    gram = aligned(sum(gathered(K.client, K.client.map(_gram, B, pure=False))))
    low, high = torch.linalg.eigvalsh(gram)[[0, -1]].tolist()
    shift = ridge or max(low, torch.finfo(z.dtype).eps * high)
    factor = torch.linalg.cholesky(gram + shift * torch.eye(len(gram), dtype=gram.dtype))

    def apply(r: Tensor) -> Tensor:
        parts = gathered(K.client, K.client.map(_down, B, K.slices, r=K.hold(r.numpy()), pure=False))
        c = torch.cholesky_solve(aligned(sum(parts)), factor)
        rows = gathered(K.client, K.client.map(_up, B, c=K.hold(c.numpy()), pure=False))
        return (r - torch.from_numpy(np.concatenate(rows))) / shift

    return apply


def _rows(kernel: Kernel, x: Array, z: Array, root: Array) -> Array:
    """Rows of B, in the dtype of the points."""
    rows: Array = (aligned(evaluate(kernel, x, z)) @ aligned(root)).numpy()
    return rows.astype(x.dtype, copy=False)


def _gram(B: Array) -> Array:
    rows = aligned(B)
    gram: Array = (rows.T @ rows).numpy()
    return gram


def _down(B: Array, at: slice, *, r: Array) -> Array:
    product: Array = (aligned(B).T @ aligned(r[at])).numpy()
    return product


def _up(B: Array, *, c: Array) -> Array:
    product: Array = (aligned(B) @ aligned(c)).numpy()
    return product
