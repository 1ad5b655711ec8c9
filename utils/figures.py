"""One plotting style for every figure: colour-blind safe, readable on light and dark pages, with alt text.

Two series in a panel also differ in marker, line or pattern, for print and for eyes that see no colours. Left out: what
is drawn, which stands in the modules named `..._figures`.
"""

import base64
import html
import io

# Okabe and Ito, without the yellow that vanishes on white. The grey is dark: to eyes that do not tell red from green, a
# middle grey looks like their green.
COLOURS = {
    "chosen": "#0072B2",
    "rejected": "#D55E00",
    "margin": "#009E73",
    "loss": "#56B4E9",
    "eval": "#CC79A7",
    "neutral": "#4d4d4d",
}
SEQUENCE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#4d4d4d"]

MARKERS, LINES, HATCHES = "osD^vP*X", ["-", "--", "-.", ":"], ["", "////", "....", "xxxx"]


def line_style(place: int) -> dict:
    """Return colour, marker and line of series number `place`; the first seven lines are solid.

    Raises:
        ValueError: from the 29th series on, which would look like the first.

    Example:
        >>> line_style(0) == line_style(7), line_style(7)["linestyle"]
        (False, '--')
    """
    return {"color": SEQUENCE[place % 7], "marker": MARKERS[place % 8], "linestyle": LINES[_round(place)]}


def fill_style(place: int) -> dict:
    """Return colour and pattern of bar or area number `place`; the first seven have no pattern.

    Raises:
        ValueError: from the 29th on, which would look like the first.

    Example:
        >>> fill_style(8)["hatch"]
        '////'
    """
    return {"facecolor": SEQUENCE[place % 7], "hatch": HATCHES[_round(place)], "edgecolor": "white", "linewidth": 0.5}


def _round(place: int) -> int:
    """Return how often all colours have been used before series number `place`."""
    if not 0 <= place < len(SEQUENCE) * len(LINES):
        most = len(SEQUENCE) * len(LINES)
        raise ValueError(f"Series {place + 1} of a figure: only {most} look different. Draw fewer, or several figures.")
    return place // len(SEQUENCE)


def new_figure(columns: int = 1, rows: int = 1, width: float = 4.2, height: float = 3.0):
    """Make a figure in the course's style: white ground, no box, light grid.

    Returns:
        (figure, flat array of axes).
    """
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False
    )
    figure.patch.set_facecolor("white")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, np.asarray(axes).ravel()


def as_image(figure, alt: str):
    """Turn a figure into an image with alt text that notebooks, exports and screen readers keep, and close it.

    Args:
        figure: of matplotlib.
        alt: what a reader who cannot see it should know.

    Returns:
        `IPython.display.HTML`.
    """
    import matplotlib.pyplot as plt
    from IPython.display import HTML

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    return HTML(f'<img style="max-width:100%" alt="{html.escape(alt)}" src="data:image/png;base64,{image}">')


def scrolling(name: str, body: str, height: str | None = None) -> str:
    """Keep safe HTML that is wide, or longer than `height`, in a region that scrolls, by keyboard too."""
    tall = f"max-height:{height};overflow-wrap:anywhere;margin-bottom:0.6em;" if height else ""
    return f'<div role="region" aria-label="{name}" tabindex="0" style="{tall}overflow:auto">{body}</div>'


def show(figure, alt: str) -> None:
    """Display a figure as an image with alt text, and close it; where only text is shown, the alt text is."""
    from IPython.display import display

    display({"text/html": as_image(figure, alt).data, "text/plain": f"Figure: {alt}"}, raw=True)


def save_svg(figure, path, alt: str) -> None:
    """Write a figure as SVG on a white card with round corners, which also a dark page shows as one, and close it.

    Letters are drawn as shapes, so that no font is needed. The same figure gives the same file.

    Args:
        figure: of matplotlib, with the layout of `new_figure`.
        path: of the file.
        alt: becomes the title of the SVG, for those who open it alone.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    width, height = figure.get_size_inches()
    options = {"facecolor": "white", "edgecolor": "#d0d7de", "linewidth": 0.8, "zorder": -1}
    card = FancyBboxPatch(
        (0.02, 0.02),
        width - 0.04,
        height - 0.04,
        boxstyle="round,pad=0,rounding_size=0.1",
        transform=figure.dpi_scale_trans,
        **options,
    )
    card.set_in_layout(False)
    figure.add_artist(card)
    figure.patch.set_visible(False)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    with plt.rc_context({"svg.hashsalt": "orpo-course", "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": alt})
    plt.close(figure)


def as_table(rows):
    """Return rows as a table whose texts are whole, safe from being read as HTML, and aligned to the left.

    Args:
        rows: dictionaries with the same keys, or anything else a pandas data frame can be made of.
    """
    import pandas as pd

    left = {"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"}
    style = pd.DataFrame(rows).style.format(escape="html").hide(axis="index").set_properties(**left)
    return style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
