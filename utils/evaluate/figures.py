"""Draws what changed on the same held-out pairs: between models, and on the way of several methods.

Left out: two models' bars side by side, whose overlapping intervals hide a difference that holds pair by pair.
"""

from utils.figures import COLOURS, SEQUENCE, new_figure
from utils.intervals import wilson

MARKERS = "osD^vP"


def plot_differences(differences: list[dict]):
    """Draw the rows of `difference_rows` by source, as points with 95 % intervals around a line at no change.

    Returns (figure, alt text), as `plot_tracks` does.
    """
    sources = list(dict.fromkeys(row["source"] for row in differences))[::-1]
    compared = list(dict.fromkeys((row["model"], row["reference"]) for row in differences))
    pairs = {row["source"]: row["pairs"] for row in differences}
    figure, axes = new_figure(2, width=4.4, height=1.3 + 0.25 * len(sources) + 0.15 * len(compared))
    for axis, metric, unit in zip(axes, ("accuracy", "margin"), ("share of pairs", "nats a token"), strict=True):
        for number, (model, reference) in enumerate(compared):
            rows = [row for row in differences if (row["model"], row["reference"]) == (model, reference)]
            shift = 0.22 * ((len(compared) - 1) / 2 - number)
            for row in rows:
                ends = [row[f"{metric}_low"], row[f"{metric}_high"]]
                axis.plot(ends, [sources.index(row["source"]) + shift] * 2, "|-", color=SEQUENCE[number])
            values = [row[metric] for row in rows]
            places = [sources.index(row["source"]) + shift for row in rows]
            label = f"{model} minus {reference}"
            axis.plot(values, places, MARKERS[number], color=SEQUENCE[number], markersize=4, label=label)
        axis.axvline(0, color=COLOURS["neutral"], linewidth=1)
        axis.set(xlabel=f"change of {metric} ({unit})", ylim=(-0.6, len(sources) - 0.4))
        axis.set_yticks(range(len(sources)), [f"{source} ({pairs[source]})" for source in sources])
    axes[1].set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(compared), frameon=False)
    told = [
        f"{row['model']} minus {row['reference']}: accuracy {_signed(row, 'accuracy')}, margin {_signed(row, 'margin')}"
        for row in differences
        if row["source"] == "all"
    ]
    return figure, f"Changes on held-out pairs, with 95 % intervals, on all pairs: {'; '.join(told)}"


def plot_tracks(results: dict[str, dict], pairs: int):
    """Draw a panel of log-probabilities for each of four methods, and below them margins and accuracies of all.

    `results` is that of `account_rows`; `pairs` held-out pairs give the interval of the last accuracy.
    """
    figure, axes = new_figure(columns=2, rows=3, width=4.8, height=2.1)
    *upper, margins, accuracies = axes
    furthest = max(result["points"][-1]["tokens"] for result in results.values())
    told = []
    for place, (name, result) in enumerate(results.items()):
        points = result["points"]
        tokens = [point["tokens"] for point in points]
        for side, line in (("chosen", "o-"), ("rejected", "s--")):
            values = [point[side] for point in points]
            upper[place].plot(tokens, values, line, markersize=4, color=COLOURS[side], label=side)
        upper[place].set_title(name, loc="left", fontsize=9, fontweight="bold")
        style = {"color": SEQUENCE[place], "marker": MARKERS[place], "markersize": 4, "label": name}
        margins.plot(tokens, [point["margin"] for point in points], **style)
        accuracies.plot(tokens, [point["accuracy"] for point in points], **style)
        right = furthest * (1.03 + 0.02 * place)  # so that no interval hides another
        accuracies.plot([right] * 2, wilson(points[-1]["accuracy"], pairs), color=SEQUENCE[place], linewidth=2)
        changes = [f"{key} from {points[0][key]:.2f} to {points[-1][key]:.2f}" for key in points[0] if key != "tokens"]
        told.append(f"{name}: {', '.join(changes)}")
    limits = [end for axis in upper for end in axis.get_ylim()]
    for axis in upper:
        axis.set_ylim(min(limits), max(limits))
    upper[0].legend(frameon=False, fontsize=8)
    for axis in upper[::2]:
        axis.set_ylabel("nats a token", fontsize=8)
    margins.set_ylabel("margin (nats a token)", fontsize=8)
    accuracies.set_ylabel(f"accuracy, {pairs} pairs, 95 %", fontsize=8)
    accuracies.set_ylim(-0.04, 1.04)
    for axis, nothing in ((margins, 0), (accuracies, 0.5)):
        axis.axhline(nothing, color="black", linestyle="--", linewidth=0.8, zorder=1)
        axis.set_xlabel("tokens trained on", fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter(_thousands)
    handles = margins.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(results), frameon=False, fontsize=9)
    return figure, f"Held-out pairs over tokens trained on, first and last value. {'. '.join(told)}."


def _signed(row: dict, metric: str) -> str:
    return f"{row[metric]:+.3f} ({row[f'{metric}_low']:+.3f} to {row[f'{metric}_high']:+.3f})"


def _thousands(tokens: float, place=None) -> str:
    return f"{tokens / 1000:g}k" if tokens >= 1000 else f"{tokens:g}"
