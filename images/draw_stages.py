"""SFT and then DPO beside ORPO: what is read, by what, and what it cost: `python images/draw_figures.py 08_stages`.

The stages are those of notebook 08; steps, tokens, seconds and memory are what it measured, data/comparisons/.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEARNS, LOOKS = "forward, backward", "forward only"
# Method -> its stages: name, what is in memory, the rows that a pair is read as.
STAGES = {
    "SFT then DPO": [
        ("Stage 1: SFT", "base + adapter", [("chosen", LEARNS)]),
        (
            "Stage 2: DPO",
            "base + adapter + reference adapter",
            [("chosen", LEARNS), ("rejected", LEARNS), ("chosen", LOOKS), ("rejected", LOOKS)],
        ),
    ],
    "ORPO": [("One stage", "base + adapter", [("chosen", LEARNS), ("rejected", LEARNS)])],
}


def draw():
    """Draw the stages of both ways, with what each pair is read as, and bars of what was measured.

    Returns:
        (figure, alt text).
    """
    from utils.figures import new_figure

    results = json.loads((ROOT / "data" / "comparisons" / "stand_in.json").read_text())["methods"]
    figure, axes = new_figure(columns=3, rows=2, width=8.8 / 3, height=2.2)
    grid = axes[0].get_gridspec()
    grid.set_height_ratios([2.3, 1])
    for axis in axes[1:3]:
        axis.remove()
    axes[0].set_subplotspec(grid[0, :])
    _draw_stages(axes[0], results)
    measured = {
        "seconds": [(result["seconds"], 0) for result in (results[name] for name in STAGES)],
        "peak memory above the base (MB)": [(1000 * results[name]["peak_gb"], 0) for name in STAGES],
        "tokens": [(results[name]["tokens"], results[name]["reference_tokens"]) for name in STAGES],
    }
    for axis, (what, pairs) in zip(axes[3:], measured.items(), strict=True):
        _draw_bars(axis, what, pairs)
    axes[5].legend(fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    sentences = [
        f"{name}: {' + '.join(map(str, result['steps']))} steps, {result['seconds']:.1f} s, peak"
        f" {1000 * result['peak_gb']:.0f} MB, {result['tokens']:,} tokens trained on and {result['reference_tokens']:,}"
        " read by a reference"
        for name, result in ((name, results[name]) for name in STAGES)
    ]
    alt = "SFT and then DPO has two stages, and in the second a reference reads every pair too; ORPO has one, without."
    return figure, f"{alt} Measured on a small stand-in. {'; '.join(sentences)}."


def _draw_stages(axis, results: dict) -> None:
    from matplotlib.patches import FancyBboxPatch

    axis.axis("off")
    axis.set(xlim=(0, 10), ylim=(0, 7.4))
    top = {"SFT then DPO": 7.3, "ORPO": 2.75}
    for method, stages in STAGES.items():
        axis.text(0, top[method] - 0.3, method, fontsize=11, fontweight="bold", va="top")
        for place, (name, memory, rows) in enumerate(stages):
            left, height = 1.75 + 3.6 * place, 1.05 + 0.62 * len(rows)
            width = 3.1 if place == 0 else 4.6
            box = (left, top[method] - height)
            options = {"facecolor": "#f6f8fa", "edgecolor": "#555555", "boxstyle": "round,pad=0,rounding_size=0.15"}
            axis.add_patch(FancyBboxPatch(box, width, height, **options))
            steps = results[method]["steps"][place]
            axis.text(
                left + 0.12, top[method] - 0.34, f"{name}, {steps} steps", fontsize=8.5, va="center", weight="bold"
            )
            axis.text(left + 0.12, top[method] - 0.76, memory, fontsize=8, va="center", color="#333333")
            for line, (side, how) in enumerate(rows):
                _draw_row(axis, left + 0.12, top[method] - 1.32 - 0.62 * line, side, how)
        if len(stages) > 1:
            arrow = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.2}
            axis.annotate("", (5.35, top[method] - 0.8), (4.85, top[method] - 0.8), arrowprops=arrow)


def _draw_row(axis, left: float, height: float, side: str, how: str) -> None:
    """Draw one row that goes through the model: prompt and answer, hatched where nothing is learnt from it."""
    from matplotlib.patches import Rectangle

    from utils.figures import COLOURS

    hatch = "////" if how == LOOKS else ""
    for start, width, colour, words in ((left, 0.62, COLOURS["neutral"], ""), (left + 0.62, 0.86, COLOURS[side], side)):
        style = {"facecolor": colour, "edgecolor": "white", "hatch": hatch, "linewidth": 0.6}
        axis.add_patch(Rectangle((start, height - 0.23), width, 0.46, **style))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9} if words else None
        axis.text(start + width / 2, height, words, fontsize=6.5, ha="center", va="center", bbox=box)
    axis.text(left + 1.56, height, how + (" (reference)" if how == LOOKS else ""), fontsize=7.5, va="center")


def _draw_bars(axis, what: str, pairs: list[tuple[float, float]]) -> None:
    from utils.figures import COLOURS

    lines, first, second = range(len(pairs)), [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    axis.barh(lines, first, height=0.6, color=COLOURS["chosen"], label="trained on")
    if any(second):
        style = {"color": COLOURS["neutral"], "hatch": "////", "edgecolor": "white"}
        axis.barh(lines, second, left=first, height=0.6, label="read by the reference", **style)
    for line, (one, other) in enumerate(pairs):
        words = f"{one:,.0f}" + (f" + {other:,.0f}" if other else "") if one >= 10 else f"{one:.1f}"
        axis.text(one + other, line, f" {words}", fontsize=8, va="center")
    axis.set(xlim=(0, 1.45 * max(map(sum, pairs))), yticks=[])
    axis.set_xlabel(what, fontsize=8)
    axis.set_yticks(list(lines), list(STAGES) if what == "seconds" else [""] * len(pairs), fontsize=8)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=4)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
