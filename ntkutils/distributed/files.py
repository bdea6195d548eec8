"""Files that are there when they are complete, and what to say of a full disk."""

import errno
import os
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_at_once(path: Path, content: bytes | memoryview, what: str) -> None:
    """Write a file so that an old one is there until the new one is."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise explained(error, what, path.parent) from error
    finally:
        partial.unlink(missing_ok=True)


def explained(error: OSError, what: str, folder: os.PathLike[str] | str) -> OSError:
    """Return an error that says what to do about a full disk; any other error as it is."""
    if error.errno not in FULL:
        return error
    said = (
        f"expected room for {what}, got a full disk; what is stored stays: make room, and the same call "
        "goes on from there"
    )
    return OSError(error.errno, said, str(folder))
