"""The first-order Taylor model of a network in its weights."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.func import functional_call, jvp

Parameters = Mapping[str, Tensor]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's parameters by name, cut off from the model and from autograd.

    Example:
        >>> model = nu.MLP(3, width=4, depth=1, dtype=torch.float64)
        >>> {name: tuple(p.shape) for name, p in nu.parameters_of(model).items()}
        {'w.0': (4, 3), 'w.1': (1, 4)}
    """
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def linearize(model: nn.Module, params: Parameters | None = None) -> Callable[[Parameters, Tensor], Tensor]:
    r"""Return the linearization of a network about ``params``, as a function of weights and input.

    .. math:: \tilde f(w; x) = f(w^{(0)}; x) + \nabla f_x(w^{(0)})^T (w - w^{(0)}) ,

    by one forward-mode pass; no gradient is formed.
    In neural-tangents: ``nt.linearize(f, params)``.

    Args:
        model: any module; later changes of its own parameters do not change the result.
        params: the weights :math:`w^{(0)}` by name; the model's present ones if not given.

    Returns:
        ``f_lin(params, x)``, of the shape of ``model(x)``. It can be differentiated in ``params``.

    Raises:
        ValueError: when names or shapes of the weights differ from the model's.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(3, width=4, depth=1, generator=generator, dtype=torch.float64)
        >>> f_lin, x = nu.linearize(model), torch.ones(1, 3).double()
        >>> twice = {name: 2 * p for name, p in nu.parameters_of(model).items()}
        >>> round((f_lin(twice, x) / model(x)).item(), 9)  # f is 4 times what it was, its tangent 1 + 2
        3.0

    Source: Lee et al. 2019 (arXiv:1902.06720), eq. 5.
    """
    anchor = parameters_of(model)
    if params is not None:
        _require_same(params, anchor)
        anchor = {name: params[name].detach().clone() for name in anchor}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    def f_lin(params: Parameters, x: Tensor) -> Tensor:
        _require_same(params, anchor)

        def f(weights: dict[str, Tensor]) -> Tensor:
            outputs: Tensor = functional_call(model, weights | buffers, (x,))
            return outputs

        step = {name: params[name] - anchor[name] for name in anchor}
        # torch types a pair or, with has_aux, a triple
        value, slope = jvp(f, (anchor,), (step,))[:2]
        tangent: Tensor = value + slope
        return tangent

    return f_lin


def _require_same(params: Parameters, anchor: Parameters) -> None:
    if params.keys() != anchor.keys():
        raise ValueError(f"params: expected the names {sorted(anchor)}, got {sorted(params)}")
    for name, expected in anchor.items():
        if params[name].shape != expected.shape:
            raise ValueError(
                f"params[{name!r}]: expected shape {tuple(expected.shape)}, got {tuple(params[name].shape)}"
            )
