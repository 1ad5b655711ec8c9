"""One plotting style for every figure: colour-blind safe, readable on light and dark pages, with alt text.

Up to 28 series in a panel also differ in marker, line or pattern, for print and for eyes that see no colours.
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
STYLE = {  # of matplotlib
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
}


def line_style(place: int) -> dict:
    """Return colour, marker and line of series number `place`; the first seven lines are solid."""
    return {"color": SEQUENCE[place % 7], "marker": MARKERS[place % 8], "linestyle": LINES[place // 7 % 4]}


def fill_style(place: int) -> dict:
    """Return colour and pattern of bar number `place`; the first seven have no pattern."""
    hatch = HATCHES[place // 7 % 4]
    return {"facecolor": SEQUENCE[place % 7], "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}


def new_figure(columns: int = 1, rows: int = 1, width: float = 4.2, height: float = 3.0):
    """Make a figure in the course's style; return it and its axes as a flat array. Sizes are inches of one panel."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        size = (width * columns, height * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return figure, axes.ravel()


def as_image(figure, alt: str):
    """Turn a figure into `HTML` with alt text that notebooks, exports and screen readers keep, and close it."""
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


def as_table(rows):
    """Return rows (dictionaries, or a data frame) as a table of whole texts, none of them read as HTML."""
    import pandas as pd

    left = {"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"}
    style = pd.DataFrame(rows).style.format(escape="html").hide(axis="index").set_properties(**left)
    return style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
