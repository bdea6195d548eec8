"""Draws `_static/card.png`, which stands beside a link to the book where that is shared.

.venv/bin/python chapters/_extensions/share_picture.py
"""

from pathlib import Path

from drag_picture import prediction

from ntkutils import figures

PICTURE = Path(__file__).parents[1] / "_static/card.png"
INK, ORANGE = "#1f2933", "#d9731a"


def draw(path=PICTURE):
    """Write the picture, 1200 by 630 pixels."""
    import matplotlib.pyplot

    matplotlib.use("agg")
    data, grid, mean, band = prediction(321)
    fig = matplotlib.pyplot.figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    ax = fig.add_axes((0, 0, 1, 0.64), xlim=(-2, 2), ylim=(-2.7, 2.1))
    ax.set_axis_off()
    ax.fill_between(grid, *band, color=figures.BLUE, alpha=0.18, lw=0)
    ax.plot(grid, mean, color=ORANGE, lw=6)
    ax.plot(*data, "o", color=figures.BLUE, mfc="white", ms=20, mew=5)
    fig.text(0.06, 0.79, "The Neural Tangent Kernel", size=46, weight="bold", color=INK)
    words = "An executable book: every formula derived, and every formula run"
    fig.text(0.06, 0.69, words, size=23, color=INK)
    fig.savefig(path, metadata={"Software": None})
    matplotlib.pyplot.close(fig)


if __name__ == "__main__":
    draw()
