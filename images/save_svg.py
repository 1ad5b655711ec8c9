"""Writes a figure as it is kept in images/."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


def save_svg(figure, path, alt: str) -> None:
    """Write a figure as SVG on a white card with round corners, which also a dark page shows as one, and close it.

    Letters are drawn as shapes, so that no font is needed. The same figure gives the same file; `alt` is its title.
    """
    width, height = figure.get_size_inches()
    options = {"facecolor": "white", "edgecolor": "#d0d7de", "linewidth": 0.8, "zorder": -1}
    shape = {"boxstyle": "round,pad=0,rounding_size=0.1", "transform": figure.dpi_scale_trans}
    card = FancyBboxPatch((0.02, 0.02), width - 0.04, height - 0.04, **shape, **options)
    card.set_in_layout(False)
    figure.add_artist(card)
    figure.patch.set_visible(False)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    with plt.rc_context({"svg.hashsalt": "orpo-course", "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": alt})
    plt.close(figure)
