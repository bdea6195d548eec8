"""Every public name has an example in its docstring that runs, and a place on the package's pages."""

import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch

import ntkutils as nu
from ntkutils import activations, checks, distributed, dynamics, quadrature, spectrum

PAGES = Path(__file__).parents[1] / "chapters/api"
FACTORIES = (
    *(activations.leaky_relu, activations.rectified_monomial, activations.polynomial),
    *(activations.monomial, activations.hermite, activations.sinusoid, activations.rbf),
    *(activations.from_function, activations.get),
)


def public():
    """All that the package's pages are about, by its full name."""
    yield from ((f"ntkutils.{name}", getattr(nu, name)) for name in nu.__all__)
    for thing in FACTORIES:
        yield f"ntkutils.activations.{thing.__name__}", thing
    for name, thing in inspect.getmembers(spectrum, inspect.isfunction):
        if not name.startswith("_"):
            yield f"ntkutils.spectrum.{name}", thing
    yield "ntkutils.dynamics.Prediction", dynamics.Prediction
    yield "ntkutils.checks.CheckFailed", checks.CheckFailed
    yield "ntkutils.checks.PowerlessCheckError", checks.PowerlessCheckError
    yield "ntkutils.quadrature.QuadratureError", quadrature.QuadratureError


PUBLIC = dict(public())
DISTRIBUTED = {f"ntkutils.distributed.{name}": getattr(distributed, name) for name in distributed.__all__}
SKLEARN = ["ntkutils.sklearn_kernel.NTK", "ntkutils.sklearn_kernel.NNGP"]


def run_examples(name, docstring, **given):
    """How many examples a docstring has; fails if one of them does not print what it says."""
    # what the first page of the reference says that examples begin with
    begin = {"torch": torch, "nu": nu} | given
    test = doctest.DocTestParser().get_doctest(docstring or "", begin, name, None, 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)
    return len(test.examples)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_an_example_that_runs(name):
    assert run_examples(name, inspect.getdoc(PUBLIC[name])), f"{name}: its docstring has no example"


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn_kernel_has_an_example_that_runs(name):
    module = pytest.importorskip("ntkutils.sklearn_kernel", reason="needs scikit-learn")
    assert run_examples(name, inspect.getdoc(getattr(module, name.rpartition(".")[2])))


@pytest.fixture(scope="module")
def client():
    """A cluster like that of the examples on the page of `ntkutils.distributed`."""
    with distributed.cluster(workers=1) as client:
        yield client


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_distributed_name_has_an_example_that_runs(name, client, tmp_path):
    given = dict(client=client, folder=tmp_path)
    assert run_examples(name, inspect.getdoc(DISTRIBUTED[name]), **given), f"{name}: no example"


def test_example_that_prints_something_else_is_found():
    with pytest.raises(AssertionError, match="Expected"):
        run_examples("wrong", ">>> 1 + 1\n3\n")


def test_every_public_name_has_its_place_on_the_pages():
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md")))
    shown = set(re.findall(r"^\s*\.\. auto(?:function|class|exception|module):: ([\w.]+)", text, re.M))
    members = {name for name in PUBLIC if name.startswith("ntkutils.spectrum.")}  # shown by their module
    modules = {"ntkutils.spectrum", "ntkutils.sklearn_kernel", "ntkutils.distributed"}
    assert shown | members == PUBLIC.keys() | DISTRIBUTED.keys() | {*SKLEARN, *modules}
    listed = set(re.findall(r"`\w+ <([\w.]+)>`", (PAGES / "index.md").read_text(encoding="utf-8")))
    left_out = {"ntkutils.activations", "ntkutils.quadrature.QuadratureError"}  # a module; an error
    assert listed == (PUBLIC.keys() | DISTRIBUTED.keys() | set(SKLEARN)) - left_out


def test_every_named_activation_is_in_the_table():
    text = (PAGES / "activations.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.M)) == sorted(activations.BY_NAME)
