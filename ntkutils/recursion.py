r"""The kernels of infinitely wide networks: the compositional recursion, as on the page."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import _validation as check_that
from .activations import Activation, get
from .arc_cosine import arc_cosine, arc_cosine_takes
from .covariance import Covariance, gram, is_followed, norms_and_directions, of_cosines

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
    network = phi, depth, weight_var, bias_var
    if not any(is_followed(z) for z in (x1, x2, weight_var, bias_var) if isinstance(z, Tensor)):
        road = arc_cosine if arc_cosine_takes(phi, bias_var) else plain_road
        return _in_tiles(x1, x2, lambda Lambda: _held(road(which, Lambda, *network), Lambda, *network))
    Lambda = gram(x1, x2)
    K = _held(plain_road(which, Lambda, *network), Lambda, *network)
    return K.triu() + K.triu(1).T if x1 is x2 else K


def plain_road(
    which: str,
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    """The "nngp" or the "ntk" of inputs whose inner products are ``Lambda``, by the recursions above."""
    first = weight_var * Lambda + bias_var
    if which == "nngp":
        return nngp_recursion(first, phi, depth, weight_var, bias_var)
    return recursion(first, phi, depth, weight_var, bias_var)[1]


def _held(
    K: Tensor,
    Lambda: Covariance,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    """``K`` if it is finite, and an OverflowError that says of what network it is if not."""
    scale = "" if isinstance(weight_var, Tensor) else f", weight_std {weight_var**0.5:.6g}"
    of = f"the first pre-activations (depth {depth}{scale})"
    first = (
        torch.hypot(weight_var**0.5 * sd, bias_var**0.5 * torch.ones_like(sd))
        for sd in (Lambda.sd1.detach(), Lambda.sd2.detach())
    )
    return check_that.require_held(K, phi.name, of, *first)


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
    which: str,
    x: Tensor,
    phi: Activation,
    depth: int,
    weight_var: float | Tensor,
    bias_var: float | Tensor,
) -> Tensor:
    """The diagonal of the "nngp" or the "ntk" of ``x`` with itself, shape (n,)."""
    norm, _ = norms_and_directions(x)
    same = Covariance(norm, norm, torch.ones_like(norm), torch.zeros_like(norm))  # n pairs
    network = phi, depth, weight_var, bias_var
    return _held(plain_road(which, same, *network), same, *network).squeeze(1)


def nngp(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_std: float | Tensor = 1.0,
    bias_std: float | Tensor = 0.0,
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
        weight_std: sigma_w, multiplies the weights, which are N(0, 1); a number, or a tensor of one
            positive number, by which one may differentiate.
        bias_std: sigma_b, multiplies the biases, which are N(0, 1); likewise.

    Derivatives:
        Of any order, by inputs and scales, in reverse and forward mode and through torch.func. Where an
        activation with a kink or a jump has none, they are conventions. Points in the same or in opposite
        directions: the mean of both sides, in every direction; and the angle counts as constant in second
        derivatives, which is right for what moves both points together and wrong across a corner, where
        there are none (they are infinite). A point 0 without biases: the derivative of the part that is
        odd in it, at a right angle. Second derivatives at a point 0 are NaN, of all activations.

    Raises:
        TypeError, ValueError: for input that is not as above, naming what was expected and what came.
        RuntimeError: under torch.vmap over the points or the scales, which cannot look at values.
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
    weight_std: float | Tensor = 1.0,
    bias_std: float | Tensor = 0.0,
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
        weight_std: sigma_w, multiplies the weights, which are N(0, 1); a number, or a tensor of one
            positive number, by which one may differentiate.
        bias_std: sigma_b, multiplies the biases, which are N(0, 1); likewise.

    Derivatives:
        As for :func:`nngp`.

    Raises:
        TypeError, ValueError: for input that is not as above, naming what was expected and what came.
        RuntimeError: under torch.vmap over the points or the scales, which cannot look at values.
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
    weight_std: float | Tensor,
    bias_std: float | Tensor,
) -> Tensor:
    try:
        x1, x2 = check_that.require_pair(x1, x2)
        depth = check_that.require_count(depth, "depth", least=0)
        weight_var, bias_var = variance(weight_std, "weight_std"), variance(bias_std, "bias_std")
        phi = get(activation)
        check_that.require_memory(which, x1, x2)
        if not torch.is_autocast_enabled(x1.device.type):
            return kernel(which, x1, x2, phi, depth, weight_var, bias_var)
        with torch.autocast(x1.device.type, enabled=False):  # its products have three digits
            return kernel(which, x1, x2, phi, depth, weight_var, bias_var)
    except RuntimeError as error:
        if not str(error).startswith("vmap"):
            raise
        raise RuntimeError(
            f"{which}: expected tensors whose values can be looked at, got batches of torch.vmap; compute "
            f"the kernel of all points, torch.cat(list(batch)), and take its blocks, or loop over the batch"
        ) from error


def variance(std: object, name: str) -> float | Tensor:
    """The square of a standard deviation: a number, or a tensor of one, by which one may differentiate.

    Raises:
        TypeError, ValueError: for what is not a finite number of at least 0, or a positive one in a tensor.
        OverflowError: if float64 cannot hold the square.
    """
    if isinstance(std, Tensor):
        std = check_that.require_tensor(std, name)
        if std.ndim > 0:
            raise ValueError(f"{name}: expected one number, got a tensor of shape {tuple(std.shape)}")
        if not std > 0:
            raise ValueError(
                f"{name}: expected a positive number in a tensor, got {std.item()}; by a scale of 0 there "
                f"is nothing to differentiate, so give the number 0"
            )
        return std * std
    number = check_that.require_scale(std, name)
    if math.isinf(number * number):
        raise OverflowError(f"{name}: expected a number whose square float64 can hold, got {number:g}")
    return number * number
