r"""Eigenvalues of a kernel on the sphere that depends on the angle alone.

For :math:`K(x,\tilde x)=\kappa(\cos\theta)` and points uniform on :math:`S^{d-1}` the eigenfunctions
are the spherical harmonics, on the circle :math:`\cos m\theta,\sin m\theta`, whatever
:math:`\kappa` is; all harmonics of one degree share an eigenvalue.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import _validation as check_that


def harmonics(dimension: int, degree: int) -> int:
    r"""Return how many independent spherical harmonics of a degree there are in d dimensions.

    :math:`N_m = \binom{m+d-1}{d-1}-\binom{m+d-3}{d-1}`: on the circle 1, 2, 2, ..., on the ordinary
    sphere 1, 3, 5, ...

    Args:
        dimension: d, of the space that the sphere lies in, at least 2.
        degree: m, at least 0.

    Example:
        >>> from ntkutils import spectrum
        >>> [spectrum.harmonics(2, m) for m in range(4)], [spectrum.harmonics(3, m) for m in range(4)]
        ([1, 2, 2, 2], [1, 3, 5, 7])
    """
    d, m = _dimension(dimension), check_that.require_count(degree, "degree", least=0)
    return math.comb(m + d - 1, d - 1) - (math.comb(m + d - 3, d - 1) if m >= 2 else 0)


def zonal_polynomials(xi: Tensor, dimension: int, degree: int) -> Tensor:
    r"""Return :math:`P_m(\xi)` for m = 0, ..., ``degree``, stacked along a new first axis.

    The spherical harmonics that depend on one angle only, with :math:`P_m(1)=1`: on the circle
    :math:`\cos(m\arccos\xi)`, on the ordinary sphere the Legendre polynomials. As a kernel,
    :math:`N_mP_m(x\cdot\tilde x)` is the projection on the harmonics of degree m.

    Args:
        xi: cosines of angles, any shape.
        dimension: d, of the space that the sphere lies in, at least 2.
        degree: the highest m.

    Example:
        >>> from ntkutils import spectrum
        >>> spectrum.zonal_polynomials(torch.tensor(0.5).double(), 2, 3)  # cos(m·60°)
        tensor([ 1.0000,  0.5000, -0.5000, -1.0000], dtype=torch.float64)

    Source: the recurrence

    .. math:: (m+d-2)P_{m+1} = (2m+d-2)\,\xi P_m - mP_{m-1} ,

    for example in Atkinson & Han 2012, Spherical Harmonics and Approximations on the Unit Sphere, chapter
    2.
    """
    d, degree = _dimension(dimension), check_that.require_count(degree, "degree", least=0)
    xi = check_that.require_tensor(xi, "xi")
    P = [torch.ones_like(xi), xi]
    for m in range(1, degree):
        P.append(((2 * m + d - 2) * xi * P[m] - m * P[m - 1]) / (m + d - 2))
    return torch.stack(P[: degree + 1])


def zonal_eigenvalues(
    kernel: Callable[[Tensor, Tensor], Tensor],
    dimension: int,
    degree: int,
    *,
    nodes: int | None = None,
) -> Tensor:
    r"""Return the eigenvalues of a kernel on the unit sphere for the degrees 0, ..., ``degree``.

    .. math:: \lambda_m = c_d\int_0^\pi \kappa(\cos\theta)\,P_m(\cos\theta)\,\sin^{d-2}\theta\;d\theta

    (Funk and Hecke), with :math:`c_d` such that :math:`\int` of the constant 1 is 1. Then
    :math:`\kappa(x\cdot\tilde x) = \sum_m\lambda_mN_mP_m(x\cdot\tilde x)`, and :math:`n\lambda_m`
    is what the eigenvalues of the matrix on n uniform points tend to.

    Gauss-Legendre quadrature in the angle, not in its cosine: the kernels of networks have
    roots of :math:`1\pm\xi` at the ends but are smooth in :math:`\theta`, so the error decays
    exponentially with the nodes, down to about 1e-14 times the largest value of the kernel.

    Args:
        kernel: as :func:`ntkutils.ntk` with its options filled in: from points (1, d) and (q, d)
            to a matrix (1, q). It is trusted to depend on the angle alone.
        dimension: d, of the space that the sphere lies in, at least 2.
        degree: the highest m.
        nodes: of the quadrature; more than enough for a kernel that is smooth in the angle if not
            given.

    Example:
        >>> from ntkutils import spectrum
        >>> spectrum.zonal_eigenvalues(lambda x1, x2: 1 + x1 @ x2.T, dimension=3, degree=1)
        tensor([1.0000, 0.3333], dtype=torch.float64)
    """
    d, degree = _dimension(dimension), check_that.require_count(degree, "degree", least=0)
    nodes = degree + 100 if nodes is None else check_that.require_count(nodes, "nodes", least=1)
    s, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    theta = (s + 1) * (math.pi / 2)
    weights = weights * theta.sin() ** (d - 2)
    points = torch.zeros(nodes, d, dtype=torch.float64)
    points[:, 0], points[:, 1] = theta.cos(), theta.sin()
    pole = torch.zeros(1, d, dtype=torch.float64)
    pole[0, 0] = 1
    values = check_that.require_tensor(kernel(pole, points), "kernel")
    check_that.require_shape(values, (1, nodes), "kernel", "its value at a point and the nodes")
    P = zonal_polynomials(theta.cos(), d, degree)
    return P @ (weights * values[0]) / weights.sum()


def _dimension(dimension: object) -> int:
    return check_that.require_count(dimension, "dimension", least=2)
