r"""The kernels of infinitely wide networks: the compositional recursion, as on the page."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import _validation as check_that
from . import activations
from .activations import Activation, get
from .arc_cosine import arc_cosine
from .covariance import Covariance, gram, may_be_followed, norms_and_directions, of_cosines

# The recursion runs over tiles, so many points against so many: on a CPU few enough for its caches.
TILE = {"cpu": 384, "cuda": 4096}


def recursion(
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Carry :math:`\Lambda^{(0)} = K^{(0)}` through the hidden layers to the NNGP and the NTK."""
    K = Lambda.cov
    for _ in range(depth):
        Lambda_dot = weight_var * phi.derivative_moments(Lambda)
        Lambda = weight_var * phi.moments(Lambda) + bias_var
        K = Lambda.cov + Lambda_dot * K
    return Lambda.cov, K


def nngp_recursion(
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    r"""Carry :math:`\Lambda^{(0)}` through the hidden layers: :func:`recursion` without the NTK."""
    for _ in range(depth):
        Lambda = weight_var * phi.moments(Lambda) + bias_var
    return Lambda.cov


def kernel(
    which: str,
    x1: Tensor,
    x2: Tensor,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    """The "nngp" or the "ntk", shape (n1, n2), of inputs that were checked; symmetric if x1 is x2."""
    tensors = [z for z in (x1, x2, weight_var, bias_var) if isinstance(z, Tensor)]
    differentiated = any(map(may_be_followed, tensors))
    in_place = phi is activations.relu and bias_var == 0 and not differentiated

    def of(Lambda: Covariance) -> Tensor:
        if in_place:
            K = arc_cosine(which, weight_var ** (depth + 1) * Lambda, depth)
            return _require_finite(K, phi, weight_var * Lambda)
        return _of_inner_products(which, Lambda, phi, depth, weight_var, bias_var)

    if not differentiated:
        return _in_tiles(x1, x2, of)
    K = of(gram(x1, x2))
    return K.triu() + K.triu(1).T if x1 is x2 else K


def _of_inner_products(
    which: str,
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    first = weight_var * Lambda + bias_var
    if which == "nngp":
        K = nngp_recursion(first, phi, depth, weight_var, bias_var)
    else:
        K = recursion(first, phi, depth, weight_var, bias_var)[1]
    return _require_finite(K, phi, first)


def _require_finite(K: Tensor, phi: Activation, first: Covariance) -> Tensor:
    return check_that.require_held(K, phi.name, "the first pre-activations", first.sd1, first.sd2)


def _in_tiles(x1: Tensor, x2: Tensor, of: Callable[[Covariance], Tensor]) -> Tensor:
    """``of(gram(x1, x2))``, a tile at a time, and without what is below the diagonal if x1 is x2."""
    K = x1.new_empty(len(x1), len(x2))
    symmetric = x1 is x2
    side = TILE.get(x1.device.type, TILE["cuda"])
    # glibc gives the memory of a freed tensor back to Linux, and a page at a time is slow to get again,
    # until it has once seen a larger one freed
    torch.empty(2**24, dtype=torch.uint8)
    with torch.inference_mode():
        norm1, unit1 = norms_and_directions(x1)
        norm2, unit2 = (norm1, unit1) if symmetric else norms_and_directions(x2)
        for i in range(0, len(x1), side):
            a = slice(i, i + side)
            for j in range(i if symmetric else 0, len(x2), side):
                b = slice(j, j + side)
                xi = unit1[a] @ unit2[b].T
                Lambda = of_cosines(xi, x1[a], norm1[a], x2[b], norm2[b], same=symmetric and i == j)
                K[a, b] = tile = of(Lambda)
                if symmetric:
                    K[b, a] = tile.T if i != j else tile.triu() + tile.triu(1).T
    return K


def diagonal(
    which: str, x: Tensor, phi: Activation, depth: int, weight_var: float, bias_var: float
) -> Tensor:
    """The diagonal of the "nngp" or the "ntk" of ``x`` with itself, shape (n,)."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    same = Covariance(norm, norm, torch.ones_like(norm), torch.zeros_like(norm))  # n pairs
    return _of_inner_products(which, same, phi, depth, weight_var, bias_var).squeeze(1)


def nngp(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Tensor:
    r"""Return the NNGP kernel of an infinitely wide network, shape (n1, n2).

    The covariance of the outputs :math:`f(x), f(\tilde x)` of :class:`ntkutils.MLP` at
    initialization:
    :math:`\Lambda^{(l)} = \sigma_w^2 E[\phi(u)\phi(v)] + \sigma_b^2` with :math:`(u,v)` Gaussian of
    covariance :math:`\Lambda^{(l-1)}`, from
    :math:`\Lambda^{(0)} = \sigma_w^2\, x\cdot\tilde x + \sigma_b^2`.
    neural-tangents divides the first inner product by d: its kernel at inputs times sqrt(d) is ours.

    Args:
        x1: data points, shape (n1, d), float32 or float64.
        x2: data points, shape (n2, d); ``x1`` if not given.
        depth: the number L of hidden layers; 0 is a linear model.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w, multiplies the weights, which are N(0, 1).
        bias_std: sigma_b, multiplies the biases, which are N(0, 1).

    Raises:
        TypeError, ValueError: for input that is not as above, naming what was expected and what came.
        OverflowError: where a layer's second moments are larger than the dtype can hold.
        MemoryError: before any work, for a kernel that does not fit; says what to do instead.

    Example:
        >>> x = torch.eye(2).double()  # orthogonal unit vectors
        >>> nu.nngp(x, depth=1)  # 1/π beside the diagonal
        tensor([[1.0000, 0.3183],
                [0.3183, 1.0000]], dtype=torch.float64)

    Source: Lee et al. 2018 (arXiv:1711.00165), eqs. 4-5, in the NTK parameterization.
    """
    return _kernel("nngp", x1, x2, depth, activation, weight_std, bias_std)


def ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
) -> Tensor:
    r"""Return the neural tangent kernel of an infinitely wide network, shape (n1, n2).

    :math:`K^{(l)} = \Lambda^{(l)} + \sigma_w^2 E[\phi'(u)\phi'(v)]\, K^{(l-1)}` with :math:`(u,v)`
    Gaussian of covariance :math:`\Lambda^{(l-1)}`, and :math:`K^{(0)} = \Lambda^{(0)}`; see
    :func:`nngp` for :math:`\Lambda`.
    neural-tangents divides the first inner product by d: its kernel at inputs times sqrt(d) is ours.

    Args:
        x1: data points, shape (n1, d), float32 or float64.
        x2: data points, shape (n2, d); ``x1`` if not given.
        depth: the number L of hidden layers; 0 is a linear model.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w, multiplies the weights, which are N(0, 1).
        bias_std: sigma_b, multiplies the biases, which are N(0, 1).

    Raises:
        TypeError, ValueError: for input that is not as above, naming what was expected and what came.
        OverflowError: where a layer's second moments are larger than the dtype can hold.
        MemoryError: before any work, for a kernel that does not fit; says what to do instead.

    Example:
        >>> x = torch.eye(2).double()  # orthogonal unit vectors
        >>> nu.ntk(x, depth=1)  # 1/π beside the diagonal
        tensor([[2.0000, 0.3183],
                [0.3183, 2.0000]], dtype=torch.float64)

    Source: Jacot, Gabriel & Hongler 2018 (arXiv:1806.07572), Theorem 1, with unit-variance weights.
    """
    return _kernel("ntk", x1, x2, depth, activation, weight_std, bias_std)


def _kernel(
    which: str,
    x1: Tensor,
    x2: Tensor | None,
    depth: int,
    activation: str | Activation,
    weight_std: float,
    bias_std: float,
) -> Tensor:
    x1, x2 = check_that.require_pair(x1, x2)
    depth = check_that.require_count(depth, "depth", least=0)
    weight_var = check_that.require_scale(weight_std, "weight_std") ** 2
    bias_var = check_that.require_scale(bias_std, "bias_std") ** 2
    phi = get(activation)
    check_that.require_memory(which, x1, x2)
    return kernel(which, x1, x2, phi, depth, weight_var, bias_var)
