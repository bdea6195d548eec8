"""A progress bar for cells that take long, whose stored output is the same on every run."""

import html
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS = 0.2  # between two updates, so that a fast loop is not slowed down


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Yield the items; a notebook shows how many are done, and at the end "label: done".

    No widget and nothing on stderr: one output of the cell, replaced in place. Outside a notebook
    nothing is shown.

    Args:
        items: what the loop runs over; all of them are taken before the first is yielded.
        label: what the loop does, in a few words.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        yield from items
        return
    items = list(items)
    done = {"text/plain": f"{label}: done"}
    # The last text comes first, too: nbclient and Jupyter store what an output was last, but nbval
    # compares what it was at first.
    bar = ipython.display.display(done, raw=True, display_id=True)
    shown = -SECONDS
    for i, item in enumerate(items):
        if time.monotonic() - shown >= SECONDS:
            text, shown = f"{label}: {i} of {len(items)}", time.monotonic()
            drawn = f'<progress value="{i}" max="{len(items)}"></progress> {html.escape(text)}'
            bar.update({"text/plain": text, "text/html": drawn}, raw=True)
        yield item
    bar.update(done, raw=True)
