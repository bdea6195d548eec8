"""Kernels, kernel regression and sweeps that outgrow one machine's memory, on Dask.

An optional part of the package, ``pip install ".[distributed]"`` in a copy of the book's repository;
nothing else needs it. On a laptop :func:`cluster` starts workers there; on a cluster, its scheduler's
address is all that changes.
"""

try:
    import dask.array  # noqa: F401
    import distributed  # noqa: F401
    import zarr  # noqa: F401
except ImportError as error:
    from .._validation import missing

    raise missing("ntkutils.distributed", "Dask and zarr", "distributed", error) from error

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
