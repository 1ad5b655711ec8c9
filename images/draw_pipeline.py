"""The course's notebooks, what each takes and what it makes, as a diagram: `python images/draw_figures.py 00_pipeline`.

The table is what is drawn; tests/test_figures.py compares it with what `make course` knows of the notebooks.
"""

import json
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Notebook -> (column, row) of its box, folders it takes, (folder that it makes or None, what that is).
NOTEBOOKS = {
    "00": ((0, 3), [], (None, "")),
    "01": ((1, 3), [], ("orpo", "what the loss does")),
    "02": ((1, 2), [], ("mix", "clean pairs")),
    "03": ((3, 2), ["mix"], ("run", "adapter, curves")),
    "04": ((4, 3), ["run"], (None, "")),
    "05": ((4, 1), ["run"], ("merged", "model, on the Hub")),
    "06": ((2, 1), ["run", "merged"], ("evaluation", "tables, the card")),
    "07": ((2, 0), ["merged"], ("space", "a chat, on the Hub")),
    "08": ((0, -1.1), [], ("comparison", "four methods")),
    "09": ((3, -1.1), [], ("speed", "the ladder")),
}
PLACES = {  # of what is no notebook
    "orpo": (2, 3),
    "mix": (2, 2),
    "run": (4, 2),
    "merged": (3, 1),
    "evaluation": (1, 1),
    "space": (1, 0),
    "comparison": (1, -1.1),
    "speed": (4, -1.1),
}
INPUTS = {"seven sources\non the Hub": ((0, 2), "02"), "Llama 3 8B\non the Hub": ((3, 3), "03")}
WIDTH, HEIGHT = 0.84, 0.6  # of a box, in columns and rows
HIDDEN = [("run", "06")]  # would cross the picture; 05 hands the run's folder on


def titles() -> dict[str, str]:
    """Return number -> title of each notebook."""
    cells = {
        path.name[:2]: json.loads(path.read_text())["cells"][0] for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb")
    }
    return {number: "".join(cell["source"]).splitlines()[0].removeprefix("# ") for number, cell in cells.items()}


def draw():
    """Draw boxes for notebooks and folders, and arrows between them.

    Returns:
        (figure, alt text).
    """
    from utils.figures import COLOURS, new_figure

    names = titles()
    figure, (axis,) = new_figure(width=8.8, height=4.7)
    axis.axis("off")
    axis.set(xlim=(-0.47, 4.47), ylim=(-1.5, 3.45))
    sentences = []
    for number, (place, takes, (makes, what)) in NOTEBOOKS.items():
        words = textwrap.fill(f"{number}  {names[number]}", 16)
        _box(axis, place, words, COLOURS["chosen"], "white", "bold")
        for folder in takes:
            if (folder, number) not in HIDDEN:
                _arrow(axis, PLACES[folder], place)
        if makes:
            _box(axis, PLACES[makes], f"{makes}/\n{what}", "black", "#f5e6c8")
            _arrow(axis, place, PLACES[makes])
        taken = f" takes {' and '.join(takes)}" if takes else ""
        made = f" makes {makes} ({what})" if makes else ""
        sentences.append(f"{number}{taken}{' and' if taken and made else ''}{made}")
    for words, (place, number) in INPUTS.items():
        _box(axis, place, words, "black", "#e5e5e5")
        _arrow(axis, place, NOTEBOOKS[number][0])
    axis.plot([-0.42, 4.42], [-0.5, -0.5], color="#999999", linewidth=0.8, linestyle=":")
    axis.text(-0.42, -0.56, "on their own, on a small base", fontsize=8, va="top", color="#333333")
    told = [sentence for sentence in sentences if len(sentence) > 2]
    return figure, f"What each notebook takes and makes. {'; '.join(told)}. 00, 01, 08 and 09 need no other notebook."


def _box(axis, place, words: str, ink: str, ground: str, weight: str = "normal") -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (place[0] - WIDTH / 2, place[1] - HEIGHT / 2)
    shape = "round,pad=0,rounding_size=0.06" if weight == "bold" else "round,pad=0,rounding_size=0.25"
    box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=shape, facecolor=ground, edgecolor=ink, linewidth=1.2)
    axis.add_patch(box)
    axis.text(*place, words, ha="center", va="center", fontsize=8.5, fontweight=weight, linespacing=1.25)


def _arrow(axis, start, end) -> None:
    """Join the borders of two boxes: straight in a row or a column, else first down or up, then round a corner."""
    across, up = end[0] - start[0], end[1] - start[1]
    sign = 1 if across + up > 0 else -1
    if across and up:
        ends = (start[0], start[1] - HEIGHT / 2), (end[0] + WIDTH / 2, end[1])
        style = {"connectionstyle": "angle,angleA=90,angleB=0,rad=6"}
    elif across:
        ends, style = ((start[0] + sign * WIDTH / 2, start[1]), (end[0] - sign * WIDTH / 2, end[1])), {}
    else:
        ends, style = ((start[0], start[1] + sign * HEIGHT / 2), (end[0], end[1] - sign * HEIGHT / 2)), {}
    arrow = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", ends[1], ends[0], arrowprops=arrow | style)
