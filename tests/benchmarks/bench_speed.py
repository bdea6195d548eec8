"""How fast and how frugal the kernels are: `make bench` runs this and stores what it measures.

python tests/benchmarks/bench_speed.py RESULTS.json [--tiny] [GROUP ...]

The contestants of a row take turns, in rounds, each in a process of its own that is stopped (SIGSTOP)
while others have their turn, so that nobody's waiting threads are in anybody's way. All have the same
number of threads and of processors, OMP_NUM_THREADS. A turn is as many calls as fill a tenth of a second;
its wall and CPU seconds are stored a call. Compilation is in no turn, but in "first".
With names of groups, only these are measured again. --tiny tries everything out; its numbers mean nothing.
"""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from contextlib import closing, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cpuinfo
import numpy as np
from contestants import FLOORS, serve
from summary import table, with_ratios

import ntkutils as nu

THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
TURN = 0.1  # seconds
ANALYTIC = dict(n=2000, d=64, depth=3)
MLP = dict(kind="mlp", n=128, d=64, width=1024, depth=3, outputs=1, dtype="float32")
NEURAL_TANGENTS = [f"neural-tangents, {how}" for how in ("structured derivatives", "vector products")]
TORCH = ["torch.func, vmap(jacrev)", "torch, a loop"]
OURS = "ntkutils, empirical"


def row(group, name, contestants, arguments, rounds=6, threads=THREADS):
    """The first contestant is ours."""
    return dict(
        group=group, name=name, contestants=contestants, arguments=arguments, rounds=rounds, threads=threads
    )


def analytic():
    """Every activation, both float types, without and with biases; then what else can differ."""
    both = ["ntkutils", "neural-tangents"]
    for dtype in ("float32", "float64"):
        group = f"analytic, {dtype}"
        for activation in nu.activations.BY_NAME:
            depth = 1 if activation == "exp" else 3  # whose moments grow beyond float32
            for bias_std in (0.0, 0.5):
                arguments = ANALYTIC | dict(
                    depth=depth, dtype=dtype, activation=activation, bias_std=bias_std
                )
                yield row(group, activation + ", biases" * bool(bias_std), both, arguments)
        relu = ANALYTIC | dict(dtype=dtype)
        yield row(group, "relu, two sets", both, relu | dict(pair=True))
        yield row(group, "relu, 50 points", both, relu | dict(n=50))
        yield row(group, "relu, 4000 points", both, relu | dict(n=4000))
        yield row(group, "relu, depth 10", both, relu | dict(depth=10))
        floors = ["ntkutils", "matrix product", "roots and arc tangents"]
        yield row(f"limit, {dtype}", "relu", floors, relu)
    for dtype in ("float32", "float64"):
        for activation in ("relu", "erf"):
            arguments = ANALYTIC | dict(dtype=dtype, activation=activation)
            yield row(f"one processor, {dtype}", activation, both, arguments, threads=1)


def by_quadrature():
    """Functions without a closed form; nobody else computes them to as many digits."""
    for function in ("tanh", "mish"):
        for bias_std in (0.0, 0.5):
            arguments = ANALYTIC | dict(dtype="float64", activation=function, bias_std=bias_std)
            yield row("from_function", function + ", biases" * bool(bias_std), ["ntkutils"], arguments, 3)


def empirical():
    """Networks that are ours, networks of torch's layers, and convolutions."""
    everybody = [OURS, *NEURAL_TANGENTS, *TORCH]
    yield row("MLP", "float32", everybody, MLP)
    yield row("MLP", "ten outputs, 32 points", everybody, MLP | dict(n=32, outputs=10))
    narrow = ["neural-tangents, contraction", *TORCH]  # which takes ten seconds at width 1024
    yield row("MLP", "width 64, 256 points", everybody[:3] + narrow, MLP | dict(n=256, width=64))
    few = [OURS, NEURAL_TANGENTS[0], TORCH[0]]
    yield row("MLP, float64", "float64", few, MLP | dict(dtype="float64"))
    yield row("MLP, one processor", "float32", [OURS, *NEURAL_TANGENTS[:1]], MLP, threads=1)
    yield row("limit, MLP", "float32", [OURS, "its matrix products"], MLP)
    layers = MLP | dict(kind="torch mlp")
    yield row("torch's layers", "one output", [OURS, *TORCH], layers)
    yield row("torch's layers", "ten outputs, 32 points", [OURS, *TORCH], layers | dict(n=32, outputs=10))
    images = [OURS, "ntkutils, one chunk", *TORCH]
    cnn = dict(kind="cnn", n=20, tests=5)
    yield row("convolutions", "CNN, 20 against 5", [*images, "torch.func, vector products"], cnn)
    small = dict(kind="resnet", n=16, channels=16, blocks=1)
    yield row("convolutions", "ResNet-10, 16 channels, 16 images", images, small)
    large = dict(kind="resnet", n=2, channels=64, blocks=2)
    yield row("convolutions", "ResNet-18, 2 images", images, large)


def growth():
    """How the cost grows: a row a size."""
    both, float64 = ["ntkutils", "neural-tangents"], ANALYTIC | dict(dtype="float64")
    sizes = {"n": (500, 1000, 2000, 4000, 8000), "depth": (1, 3, 10, 30), "d": (64, 256, 1024, 4096)}
    for what, values in sizes.items():
        for value in values:
            yield row("growth", f"{what}={value}", both, float64 | {what: value}, 3)
    for width in (256, 512, 1024, 2048, 4096):
        yield row("growth", f"width={width}", [OURS], MLP | dict(width=width), 3)


PARTS = (analytic, by_quadrature, empirical, growth)


def tiny(one):
    """The same row, small; for tries and tests."""
    small = dict(n=24, d=8, width=16, channels=4, tests=3)
    arguments = {key: min(value, small.get(key, value)) if key in small else value
                 for key, value in one["arguments"].items()}  # fmt: skip
    if arguments.get("kind") in ("cnn", "resnet"):
        arguments["n"] = 2
    return one | {"arguments": arguments, "rounds": 2}


# ---- Processes that wait for their turn -----------------------------------------------------------


class Stage:
    """Contestants in processes of their own, of which one at a time is not stopped."""

    def __init__(self, threads):
        self.threads, self.processes = threads, {}

    def start(self, name):
        """A new process, with as many processors as threads."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there,), daemon=True)
        outer = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        with processors(self.threads):
            process.start()
        os.environ["OMP_NUM_THREADS"] = outer or str(self.threads)
        self.processes[name] = here, process

    def ask(self, name, *message):
        connection, process = self.processes[name]
        os.kill(process.pid, signal.SIGCONT)
        connection.send(message)
        answer = connection.recv()
        os.kill(process.pid, signal.SIGSTOP)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        for _, process in self.processes.values():
            process.kill()  # which a stopped process obeys, too
            process.join()
        self.processes.clear()


@contextmanager
def processors(count):
    """What starts inside has this many of the processors (where the system can do it)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def busy():
    """CPU seconds that all processors have worked, for anybody, since they began; None if not known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, *rest = map(int, stat.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def measure(one, stage):
    """Fill a row in: turns of its contestants, in rounds, after they were seen to agree."""
    values = {}
    figures = {name: {"wall": [], "cpu": [], "calls": []} for name in one["contestants"]}
    for name in figures:
        if name not in stage.processes:
            stage.start(name)
        seen, values[name] = stage.ask(name, "prepare", name, one["arguments"])
        figures[name] |= seen
    agree(one, {name: value for name, value in values.items() if name not in FLOORS})
    began, worked, own = time.perf_counter(), busy(), 0.0
    for _ in range(one["rounds"]):
        for name in figures:
            wall, cpu, calls = stage.ask(name, "turn", TURN)
            own += cpu * calls
            for key, value in dict(wall=wall, cpu=cpu, calls=calls).items():
                figures[name][key].append(float(f"{value:.5g}") if key != "calls" else value)
    others = None
    if worked is not None:  # the share of all processors that anything else had
        others = max(0, busy() - worked - own) / (os.cpu_count() * (time.perf_counter() - began))
    return one | {"others": others, "contestants": figures}


def agree(one, values):
    """All have computed the same, of networks with the same weights."""
    double = one["arguments"].get("dtype") == "float64"
    (_, first), *others = values.items()
    for name, value in others:
        assert value.shape == first.shape, (one["name"], name, value.shape, first.shape)
        error = np.abs(value - first).max() / np.abs(first).max()
        assert error < (1e-6 if double else 1e-2), (one["name"], name, error)


def main(target, *selection):
    target, small = Path(target), "--tiny" in selection
    groups = {name for name in selection if name != "--tiny"}
    machine = {
        "processor": cpuinfo.get_cpu_info().get("brand_raw", "unknown"),
        "processors": os.cpu_count(),
        "threads": THREADS,
        "date": date.today().isoformat(),
        "load before": round(os.getloadavg()[0], 2),
    } | {name: version(name) for name in ("torch", "jax", "neural-tangents", "numpy")}
    if small:
        machine["sizes"] = "tiny, to try it out: the numbers mean nothing"
    rows = {(one["group"], one["name"]): one for part in PARTS for one in part()}
    chosen = [
        tiny(one) if small else one for (group, _), one in rows.items() if group in groups or not groups
    ]
    kept = {}
    if groups and target.exists():
        old = json.loads(target.read_text())["rows"]
        kept = {(one["group"], one["name"]): one for one in old if one["group"] not in groups}
    failed = []
    for (_, threads), together in itertools.groupby(chosen, lambda one: (one["group"], one["threads"])):
        with closing(Stage(threads)) as stage:
            for one in together:
                name = one["group"], one["name"]
                try:
                    kept[name] = with_ratios(measure(one, stage)) | {"date": machine["date"]}
                    print(table(kept[name]), flush=True)
                except Exception as error:  # the other rows are measured all the same
                    failed.append(f"{name}: {error!r}")
                    print("FAILED", failed[-1], flush=True)
                    stage.close()
        results = {"machine": machine, "rows": [kept[name] for name in rows if name in kept]}
        target.write_text(json.dumps(results, indent=1) + "\n")
    if failed or not chosen:
        sys.exit("\n".join(failed) or f"no such group; there are {sorted({group for group, _ in rows})}")


if __name__ == "__main__":
    main(*sys.argv[1:])
