"""Sweeps: one task for each combination of settings, each finished one stored, and none computed twice."""

import hashlib
import inspect
import io
import itertools
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distributed import Client, KilledWorker, as_completed

from ..progress import progress
from .cluster import lost
from .files import write_at_once


@dataclass(frozen=True)
class Run:
    """One finished task of a sweep.

    Attributes:
        settings: the arguments, by name.
        result: what the function returned.

    Example:
        >>> nu.distributed.Run({"width": 16}, 0.5).settings["width"]
        16
    """

    settings: dict[str, Any]
    result: Any


class SweepError(RuntimeError):
    """Some tasks of a sweep failed; the others are finished and stored.

    Attributes:
        finished: a :class:`Run` for each finished task.
        failed: the settings of each other task, and what it raised.

    Example:
        >>> def inverse(a): return 1 / a
        >>> try:
        ...     nu.distributed.sweep(inverse, {"a": [2, 0]}, folder=folder, client=client, version="1")
        ... except nu.distributed.SweepError as error:
        ...     print(error.finished, error.failed)
        [Run(settings={'a': 2}, result=0.5)] [({'a': 0}, ZeroDivisionError('division by zero'))]
    """

    def __init__(
        self, message: str, finished: list[Run], failed: list[tuple[dict[str, Any], BaseException]]
    ) -> None:
        super().__init__(message)
        self.finished = finished
        self.failed = failed


def sweep(
    function: Callable[..., Any],
    settings: Mapping[str, Sequence[Any]],
    *,
    folder: str | os.PathLike[str],
    client: Client,
    version: str | None = None,
) -> list[Run]:
    """Call a function with every combination of settings, on the workers, and store each result at once.

    A result is in a file of its own as soon as its task is finished. A second run, after whatever ended
    the first, computes what has no file. The file's name is a hash of the settings and of the function: of
    its name and source, not of what it calls. When that changes, give another ``version``.

    Args:
        function: takes each of the settings by its name; returns tensors, numbers, strings, and lists,
            tuples and dicts of these.
        settings: for each argument its values: numbers, strings, booleans or None.
        folder: of the results, on the machine of this process; made if it is not there.
        client: of the cluster that computes, see :func:`cluster`.
        version: takes the place of the function's source in the name of the file.

    Returns:
        A :class:`Run` for each combination, the last setting changing fastest.

    Raises:
        SweepError: when all has been tried, if tasks failed.
        ClusterError: when the scheduler has gone.
        OSError: when the disk is full. What is stored stays, after any of these.
        TypeError, ValueError: for arguments that are not as above, and a file that is no result.

    Example:
        >>> def square(a): return a * a
        >>> settings = {"a": [1, 2, 3]}
        >>> runs = nu.distributed.sweep(square, settings, folder=folder, client=client, version="1")
        >>> [run.result for run in runs]
        [1, 4, 9]
    """
    tasks = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_name(function, task, version)}.pt" for task in tasks]
    missing = {file: task for file, task in zip(files, tasks, strict=True) if not file.exists()}
    futures = {client.submit(_call, function, task, pure=False): file for file, task in missing.items()}
    errors: dict[Path, BaseException] = {}
    try:
        bar = progress(range(len(futures)), f"{len(missing)} tasks")
        for _, future in zip(bar, as_completed(list(futures)), strict=True):
            file = futures[future]
            try:
                result = future.result()
            except CancelledError as error:
                raise lost(error) from error
            except Exception as error:
                errors[file] = lost(error) if isinstance(error, KilledWorker) else error
            else:
                _store(file, missing[file], result)
            future.release()
    finally:
        client.cancel(list(futures))
    kept = [(file, task) for file, task in zip(files, tasks, strict=True) if file not in errors]
    finished = [Run(task, _load(file)) for file, task in kept]
    if errors:
        failed = [(missing[file], error) for file, error in errors.items()]
        first, why = failed[0]
        raise SweepError(
            f"sweep: expected {len(tasks)} results, got {len(finished)}; {len(failed)} tasks failed, one "
            f"of them at {first} with {type(why).__name__}: {why}. The others are stored, and the same "
            "call tries these again",
            finished,
            failed,
        )
    return finished


def _call(function: Callable[..., Any], task: dict[str, Any]) -> Any:
    return function(**task)


def _name(function: Callable[..., Any], task: dict[str, Any], version: str | None) -> str:
    """Return a hash of what is computed, the same in every process."""
    try:
        made_of = [function.__qualname__, version or inspect.getsource(function), sorted(task.items())]
        return hashlib.sha256(json.dumps(made_of, allow_nan=False).encode()).hexdigest()[:24]
    except OSError as error:
        raise ValueError(
            f"version: expected one for {function.__qualname__}, whose source is not to be found, got None"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(
            "settings: expected a function that was defined by def, and numbers, strings, booleans or None "
            f"for its arguments, got {function!r} and {task}"
        ) from error


def _store(file: Path, task: dict[str, Any], result: Any) -> None:
    """Write a result, if it can be read again."""
    content = io.BytesIO()
    torch.save({"settings": task, "result": result}, content)
    content.seek(0)
    try:
        torch.load(content)
    except pickle.UnpicklingError as error:
        raise TypeError(
            "function: expected it to return tensors, numbers, strings, and lists, tuples and dicts of "
            f"these, got {type(result).__name__}"
        ) from error
    write_at_once(file, content.getbuffer(), f"the result of {task}")


def _load(file: Path) -> Any:
    try:
        return torch.load(file)["result"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"folder: expected a stored result in {file}, got {type(error).__name__}; delete "
            "the file, and its task runs again"
        ) from error
