"""One plotting style for every figure: colour-blind safe, readable on light and dark pages, with alt text."""

import base64
import html
import io

# Okabe and Ito, without the yellow that vanishes on white.
COLOURS = {
    "chosen": "#0072B2",
    "rejected": "#D55E00",
    "margin": "#009E73",
    "loss": "#56B4E9",
    "eval": "#CC79A7",
    "neutral": "#777777",
}
SEQUENCE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777"]


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


def show(figure, alt: str) -> None:
    """Display a figure as an image with alt text, and close it."""
    from IPython.display import display

    display(as_image(figure, alt))


def as_table(rows):
    """Return rows as a table whose texts are whole, safe from being read as HTML, and aligned to the left.

    Args:
        rows: dictionaries with the same keys, or anything else a pandas data frame can be made of.
    """
    import pandas as pd

    left = {"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"}
    style = pd.DataFrame(rows).style.format(escape="html").hide(axis="index").set_properties(**left)
    return style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
