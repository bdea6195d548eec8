"""The oracles' own machinery; what they compute is in the tests of what is held against it."""

import os

import pytest

from ntkutils.oracles import _quiet_stderr


def test_stderr_is_held_back_unless_there_is_an_error(capfd):
    """What a library writes to the process's stderr from C++ too, which sys.stderr does not see."""
    with _quiet_stderr():
        os.write(2, b"no TensorRT\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), _quiet_stderr():
        os.write(2, b"why it failed\n")
        raise ImportError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "why it failed\nafterwards\n"
