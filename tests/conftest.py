"""What all tests share: explicit seeds, float64 data, and no silent skips where CI runs."""

import os
import sys
from pathlib import Path

import pytest
import torch

# The pure parts of the book's Sphinx extensions, which the tests read the chapters with.
sys.path.insert(0, str(Path(__file__).parents[1] / "chapters/_extensions"))


@pytest.fixture
def normal():
    """Random normal tensors: `normal(seed, *shape)`, so that every seed is explicit."""

    def make(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return make


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Where the variable CI is set, everything that a test needs is there: a skip is a failure."""
    report = (yield).get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI, which should have what it needs: {reason}"
