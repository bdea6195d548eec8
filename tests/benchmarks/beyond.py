"""Kernel regression at growing n, on 1 and 2 workers of 2 GB: `make beyond` runs this and stores it.

python tests/benchmarks/beyond.py RESULTS.json [N:WORKERS ...] [complete | complete:N ...]

Without a selection all rows are measured; each is stored as soon as it is. What the chapter says
of sizes, times, bytes and memory is read from that file. "complete" measures whole solutions, from
the points to the coefficients: by Cholesky's factorisation in one memory, and by `regression`.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cpuinfo
import torch
from distributed import get_task_stream

import ntkutils as nu
from ntkutils import distributed as nd
from ntkutils.distributed.blocks import Blocks
from ntkutils.distributed.kernel import block_of

SIZES, WORKERS, MEMORY = (2000, 5000, 10_000, 20_000, 50_000), (1, 2), "2 GB"
D, NETWORK = 10, dict(depth=3, activation="relu")
OPTIONS = dict(ridge=1.0, tol=1e-6)
IN_MEMORY, ON_THE_FLY = 10_000, 20_000  # up to which n these are measured, too
COMPLETE, THREADS = {2000: 3, 5000: 3, 10_000: 3, 20_000: 1}, 2  # n: rounds; threads, or workers


def data(n):
    """Points on a sphere and noisy values of a smooth function, then 1,000 test points."""
    generator = torch.Generator().manual_seed(n)
    x = torch.nn.functional.normalize(torch.randn(n + 1000, D, generator=generator), dim=1)
    y = (3 * x[:, 0]).sin() + 4 * x[:, 1] * x[:, 2] + 0.1 * torch.randn(n + 1000, generator=generator)
    return x[:n], y[:n], x[n:]


def of_workers(client, function):
    return client.run(function).values()


def peak():
    """The largest memory of this process, in bytes (of ru_maxrss, a part is the parent's)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def timed(call):
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def measure(n, workers):
    x, y, x_test = data(n)
    side = block_of(n, None)
    v = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with (
        tempfile.TemporaryDirectory() as store,
        nd.cluster(workers=workers, memory_limit=MEMORY) as client,
    ):
        print(f"n = {n}, {workers} workers; watch them at {client.dashboard_link}", flush=True)
        of_workers(client, lambda: nu.ntk(torch.eye(D), **NETWORK).sum().item())  # imports, once
        idle = max(of_workers(client, peak))
        row = {"n": n, "workers": workers, "block": side, "idle_bytes": idle}
        row["load"] = round(os.getloadavg()[0], 1)
        if n <= ON_THE_FLY:
            K = Blocks(client, x, nu.ntk, NETWORK, side, None)
            row["product_computed"], expected = timed(lambda: K @ v)
        K = Blocks(client, x, nu.ntk, NETWORK, side, store)
        with get_task_stream(client) as stream:
            row["product_stored"], first = timed(lambda: K @ v)
        row["product_stored_busy"] = busy(stream)
        before, reads = sum(of_workers(client, sent)), []
        for _ in range(3):
            with get_task_stream(client) as stream:
                seconds, again = timed(lambda: K @ v)
            reads.append((seconds, busy(stream)))
        row["product_read"], row["product_read_busy"] = (
            statistics.median(a) for a in zip(*reads, strict=True)
        )
        row["product_bytes"] = (sum(of_workers(client, sent)) - before) // 3 + v.nbytes
        assert torch.equal(first, again) and (n > ON_THE_FLY or torch.equal(first, expected))
        before = sum(of_workers(client, sent))
        row["seconds"], solution = timed(
            lambda: nd.regression(x, y, x_test, client=client, store=store, **OPTIONS, **NETWORK)
        )
        row |= {
            "iterations": solution.iterations,
            "residual": solution.residual,
            "history": [float(f"{r:.3g}") for r in solution.history],
            "bytes": sum(of_workers(client, sent)) - before,
            "peak_bytes": max(of_workers(client, peak)),
            "store_bytes": sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file()),
        }
    if n <= IN_MEMORY and workers == WORKERS[-1]:
        torch.set_num_threads(workers)
        row["direct_seconds"], direct = timed(lambda: in_memory(x, y, x_test))
        torch.set_num_threads(1)
        row["error"] = ((solution.test - direct).abs().max() / direct.abs().max()).item()
    return row


def sent(dask_worker):
    """Bytes that a worker has sent to others and to the client, since it began."""
    return dask_worker.transfer_outgoing_bytes_total


def busy(stream):
    """Seconds that the workers computed, all together."""
    spans = (span for task in stream.data for span in task["startstops"] if span["action"] == "compute")
    return sum(span["stop"] - span["start"] for span in spans)


def in_memory(x, y, x_test):
    """The same by Cholesky's factorisation, in one process with as many threads."""
    K = nu.ntk(x, **NETWORK).double()
    K.diagonal().add_(OPTIONS["ridge"])
    alpha = torch.cholesky_solve(y.double()[:, None], torch.linalg.cholesky(K))
    return (nu.ntk(x_test, x, **NETWORK).double() @ alpha)[:, 0].to(y)


# ---- Whole solutions: from the points to the coefficients, each turn in processes of its own -------


def by_cholesky(dtype, n):
    """All of it in one memory; the factor takes the place of the kernel."""
    torch.set_num_threads(THREADS)

    def solve(x, y):
        K = nu.ntk(x, **NETWORK).to(dtype)
        K.diagonal().add_(OPTIONS["ridge"])
        return torch.cholesky_solve(y.to(dtype)[:, None], torch.linalg.cholesky(K, out=K))[:, 0].double()

    x, y, _ = data(n)
    solve(x[:500], y[:500])  # loads what is loaded at first use
    began = time.process_time()
    seconds, alpha = timed(lambda: solve(x, y))
    return seconds, time.process_time() - began, peak(), alpha


def without_the_matrix(n):
    """Conjugate gradient on as many workers, with an empty store; the workers are there already."""
    x, y, _ = data(n)
    with (
        tempfile.TemporaryDirectory() as store,
        nd.cluster(workers=THREADS, memory_limit=MEMORY) as client,
    ):
        of_workers(client, lambda: nu.ntk(torch.eye(D), **NETWORK).sum().item())  # imports, once
        before = time.process_time() + sum(of_workers(client, time.process_time))
        seconds, solution = timed(
            lambda: nd.regression(x, y, client=client, store=store, **OPTIONS, **NETWORK)
        )
        cpu = time.process_time() + sum(of_workers(client, time.process_time)) - before
        return seconds, cpu, max(of_workers(client, peak)), solution.coefficients.double()


WAYS = {
    "Cholesky, float64": lambda n: by_cholesky(torch.float64, n),
    "Cholesky, float32": lambda n: by_cholesky(torch.float32, n),
    f"regression, {THREADS} workers": without_the_matrix,
}


def turn(connection, way, n):
    *figures, alpha = WAYS[way](n)
    connection.send((*figures, alpha.numpy()))


def alone(way, n):
    """One turn, in a process that ends with it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=turn, args=(there, way, n))
    process.start()
    there.close()
    *figures, alpha = here.recv()
    process.join()
    return *figures, torch.from_numpy(alpha)


def complete(n, rounds):
    """A row for each way; the ways take turns. Errors are those of the coefficients, beside float64's."""
    rows = [{"n": n, "way": way, "threads": THREADS, "load": os.getloadavg()[0]} for way in WAYS]
    exact = None
    for _ in range(rounds):
        for row in rows:
            seconds, cpu, most, alpha = alone(row["way"], n)
            exact = alpha if exact is None else exact  # of the first way
            row.setdefault("seconds", []).append(seconds)
            row.setdefault("cpu_seconds", []).append(cpu)
            row |= {"peak_bytes": most, "error": ((alpha - exact).norm() / exact.norm()).item()}
            print(n, row["way"], f"{seconds:.2f} s, CPU {cpu:.2f} s", flush=True)
            assert row["error"] < 1e-3
    return rows


def main(target, *selection):
    target = Path(target)
    chosen = [tuple(map(int, one.split(":"))) for one in selection if "complete" not in one]
    whole = [int(n) for one in selection if "complete" in one for n in one.split(":")[1:] or COMPLETE]
    stored = json.loads(target.read_text()) if selection and target.exists() else {"rows": []}
    machine = {
        "processor": cpuinfo.get_cpu_info().get("brand_raw", "unknown"),
        "processors": os.cpu_count(),
        "date": date.today().isoformat(),
    } | {name: version(name) for name in ("torch", "dask", "zarr")}

    def store():
        target.write_text(json.dumps(stored, indent=1) + "\n")

    if chosen or not selection:
        stored["machine"] = machine
        stored["task"] = {"d": D, "dtype": "float32", "memory_limit": MEMORY, **OPTIONS, **NETWORK}
    for n, workers in chosen or [(n, w) for n in SIZES for w in reversed(WORKERS) if not selection]:
        row = measure(n, workers)
        others = [one for one in stored["rows"] if (one["n"], one["workers"]) != (n, workers)]
        stored["rows"] = sorted([*others, row], key=lambda one: (one["n"], one["workers"]))
        store()
        print({key: value for key, value in row.items() if key != "history"}, flush=True)
    for n in whole if selection else COMPLETE:
        rows = complete(n, COMPLETE.get(n, 1))
        others = [one for one in stored.get("complete", {}).get("rows", []) if one["n"] != n]
        stored["complete"] = {"machine": machine, "rows": sorted(others + rows, key=lambda one: one["n"])}
        store()


if __name__ == "__main__":
    main(*sys.argv[1:])
