"""The look of the figures: applied to ours, and to nobody else's."""

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from ntkutils import figures


def test_panels_have_the_look_and_leave_the_settings_alone():
    before, open_before = dict(matplotlib.rcParams), plt.get_fignums()
    fig, axes = figures.panels(columns=3, rows=2, height=2.0, sharex=True)
    assert axes.shape == (2, 3) and tuple(fig.get_size_inches()) == (7.2, 4.0)
    assert fig.dpi == figures.STYLE["figure.dpi"] and not axes[0, 0].spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == [*open_before, fig.number]  # none is left over
    plt.close(fig)


def test_a_legend_above_names_the_lines():
    fig, ax = figures.panels()
    for colour in (figures.BLUE, figures.ORANGE):
        ax.plot([0, 1], [0, 1], color=colour, label=colour)
    figures.legend_above(fig, ax)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [figures.BLUE, figures.ORANGE]
    fig.canvas.draw()
    assert legend.get_window_extent().y0 >= ax.get_window_extent().y1  # covers nothing
    plt.close(fig)
