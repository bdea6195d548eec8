"""Makes or renews .venv, the book's Python environment; `make` calls it.

It needs the standard library alone, and reads under any old Python, so that
the wrong one is told so in a sentence. It installs torch from TORCH_INDEX, the
pins of requirements.txt, and ntkutils in place. The next run has nothing to do,
unless one of the things in `wanted` (see `main`) has changed.
"""

from __future__ import print_function

import errno
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "made.json")
LOG = os.path.join(ROOT, "_build", "environment.log")
GB = 1e9
FULL = (
    "The disk is full. Free some space, then run the same command again. (The environment "
    "takes 4.5 GB, or 10 GB with CUDA, and pip's temporary files and cache half as much each; "
    "TMPDIR and PIP_CACHE_DIR move those two elsewhere.)"
)
NO_NETWORK = (
    "The package index cannot be reached. Check the network or the proxy, then run the "
    "same command again. (What pip said: _build/environment.log)"
)
NETWORK_SIGNS = (
    "Retrying (Retry",
    "Max retries",
    "NewConnectionError",
    "ConnectionError",
    "timed out",
    "ProxyError",
    "SSLError",
    "IncompleteRead",
    "Connection broken",
)


class Stop(Exception):
    """Ends the run with a message for the reader."""


def say(text, passing=False):
    """Print a line. A passing one is for terminals only, where the next line replaces it."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r\x1b[K" + (text[:width] if passing else text), end="" if passing else "\n")
    elif not passing:
        print(text)
    sys.stdout.flush()


def check_python():
    """Stop with a sentence if this Python, or this machine, will not do."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise Stop(
            "The book needs Python 3.11 or 3.12, but %s is Python %s. Install one of the "
            "two, or name the one you have, as in: make book PYTHON=python3.11"
            % (sys.executable, platform.python_version())
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise Stop(
            "PyTorch and TensorFlow are no longer built for Intel Macs (nor for a Python "
            "made for them): use Binder, or a Linux machine."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise Stop(
            "This Python cannot make environments: it has no module %s. On Debian and "
            "Ubuntu: sudo apt install python%d.%d-venv; then run the same command again."
            % ((error.name,) + sys.version_info[:2])
        )


def check_space(need):
    """Stop if a disk has less room than the environment needs, in bytes."""
    disks = {}  # what is needed on each: for .venv, and for pip's temporary files
    for folder, size in ((ROOT, need), (tempfile.gettempdir(), need / 2)):
        disk = disks.setdefault(os.stat(folder).st_dev, [folder, 0])
        disk[1] += size
    for folder, size in disks.values():
        free = shutil.disk_usage(folder).free
        if free < size:
            raise Stop(
                "Making the environment takes %.1f GB on the disk that holds %s, and %.1f "
                "GB are free. Free some space, then run the same command again."
                % (size / GB, folder, free / GB)
            )


def run(command, log, watch=lambda output: None):
    """The exit status and output of a command; `watch` sees the output as it grows."""
    log.write(("\n$ %s\n" % " ".join(command)).encode())
    environment = dict(os.environ, PIP_USER="0")
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, chunk = b"", None
    try:
        while chunk != b"":
            if select.select([child.stdout], [], [], 1)[0]:
                chunk = os.read(child.stdout.fileno(), 1 << 16)
                output += chunk
                log.write(chunk)
                log.flush()
            watch(output.decode("utf-8", "replace"))
        return child.wait(), output.decode("utf-8", "replace")
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def pip_install(title, total, arguments, log, stamp, no_network=NO_NETWORK):
    """`pip install`, with its progress; what goes wrong becomes a sentence."""
    began, told = time.time(), [("fetching", 0)]
    installed = os.path.join(VENV, "lib", "python*", "site-packages", "*.dist-info")
    before = len(glob.glob(installed))

    def watch(output):
        names = re.findall(
            r"^(?:Collecting |Processing \S*/|Requirement already satisfied: )"
            r"([\w.]+)",
            output,
            re.M,
        )
        phase, count, name = "fetching", len(names), (names or [""])[-1]
        if "\nInstalling collected packages" in output:
            stamp("installing")
            phase, count, name = "installing", max(0, len(glob.glob(installed)) - before), ""
        text = "  %s: %s" % (title, phase)
        if total > 1:
            text += " %d of %d" % (min(count, total), total)
        if count >= 20 and (phase, count // 20) > told[0]:
            told[0] = (phase, count // 20)
            say(text, passing=sys.stdout.isatty())
        say("%s %s (%d s)" % (text, name, time.time() - began), passing=True)

    say("  %s ..." % title, passing=sys.stdout.isatty())
    status, output = run(
        [PYTHON, "-I", "-u", "-m", "pip", "install", "--progress-bar", "off"] + arguments, log, watch
    )
    if status:
        if re.search(r"No space left|Errno 28\b|Disk quota exceeded", output):
            raise Stop(FULL)
        if any(sign in output for sign in NETWORK_SIGNS):
            raise Stop(no_network)
        errors = re.findall(r"^ERROR: (.+)", output, re.M) or ["pip ended with status %d" % status]
        raise Stop("Installing %s failed: %s (What pip said: _build/environment.log)" % (title, errors[-1]))
    stamp("partial")
    say("  %s: done (%d s)" % (title, time.time() - began))


def install_all(index, log, stamp):
    """Install torch, the pins and ntkutils, and see that they go together."""
    with open(os.path.join(ROOT, "requirements.txt")) as file:
        pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read(), re.M))
    torch = "torch==" + pins["torch"]
    if index:
        build = index.rstrip("/").split("/")[-1]  # cpu, cu130 ...: its wheels are 2.13.0+cpu
        if re.match(r"(cpu|cu\d+|rocm[\d.]+|xpu)$", build):
            torch += "+" + build
        pip_install(
            "torch (%s)" % build,
            1,
            ["--index-url", index, "--retries", "2", "--timeout", "30", torch]
            + ["--no-deps"] * (build == "cpu"),
            log,
            stamp,
            "%s cannot be reached, where the %s build of torch is. Check the network or "
            "the proxy, then run the same command again. (Or give another address with "
            "TORCH_INDEX; an empty TORCH_INDEX= takes torch from the package index, which "
            "on Linux brings 6 GB of CUDA.)" % (index, build),
        )
    elif sys.platform == "linux":
        pip_install("torch", 1, [torch], log, stamp)
    pip_install(
        "packages", len(pins), ["--no-deps", "--only-binary=:all:", "-r", "requirements.txt"], log, stamp
    )
    pip_install("ntkutils", 1, ["--no-deps", "--no-build-isolation", "-e", "."], log, stamp)
    # On a Mac, tf2jax asks for tensorflow-macos, which has since become tensorflow.
    wrong = [
        line
        for line in run([PYTHON, "-I", "-u", "-m", "pip", "check"], log)[1].splitlines()
        if " require" in line and "No broken" not in line and "tensorflow-macos" not in line
    ]
    if wrong:
        raise Stop("The pins of requirements.txt do not fit together: " + "; ".join(wrong[:3]))


def read_stamp():
    """What the environment was made from, as the last run left it."""
    try:
        with open(STAMP) as file:
            return json.load(file)
    except (EnvironmentError, ValueError):
        return {}


def main():
    """Make the environment, unless it is there and made from the same things."""
    check_python()
    made = read_stamp()
    # The choice of a build stays with the environment, until another one is made.
    index = os.environ.get("TORCH_INDEX", made.get("torch", "cpu" if sys.platform == "linux" else ""))
    if re.match(r"[\w.]+$", index):
        index = "https://download.pytorch.org/whl/" + index
    content = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            content.update(file.read())
    wanted = {
        "python": "%d.%d" % sys.version_info[:2],
        "place": VENV,
        "torch": index,
        "state": content.hexdigest(),
    }
    if made == wanted and os.path.exists(PYTHON):
        return

    def stamp(state):
        with open(STAMP, "w") as file:
            json.dump(dict(wanted, state=state), file)

    if not os.path.isdir(os.path.dirname(LOG)):
        os.makedirs(os.path.dirname(LOG))
    with open(LOG, "ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except EnvironmentError:
            say("Waiting for another make, which is at work on .venv")
            fcntl.flock(log, fcntl.LOCK_EX)
        made = read_stamp()
        if made == wanted:
            return
        log.truncate(0)
        if (
            os.path.exists(PYTHON)
            and made.get("state", "installing") != "installing"
            and dict(made, state=wanted["state"]) == wanted
        ):
            say("Renewing .venv" if made["state"] != "partial" else "Going on with .venv")
        else:
            if os.path.lexists(VENV):
                say("Removing the old .venv")
                shutil.rmtree(VENV)
            check_space(4.5 * GB if index.endswith("/cpu") or sys.platform == "darwin" else 10 * GB)
            base = getattr(sys, "_base_executable", sys.executable)
            say("Making .venv with %s (Python %s)" % (base, platform.python_version()))
            status, output = run([base, "-I", "-m", "venv", VENV], log)
            if status:
                raise Stop(
                    FULL
                    if "No space left" in output
                    else "The environment could not be made. (What Python said: _build/environment.log)"
                )
        stamp("partial")
        install_all(index, log, stamp)
        stamp(wanted["state"])
    say("The environment is ready.")


def stop(*_):
    """End as on Ctrl-C when `make` is told to end."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except Stop as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "Interrupted. The same command takes it up again."
    except EnvironmentError as error:
        message = "The environment could not be made: %s" % error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = FULL
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message = (
                "%s cannot be written to. Copy the project to a folder of your own, and "
                "run make there." % (error.filename or ROOT)
            )
    say("", passing=True)
    print(message, file=sys.stderr)
    sys.exit(1)
