"""How fast and how frugal the kernels are: `make bench` runs this and stores what it measures.

Contestants of a row take turns, each in a process of its own, so that what the machine does besides
meets all of them alike and no library's threads disturb another's.
"""

import json
import multiprocessing

import pytest
from contestants import serve

CALLS = 2  # a turn, after one that is not counted and warms the caches up
ANALYTIC = dict(n=4000, d=64, depth=3)
MLP = dict(n=128, d=64, width=1024, depth=3)
CNN = dict(n=20, tests=5)

# name: (rounds, contestants, arguments); the first contestant is ours
ROWS = {
    f"analytic, {dtype}": (
        5,
        ["ntkutils", "neural-tangents", "matrix product", "roots and arc tangents"],
        ANALYTIC | {"dtype": dtype},
    )
    for dtype in ("float32", "float64")
}
ROWS["empirical, MLP"] = (
    11,
    [
        "ntkutils, empirical",
        "structured derivatives",
        "vmap(jacrev)",
        "two backward passes",
        "ntkutils, layers of torch",
        "its matrix products",
    ],
    MLP,
)
ROWS["empirical, CNN"] = (
    5,
    [
        "ntkutils, CNN",
        "tutorial, contraction",
        "tutorial, vector products",
        "gradients in the convolutions",
    ],
    CNN,
)
# how the cost grows: one row a setting, ours alone
for n in (500, 1000, 2000, 4000, 8000):
    ROWS[f"n={n}"] = (3, ["ntkutils"], ANALYTIC | {"n": n, "dtype": "float64"})
for d in (256, 1024, 4096):
    ROWS[f"d={d}"] = (3, ["ntkutils"], ANALYTIC | {"n": 2000, "d": d, "dtype": "float64"})
for depth in (1, 3, 10, 30):
    ROWS[f"depth={depth}"] = (3, ["ntkutils"], ANALYTIC | {"n": 2000, "depth": depth, "dtype": "float64"})
for width in (256, 512, 1024, 2048, 4096):
    ROWS[f"width={width}"] = (3, ["ntkutils, empirical"], MLP | {"width": width})
for name in ("erf", "gelu", "sin"):
    ROWS[f"activation={name}"] = (3, ["ntkutils"], ANALYTIC | {"dtype": "float64", "activation": name})

TURNS = [
    (row, contestant, turn)
    for row, (rounds, contestants, _) in ROWS.items()
    for turn in range(rounds)
    for contestant in contestants
]


@pytest.fixture(scope="module")
def stage():
    """The processes of the row that is being run, and of no other."""
    running = {}

    def enter(row, contestant):
        if running.get("row") != row:
            leave()
            running.update(row=row, processes={}, peaks={})
            for name in ROWS[row][1]:
                here, there = multiprocessing.get_context("spawn").Pipe()
                process = multiprocessing.get_context("spawn").Process(
                    target=serve, args=(there, name, ROWS[row][2])
                )
                process.start()
                running["peaks"][name] = here.recv()
                running["processes"][name] = here, process
        return running["processes"][contestant][0], running["peaks"][contestant]

    def leave():
        for connection, process in running.pop("processes", {}).values():
            connection.send("stop")
            process.join()

    yield enter
    leave()


@pytest.mark.parametrize("row, contestant, turn", TURNS)
def test_speed(benchmark, stage, row, contestant, turn):
    connection, peak = stage(row, contestant)
    benchmark.group = row
    benchmark.extra_info |= {"contestant": contestant, "peak": peak, "arguments": json.dumps(ROWS[row][2])}

    def call():
        connection.send("go")
        return connection.recv()

    benchmark.pedantic(call, rounds=CALLS, warmup_rounds=1)
