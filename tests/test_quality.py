"""Types, style and format of all code, by mypy and ruff as pyproject.toml sets them up."""

import ast
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


def test_a_relative_tolerance_says_its_absolute_one():
    """`approx` has abs=1e-12 by default, which accepts anything instead of what is smaller."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "approx":
                named = {keyword.arg for keyword in call.keywords}
                where = f"{path.relative_to(ROOT)}, line {call.lineno}"
                assert "abs" in named, f"{where}: approx without abs=..."
