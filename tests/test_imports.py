"""What importing the package brings along, and what is said where something is missing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ntkutils as nu

ROOT = Path(__file__).parents[1]


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_modules_come_when_they_are_used():
    result = in_a_new_process(
        "import sys, ntkutils as nu\n"
        "late = {'sklearn', 'dask', 'jax', 'matplotlib', 'ntkutils.sklearn_kernel'}\n"
        "assert not late & sys.modules.keys(), late & sys.modules.keys()\n"
        "assert nu.sklearn_kernel.NTK(depth=1).depth == 1 and nu.spectrum.harmonics(3, 1) == 3\n"
        "print(nu.oracles.__name__, nu.figures.BLUE)\n"
    )
    assert result.stdout == "ntkutils.oracles #0072B2\n", result.stderr


def test_what_is_not_there_is_said():
    for name in ("sklearn_kernels", "_hidden", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'ntkutils' has no attribute '{name}'"):
            getattr(nu, name)
        assert not hasattr(nu, name)


def test_without_scikit_learn():
    result = in_a_new_process(
        "import sys\nsys.modules['sklearn'] = None\nimport ntkutils as nu\nnu.sklearn_kernel\n"
    )
    assert "ImportError: ntkutils.sklearn_kernel: expected scikit-learn" in result.stderr
    assert result.stderr.rstrip().endswith("pip install scikit-learn")


def test_nobody_is_told_to_install_a_strangers_package():
    """On PyPI the name is taken: what is installed is a copy of the repository."""
    wrong = re.compile(r"pip install\s+[\"']?ntkutils")
    texts = [*ROOT.glob("ntkutils/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("chapters/**/*.md")]
    texts += ROOT.glob("chapters/*.ipynb")
    assert len(texts) > 40
    assert [path.name for path in texts if wrong.search(path.read_text(encoding="utf8"))] == []
    assert wrong.search('pip install "ntkutils[book]"') and wrong.search(
        "pip install ntkutils[distributed]"
    )
