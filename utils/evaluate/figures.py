"""Draws what changed between models on the same held-out pairs, with the interval of each change.

Left out: two models' bars side by side, whose overlapping intervals hide a difference that holds pair by pair.
"""

from utils.figures import COLOURS, SEQUENCE, new_figure


def plot_differences(differences: list[dict]):
    """Draw changes of accuracy and margin by source, as points with 95 % intervals around a line at no change.

    Args:
        differences: of `utils.evaluate.scores.difference_rows`.

    Returns:
        (figure, alt text).
    """
    sources = list(dict.fromkeys(row["source"] for row in differences))[::-1]
    compared = list(dict.fromkeys((row["model"], row["reference"]) for row in differences))
    pairs = {row["source"]: row["pairs"] for row in differences}
    figure, axes = new_figure(2, width=4.4, height=1.3 + 0.25 * len(sources) + 0.15 * len(compared))
    for axis, metric, unit in zip(axes, ("accuracy", "margin"), ("share of pairs", "nats a token"), strict=True):
        for number, (model, reference) in enumerate(compared):
            rows = [row for row in differences if (row["model"], row["reference"]) == (model, reference)]
            values = [row[metric] for row in rows]
            whiskers = [  # below and above; of few skewed pairs the mean may lie outside its interval
                [max(0.0, row[metric] - row[f"{metric}_low"]) for row in rows],
                [max(0.0, row[f"{metric}_high"] - row[metric]) for row in rows],
            ]
            shift = (len(compared) - 1) / 2 - number
            axis.errorbar(
                values,
                [sources.index(row["source"]) + 0.22 * shift for row in rows],
                xerr=whiskers,
                fmt="os^"[number % 3],
                color=SEQUENCE[number],
                capsize=3,
                markersize=4,
                label=f"{model} less {reference}",
            )
        axis.axvline(0, color=COLOURS["neutral"], linewidth=1)
        axis.set(xlabel=f"change of {metric} ({unit})", ylim=(-0.6, len(sources) - 0.4))
        axis.set_yticks(range(len(sources)), [f"{source} ({pairs[source]})" for source in sources])
    axes[1].set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(compared), frameon=False)
    text = "; ".join(
        f"{row['model']} less {row['reference']}: accuracy {_signed(row, 'accuracy')}, margin {_signed(row, 'margin')}"
        for row in differences
        if row["source"] == "all"
    )
    return figure, f"Changes on held-out pairs, with 95 % intervals, on all pairs: {text}"


def _signed(row: dict, metric: str) -> str:
    return f"{row[metric]:+.3f} ({row[f'{metric}_low']:+.3f} to {row[f'{metric}_high']:+.3f})"
