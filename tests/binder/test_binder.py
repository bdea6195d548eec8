"""What Binder does, done here: an environment from .binder, a server, every chapter through its API.

It takes 4.5 GB of disk and about a quarter of an hour, so it runs by `make binder` alone, which sets the
variable BINDER.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
import websocket

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "chapters").glob("*.ipynb"))
MEMORY = 2e9  # bytes: what Binder gives a reader
PATIENCE = 600  # s a cell

pytestmark = pytest.mark.skipif(
    not os.environ.get("BINDER"), reason="takes a quarter of an hour: make binder"
)


# ---- The environment, and the server that Binder starts in it --------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The repository's files, as Binder copies them, in a folder of their own; deleted at the end."""
    home = tmp_path_factory.mktemp("binder")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name)
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def environment(home):
    """A fresh environment by Binder's steps: requirements.txt, then postBuild; returns its variables."""
    wanted = (home / ".binder/runtime.txt").read_text().strip().removeprefix("python-")
    if wanted != f"{sys.version_info.major}.{sys.version_info.minor}":
        # Binder's Python is 3.11; under 3.12 the same files are tried with 3.12.
        print(f"Binder takes Python {wanted}; this is {sys.version}")
    subprocess.run([sys.executable, "-m", "venv", home / "env"], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "PYTHON"))}
    variables = kept | {
        "PATH": f"{home / 'env/bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_RETRIES": "1",  # an index that cannot be reached is asked once, not six times, a package
        "HOME": str(home),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    for command in (
        ["pip", "install", "--no-cache-dir", "-r", ".binder/requirements.txt"],
        ["bash", ".binder/postBuild"],
    ):
        done = subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return variables


@pytest.fixture(scope="module")
def server(home, environment):
    """JupyterLab's server, through .binder/start; returns its address and a session that may talk to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    command = [".binder/start", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--allow-root", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    session = requests.Session()
    session.headers["Authorization"] = f"token {token}"
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(120):
            assert process.poll() is None, (home / "server.log").read_text()
            try:
                session.get(address + "api/status", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                time.sleep(1)
        yield address, session
    finally:
        process.terminate()
        process.wait(60)


# ---- A chapter, run as JupyterLab runs it -----------------------------------------------------


class Memory(threading.Thread):
    """The most memory that a process and its children have held at once, in bytes."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.peak, self.running = process, 0, True

    def run(self):
        while self.running:
            held = 0
            for process in [self.process, *self.process.children(recursive=True)]:
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:  # it has just ended
                    continue
            self.peak = max(self.peak, held)
            time.sleep(0.05)


def kernel_process(kernel):
    """The process of the kernel with this identifier: its connection file bears it."""
    [process] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"kernel-{kernel}.json" in word for word in process.info["cmdline"] or [])
    ]
    return process


def execute(socket_, code):
    """What a cell sends, as notebook outputs."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "test", "username": ""}
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    request = {
        "header": header | {"version": "5.4"},
        "parent_header": {},
        "metadata": {},
        "content": content,
    }
    socket_.send(json.dumps(request | {"channel": "shell", "buffers": []}))
    outputs, replied, idle = [], False, False
    while not (replied and idle):
        message = json.loads(socket_.recv())
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        kind = message["header"]["msg_type"]
        replied |= kind == "execute_reply"
        idle |= kind == "status" and message["content"]["execution_state"] == "idle"
        if kind in ("stream", "display_data", "execute_result", "error"):
            outputs.append(nbformat.v4.output_from_msg(message))
    return outputs


def words(outputs):
    """The text of a cell's outputs; that of a figure is its size, which depends on fonts."""
    streams = {"stdout": "", "stderr": ""}
    shown = []
    for output in outputs:
        if output.output_type == "stream":
            streams[output.name] += output.text
        elif output.output_type == "error":
            shown.append(f"{output.ename}: {output.evalue}")
        else:
            shown.append(re.sub("<Figure size .*>", "FIGURE", output.data.get("text/plain", "")))
    return streams, shown


@pytest.mark.parametrize("path", CHAPTERS)
def test_chapter_runs_on_binder(server, path, record_property):
    address, session = server
    found = session.get(f"{address}lab/tree/{path}", timeout=60)  # what the launch button opens
    assert found.ok and "jupyterlab" in found.text.lower()
    content = session.get(f"{address}api/contents/{path}", timeout=60).json()["content"]
    notebook = nbformat.from_dict(content)
    wanted = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    started = session.post(f"{address}api/sessions", json=wanted, timeout=60)
    started.raise_for_status()
    kernel = started.json()["kernel"]["id"]
    memory = Memory(kernel_process(kernel))
    memory.start()
    channel = websocket.create_connection(
        f"{address.replace('http', 'ws', 1)}api/kernels/{kernel}/channels",
        header={"Authorization": session.headers["Authorization"]},
        timeout=PATIENCE,
    )
    try:
        for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
            got = words(execute(channel, cell.source))
            assert got == words(cell.outputs), f"{path}, code cell {number}:\n{cell.source}"
    finally:
        channel.close()
        memory.running = False
        memory.join()
        session.delete(f"{address}api/sessions/{started.json()['id']}", timeout=60).raise_for_status()
    record_property("peak memory, MB", round(memory.peak / 1e6))
    print(f"{path}: at most {memory.peak / 1e6:.0f} MB")
    assert memory.peak < MEMORY, (
        f"{path}: {memory.peak / 1e9:.2f} GB, and Binder gives {MEMORY / 1e9:.0f} GB"
    )
