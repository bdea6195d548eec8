"""Kernels, kernel regression and sweeps that outgrow one machine's memory, on Dask.

An optional part of the package, ``pip install ntkutils[distributed]``; nothing else needs it. On a laptop
:func:`cluster` starts workers there; on a cluster, its scheduler's address is all that changes.
"""

try:
    import dask.array  # noqa: F401
    import distributed  # noqa: F401
    import zarr  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"ntkutils.distributed: expected Dask and zarr, got none ({error}); "
        "pip install ntkutils[distributed]"
    ) from error

from .cluster import ClusterError, cluster
from .kernel import nngp, ntk
from .regression import NotConvergedError, Solution, regression
from .sweeps import Run, SweepError, sweep

__all__ = [
    "ClusterError",
    "NotConvergedError",
    "Run",
    "Solution",
    "SweepError",
    "cluster",
    "nngp",
    "ntk",
    "regression",
    "sweep",
]
