"""One look for all figures of the book. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe & Ito's palette: told apart by colour-blind readers, and dark enough on white.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#007A5A", "#AA4499", "#5A5A5A"

STYLE: dict[RcKeyType, Any] = {
    "figure.dpi": 160,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
}


def panels(columns: int = 1, rows: int = 1, height: float = 2.8, **subplots: Any) -> tuple[Figure, Any]:
    """Return matplotlib's (figure, axes) in the book's style, as wide as a page of text.

    Args:
        columns: panels in a row.
        rows: rows of panels.
        height: of one row, in inches.
        subplots: passed on to ``plt.subplots``.
    """
    import matplotlib.pyplot as plt

    # The first figure loads the backend, which in a notebook switches on automatic display;
    # done inside the context, that would be undone with the style.
    plt.close(plt.figure())
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=(7.2, height * rows), **subplots)


def legend_above(fig: Figure, ax: Any, columns: int = 4) -> None:
    """Name the lines of ``ax`` above all panels, where they cover nothing."""
    handles, names = ax.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
