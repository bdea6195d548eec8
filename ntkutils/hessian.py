r"""The Hessian of a network's output in its weights: how fast its gradient changes with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import _validation as check_that
from .mlp import MLP
from .modules import Function, Weights, in_short, tolerance

SMALL = 32  # parameters up to which the matrix itself is made: Lanczos wants more than it computes


class ConvergenceError(ArithmeticError):
    """An iteration did not reach the accuracy that was asked for.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(2, 50, depth=2, activation="erf", generator=generator, dtype=torch.float64)
        >>> try:
        ...     nu.hessian_norm(model, torch.ones(1, 2).double(), tol=1e-14, restarts=1)
        ... except nu.ConvergenceError as error:
        ...     print("allow more restarts" in str(error))
        True
    """


def one_layer_hessian_eigenvalues(model: MLP, x: Tensor) -> Tensor:
    r"""Return the eigenvalues of :math:`\nabla^2_w f(w; x)` for one hidden layer, but for zeros.

    A neuron's pre-activation is :math:`u = v\cdot w_i` with its weights :math:`w_i` (bias included)
    and :math:`v = (\sigma_w x, \sigma_b)`, so :math:`f` is a sum of
    :math:`\sigma_w A_i\phi(v\cdot w_i)/\sqrt k` with :math:`A = w^{(2)}`. No two neurons share a
    term: the Hessian has one block each, which in the directions :math:`v/|v|` and :math:`A_i` is

    .. math:: \frac{\sigma_w}{\sqrt k}
        \begin{pmatrix} A_i\phi''(u)|v|^2 & \phi'(u)|v| \\ \phi'(u)|v| & 0\end{pmatrix}

    and in all other directions 0. The second derivative is that almost everywhere: at a kink there
    is none, and a jump of the slope on the way, as with the ReLU, does not show.

    Args:
        model: an :class:`ntkutils.MLP` with one hidden layer of k units and one output.
        x: data points, shape (n, in_features).

    Returns:
        Shape ([S,] n, k, 2): of every block the lower eigenvalue, then the upper one.

    Raises:
        TypeError, ValueError: for another model, for one that computes something else than the formula
            (a subclass with its own forward pass, hooks, frozen or tied parameters; in every call this
            is held to plain autograd), and for input that does not fit it.

    Example:
        >>> model = nu.MLP(1, 1, depth=1, activation="identity", dtype=torch.float64)
        >>> x = torch.tensor([[3.0]]).double()  # f = A·w·x, whatever A and w are
        >>> nu.one_layer_hessian_eigenvalues(model, x).flatten().round(decimals=6)
        tensor([-3.,  3.], dtype=torch.float64)

    Source: of the block structure, Liu, Zhu & Belkin 2020 (arXiv:2010.01092).
    """
    if not isinstance(model, MLP):
        raise TypeError(f"model: expected an ntkutils.MLP, got {type(model).__name__}")
    if model.depth != 1 or model.w[-1].shape[-2] != 1:
        raise ValueError(f"model: expected one hidden layer and one output, got {model.extra_repr()}")
    x = check_that.require_inputs(model, x, "x")
    with torch.no_grad():
        u = model.affine(1, x)
        slope, curvature = _with_derivative(model.activation.derivative, u)
        scale = model.weight_std / u.shape[-1] ** 0.5
        squares = ((model.weight_std * x) ** 2).sum(1, keepdim=True) + model.bias_std**2
        middle = scale / 2 * model.w[1] * curvature * squares
        radius = torch.hypot(middle, scale * slope * squares.sqrt())
        eigenvalues = torch.stack([middle - radius, middle + radius], -1)
    if len(x):
        _require_the_formula(model, x, slope, curvature)
    return eigenvalues


def _require_the_formula(model: MLP, x: Tensor, slope: Tensor, curvature: Tensor) -> None:
    """Raise ValueError unless an MLP's outputs, and its Hessian at x[0], are those of the formula."""
    function = Function.of(model)
    out = function.require_same_twice(x)
    generator = torch.Generator().manual_seed(0)
    v: Weights = {
        name: torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
        for name, w in function.weights.items()
    }
    names = {"w.0", "w.1", *(("b.0", "b.1") if model.b is not None else ())}
    first = function.call(x[:1])
    with torch.no_grad():
        h = model.activation(model.affine(1, x)) / model.w[0].shape[-2] ** 0.5
        gap = (model.affine(2, h) - out).abs().max()
        same = bool(gap <= tolerance(out) * out.abs().max()) and v.keys() == names
        if same:
            # v·Hv, neuron by neuron: u = σ_w w·x + σ_b b moves by du, and A by dA
            du = model.weight_std * (v["w.0"] @ x[0])
            du = du + (0 if model.b is None else model.bias_std * v["b.0"])
            A, dA = model.w[1][..., 0, :], v["w.1"][..., 0, :]
            scale = model.weight_std / model.w[0].shape[-2] ** 0.5
            terms = scale * torch.stack([A * curvature[..., 0, :] * du**2, 2 * slope[..., 0, :] * du * dA])
    if same:
        product = _times_hessian(function, first.sum())(v)
        right = sum((product[name] * v[name]).sum() for name in v)
        same = bool(abs(terms.sum() - right) <= tolerance(out) * terms.abs().sum())
    if not same:
        raise ValueError(
            "model: expected an MLP that computes w^(2) phi(w^(1) x), without frozen or tied parameters, "
            "got one whose outputs or second derivatives are others (hooks? its own forward?); "
            "hessian_norm takes any module"
        )


def _times_hessian(function: Function, output: Tensor) -> Callable[[Weights], Weights]:
    """Return v -> Hv for the Hessian of one number in the weights, by plain autograd."""
    leaves = function.leaves
    if not output.requires_grad:
        return lambda v: {name: torch.zeros_like(w) for name, w in function.weights.items()}
    options: Any = dict(allow_unused=True, materialize_grads=True)
    grads = torch.autograd.grad(output, leaves, create_graph=True, **options)

    def product(v: Weights) -> Weights:
        slope = sum((g * v[name]).sum() for name, g in zip(function.weights, grads, strict=True))
        if not isinstance(slope, Tensor) or not slope.requires_grad:  # a linear model
            return {name: torch.zeros_like(w) for name, w in function.weights.items()}
        try:
            rows = torch.autograd.grad(slope, leaves, retain_graph=True, **options)
        except RuntimeError as error:
            raise ValueError(
                f"model: expected a module that autograd can differentiate twice, got {in_short(error)}; "
                "for attention, call this within torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
            ) from error
        return dict(zip(function.weights, rows, strict=True))

    return product


def _with_derivative(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return an elementwise function and its derivative, where one is.

    In reverse mode: torch's forward mode fails when two threads are in it at once.
    """
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        value = function(u)
        if not value.requires_grad:  # piecewise constant
            return value, torch.zeros_like(u)
        (slope,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), slope


def hessian_norm(
    model: nn.Module, x: Tensor, *, tol: float = 1e-8, seed: int = 0, restarts: int = 1000
) -> Tensor:
    r"""Return the spectral norm of :math:`\nabla^2_w f(w; x)` at each data point, by Lanczos.

    The largest eigenvalue and the smallest are both computed, as they nearly cancel in wide networks
    (for one hidden layer of ReLUs they do exactly), where power iteration does not converge. Only
    products with the Hessian are needed, and they take a backward pass of plain autograd each. What
    Lanczos returns is never above the norm but by rounding.

    Args:
        model: a module with one output for one example. It is taken to be smooth: see
            :func:`one_layer_hessian_eigenvalues`, which is exact and faster for one hidden layer.
        x: examples, shape (n, ...).
        tol: relative accuracy of the two eigenvalues.
        seed: of the vector that the iteration starts with.
        restarts: how many restarts of Lanczos to allow for an example.

    Returns:
        Shape (n,).

    Raises:
        ConvergenceError: when ``restarts`` did not suffice.
        TypeError, ValueError: for input that is not as above, and for a module whose outputs are no
            function of one example.

    Example:
        >>> model = nu.MLP(1, 1, depth=1, activation="identity", dtype=torch.float64)
        >>> x = torch.tensor([[3.0], [-5.0]]).double()  # f = A·w·x, whatever A and w are
        >>> nu.hessian_norm(model, x).round(decimals=6)
        tensor([3., 5.], dtype=torch.float64)

    Source: Lehoucq, Sorensen & Yang 1998, ARPACK Users' Guide, for the method.
    """
    # the slowest of the imports, for the one function that needs it
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    check_that.require_one_network(model)
    x = check_that.require_examples(x, "x")
    tol = check_that.require_scale(tol, "tol", positive=True)
    restarts = check_that.require_count(restarts, "restarts", least=1)
    seed = check_that.require_count(seed, "seed", least=0)
    function = Function.of(model)
    like = function.like
    check_that.require_fitting(like, x, "the model's weights", "x")
    if not len(x):
        return like.new_empty(0)
    function.require_one_example(x.detach(), x.detach())
    sizes = [w.numel() for w in function.weights.values()]
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(sum(sizes), generator=generator, dtype=like.dtype).numpy()

    def norm(i: int) -> float:
        output = function.call(x[i : i + 1].detach())
        if output.numel() != 1:
            raise ValueError(f"model: expected one output for one example, got {output.numel()}")
        times_hessian = _times_hessian(function, output.sum())

        def product(vector: NDArray[Any]) -> NDArray[Any]:
            parts = torch.from_numpy(vector.ravel()).to(like).split(sizes)
            result = times_hessian(
                {n: part.view_as(w) for (n, w), part in zip(function.weights.items(), parts, strict=True)}
            )
            return torch.cat([h.flatten() for h in result.values()]).cpu().numpy()

        if len(start) <= SMALL:
            rows = [product(row) for row in np.eye(len(start), dtype=start.dtype)]
            return float(np.abs(np.linalg.eigvalsh(rows)).max())
        if not product(start).any():  # a linear model, which ARPACK calls an error
            return 0.0
        operator = LinearOperator((len(start),) * 2, product, dtype=start.dtype)
        try:
            ends = eigsh(
                operator, 2, which="BE", v0=start, tol=tol, maxiter=restarts,
                return_eigenvectors=False,
            )  # fmt: skip
        except ArpackNoConvergence as error:
            raise ConvergenceError(
                f"hessian_norm: expected eigenvalues to {tol:g} at example {i}, got none after "
                f"{restarts} restarts of Lanczos; allow more restarts or a larger tol"
            ) from error
        return float(np.abs(ends).max())

    return torch.tensor([norm(i) for i in range(len(x))], dtype=like.dtype, device=like.device)
