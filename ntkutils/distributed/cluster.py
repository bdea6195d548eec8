"""A Dask cluster: one that is there, by its scheduler's address, or one on this machine."""

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import distributed
from distributed import Client, Future, LocalCluster

from .. import _validation as check_that


class ClusterError(RuntimeError):
    """The cluster failed, and not what was computed on it; what was stored until then stays.

    Example:
        >>> try:
        ...     with nu.distributed.cluster("tcp://127.0.0.1:9", timeout=1):
        ...         pass
        ... except nu.distributed.ClusterError as error:
        ...     print("dask scheduler" in str(error))
        True
    """


@contextmanager
def cluster(
    address: str | None = None,
    *,
    workers: int | None = None,
    memory_limit: int | str = "auto",
    timeout: float = 10.0,
) -> Iterator[Client]:
    """Connect to a cluster, or start one on this machine; a context manager that gives Dask's client.

    A local worker is a process of one thread. A worker that dies is started again, and what it held is
    computed again. A script has to guard its call by ``if __name__ == "__main__":``, as local workers
    import it. ``client.dashboard_link`` is where to watch the work; in a terminal it is printed.

    Args:
        address: of a running scheduler, such as ``tcp://10.0.0.1:8786`` (``dask scheduler`` prints it); its
            workers need the same packages. A cluster on this machine if not given.
        workers: how many to start on this machine; one for each processor if not given.
        memory_limit: of each of them, in bytes or as "2 GB"; a share of this machine's if not given.
        timeout: seconds to wait for a scheduler, at the start or when it has gone.

    Raises:
        ClusterError: when no scheduler answers at the address.
        TypeError, ValueError: for arguments that are not as above.

    Example:
        >>> with nu.distributed.cluster(workers=1, memory_limit="2 GB") as client:
        ...     client.submit(sum, [1, 2]).result()
        3
    """
    timeout = check_that.require_scale(timeout, "timeout", positive=True)
    if workers is not None:
        workers = check_that.require_count(workers, "workers", least=1)
    if address is not None and (workers is not None or memory_limit != "auto"):
        raise ValueError("workers, memory_limit: expected no address with them, as it has its workers")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{timeout} s"}))
        if address is None:
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory_limit,
                dashboard_address=":0",  # any port that is free
                silence_logs=logging.CRITICAL,  # what goes wrong is raised
            )
            place: Any = stack.enter_context(local)
        else:
            place = address
        try:
            client = stack.enter_context(Client(place, timeout=timeout))
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"address: expected a Dask scheduler at {place}, got no answer in {timeout:g} s "
                f"({error}); `dask scheduler` starts one, and no address a cluster on this machine"
            ) from error
        if sys.stdout.isatty():
            print(f"Dask's dashboard: {client.dashboard_link}")
        yield client


def gathered(client: Client, futures: "Sequence[Future[Any]]") -> list[Any]:
    """Return the results in order; in a terminal, under Dask's bar. Ends all of them if one fails.

    Raises:
        ClusterError: when the cluster lost them.
        Exception: what one of them raised.
    """
    try:
        if sys.stdout.isatty():
            distributed.progress(futures, notebook=False)
        results: list[Any] = client.gather(futures)
        return results
    except (distributed.KilledWorker, CancelledError) as error:
        raise lost(error) from error
    finally:
        for future in futures:
            future.release()


def lost(error: BaseException) -> ClusterError:
    """Say what was lost: a task with its workers, or all with the scheduler."""
    if isinstance(error, distributed.KilledWorker):
        return ClusterError(
            f"workers: expected them to live, got {error.allowed_failures + 1} that died at one task, most "
            "likely for want of memory; give them a larger memory_limit, or the tasks smaller blocks"
        )
    return ClusterError(
        "scheduler: expected it to stay, got its connection closed; what was stored until then stays, and "
        "the same call with a new client goes on from there"
    )


def memory_limits(client: Client) -> list[int]:
    """Return how many bytes each worker may use, where that is known."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [one["memory_limit"] // one["nthreads"] for one in workers if one.get("memory_limit")]
