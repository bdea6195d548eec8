r"""The Hessian of a network's output in its weights: how fast its gradient changes with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad, vjp

from . import _validation as check_that
from .empirical import function_of_weights
from .mlp import MLP

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
        TypeError, ValueError: for another model, and for input that does not fit it.

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
        return torch.stack([middle - radius, middle + radius], -1)


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
    products with the Hessian are needed, and they take a backward pass each. What
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
        TypeError, ValueError: for input that is not as above.

    Example:
        >>> model = nu.MLP(1, 1, depth=1, activation="identity", dtype=torch.float64)
        >>> x = torch.tensor([[3.0], [-5.0]]).double()  # f = A·w·x, whatever A and w are
        >>> nu.hessian_norm(model, x).round(decimals=6)
        tensor([3., 5.], dtype=torch.float64)

    Source: Lehoucq, Sorensen & Yang 1998, ARPACK Users' Guide, for the method.
    """
    check_that.require_one_network(model)
    x = check_that.require_tensor(x, "x")
    tol = check_that.require_scale(tol, "tol", positive=True)
    restarts = check_that.require_count(restarts, "restarts", least=1)
    outputs, weights = function_of_weights(model)
    sizes = [p.numel() for p in weights.values()]
    like = next(iter(weights.values()))
    check_that.require_alike(like, x, "the model's weights", "x")
    generator = torch.Generator().manual_seed(check_that.require_count(seed, "seed", least=0))
    start = torch.randn(sum(sizes), generator=generator, dtype=like.dtype).numpy()

    def output(weights: dict[str, Tensor], point: Tensor) -> Tensor:
        value = outputs(weights, point)
        if value.numel() != 1:
            raise ValueError(f"model: expected one output for one example, got {value.numel()}")
        one: Tensor = value[0]
        return one

    def norm(i: int) -> float:
        # H is symmetric, so that its products are those of the gradient's vector-Jacobian product
        # (torch types a pair or, with has_aux, a triple)
        _, times_hessian = vjp(lambda w: grad(output)(w, x[i]), weights)[:2]

        def product(vector: NDArray[Any]) -> NDArray[Any]:
            parts = torch.from_numpy(vector.ravel()).to(like).split(sizes)
            direction = {
                name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)
            }
            (result,) = times_hessian(direction)
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
