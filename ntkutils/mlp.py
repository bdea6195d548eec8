"""Fully connected networks of finite width in the NTK parameterization."""

import copy
import itertools
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import _validation as check_that
from .activations import Activation, get


class MLP(nn.Module):
    r"""A network with L hidden layers whose NTK has a limit as the widths grow.

    :math:`h^{(0)} = x`, :math:`h^{(j)} = \phi(w^{(j)} h^{(j-1)})/\sqrt{k_j}` and
    :math:`f(x) = w^{(L+1)} h^{(L)}`, all weights N(0, 1). With ``weight_std`` and ``bias_std`` each
    matrix product becomes :math:`\sigma_w w^{(j)} h^{(j-1)} + \sigma_b b^{(j)}`, biases N(0, 1) too;
    with ``bias_std=0`` there are no bias parameters.

    With ``copies`` one object is that many independent networks: every parameter has a leading axis
    of copies, and so have the outputs and the kernels. One tensor program for all of them takes much
    less time than one after the other, as long as the networks are small.

    Args:
        in_features: the number d of features of a data point.
        width: the number of units k of every hidden layer, or one number a layer.
        depth: the number L of hidden layers; 0 is a linear model.
        out_features: the number of outputs.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w.
        bias_std: sigma_b.
        generator: the source of the random weights, for an explicit seed; torch's own if not given.
        dtype: of the parameters; torch's default if not given.
        device: of the parameters; ``generator``'s if not given, else torch's default.
        copies: the number S of independent networks; one, without the leading axis, if not given.

    Raises:
        TypeError, ValueError: for arguments that are not as above.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = nu.MLP(3, width=100, depth=2, generator=generator, dtype=torch.float64)
        >>> [tuple(w.shape) for w in model.w]
        [(100, 3), (100, 100), (1, 100)]
        >>> model(torch.ones(5, 3).double()).shape
        torch.Size([5, 1])

    Source: Jacot, Gabriel & Hongler 2018 (arXiv:1806.07572), section 2; there weights multiply
    activations that are divided by the square root of their number, which is the same.
    """

    def __init__(
        self,
        in_features: int,
        width: int | Sequence[int],
        depth: int,
        out_features: int = 1,
        activation: str | Activation = "relu",
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        depth = check_that.require_count(depth, "depth", least=0)
        if not isinstance(width, Integral | Sequence):
            raise TypeError(f"width: expected a whole number or a sequence of them, got {width!r}")
        widths = [width] * depth if isinstance(width, Integral) else list(width)
        if len(widths) != depth:
            raise ValueError(
                f"width: expected one number, or one for each of the {depth} hidden layers, "
                f"got {len(widths)}"
            )
        sizes = [
            check_that.require_count(in_features, "in_features", least=1),
            *(check_that.require_count(k, "width", least=1) for k in widths),
            check_that.require_count(out_features, "out_features", least=1),
        ]
        if dtype not in (None, *check_that.FLOATS):
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        self.activation = get(activation)
        self.weight_std = check_that.require_scale(weight_std, "weight_std")
        self.bias_std = check_that.require_scale(bias_std, "bias_std")
        self.copies = None if copies is None else check_that.require_count(copies, "copies", least=1)
        leading = () if copies is None else (copies,)
        if device is None and generator is not None:
            device = generator.device

        def normal(*shape: int) -> nn.Parameter:
            shape = leading + shape
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=dtype, device=device))

        # w[j-1] is the page's w^(j), of shape (k_j, k_{j-1}), or (S, k_j, k_{j-1})
        self.w = nn.ParameterList(normal(k, k_in) for k_in, k in itertools.pairwise(sizes))
        self.b = nn.ParameterList(normal(k) for k in sizes[1:]) if self.bias_std > 0 else None

    @property
    def depth(self) -> int:
        """The number L of hidden layers."""
        return len(self.w) - 1

    def affine(self, j: int, h: Tensor) -> Tensor:
        """Return sigma_w w^(j) h + sigma_b b^(j) for rows h, j from 1 to L+1."""
        w = self.w[j - 1]
        # one network's layer is torch's linear function, of which the gradients need not be formed
        pre: Tensor = self.weight_std * (functional.linear(h, w) if self.copies is None else h @ w.mT)
        if self.b is None:
            return pre
        b: Tensor = self.b[j - 1]
        return pre + self.bias_std * (b if self.copies is None else b[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), shape (n, out_features), for data points x of shape (n, in_features).

        With S copies the shape is (S, n, out_features).
        """
        h = x
        for j in range(1, self.depth + 1):
            h = self.activation(self.affine(j, h)) / self.w[j - 1].shape[-2] ** 0.5
        return self.affine(self.depth + 1, h)

    def member(self, s: int) -> "MLP":
        """Return network s of the copies, from 0 on, as a network by itself with its own parameters.

        Raises:
            TypeError, ValueError: for a network without copies, and if there is no such copy.
        """
        if self.copies is None:
            raise ValueError("member: expected a network with copies, got one without")
        if check_that.require_count(s, "s", least=0) >= self.copies:
            raise ValueError(f"s: expected at most {self.copies - 1}, got {s}")
        one = copy.deepcopy(self)
        one.copies = None
        for parameter in one.parameters():
            parameter.data = parameter.data[s].clone()
        return one

    def extra_repr(self) -> str:
        """Say what ``print(model)`` shows of the network."""
        sizes = [self.w[0].shape[-1], *(w.shape[-2] for w in self.w)]
        copies = "" if self.copies is None else f", copies={self.copies}"
        return (
            f"{' -> '.join(map(str, sizes))}, activation={self.activation.name}, "
            f"weight_std={self.weight_std:g}, bias_std={self.bias_std:g}{copies}"
        )
