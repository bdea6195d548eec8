"""Draws `_static/drag.svg`, what "drag the data" on the first page shows in print and without a script.

    .venv/bin/python chapters/_extensions/drag_picture.py

The living figure starts from the same data and options; a test holds the two together.
"""

from pathlib import Path

import torch

import ntkutils as nu
from ntkutils import figures

PICTURE = Path(__file__).parents[1] / "_static/drag.svg"

DATA = ((-1.5, -0.8), (-0.7, 0.9), (0.3, 0.4), (1.3, -1.2))
TIME = 10.0
NETWORK = {"depth": 2, "activation": "relu", "bias_std": 0.5}


def prediction(points):
    """(data (x, y), that many inputs, the mean there, its band's two edges)."""
    x, y = torch.tensor(DATA, dtype=torch.float64).T
    grid = torch.linspace(-2, 2, points, dtype=torch.float64)
    law = nu.trained_ensemble(x[:, None], y, grid[:, None], TIME, **NETWORK)
    twice = 2 * law.covariance.diagonal().clamp(min=0).sqrt()
    return (x, y), grid, law.mean, (law.mean - twice, law.mean + twice)


def draw(path=PICTURE):
    """Write the picture; the same file every time."""
    import matplotlib.pyplot

    matplotlib.use("agg")
    data, grid, mean, band = prediction(161)
    fig, ax = figures.panels(height=3)
    ax.fill_between(grid, *band, color=figures.BLUE, alpha=0.2, lw=0, label="two standard deviations")
    ax.plot(grid, mean, color=figures.ORANGE, label="mean")
    ax.plot(*data, "o", color=figures.BLUE, mfc="white", ms=8, mew=2, label="data")
    ax.set(xlabel="input $x$", ylabel="output", xlim=(-2, 2), ylim=(-2.5, 2.5))
    figures.legend_above(fig, ax)
    with matplotlib.rc_context({"svg.hashsalt": "drag"}):
        fig.savefig(path, metadata={"Date": None, "Creator": None})
    matplotlib.pyplot.close(fig)


if __name__ == "__main__":
    draw()
