"""Distributed results equal those in memory, whatever happens to workers, disks and schedulers."""

import errno
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

import ntkutils as nu
from ntkutils import distributed as nd
from ntkutils.distributed.blocks import Blocks
from ntkutils.distributed.conjugate_gradient import conjugate_gradient
from ntkutils.distributed.nystroem import nystroem

ROOT = Path(__file__).parents[1]
DEEP = dict(depth=3, activation="relu")


def points(n, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)


X, X_TEST = points(200), points(40, seed=1)
Y = torch.stack([(3 * X[:, 0]).sin(), X[:, 1] * X[:, 2]], dim=1)
K, K_TEST = nu.ntk(X, **DEEP), nu.ntk(X_TEST, X, **DEEP)
DIRECT = nu.gradient_flow(K, Y, ridge=1.0, test_kernel=K_TEST)


@pytest.fixture(scope="module")
def near():
    """Two workers that are threads of this process: they start at once, and what they run is measured."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def workers():
    """Two workers that are processes, and can be killed."""
    with nd.cluster(workers=2, memory_limit="1 GB") as client:
        yield client


def largest(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# ---- Kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("which", ["ntk", "nngp"])
@pytest.mark.parametrize("activation", ["relu", "erf", nu.activations.gelu, nu.activations.leaky_relu(0.3)])
def test_lazy_kernel_is_the_kernel(which, activation, dtype, bound):
    x, z = points(50, dtype=dtype), points(31, seed=1, dtype=dtype)
    lazy, memory = getattr(nd, which), getattr(nu, which)
    network = dict(depth=2, activation=activation, weight_std=1.1, bias_std=0.2)
    for sets in [(x,), (x, z)]:
        found = lazy(*sets, block=16, **network)
        expected = memory(*sets, **network)
        assert found.dtype == expected.numpy().dtype and found.shape == expected.shape
        value = torch.from_numpy(found.compute(scheduler="synchronous"))
        assert largest(value, expected) < bound
        if len(sets) == 1:
            assert torch.equal(value, value.T)


def test_symmetric_work_is_done_once_and_nothing_before_it_is_asked_for(monkeypatch):
    calls = []
    kernel = importlib.import_module("ntkutils.distributed.kernel")
    monkeypatch.setattr(
        kernel.recursion, "ntk", lambda *x, **network: calls.append(x) or nu.ntk(*x, **network)
    )
    lazy = nd.ntk(X[:100], depth=1, block=25)
    assert len(calls) == 1 and len(calls[0][0]) == 0  # of no points, to see whether the network is one
    lazy.compute(scheduler="synchronous")
    assert len(calls) == 1 + 4 * 5 / 2
    lazy[:25, 75:].compute(scheduler="synchronous")
    assert len(calls) == 1 + 4 * 5 / 2 + 1


def test_two_processes_compute_the_same_kernel_whole_and_in_parts(workers):
    """One after the other: Dask's scheduler broke when keys meant chains in one and not in the next."""
    lazy = nd.ntk(X, block=80, **DEEP)
    for part in [slice(None), slice(0, 80), slice(160, None), slice(None)]:
        value = torch.from_numpy(lazy[part, 80:].compute())
        assert largest(value, K[part, 80:]) < 1e-14
    assert abs((lazy**2).mean().compute() / K.square().mean().item() - 1) < 1e-13


@pytest.mark.parametrize(
    "sets, network",
    [
        ((X.numpy(),), DEEP),
        ((X.long(),), DEEP),
        ((X[0],), DEEP),
        ((X.where(X > 0, torch.nan),), DEEP),
        ((X, X[:, :3]), DEEP),
        ((X, X.float()), DEEP),
        ((X,), DEEP | dict(depth=-1)),
        ((X,), DEEP | dict(activation="rely")),
        ((X,), DEEP | dict(weight_std=-1)),
        ((X,), dict()),
    ],
)
def test_errors_are_those_in_memory(sets, network):
    with pytest.raises((TypeError, ValueError)) as there:
        nu.ntk(*sets, **network)
    with pytest.raises(type(there.value)) as here:
        nd.ntk(*sets, **network)
    assert str(here.value) == str(there.value)


def test_error_in_a_block_is_that_in_memory():
    huge = 1e200 * X
    with pytest.raises(OverflowError) as there:
        nu.ntk(huge, **DEEP)
    with pytest.raises(OverflowError) as here:
        nd.ntk(huge, **DEEP).compute(scheduler="synchronous")
    assert str(here.value)[:60] == str(there.value)[:60]


def test_points_that_are_differentiated_are_refused():
    with pytest.raises(ValueError, match=r"x1: expected points without gradients.*detach"):
        nd.ntk(X.clone().requires_grad_(), **DEEP)


# ---- Kernel regression -----------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("columns", [(), (2,)])
def test_regression_is_the_direct_solution(near, tmp_path, stored, columns):
    """The residual is 1e-12; coefficients err by that over the ridge, times the norm of the targets."""
    y = Y if columns else Y[:, 0]
    store = tmp_path if stored else None
    solution = nd.regression(X, y, X_TEST, client=near, ridge=1.0, tol=1e-12, block=90, store=store, **DEEP)
    train, test = (a if columns else a[:, 0] for a in (DIRECT.train, DIRECT.test))
    assert solution.residual <= 1e-12 and solution.coefficients.shape == (200, *columns)
    residual = y - K @ solution.coefficients - solution.coefficients
    assert residual.norm() / y.norm() < 2e-12
    assert (solution.coefficients - (y - train)).norm() < 1e-12 * y.norm() + 1e-12
    assert largest(solution.train, train) < 1e-10 and largest(solution.test, test) < 1e-10


def test_float32_stays_and_converges_in_float64(near):
    x, y = X.float(), Y.float()
    solution = nd.regression(x, y, X_TEST.float(), client=near, ridge=1.0, tol=1e-10, block=90, **DEEP)
    K32 = nu.ntk(x, **DEEP).double()
    expected = torch.linalg.solve(K32 + torch.eye(200).double(), y.double())
    assert solution.residual < 1e-10  # far below the rounding of float32
    for value in (solution.coefficients, solution.train, solution.test):
        assert value.dtype == torch.float32
    assert largest(solution.coefficients.double(), expected) < 1e-6


def test_numbers_do_not_depend_on_the_workers(near, workers, tmp_path):
    options = dict(ridge=1.0, block=90, **DEEP)
    few = nd.regression(X, Y, X_TEST, client=near, **options)
    many = nd.regression(X, Y, X_TEST, client=workers, store=tmp_path, **options)
    for name in ("coefficients", "train", "test"):
        assert largest(getattr(few, name), getattr(many, name)) < 1e-11, name
    assert few.history == pytest.approx(many.history, rel=1e-6, abs=0)


def test_without_a_ridge(near):
    solution = nd.regression(X, Y[:, 0], client=near, tol=1e-9, block=150, **DEEP)
    assert largest(solution.train, Y[:, 0]) < 1e-7
    assert solution.test is None


def test_any_kernel_that_workers_can_import(near):
    solution = nd.regression(X, Y, client=near, kernel=nu.nngp, ridge=1.0, **DEEP)
    direct = nu.gradient_flow(nu.nngp(X, **DEEP), Y, ridge=1.0)
    assert largest(solution.train, direct.train) < 1e-8


def test_preconditioner_saves_steps(near):
    steps = {
        rank: nd.regression(X, Y, client=near, ridge=1.0, rank=rank, tol=1e-8, **DEEP).iterations
        for rank in (0, 20, 100)
    }
    assert steps[100] < steps[20] < steps[0] and steps[100] < steps[0] / 3


@pytest.mark.parametrize("rank", [1, 40, 200])
def test_condition_number_is_within_its_bound(near, rank):
    """Eigenvalues of P^-1 (K + ridge) are between 1 and 1 + |E|/ridge."""
    ridge, eye = 0.1, torch.eye(200, dtype=torch.float64)
    inverse = nystroem(Blocks(near, X, nu.ntk, DEEP, 90, None), rank, ridge, seed=0)(eye)
    E = K - (torch.linalg.inv(inverse) - ridge * eye)
    assert torch.linalg.eigvalsh(E)[0] > -1e-9
    values = torch.linalg.eigvals(inverse @ (K + ridge * eye)).real
    norm = torch.linalg.matrix_norm(E, 2)
    assert values.min() > 1 - 1e-9 and values.max() < 1 + norm / ridge + 1e-9
    assert rank < 200 or norm < 1e-9


def test_residual_that_rounding_hid_is_found():
    """With products of 1e-6 the residual that is carried on falls below what it is; the last is true."""
    noise, generator = 1e-6, torch.Generator().manual_seed(0)
    b = Y[:, :1]

    def A(v):
        product = K @ v + 0.1 * v
        return product * (1 + noise * torch.randn(len(v), 1, generator=generator, dtype=v.dtype))

    *_, (x, r, computed) = conjugate_gradient(
        A, torch.clone, b, torch.zeros_like(b), 1e-13 * b.norm(dim=0), 2000
    )
    assert computed and r.norm() > 1e-10 * b.norm()
    assert ((b - A(x)) - r).norm() < noise * 10 * b.norm()


def test_what_was_reached_comes_with_the_error_and_can_be_gone_on_from(near):
    options = dict(client=near, ridge=1.0, **DEEP)
    with pytest.raises(nd.NotConvergedError, match=r"after 3 of at most 3 steps.*larger ridge") as error:
        nd.regression(X, Y, max_iterations=3, **options)
    reached = error.value.solution
    assert reached.iterations == 3 and 1e-10 < reached.residual < 1
    again = nd.regression(X, Y, initial=reached.coefficients, **options)
    assert again.history[0] == pytest.approx(reached.residual, rel=1e-6, abs=0)
    assert isinstance(error.value, nu.ConvergenceError)


def test_columns_of_zeros_and_no_test_points(near):
    solution = nd.regression(X, 0 * Y, X_TEST[:0], client=near, ridge=1.0, **DEEP)
    assert not solution.coefficients.any() and solution.test.shape == (0, 2) and solution.iterations == 0


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(targets=Y[:5]), ValueError, r"targets: expected shape \(200,\) or \(200, o\).*got \(5, 2\)"),
        (dict(targets=Y.float()), TypeError, "x and targets: expected the same dtype"),
        (dict(ridge=-1.0), ValueError, "ridge: expected a finite non-negative number"),
        (dict(tol=0.0), ValueError, "tol: expected a finite positive number"),
        (dict(rank=-1), ValueError, "rank: expected at least 0"),
        (dict(block=0), ValueError, "block: expected at least 1"),
        (dict(initial=Y[:, 0]), ValueError, r"initial: expected shape \(200, 2\)"),
        (dict(depth=-1), ValueError, "depth: expected at least 0"),
        (dict(x_test=X[:, :2]), ValueError, "x and x_test: expected the same number of features"),
    ],
)
def test_bad_input_is_named(near, change, error, words):
    with pytest.raises(error, match=words):
        nd.regression(**dict(x=X, targets=Y, client=near) | DEEP | change)


def test_kernel_that_is_not_positive_is_named(near):
    with pytest.raises(nu.SingularKernelError, match=r"curvature -.*larger ridge"):
        nd.regression(X, Y, client=near, rank=0, kernel=lambda *x: -nu.ntk(*x, depth=1))


def test_block_without_room_is_an_error_before_any_work(workers):
    x = points(20_000)
    with pytest.raises(
        MemoryError, match=r"room for 8\.94 GiB in each worker.*20000 x 20000.*smaller block"
    ):
        nd.regression(x, x[:, 0], client=workers, block=20_000, **DEEP)


# ---- What is stored --------------------------------------------------------------------------


def files_of(store):
    return {
        path: path.stat().st_mtime_ns for path in (store / "kernel.zarr/c").rglob("*") if path.is_file()
    }


def test_store_has_each_block_once_and_the_next_run_uses_it(near, tmp_path):
    options = dict(client=near, ridge=1.0, block=90, store=tmp_path, **DEEP)
    with pytest.raises(nd.NotConvergedError) as error:
        nd.regression(X, Y, max_iterations=2, **options)
    blocks = files_of(tmp_path)
    assert len(blocks) == 3 * 4 / 2
    solution = nd.regression(X, Y, X_TEST, **options)
    assert files_of(tmp_path) == blocks
    assert solution.history[0] == pytest.approx(
        error.value.solution.residual, rel=1e-6, abs=0
    )  # not from the start
    assert largest(solution.test, DIRECT.test) < 1e-8
    other = nd.regression(X, Y[:, 0], **options)  # of other targets there are no coefficients yet
    assert other.history[0] == pytest.approx(1, rel=1e-6, abs=0) and files_of(tmp_path) == blocks


def test_store_of_another_kernel_is_refused(near, tmp_path):
    nd.regression(X, Y, client=near, ridge=1.0, store=tmp_path, **DEEP)
    for x, change in [(X_TEST, {}), (X, dict(depth=2)), (X, dict(block=100)), (X, dict(kernel=nu.nngp))]:
        with pytest.raises(ValueError, match=r"store: expected an empty folder or a store of this kernel"):
            nd.regression(x, x[:, 0], client=near, ridge=1.0, store=tmp_path, **DEEP | change)


# ---- Sweeps ----------------------------------------------------------------------------------


def trained(width, seed, activation):
    """What a small trained network predicts, and how far its layers have moved."""
    model = nu.MLP(
        4, width, 1, activation=activation, copies=3, dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    trace = nu.train(model, X[:8], Y[:8, 0], learning_rate=0.1, steps=5, x_test=X_TEST, record=[5])
    return {"test": trace.test[0], "moved": trace.moved[0]}


SETTINGS = dict(width=[8, 16], seed=[0, 1, 2], activation=["relu", "erf"])


def test_sweep_is_the_loop(near, tmp_path):
    runs = nd.sweep(trained, SETTINGS, folder=tmp_path, client=near)
    expected = [
        dict(width=width, seed=seed, activation=activation)
        for width in (8, 16)
        for seed in (0, 1, 2)
        for activation in ("relu", "erf")
    ]
    assert [run.settings for run in runs] == expected
    for run in runs:
        for name, value in trained(**run.settings).items():
            assert torch.equal(run.result[name], value)
    assert len(list(tmp_path.iterdir())) == 12


def test_second_run_computes_what_is_missing(near, tmp_path):
    log = tmp_path / "log.txt"

    def count(a):
        with log.open("a") as file:
            file.write(f"{a} ")
        return a

    options = dict(folder=tmp_path, client=near)
    nd.sweep(count, {"a": [1, 2]}, **options)
    runs = nd.sweep(count, {"a": [1, 2, 3]}, **options)
    assert sorted(log.read_text().split()) == ["1", "2", "3"] and [run.result for run in runs] == [1, 2, 3]
    nd.sweep(count, {"a": [1]}, version="2", **options)
    assert sorted(log.read_text().split()) == ["1", "1", "2", "3"]


def test_name_of_a_file_depends_on_settings_and_source_alone():
    from ntkutils.distributed.sweeps import _name

    names = {_name(trained, dict(width=w, seed=s), v) for w in (1, 2) for s in (0, 1) for v in (None, "2")}
    assert len(names) == 8
    assert _name(trained, dict(width=1, seed=0), None) == _name(trained, dict(seed=0, width=1), None)


def test_failed_tasks_do_not_lose_the_others(near, tmp_path):
    def inverse(a):
        return 1 / a

    options = dict(folder=tmp_path, client=near)
    with pytest.raises(
        nd.SweepError, match=r"expected 4 results, got 3; 1 .*\{'a': 0\}.*ZeroDivision"
    ) as error:
        nd.sweep(inverse, {"a": [4, 0, 2, 1]}, **options)
    assert [run.result for run in error.value.finished] == [0.25, 0.5, 1.0]
    assert [settings for settings, _ in error.value.failed] == [{"a": 0}]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "function, settings, error, words",
    [
        (trained, {"a": [object()]}, TypeError, "numbers, strings, booleans or None"),
        (trained, {"a": [float("nan")]}, TypeError, "numbers, strings, booleans or None"),
        (3, {"a": [1]}, TypeError, "a function that was defined by def"),
        (lambda a: Path("."), {"a": [1]}, TypeError, "function: expected it to return tensors.*got Pos"),
    ],
)
def test_bad_sweep_is_named(near, tmp_path, function, settings, error, words):
    with pytest.raises(error, match=words):
        nd.sweep(function, settings, folder=tmp_path, client=near)
    assert not list(tmp_path.iterdir())


def test_function_without_source_needs_a_version(near, tmp_path):
    made = {}
    exec("def f(a): return a", made)
    with pytest.raises(ValueError, match="version: expected one for f, whose source"):
        nd.sweep(made["f"], {"a": [1]}, folder=tmp_path, client=near)
    assert nd.sweep(made["f"], {"a": [1]}, folder=tmp_path, client=near, version="1")[0].result == 1


def test_damaged_result_is_named(near, tmp_path):
    options = dict(settings={"a": [1]}, folder=tmp_path, client=near, version="1")
    nd.sweep(lambda a: a, **options)
    [file] = tmp_path.iterdir()
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"{file.name}, got .*; delete the file"):
        nd.sweep(lambda a: a, **options)


# ---- Faults ----------------------------------------------------------------------------------


def test_workers_killed_in_mid_run_change_no_number(workers, near):
    """SIGKILL to both during the iteration: what they held is computed again, in other processes."""
    before = set(workers.run(os.getpid).values())

    def kill():
        for pid in before:
            os.kill(pid, signal.SIGKILL)

    def slow_ntk(*x, **network):
        time.sleep(0.05)
        return nu.ntk(*x, **network)

    options = dict(ridge=1.0, block=90, rank=50, **DEEP)
    expected = nd.regression(X, Y, X_TEST, client=near, **options)
    killer = threading.Timer(1, kill)
    killer.start()
    found = nd.regression(X, Y, X_TEST, client=workers, kernel=slow_ntk, **options)
    killer.join()
    assert not before & set(workers.run(os.getpid).values())
    assert largest(found.coefficients, expected.coefficients) < 1e-11
    assert largest(found.test, expected.test) < 1e-11


def test_worker_out_of_memory_is_named_and_loses_no_other_task(tmp_path):
    def allocate(megabytes):
        held = np.ones(megabytes * 2**17)
        time.sleep(2 if megabytes > 100 else 0)
        return held[0].item() + megabytes

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        nd.cluster(workers=1, memory_limit="700 MB") as client,
    ):
        options = dict(folder=tmp_path, client=client)
        with pytest.raises(nd.SweepError, match=r"ClusterError: workers: .*want of memory") as error:
            nd.sweep(allocate, {"megabytes": [1, 2, 2000]}, **options)
        assert [run.result for run in error.value.finished] == [2.0, 3.0]
        assert nd.sweep(allocate, {"megabytes": [1, 2, 3]}, **options)[2].result == 4.0  # it goes on


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a given size, which can grow; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]

    def size(kilobytes, *remount):
        command = [*sudo, "mount", "-t", "tmpfs", "-o", ",".join([*remount, f"size={kilobytes}k,mode=777"])]
        if (
            not shutil.which("mount")
            or subprocess.run([*command, "tmpfs", folder], capture_output=True).returncode
        ):
            pytest.skip("may not mount a disk")
        return folder

    yield size
    subprocess.run([*sudo, "umount", folder], capture_output=True)


def test_full_disk_is_named_and_the_blocks_on_it_are_used(workers, small_disk):
    """Blocks of 80 kB, 15 of them in all, on a disk of 600 kB, which then grows."""
    options = dict(client=workers, ridge=1.0, block=100, tol=1e-12, **DEEP)
    x = points(500)
    y = x[:, :1] ** 2
    disk = small_disk(600)
    with pytest.raises(
        OSError, match=r"expected room for the kernel's blocks.*full disk.*goes on"
    ) as error:
        nd.regression(x, y, store=disk, **options)
    assert error.value.errno == errno.ENOSPC
    time.sleep(0.3)  # for the tasks that were in flight
    blocks = files_of(disk)
    assert 0 < len(blocks) < 15
    small_disk(8000, "remount")
    solution = nd.regression(x, y, store=disk, **options)
    now = files_of(disk)
    assert len(now) == 15 and blocks.items() <= now.items()
    direct = torch.linalg.solve(nu.ntk(x, **DEEP) + torch.eye(500).double(), y)
    assert largest(solution.coefficients, direct) < 1e-9


def test_full_disk_ends_a_sweep_with_what_is_stored(near, small_disk):
    def result(a):
        return torch.full((10_000,), float(a))  # 40 kB

    disk = small_disk(200)
    with pytest.raises(OSError, match=r"expected room for the result of \{'a': \d\}.*full disk"):
        nd.sweep(result, {"a": list(range(9))}, folder=disk, client=near)
    stored = {path: path.stat().st_mtime_ns for path in disk.iterdir()}
    assert 0 < len(stored) < 9 and all(path.suffix == ".pt" for path in stored)
    small_disk(8000, "remount")
    runs = nd.sweep(result, {"a": list(range(9))}, folder=disk, client=near)
    assert [run.result[0].item() for run in runs] == list(range(9))
    assert stored.items() <= {path: path.stat().st_mtime_ns for path in disk.iterdir()}.items()


def test_scheduler_that_is_not_there_is_named_soon():
    began = time.monotonic()
    words = r"scheduler at tcp://127\.0\.0\.1:1, got no answer in 1 s"
    with pytest.raises(nd.ClusterError, match=words), nd.cluster("tcp://127.0.0.1:1", timeout=1):
        pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(workers=0), "workers: expected at least 1"),
        (dict(timeout=0), "timeout: expected a finite positive number"),
        (dict(address="tcp://127.0.0.1:1", workers=2), "expected no address with them"),
    ],
)
def test_bad_cluster_is_named(options, words):
    with pytest.raises(ValueError, match=words), nd.cluster(**options):
        pass


CLUSTER = """
import sys, time
from ntkutils import distributed as nd
if __name__ == "__main__":
    with nd.cluster(workers=1) as client:
        print(client.scheduler.address, flush=True)
        time.sleep(100)
"""


def script(tmp_path, text, *arguments):
    file = tmp_path / "script.py"
    file.write_text(text)
    return subprocess.Popen(
        [sys.executable, file, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_scheduler_that_goes_is_named_and_what_is_stored_stays(tmp_path):
    """The cluster's process is killed, and with it the scheduler; its address alone is known."""

    def slow(a):
        time.sleep(0.2)
        return a

    folder, process = tmp_path / "results", script(tmp_path, CLUSTER)
    try:
        with nd.cluster(process.stdout.readline().strip(), timeout=1) as client:
            threading.Timer(1.5, process.kill).start()
            with pytest.raises(nd.ClusterError, match="scheduler: expected it to stay"):
                nd.sweep(slow, {"a": list(range(50))}, folder=folder, client=client)
    finally:
        process.kill()
        process.communicate()
    stored = len(list(folder.iterdir()))
    assert 0 < stored < 50


SWEEP = """
import sys, time
from ntkutils import distributed as nd
def slow(a, log):
    time.sleep(0.4)
    with open(log, "a") as file:
        file.write(f"{a} ")
    return a
if __name__ == "__main__":
    folder, log = sys.argv[1:]
    with nd.cluster(workers=1) as client:
        nd.sweep(slow, {"a": list(range(6)), "log": [log]}, folder=folder, client=client, version="1")
"""


def test_killed_process_loses_at_most_the_task_in_flight(near, tmp_path):
    folder, log = tmp_path / "results", tmp_path / "log"
    process = script(tmp_path, SWEEP, folder, log)
    deadline = time.monotonic() + 100
    while len(list(folder.glob("*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    time.sleep(1)  # for its worker, which ends when it is alone
    stored, before = len(list(folder.glob("*.pt"))), log.read_text().split()
    assert 2 <= stored < 6 and len(before) <= stored + 1

    def slow(a, log):
        with open(log, "a") as file:
            file.write(f"{a} ")
        return a

    slow.__qualname__ = "slow"
    settings = {"a": list(range(6)), "log": [str(log)]}
    runs = nd.sweep(slow, settings, folder=folder, client=near, version="1")
    assert [run.result for run in runs] == list(range(6))
    assert len(log.read_text().split()) == len(before) + 6 - stored
    assert not list(folder.glob("*.partial"))


# ---- An optional part ------------------------------------------------------------------------


def in_a_new_process(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_package_imports_without_dask_and_says_what_its_part_needs():
    result = in_a_new_process(
        "import sys\n"
        "import ntkutils\n"
        "assert not {'dask', 'distributed', 'zarr', 'ntkutils.distributed'} & sys.modules.keys()\n"
        "sys.modules['dask'] = None\n"
        "import ntkutils.distributed\n"
    )
    assert "ImportError: ntkutils.distributed: expected Dask and zarr" in result.stderr
    assert 'pip install ".[distributed]"' in result.stderr


def test_terminal_shows_dasks_bar_and_where_to_watch(workers, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with nd.cluster(workers.scheduler.address) as client:
        nd.regression(X[:50], Y[:50], client=client, ridge=1.0, block=25, **DEEP)
    shown = capsys.readouterr().out
    assert "Dask's dashboard: http" in shown and "Completed" in shown
