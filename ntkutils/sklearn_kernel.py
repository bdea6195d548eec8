r"""The kernels of infinitely wide networks for scikit-learn, as kernels of its Gaussian processes.

They serve wherever scikit-learn takes a kernel::

    from ntkutils.sklearn_kernel import NTK

    SVC(kernel=NTK(depth=3))
    KernelRidge(kernel=NTK(depth=3), alpha=0.1)
    GaussianProcessRegressor(kernel=ConstantKernel() * NTK(depth=3) + WhiteKernel())

Needs scikit-learn, which :mod:`ntkutils` does not import.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from . import _validation as check_that
from .activations import Activation, get
from .recursion import TILE, diagonal, kernel

try:
    from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
except ImportError as error:
    raise ImportError(
        f"ntkutils.sklearn_kernel: expected scikit-learn, which cannot be imported ({error}); "
        "pip install scikit-learn"
    ) from error

# An optimizer may scale the kernel by at most this, or one over it: the bounds of a ConstantKernel.
SCALES = 1e5


class _NetworkKernel(Kernel):  # type: ignore[misc]  # scikit-learn has no types
    """What :class:`NTK` and :class:`NNGP` have in common: all but which of the two it is."""

    _which: str  # "nngp" or "ntk"

    def __init__(
        self,
        depth: int = 1,
        activation: str | Activation = "relu",
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        weight_std_bounds: tuple[float, float] | str | None = None,
        bias_std_bounds: tuple[float, float] | str | None = None,
    ) -> None:
        # As they came, unchecked: scikit-learn's clone compares them by identity.
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.weight_std_bounds = weight_std_bounds
        self.bias_std_bounds = bias_std_bounds

    @property
    def hyperparameter_weight_std(self) -> Hyperparameter:
        """What an optimizer may do with weight_std."""
        return self._hyperparameter("weight_std", 2 * self.depth + 2)

    @property
    def hyperparameter_bias_std(self) -> Hyperparameter:
        """What an optimizer may do with bias_std."""
        return self._hyperparameter("bias_std", 2)

    def _hyperparameter(self, name: str, power: int) -> Hyperparameter:
        value, bounds = getattr(self, name), getattr(self, f"{name}_bounds")
        if value == 0:  # theta is the logarithm, and 0 has none
            bounds = "fixed"
        elif bounds is None:
            most = SCALES ** (1 / power)
            bounds = (min(1 / most, value), max(most, value))
        return Hyperparameter(name, "numeric", bounds)

    def __call__(
        self, X: ArrayLike, Y: ArrayLike | None = None, eval_gradient: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the kernel matrix, and its gradient if asked for.

        Args:
            X: data points, shape (n1, d).
            Y: data points, shape (n2, d); ``X`` if not given.
            eval_gradient: also return the gradient by ``theta``, the logarithms of the
                hyperparameters that are not fixed; only without ``Y``.

        Returns:
            The kernel, shape (n1, n2), float64; with ``eval_gradient`` a pair of it and the
            gradient, shape (n1, n1, entries of theta), in the order of theta.

        Raises:
            TypeError, ValueError: for data or parameters that are not as they should be.
        """
        if eval_gradient and Y is not None:
            raise ValueError("eval_gradient: expected no Y beside it, got one")
        x = _tensor(X, "X")
        # KernelRidge and SVC ask for their training kernel as k(X, X): make it exactly symmetric
        y = None if Y is None or Y is X else _tensor(Y, "Y")
        x, y = check_that.require_pair(x, y, names=("X", "Y"))
        network = self._network()
        K = kernel(self._which, x, y, **network).numpy()
        if not eval_gradient:
            return K
        names = [p.name.replace("std", "var") for p in self.hyperparameters if not p.fixed]
        return K, np.moveaxis(self._slopes(x, network, names).numpy(), 0, -1)

    def _slopes(self, x: Tensor, network: dict[str, Any], names: list[str]) -> Tensor:
        """The derivatives of the kernel by the logarithms of the roots of variances, one after another.

        In reverse mode, as forward mode is one for all threads: the derivative along a scale is that
        of u·K', which is linear in u, by u.
        """
        with torch.inference_mode(False), torch.enable_grad():
            slopes = torch.empty(len(names), len(x), len(x), dtype=x.dtype)
            parts = x.clone().split(TILE["cpu"]) if names else ()
            # the fixed ones too, as a number would be rounded otherwise
            variances = {
                name: torch.tensor(network[name], dtype=x.dtype, requires_grad=True)
                for name in ("weight_var", "bias_var")
                if network[name] > 0
            }
            free = [variances[name] for name in names]
            for i, rows in enumerate(parts):
                for j, columns in enumerate(parts[: i + 1]):
                    K = kernel(self._which, rows, columns, **network | variances)
                    u = torch.zeros_like(K, requires_grad=True)
                    along = torch.autograd.grad(K, free, u, create_graph=True)
                    a, b = (slice(k * TILE["cpu"], (k + 1) * TILE["cpu"]) for k in (i, j))
                    for slope, var, first in zip(slopes, free, along, strict=True):
                        tile = 2 * var.detach() * torch.autograd.grad(first, u, retain_graph=True)[0]
                        slope[a, b] = tile
                        slope[b, a] = tile.T
        return slopes

    def diag(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the diagonal of the kernel matrix, shape (n,), at the cost of n of its entries.

        Args:
            X: data points, shape (n, d).

        Raises:
            TypeError, ValueError: as for the kernel matrix.
        """
        x = check_that.require_points(_tensor(X, "X"), "X")
        return diagonal(self._which, x, **self._network()).numpy()

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on norms and angles, not on differences."""
        return False

    def _network(self) -> dict[str, Any]:
        return {
            "phi": get(self.activation),
            "depth": check_that.require_count(self.depth, "depth", least=0),
            "weight_var": check_that.require_scale(self.weight_std, "weight_std") ** 2,
            "bias_var": check_that.require_scale(self.bias_std, "bias_std") ** 2,
        }

    def __repr__(self) -> str:
        name = getattr(self.activation, "name", self.activation)
        return (
            f"{type(self).__name__}(depth={self.depth}, activation={name!r}, "
            f"weight_std={self.weight_std:.3g}, bias_std={self.bias_std:.3g})"
        )


class NTK(_NetworkKernel):
    """The neural tangent kernel of an infinitely wide network, :func:`ntkutils.ntk`.

    A regression with it and a ridge predicts, in the mean, what such a network does after training
    with that penalty on the change of its weights. The standard deviation that a Gaussian process
    gives for it is *not* the spread of trained networks.

    The inputs are not divided by sqrt(d), and the kernel is not normalised: it grows with depth
    and norm. A ``ConstantKernel`` takes care of a scale. For "relu" and other activations with
    phi(a·z) = a·phi(z) for positive a, ``weight_std`` without bias is only a scale too: give it
    ``weight_std_bounds="fixed"`` beside a ``ConstantKernel``.

    Everything is computed in float64. A kernel with an activation by name can be pickled; one with
    an Activation object is as picklable as that object's functions are.

    Args:
        depth: the number L of hidden layers; 0 is a linear model.
        activation: a name in :mod:`ntkutils.activations`, or an Activation.
        weight_std: sigma_w, multiplies the weights, which are N(0, 1).
        bias_std: sigma_b, multiplies the biases, which are N(0, 1). The default 0, a network
            without biases, stays 0 when a Gaussian process is fitted: an optimizer works on the
            logarithm, and 0 has none. To have it fitted start from a positive number. The same goes
            for a ``weight_std`` of 0.
        weight_std_bounds: the smallest and largest ``weight_std`` that an optimizer may try, or
            "fixed". If not given, ``weight_std**(2 * depth + 2)``, which is what it multiplies a ReLU
            network's kernel by, stays between 1e-5 and 1e5: a search that tries a scale of 1e18 does not
            come back. Narrower ones for deep networks whose activation grows faster than linearly, as
            the kernel may leave float64 within them (an OverflowError).
        bias_std_bounds: likewise for ``bias_std``; if not given, ``bias_std**2`` stays between these.

    Example:
        >>> import numpy as np
        >>> from ntkutils.sklearn_kernel import NTK
        >>> NTK(depth=1)(np.eye(2)).round(4)  # 1/π for orthogonal inputs
        array([[2.    , 0.3183],
               [0.3183, 2.    ]])
    """

    _which = "ntk"


class NNGP(_NetworkKernel):
    """The covariance of an infinitely wide network at initialization, :func:`ntkutils.nngp`.

    A Gaussian process with it is that network, conditioned on the data: the exact Bayesian
    posterior, standard deviations included.

    Args:
        depth, activation, weight_std, bias_std, weight_std_bounds, bias_std_bounds: as in
            :class:`NTK`, which also says how the kernel is scaled.

    Example:
        >>> import numpy as np
        >>> from ntkutils.sklearn_kernel import NNGP
        >>> NNGP(depth=1)(np.eye(2)).round(4)  # 1/π for orthogonal inputs
        array([[1.    , 0.3183],
               [0.3183, 1.    ]])
    """

    _which = "nngp"


def _tensor(data: ArrayLike, name: str) -> Tensor:
    """What scikit-learn takes for numbers (integers, float32, lists, data frames), in float64."""
    array = np.asarray(data)
    if array.dtype.kind not in "biuf":
        kind = f"{type(data).__module__}.{type(data).__name__}".removeprefix("builtins.")
        hint = " (its toarray() makes one)" if hasattr(data, "toarray") else ""
        raise TypeError(
            f"{name}: expected an array of real numbers, got {kind} of dtype {array.dtype}{hint}"
        )
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
