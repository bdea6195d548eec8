"""The oracles' own machinery; what they compute is in the tests of what is held against it."""

import inspect
import subprocess
import sys

import pytest

from ntkutils.oracles import _put_off, neural_tangents


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package `slow`, which imports `slow.heavy`; the test's own, and gone afterwards."""
    files = {
        "__init__.py": "from . import heavy\n",
        "heavy/__init__.py": "from .below import answer\n",
        "heavy/below.py": "answer = 42\n",
    }
    for name, text in files.items():
        path = tmp_path / "slow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "slow"
    for name in [name for name in sys.modules if name.partition(".")[0] == "slow"]:
        del sys.modules[name]


def test_a_module_is_put_off_until_it_is_used(package):
    with _put_off("slow.heavy"):
        import slow
    heavy = sys.modules["slow.heavy"]
    assert slow.heavy is heavy and heavy.__file__ == str(package / "heavy/__init__.py")
    # who looks at all modules does not load it
    inspect.getmodule(_put_off)
    assert not hasattr(heavy, "__warningregistry__") and "slow.heavy.below" not in sys.modules
    assert heavy.answer == 42 and slow.heavy is heavy is sys.modules["slow.heavy"]
    with pytest.raises(AttributeError, match="question"):
        _ = heavy.question


def test_what_is_put_off_can_be_imported(package):
    with _put_off("slow.heavy"):
        import slow
    import slow.heavy.below
    from slow.heavy import answer

    assert answer == slow.heavy.below.answer == 42


def test_what_cannot_be_loaded_says_so_every_time(package):
    (package / "heavy/below.py").write_text("raise ImportError('why')\n")
    with _put_off("slow.heavy"):
        import slow
    for _ in range(2):
        with pytest.raises(ImportError, match="why"):
            _ = slow.heavy.answer


def test_what_was_imported_stays(package):
    import slow

    heavy = slow.heavy
    with _put_off("slow.heavy"):
        import slow
    assert slow.heavy is heavy is sys.modules["slow.heavy"]


def test_a_failed_import_leaves_nothing(package):
    (package / "__init__.py").write_text("raise ImportError('why')\n")
    with pytest.raises(ImportError, match="why"), _put_off("slow.heavy"):
        import slow  # noqa: F401
    assert "slow.heavy" not in sys.modules


def test_neural_tangents_comes_quietly_and_without_tensorflow():
    start = "import sys; from ntkutils import oracles; nt = oracles.neural_tangents(); assert nt.stax; "
    without = start + "assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    later = start + "assert nt.experimental.empirical_ntk_fn_tf; assert 'tensorflow' in sys.modules"
    done = subprocess.run([sys.executable, "-c", later], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_not_there():
    with pytest.raises(ModuleNotFoundError), _put_off("not_there.heavy"):
        import not_there  # noqa: F401


def test_what_the_oracles_need_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match=r'neural-tangents and jax, .*pip install "\.\[test\]"'):
        neural_tangents()
