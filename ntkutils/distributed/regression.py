r"""Kernel regression without the kernel's matrix: preconditioned conjugate gradient, block by block.

Each step multiplies :math:`K+\lambda I` by a vector. A block of K above the diagonal is computed, or
read from disk, by the worker that multiplies with it, and serves twice: as itself and as its transpose.
"""

import math
import os
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from distributed import Client
from torch import Tensor

from .. import _validation as check_that
from ..hessian import ConvergenceError
from ..progress import progress
from ..recursion import ntk
from .blocks import Blocks
from .conjugate_gradient import conjugate_gradient
from .kernel import Kernel, block_of, require_host
from .nystroem import nystroem


@dataclass(frozen=True)
class Solution:
    r"""What kernel regression without the matrix came to.

    Attributes:
        coefficients: :math:`\alpha`, shaped as the targets.
        train: the predictions :math:`K\alpha` at the training points, shaped as the targets.
        test: the predictions at the test points, shape (m,) or (m, o); None without test points.
        residual: the norm of :math:`y-(K+\lambda I)\alpha` over that of y, the largest of the columns,
            computed from :math:`\alpha` (in float64, before it is rounded to the dtype of the input).
        history: the residual at the start and after each step, as the iteration carries it on.
        iterations: how many steps.

    Example:
        >>> x, y = torch.eye(2).double(), torch.tensor([1.0, 2.0]).double()
        >>> solution = nu.distributed.regression(x, y, client=client, depth=0, ridge=1.0)
        >>> solution.coefficients, solution.residual < 1e-10  # K is the identity
        (tensor([0.5000, 1.0000], dtype=torch.float64), True)
    """

    coefficients: Tensor
    train: Tensor
    test: Tensor | None
    residual: float
    history: list[float]
    iterations: int


class NotConvergedError(ConvergenceError):
    """Conjugate gradient did not reach the residual that was asked for.

    Attributes:
        solution: the :class:`Solution` up to there, without test points; its coefficients are a start
            for the next try.

    Example:
        >>> x, y = torch.tensor([[1.0], [1.1], [3.0]]).double(), torch.ones(3).double()
        >>> options = dict(rank=0, depth=1, bias_std=1.0, max_iterations=1)
        >>> try:
        ...     nu.distributed.regression(x, y, client=client, **options)
        ... except nu.distributed.NotConvergedError as error:
        ...     print(error.solution.residual < error.solution.history[0])
        True
    """

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.solution = solution


def regression(
    x: Tensor,
    targets: Tensor,
    x_test: Tensor | None = None,
    *,
    client: Client,
    kernel: Kernel = ntk,
    ridge: float = 0.0,
    tol: float = 1e-10,
    rank: int | None = None,
    seed: int = 0,
    block: int | None = None,
    store: str | os.PathLike[str] | None = None,
    initial: Tensor | None = None,
    max_iterations: int = 1000,
    **network: Any,
) -> Solution:
    r"""Return :math:`\alpha=(K+\lambda I)^{-1}y` and the predictions :math:`K(x,X)\,\alpha`, without K.

    The numbers are those of ``gradient_flow(kernel(x), targets, test_kernel=kernel(x_test, x),
    ridge=ridge)`` to the residual asked for: :math:`\alpha` errs by at most :math:`|r|/\lambda`. Vectors
    and sums are float64; the kernel is what ``kernel`` gives, in the dtype of the input. Sums are taken
    in a fixed order, so that the numbers do not depend on which worker did what, and when.

    The preconditioner is :math:`P=\hat K+\lambda I` with a Nyström approximation :math:`\hat K` from
    ``rank`` of the points, drawn at random.

    Args:
        x: training points, shape (n, d).
        targets: y, shape (n,), or (n, o) for o columns that share the work.
        x_test: test points, shape (m, d).
        client: of the cluster that computes, see :func:`cluster`.
        kernel: a function of one or two sets of points and of ``network`` that the workers can import,
            such as :func:`ntkutils.ntk` and :func:`ntkutils.nngp`.
        ridge: lambda, added to the kernel's diagonal, as in :func:`ntkutils.gradient_flow`.
        tol: the residual to reach, relative to the targets.
        rank: points of the preconditioner; about 4·√n if not given, none with 0.
        seed: of the draw of these points.
        block: points a block has in each direction; a quarter of them, at most 2304, if not given.
        store: a folder that all workers reach. The first step keeps the blocks there (zarr), and the others
            read them; a later run with the same points and kernel finds them, and its last coefficients.
            Without it each step computes the blocks again.
        initial: coefficients to start from, shaped as the targets; 0, or those in the store, if not given.
        max_iterations: after how many steps to give up.
        network: depth, activation, weight_std, bias_std, passed on to the kernel.

    Raises:
        NotConvergedError: with the best that was reached.
        SingularKernelError: when the kernel plus ridge is not positive definite to its precision.
        ClusterError: when the cluster failed.
        MemoryError: before any work, when a worker has no room for a block.
        OSError: when the store's disk is full; its blocks stay and are used by the next run.
        TypeError, ValueError: for arguments that are not as above, and a store of another kernel.

    Example:
        >>> x, y = torch.eye(3).double(), torch.tensor([1.0, 2.0, 3.0]).double()
        >>> solution = nu.distributed.regression(x, y, x[:1], client=client, depth=1, ridge=0.1)
        >>> K, K_test = nu.ntk(x, depth=1), nu.ntk(x[:1], x, depth=1)
        >>> torch.allclose(solution.test, nu.gradient_flow(K, y, ridge=0.1, test_kernel=K_test).test)
        True

    Source: Hestenes & Stiefel 1952; preconditioned as by Frangella, Tropp & Udell 2023 (arXiv:2110.02820),
    from points drawn as by Rudi, Carratino & Rosasco 2017 (arXiv:1705.10958).
    """
    x, test_points = check_that.require_pair(x, x_test, ("x", "x_test"))
    x, test_points = require_host(x, "x"), require_host(test_points, "x_test")
    y = check_that.require_tensor(targets, "targets")
    check_that.require_alike(x, y, "x", "targets")
    n, o = len(x), y.shape[1:]
    if not n or y.ndim not in (1, 2) or len(y) != n:
        raise ValueError(f"targets: expected shape ({n},) or ({n}, o), n at least 1, got {tuple(y.shape)}")
    ridge = check_that.require_scale(ridge, "ridge")
    tol = check_that.require_scale(tol, "tol", positive=True)
    rank = round(4 * n**0.5) if rank is None else check_that.require_count(rank, "rank", least=0)
    most = check_that.require_count(max_iterations, "max_iterations", least=1)
    kernel(x[:0], **network)  # says what is wrong with the network
    K = Blocks(client, x, kernel, network, block_of(n, block), store)
    b = y.detach().cpu().double().reshape(n, -1)
    saved = K.saved(b, ridge)
    if initial is not None:
        initial = check_that.require_tensor(initial, "initial").double()
        check_that.require_shape(initial, (n, *o), "initial", "as the targets")
        start = initial.reshape(b.shape)
    else:
        start = torch.from_numpy(np.load(saved)) if saved and saved.exists() else torch.zeros_like(b)

    def A(v: Tensor) -> Tensor:
        return K @ v + ridge * v

    precondition = nystroem(K, min(n, rank), ridge, seed) if rank else torch.clone
    norm = b.norm(dim=0).clamp(min=torch.finfo(b.dtype).tiny)
    bar, shown = progress(range(100), "conjugate gradient"), 0
    history: list[float] = []
    for alpha, r, computed in conjugate_gradient(A, precondition, b, start, tol * norm, most):
        residual = (r.norm(dim=0) / norm).max().item()
        if not (computed and history):
            history.append(residual)
        if saved:
            K.save(saved, alpha)
        while shown < min(100, 100 * math.log(max(residual, 1e-300)) / math.log(min(tol, 0.9))):
            shown += 1
            next(bar)
    deque(bar, maxlen=0)  # to its end

    coefficients, train = (a.reshape(y.shape).to(y) for a in (alpha, b - r - ridge * alpha))
    solution = Solution(coefficients, train, None, residual, history, len(history) - 1)
    if residual > tol:
        raise NotConvergedError(
            f"conjugate gradient: expected a residual of {tol:.3g}, got {residual:.3g} after "
            f"{solution.iterations} of at most {most} steps; give a larger ridge (now {ridge:.3g}) or rank "
            f"(now {rank}), or go on with initial=error.solution.coefficients",
            solution,
        )
    if x_test is None:
        return solution
    return replace(solution, test=K.across(test_points, alpha).reshape(-1, *o).to(y))
