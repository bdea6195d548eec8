"""How much memory is free, on machines other than this one: what Linux, containers and others say."""

import math
import os
from types import SimpleNamespace

import pytest
import torch

from ntkutils import _validation
from ntkutils._validation import free_memory, require_memory

CPU = torch.device("cpu")
MEMINFO = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Say what the files of a machine are, and how many pages it has: all that free_memory looks at."""

    def make(files, pages=None):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        system = {} if pages is None else {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}
        monkeypatch.setattr(_validation, "Path", lambda path: tmp_path / path.removeprefix("/"))
        monkeypatch.setattr(_validation, "os", SimpleNamespace(sysconf_names=system, sysconf=system.get))

    return make


def container(most, current="400000000\n"):
    return {"sys/fs/cgroup/memory.max": most, "sys/fs/cgroup/memory.current": current}


@pytest.mark.parametrize(
    "files, pages, expected",
    [
        pytest.param({"proc/meminfo": MEMINFO}, 10, 3_072_000_000, id="Linux"),
        pytest.param(
            {"proc/meminfo": MEMINFO, **container("1000000000\n")}, 10, 600_000_000, id="a container"
        ),
        pytest.param(
            {"proc/meminfo": MEMINFO, **container("9000000000\n")},
            10,
            3_072_000_000,
            id="a larger container",
        ),
        pytest.param(
            {"proc/meminfo": MEMINFO, **container("max\n")},
            10,
            3_072_000_000,
            id="one without limit",
        ),
        pytest.param(container("1000000000\n"), 10, 600_000_000, id="a container that hides the rest"),
        pytest.param(
            {**container("1000000000\n"), "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 100000000\n"},
            10,
            700_000_000,
            id="a container that has read files",
        ),
        pytest.param({}, 10, 40_960, id="macOS"),
        pytest.param({}, None, math.inf, id="Windows"),
    ],
)
def test_the_smallest_of_what_is_known(files, pages, expected, machine):
    machine(files, pages)
    assert free_memory(CPU) == expected


def test_this_machine_has_some_and_less_than_all():
    free = free_memory(CPU)
    assert free > 0
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        assert free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_other_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 7) if device.index == 1 else (0, 0))
    assert free_memory(torch.device("cuda:1")) == 3
    assert free_memory(torch.device("meta")) == math.inf


def test_a_kernel_that_just_fits(machine):
    """8 bytes an entry of float64, so that 40,960 bytes hold 5,120 entries."""
    machine({}, pages=10)
    x = torch.zeros(80, 1, dtype=torch.float64)
    require_memory("ntk", x, x[:64])
    with pytest.raises(MemoryError, match=r"80 x 65 entries of torch.float64, 41\.6 kB, where 41\.0 kB"):
        require_memory("ntk", x, x[:65])
