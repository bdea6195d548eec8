r"""Tangent kernels of random networks, drawn without drawing the networks.

What a Gaussian weight matrix does to a few vectors is known in law: forwards it is a few Gaussian
columns, and backwards these same columns and independent Gaussian noise beside them. So the
kernel of a random network with layers of k units costs O(k) random numbers and not O(k²).
"""

import torch
from torch import Tensor

from . import _validation as check_that
from .activations import Activation, get

AT_ONCE = 2**24  # numbers held for the networks that are drawn together: 128 MB in float64


def sample_ntk_by_layer(
    x: Tensor,
    *,
    width: int,
    depth: int,
    copies: int,
    activation: str | Activation = "relu",
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return each layer's share of the tangent kernels of independent random networks.

    Equal in law to :func:`ntkutils.empirical_ntk_by_layer` of ``MLP(..., copies=copies)`` with
    scalar output, at O(width) instead of O(width²) a network. With :math:`H = QR` for the
    features (one column a data point), the pre-activations are :math:`wH = GR`, where
    :math:`G = wQ` has independent N(0, 1) entries, and given the forward pass
    :math:`w^T\delta = QG^T\delta + (I-QQ^T)N^T\delta` with an independent Gaussian matrix N.

    Args:
        x: data points, shape (n, d), float32 or float64.
        width: the number of units of every hidden layer.
        depth: the number L of hidden layers.
        copies: the number S of networks.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w.
        bias_std: sigma_b.
        generator: the source of randomness, for an explicit seed; torch's own if not given.

    Returns:
        Shape (L+1, S, n, n): entry j-1 is the share of w^(j) and b^(j).

    Raises:
        TypeError, ValueError: for arguments that are not as above.

    Example:
        >>> x, generator = torch.eye(2).double(), torch.Generator().manual_seed(0)
        >>> shares = nu.sample_ntk_by_layer(x, width=1000, depth=1, copies=500, generator=generator)
        >>> shares.shape
        torch.Size([2, 500, 2, 2])
        >>> torch.allclose(shares.sum(0).mean(0), nu.ntk(x, depth=1), rtol=0, atol=0.02)
        True

    Source: the conditioning of Bolthausen 2014 (doi:10.1007/s00220-013-1862-3) and Yang 2020
    (arXiv:2009.10685).
    """
    x, phi = check_that.require_points(x), get(activation)
    width = check_that.require_count(width, "width", least=1)
    depth = check_that.require_count(depth, "depth", least=0)
    copies = check_that.require_count(copies, "copies", least=1)
    weight_std = check_that.require_scale(weight_std, "weight_std")
    bias_std = check_that.require_scale(bias_std, "bias_std")

    held = 3 * len(x) * (depth + 1) * (max(width, x.shape[1]) + 1)  # numbers a network
    together = max(1, AT_ONCE // held)
    groups = [min(together, copies - done) for done in range(0, copies, together)]
    return torch.cat(
        [_draw(x, width, depth, group, phi, weight_std, bias_std, generator) for group in groups], dim=1
    )


def _draw(
    x: Tensor,
    width: int,
    depth: int,
    copies: int,
    phi: Activation,
    weight_std: float,
    bias_std: float,
    generator: torch.Generator | None,
) -> Tensor:
    """The shares of networks that are drawn together."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(copies, *shape, generator=generator, dtype=x.dtype, device=x.device)

    def as_seen(h: Tensor) -> Tensor:
        """What the next weights multiply: a bias is the weight of a constant feature."""
        return torch.cat([weight_std * h, torch.full_like(h[:, :1], bias_std)], dim=1)

    # Columns are data points, as in the formulas: H (S, k_j + 1, n), delta (S, k_j, n).
    H, slopes, shares = as_seen(x.T.expand(copies, -1, -1)), [], []
    forward = []  # of each layer of weights: features, their basis, and w on that basis
    for j in range(depth + 1):
        Q, R = torch.linalg.qr(H)
        G = normal(width if j < depth else 1, Q.shape[-1])
        forward.append((H, Q, G))
        if j < depth:
            u = G @ R
            slopes.append(phi.derivative(u) / width**0.5)
            H = as_seen(phi(u) / width**0.5)
    delta = torch.ones_like(H[:, :1])
    for H, Q, G in reversed(forward):
        shares.append((delta.mT @ delta) * (H.mT @ H))
        if slopes:
            Q_delta, R_delta = torch.linalg.qr(delta)
            noise = normal(len(Q[0]), Q_delta.shape[-1]) @ R_delta
            back = noise + Q @ (G.mT @ delta - Q.mT @ noise)
            delta = weight_std * back[:, :-1] * slopes.pop()
    return torch.stack(shares[::-1])
