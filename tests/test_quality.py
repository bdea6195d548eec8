"""Types, style and format of all code, by mypy and ruff as pyproject.toml sets them up."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ["ntkutils", "tests", "chapters/_extensions", ".ci"]


@pytest.mark.parametrize(
    "command",
    [["mypy"], ["ruff", "check", *CODE], ["ruff", "format", "--check", *CODE]],
    ids=["types", "style", "format"],
)
def test_code_passes(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
