"""The progress bar: in notebooks the same stored output on every run, elsewhere silent."""

import subprocess
import sys
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ntkutils.progress import progress

LOOP = """
import time
from ntkutils.progress import progress

for _ in progress((i for i in range(7)), "to 7 < 8"):
    time.sleep(0.1)
"""


class Client(nbclient.NotebookClient):
    """Executes, and keeps what the kernel sent to be shown."""

    def process_message(self, message, *rest):
        if "data" in message["content"]:
            self.shown = [*getattr(self, "shown", []), message["content"]["data"]]
        return super().process_message(message, *rest)


@pytest.mark.filterwarnings("ignore")  # the kernel client's own
def test_notebooks_store_the_same_each_time(tmp_path):
    cells = [new_code_cell(LOOP), new_code_cell(LOOP.replace("time.sleep(0.1)", "break"))]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    client = Client(notebook, record_timing=False)
    client.execute()
    whole, broken_off = (cell.outputs[0] for cell in cells)
    assert [len(cell.outputs) for cell in cells] == [1, 1]
    assert whole.data == {"text/plain": "to 7 < 8: done"} and whole.metadata == {}
    assert broken_off.data["text/plain"] == "to 7 < 8: 0 of 7"
    assert client.shown[1]["text/plain"] == "to 7 < 8: 0 of 7"
    assert client.shown[1]["text/html"] == '<progress value="0" max="7"></progress> to 7 &lt; 8: 0 of 7'
    assert 1 < sum("text/html" in data for data in client.shown[:-2]) < 7
    del notebook.cells[1]
    nbformat.write(notebook, tmp_path / "bar.ipynb")
    nbval = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "bar.ipynb"]
    again = subprocess.run(nbval, cwd=tmp_path, capture_output=True, text=True)
    assert "1 passed" in again.stdout, again.stdout


def test_outside_a_notebook_it_is_silent(capfd):
    assert list(progress((i for i in range(3)), "counting")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_the_bar_says_how_far_it_is(monkeypatch):
    """As in a notebook, with a clock of 0.15 seconds an item: every other one is shown."""
    shown = []
    bar = SimpleNamespace(update=lambda data, raw: shown.append(data))
    display = SimpleNamespace(display=lambda data, raw, display_id: shown.append(data) or bar)
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    for item in progress((i for i in range(4)), "to 4"):
        clock.now += 0.15
        assert item < 4
    texts = [data["text/plain"] for data in shown]
    assert texts == ["to 4: done", "to 4: 0 of 4", "to 4: 2 of 4", "to 4: done"]
