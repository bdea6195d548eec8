r"""The neural tangent kernel of a network of finite width: inner products of its gradients."""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from . import _validation as check_that
from .linear_layers import gradients_of, inner_products, survey
from .mlp import MLP

BYTES_A_CHUNK = 2**28  # what the gradients of one chunk of examples may take: 256 MiB


def empirical_ntk_by_backward(model: nn.Module, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    r"""Return :math:`\langle\nabla f_x(w), \nabla f_{\tilde x}(w)\rangle`, the slow and obvious way.

    Two backward passes for every entry. The reference that :func:`empirical_ntk` is held against.

    Args:
        model: a module with a scalar output for one example.
        x1: examples, shape (n1, ...).
        x2: examples, shape (n2, ...); ``x1`` if not given.

    Returns:
        The kernel, shape (n1, n2).

    Raises:
        ValueError: for an MLP with copies.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(2, width=50, depth=2, generator=generator, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> torch.allclose(nu.empirical_ntk_by_backward(model, x), nu.empirical_ntk(model, x))
        True
    """
    check_that.require_one_network(model)
    x2 = x1 if x2 is None else x2
    weights = [p for p in model.parameters() if p.requires_grad]
    entries = torch.empty(len(x1), len(x2), dtype=weights[0].dtype, device=weights[0].device)
    for i, x in enumerate(x1):
        for j, x_tilde in enumerate(x2):
            grads = torch.autograd.grad(model(x[None]).squeeze(), weights)
            grads_tilde = torch.autograd.grad(model(x_tilde[None]).squeeze(), weights)
            entries[i, j] = sum((g * g_tilde).sum() for g, g_tilde in zip(grads, grads_tilde, strict=True))
    return entries


def empirical_ntk(
    model: nn.Module, x1: Tensor, x2: Tensor | None = None, *, chunk_size: int | None = None
) -> Tensor:
    r"""Return :math:`\langle\nabla f_x(w), \nabla f_{\tilde x}(w)\rangle` at the model's weights.

    The sum runs over all parameters that require a gradient. An :class:`ntkutils.MLP` is taken
    layer by layer and its gradients are never formed; any other module through
    :mod:`torch.func`, in chunks of examples, where the gradients of linear layers' weights are not
    formed either if each example is one vector to them.
    In neural-tangents: ``nt.empirical_ntk_fn(f, trace_axes=())``.

    Args:
        model: any module that treats the examples of a batch independently.
        x1: examples, shape (n1, ...); for an MLP (n1, in_features).
        x2: examples, shape (n2, ...); ``x1`` if not given.
        chunk_size: how many examples' gradients (of an MLP: layers) are held at a time; as many as
            fit into 256 MiB if not given.

    Returns:
        Shape (n1, n2) if the output for one example is a scalar or has one entry; else
        (n1, n2, o, o), where [i, j, a, b] belongs to outputs a at x1[i] and b at x2[j]. After a
        leading axis of copies for an MLP that has them.

    Raises:
        TypeError, ValueError: for input that does not fit the model or is not finite, and for a
            module whose outputs mix examples (batch normalization in training mode) or are random.

    Example:
        >>> model = nu.MLP(2, width=1, depth=0, dtype=torch.float64)  # f = w·x, whose gradient is x
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> nu.empirical_ntk(model, x)
        tensor([[ 5.,  1.],
                [ 1., 10.]], dtype=torch.float64)
    """
    if isinstance(model, MLP):
        x1, x2 = check_that.require_pair(x1, x2)
        check_that.require_inputs(model, x1, "x1")
        return _scalar_if_one(_of_mlp(model, x1, x2, chunk_size))
    x1 = check_that.require_tensor(x1, "x1")
    x2 = x1 if x2 is None else check_that.require_tensor(x2, "x2")
    check_that.require_alike(x1, x2, "x1", "x2")
    if x1.ndim == 0 or x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x1 and x2: expected shapes (n1, ...) and (n2, ...) with equal examples, "
            f"got {tuple(x1.shape)} and {tuple(x2.shape)}"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for weights in model.parameters():
        check_that.require_alike(weights, x1, "the model's weights", "x1")
    return _scalar_if_one(_by_jacobians(model, x1, x2, chunk_size))


def empirical_ntk_by_layer(model: MLP, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    r"""Return the share of each layer's parameters in :func:`empirical_ntk`.

    Args:
        model: an :class:`ntkutils.MLP` with L hidden layers.
        x1: data points, shape (n1, in_features).
        x2: data points, shape (n2, in_features); ``x1`` if not given.

    Returns:
        Shape (L+1, n1, n2), or (L+1, n1, n2, o, o): entry j-1 is the share of w^(j) and b^(j);
        their sum over the first axis is the kernel. An axis of copies comes second: (L+1, S, ...).

    Raises:
        TypeError, ValueError: for a model that is no MLP, and for input that does not fit it.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(2, width=50, depth=2, generator=generator, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double()
        >>> shares = nu.empirical_ntk_by_layer(model, x)
        >>> len(shares), torch.allclose(sum(shares), nu.empirical_ntk(model, x))
        (3, True)
    """
    if not isinstance(model, MLP):
        raise TypeError(f"model: expected an ntkutils.MLP, got {type(model).__name__}")
    x1, x2 = check_that.require_pair(x1, x2)
    check_that.require_inputs(model, x1, "x1")
    with torch.no_grad():
        return torch.stack([_scalar_if_one(term) for term in _layer_terms(model, x1, x2)][::-1])


def _scalar_if_one(kernel: Tensor) -> Tensor:
    return kernel[..., 0, 0] if kernel.shape[-2:] == (1, 1) else kernel


def _layer_terms(model: MLP, x1: Tensor, x2: Tensor) -> Iterator[Tensor]:
    r"""Yield each layer's share ([S,] n1, n2, o, o), from the last layer to the first.

    With :math:`\delta^{(j)} = \partial f/\partial(\text{pre-activation } j)`, the gradients in
    :math:`w^{(j)}` are :math:`\sigma_w\,\delta^{(j)} (h^{(j-1)})^T`, so their inner product is
    :math:`(\delta\cdot\tilde\delta)\,\sigma_w^2\,(h\cdot\tilde h)`: two small matrix products.
    """
    var_w, var_b = model.weight_std**2, model.bias_std**2
    same = x1 is x2  # then everything is needed once
    h1, slopes1 = model.layers(x1)
    h2, slopes2 = (h1, slopes1) if same else model.layers(x2)
    *copies, o, _ = model.w[-1].shape
    eye = torch.eye(o, dtype=x1.dtype, device=x1.device)
    delta1, delta2 = (eye.expand(*copies, len(x), o, o) for x in (x1, x2))  # ([S,] n, o, k_j)

    def back(delta: Tensor, j: int, slopes: list[Tensor]) -> Tensor:
        # points and outputs as one axis, as @ would pair copies with points
        product: Tensor = (delta.flatten(-3, -2) @ model.w[j - 1]).unflatten(-2, delta.shape[-3:-1])
        return product * (model.weight_std * slopes[j - 2])[..., None, :]

    for j in range(model.depth + 1, 0, -1):
        products = torch.einsum("...iak,...jbk->...ijab", delta1, delta2)
        yield products * (var_w * h1[j - 1] @ h2[j - 1].mT + var_b)[..., None, None]
        if j > 1:
            delta1 = back(delta1, j, slopes1)
            delta2 = delta1 if same else back(delta2, j, slopes2)


def _of_mlp(model: MLP, x1: Tensor, x2: Tensor, chunk_size: int | None) -> Tensor:
    *copies, o, _ = model.w[-1].shape
    # h, the slopes and delta of every layer
    size = sum(w.shape[-2] * (2 + o) for w in model.w) * math.prod(copies) * x1.element_size()
    chunk = _chunk(chunk_size, size)
    if max(len(x1), len(x2)) <= chunk:
        with torch.no_grad():
            return _total(_layer_terms(model, x1, x2))
    same = x1 is x2
    kernel = x1.new_empty(*copies, len(x1), len(x2), o, o)
    for a in _parts(0, len(x1), chunk):
        for b in _parts(a.start if same else 0, len(x2), chunk):
            part1 = x1[a]
            part2 = part1 if same and a == b else x2[b]
            with torch.no_grad():
                block = _total(_layer_terms(model, part1, part2))
            kernel[..., a, b, :, :] = block
            if same:
                kernel[..., b, a, :, :] = block.transpose(-4, -3).mT
    return kernel


def _total(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total += term
    return total


def _chunk(chunk_size: int | None, size: float) -> int:
    """How many examples of so many bytes each are held at a time."""
    if chunk_size is None:
        return max(1, int(BYTES_A_CHUNK // size))
    return check_that.require_count(chunk_size, "chunk_size", least=1)


def function_of_weights(
    model: nn.Module,
) -> tuple[Callable[[dict[str, Tensor], Tensor], Tensor], dict[str, Tensor]]:
    """Return the outputs for one example, flat, as a function f(weights, x), and the weights by name.

    The weights are the parameters that require a gradient; f can be given to :mod:`torch.func`.

    Raises:
        ValueError: without such parameters, and for a module whose outputs mix examples or are random.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
            and module.training
        ):
            raise ValueError(
                f"model: expected outputs that are a function of one example, got a "
                f"{type(module).__name__} in training mode; call model.eval() first"
            )
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise ValueError("model: expected parameters that require a gradient, got none")
    fixed = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def outputs(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(model, weights | fixed, (x[None],))
        return out.flatten()

    return outputs, weights


def _by_jacobians(model: nn.Module, x1: Tensor, x2: Tensor, chunk_size: int | None) -> Tensor:
    if len(x2) < len(x1):  # the gradients of x2 are computed again for every chunk of x1
        return _by_jacobians(model, x2, x1, chunk_size).transpose(0, 1).mT
    outputs, weights = function_of_weights(model)
    if not len(x1):
        return x1.new_empty(0, len(x2), 1, 1)
    o, linear = survey(outputs, weights, x1[0])
    gradients = gradients_of(outputs, weights, linear)
    # delta and h of a linear layer W, of shape (k, d), in place of its gradient
    numbers = sum(o * len(w) + w.shape[1] if n in linear else o * w.numel() for n, w in weights.items())
    size = numbers * x1.element_size()
    # Gradients of x2 are computed again for every chunk of x1, so the chunks of x1 are the large ones.
    chunk1, chunk2 = (_chunk(chunk_size, share * size) for share in (4 / 3, 4))
    same = x1 is x2  # then one half is the transpose of the other
    kernel = x1.new_empty(len(x1), len(x2), o, o)
    for a in _parts(0, len(x1), chunk1):
        gradients1 = gradients(x1[a])
        if same:
            kernel[a, a] = _total(inner_products(gradients1, gradients1))
        for b in _parts(a.stop if same else 0, len(x2), chunk2):
            kernel[a, b] = block = _total(inner_products(gradients1, gradients(x2[b])))
            if same:
                kernel[b, a] = block.transpose(0, 1).mT
    return kernel


def _parts(start: int, stop: int, chunk: int) -> list[slice]:
    """As few parts as chunks of that size allow, of nearly equal length."""
    count = math.ceil((stop - start) / chunk)
    edges = [start + (stop - start) * c // count for c in range(count + 1)] if count else []
    return [slice(*edge) for edge in itertools.pairwise(edges)]
