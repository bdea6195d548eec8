"""What every public function asks of its input, with errors that say what was expected and what came."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .mlp import MLP

FLOATS = (torch.float32, torch.float64)


class SingularKernelError(ValueError):
    """A kernel matrix has no usable inverse at the precision of its dtype.

    Example:
        >>> x = torch.ones(2, 3).double()  # twice the same point
        >>> try:
        ...     nu.gradient_flow(nu.ntk(x, depth=1), torch.tensor([0.0, 1.0]).double())
        ... except nu.SingularKernelError as error:
        ...     print("two equal or nearly equal points" in str(error))
        True
    """


def missing(module: str, needs: str, extra: str, error: ImportError) -> ImportError:
    """The error of a module that needs more than the package does."""
    return ImportError(
        f"{module}: expected {needs}, which cannot be imported ({error}); in a copy of the book's "
        f'repository: pip install ".[{extra}]" (what PyPI has by the name ntkutils is another package)'
    )


def require_tensor(x: object, name: str) -> Tensor:
    """Return ``x`` if it is a finite float32 or float64 tensor; raise TypeError or ValueError if not."""
    if not isinstance(x, Tensor):
        kind = f"{type(x).__module__}.{type(x).__name__}".removeprefix("builtins.")
        hint = " (torch.from_numpy converts without a copy)" if kind == "numpy.ndarray" else ""
        if isinstance(x, tuple | list | dict):
            hint = "; wrap a module of several inputs in one that takes one tensor and splits it"
        raise TypeError(f"{name}: expected a torch.Tensor, got {kind}{hint}")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name}: expected dtype float32 or float64, got {x.dtype}")
    if x.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor, got layout {x.layout} (its to_dense() makes one)"
        )
    if x.is_meta:
        raise ValueError(f"{name}: expected a tensor that holds numbers, got one on the device meta")
    bad = ~torch.isfinite(torch.func.debug_unwrap(x))  # also within a transform of torch.func
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: expected finite numbers, got {int(bad.sum())} NaN or infinite, "
            f"the first at index {where}"
        )
    return x


def require_examples(x: object, name: str) -> Tensor:
    """Return ``x`` if it is a finite float32 or float64 tensor, or one of whole numbers (tokens)."""
    if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()) and not x.is_meta:
        return x
    return require_tensor(x, name)


def require_points(x: object, name: str = "x") -> Tensor:
    """Return ``x`` if it is a matrix of data points, shape (n, d) with d at least 1."""
    x = require_tensor(x, name)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (n, d), one data point a row, got {tuple(x.shape)}")
    return x


def require_pair(
    x1: object, x2: object | None, names: tuple[str, str] = ("x1", "x2")
) -> tuple[Tensor, Tensor]:
    """Return two matrices of data points that fit together; ``x2=None`` stands for ``x1``."""
    x1 = require_points(x1, names[0])
    if x2 is None:
        return x1, x1
    x2 = require_points(x2, names[1])
    if x1.shape[1] != x2.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]}: expected the same number of features, "
            f"got shapes {tuple(x1.shape)} and {tuple(x2.shape)}"
        )
    require_alike(x1, x2, *names)
    return x1, x2


def require_alike(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Raise TypeError when two tensors differ in dtype, ValueError when they differ in device."""
    if a.dtype != b.dtype:
        raise TypeError(f"{name_a} and {name_b}: expected the same dtype, got {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise ValueError(f"{name_a} and {name_b}: expected the same device, got {a.device} and {b.device}")


def require_fitting(weights: Tensor, x: Tensor, name_weights: str, name_x: str) -> None:
    """Raise TypeError or ValueError when numbers are of another dtype or device than the weights."""
    require_alike(weights, x if x.is_floating_point() else x.to(weights.dtype), name_weights, name_x)


def require_memory(which: str, x1: Tensor, x2: Tensor) -> None:
    """Raise MemoryError when a kernel of ``x1`` and ``x2`` is larger than what the device has free."""
    needed = len(x1) * len(x2) * x1.element_size()
    free = free_memory(x1.device)
    if needed > free:
        raise MemoryError(
            f"x1 and x2: expected a kernel that fits into memory, got {len(x1)} x {len(x2)} entries of "
            f"{x1.dtype}, {readable(needed)}, where {readable(free)} are free; compute blocks of rows, "
            f"{which}(x1[i:j], x2), and use each before the next"
        )


def free_memory(device: torch.device) -> float:
    """Return how many bytes a new tensor on the device can take, infinity where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return math.inf
    limits = []
    if (meminfo := Path("/proc/meminfo")).exists():
        kilobytes = dict(line.split(":") for line in meminfo.read_text().splitlines())["MemAvailable"]
        limits.append(1024 * int(kilobytes.split()[0]))
    group = Path("/sys/fs/cgroup")  # what a container may use
    if (group / "memory.max").exists() and (most := (group / "memory.max").read_text().strip()) != "max":
        stat = group / "memory.stat"
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
        cached = int(counts.get("inactive_file", 0))  # of files that were read: given up when asked for
        limits.append(int(most) - int((group / "memory.current").read_text()) + cached)
    if not limits and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=math.inf)


def readable(size: float) -> str:
    """Say how many bytes, in words."""
    power = min(4, int(math.log10(max(size, 1)) // 3))
    return f"{size / 1000**power:.1f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def require_held(moments: Tensor, name: str, of: str, *sds: Tensor) -> Tensor:
    """Return second moments of an activation if they are finite; OverflowError says at which ``sds``."""
    if moments.numel() and not all(math.isfinite(end.item()) for end in torch.aminmax(moments)):
        worst = max(sd.max().item() for sd in sds)
        raise OverflowError(
            f"{name}: expected second moments that {moments.dtype} can hold, "
            f"got more at a standard deviation of {of} of up to {worst:.6g}"
        )
    return moments


def require_shape(a: Tensor, shape: tuple[int, ...], name: str, why: str) -> None:
    """Raise ValueError when ``a`` does not have the shape that ``why`` explains."""
    if tuple(a.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)} ({why}), got {tuple(a.shape)}")


def require_inputs(model: MLP, x: object, name: str) -> Tensor:
    """Return ``x`` if it is a matrix of data points for an MLP, shape (n, in_features)."""
    x = require_points(x, name)
    weights = model.w[0]
    require_alike(weights, x, "the model's weights", name)
    if x.shape[1] != weights.shape[-1]:
        raise ValueError(
            f"{name}: expected {weights.shape[-1]} features, as the model has, got {x.shape[1]}"
        )
    return x


def require_one_network(model: object) -> None:
    """Raise ValueError for an MLP that is several networks at once."""
    copies = getattr(model, "copies", None)
    if copies is not None:
        raise ValueError(
            f"model: expected one network, got {copies} copies; model.member(s) is one of them"
        )


def require_count(value: object, name: str, least: int) -> int:
    """Return ``value``, NumPy's too, as an int if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def require_scale(value: object, name: str, positive: bool = False) -> float:
    """Return ``value`` as a float if it is a finite real number, not negative (or positive)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a real number, got {value!r}")
    value = float(value)
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        kind = "positive" if positive else "non-negative"
        raise ValueError(f"{name}: expected a finite {kind} number, got {value}")
    return value
