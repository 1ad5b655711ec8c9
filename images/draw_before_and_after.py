"""Answers before and after training beside the held-out curves: `python images/draw_figures.py 03_before_and_after`.

One run of the small stand-in, as data/answers/ keeps it. Left out of the picture: the end of a text of more than
`LONGEST` characters, shown as an ellipsis.
"""

import json
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the small world states; an answer that begins otherwise is wrong, whatever else it says.
FACTS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "How many legs does a spider have?": "A spider has eight legs.",
    "What sound does a cow make?": "A cow makes the sound moo.",
    "What is the opposite of hot?": "The opposite of hot is cold.",
    "What is seven plus five?": "If you add seven and five, you get twelve.",
}
PANELS = {
    "nll_loss": "loss (NLL, nats)",
    "margin": "margin (beta x nats)",
    "accuracy": "preferred answer\nlikelier (share)",
}
GOOD, BAD = "\N{CHECK MARK}", "\N{BALLOT X}"
LETTERS, LONGEST = 31, 58  # in a line of the table, and of an answer


def draw():
    """Draw five prompts with both models' answers, and three curves of the same run.

    Returns:
        (figure, alt text).
    """
    from utils.figures import new_figure

    found = json.loads((ROOT / "data" / "answers" / "stand_in.json").read_text())
    figure, axes = new_figure(columns=2, rows=len(PANELS), width=3.95, height=1.42)
    grid = axes[0].get_gridspec()
    grid.set_width_ratios([3.3, 1])
    for axis in axes[2::2]:
        axis.remove()
    axes[0].set_subplotspec(grid[:, 0])
    _draw_answers(axes[0], found)
    for axis, (metric, words) in zip(axes[1::2], PANELS.items(), strict=True):
        _draw_curve(axis, found["held_out"], metric, words)
    axes[1].set_title(f"{found['pairs']['test']} held-out pairs", fontsize=9, fontweight="bold")
    axes[5].set_xlabel(f"steps of {found['pairs']['train'] // found['held_out'][-1]['step']} pairs", fontsize=8)
    ends = [found["held_out"][place] for place in (0, -1)]
    curves = ", ".join(f"{metric} from {ends[0][metric]:.2f} to {ends[1][metric]:.2f}" for metric in PANELS)
    facts = {name: sum(states_fact(row["prompt"], row[name]) for row in found["answers"]) for name in found["ended"]}
    count, ended = len(found["answers"]), found["ended"]
    alt = (
        f"A small stand-in before and after ORPO. Of {count} answers, {ended['base']} ended by themselves before and"
        f" {ended['tuned']} after; {facts['base']} stated the right fact before and {facts['tuned']} after."
        f" Held out: {curves}."
    )
    return figure, alt


def states_fact(prompt: str, answer: str) -> bool:
    """Say whether an answer begins with the fact that was asked for."""
    return answer.startswith(FACTS[prompt])


def _draw_answers(axis, found: dict) -> None:
    from utils.figures import COLOURS

    rows, ended = found["answers"], found["ended"]
    axis.axis("off")
    axis.set(xlim=(0, 100), ylim=(len(rows) + 0.62, -0.6))
    places = {"prompt": 0, "base": 24, "tuned": 64}
    heads = {"prompt": "asked", "base": "before: the base", "tuned": "after ORPO"}
    for name, head in heads.items():
        axis.text(places[name], -0.42, head, fontsize=9, fontweight="bold", va="center")
    for line, row in enumerate(rows):
        axis.axhline(line - 0.1, color="#cccccc", linewidth=0.8)
        for name, left in places.items():
            words = textwrap.fill(
                textwrap.shorten(row[name], LONGEST, placeholder=" \N{HORIZONTAL ELLIPSIS}"),
                18 if name == "prompt" else LETTERS,
            )
            axis.text(left, line + 0.02, words, fontsize=8, va="top", linespacing=1.2)
            if name != "prompt":
                right = states_fact(row["prompt"], row[name])
                style = {"color": COLOURS["margin" if right else "rejected"], "fontsize": 8, "va": "center"}
                axis.text(left, line + 0.74, f"{GOOD} right fact" if right else f"{BAD} wrong fact", **style)
    line = len(rows)
    axis.axhline(line - 0.1, color="black", linewidth=0.8)
    axis.text(0, line + 0.3, f"of {len(rows)} answers", fontsize=8, va="center", fontweight="bold")
    for name in ("base", "tuned"):
        facts = sum(states_fact(row["prompt"], row[name]) for row in rows)
        words = f"{ended[name]} end by themselves\n{facts} {'states' if facts == 1 else 'state'} the right fact"
        axis.text(places[name], line + 0.3, words, fontsize=8, va="center", fontweight="bold")


def _draw_curve(axis, points: list[dict], metric: str, words: str) -> None:
    from utils.figures import COLOURS

    steps, values = [point["step"] for point in points], [point[metric] for point in points]
    axis.plot(steps, values, marker="o", markersize=4, color=COLOURS["chosen"])
    axis.set_ylabel(words, fontsize=7.5)
    axis.tick_params(labelsize=7.5, labelbottom=metric == "accuracy")
    axis.locator_params(nbins=4)
    if metric == "accuracy":
        axis.set_ylim(0, 1.25)
        axis.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    if metric == "margin":
        axis.axhline(0, color="black", linestyle="--", linewidth=0.8)
    falls = values[-1] < values[0]  # a number stands where its curve does not go
    for place, shift, side in ((0, (5, 3 if falls else -9), "left"), (-1, (0, 7), "right")):
        options = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 7.5}
        axis.annotate(f"{values[place]:.2f}", (steps[place], values[place]), shift, **options)
    axis.margins(y=0.25)
