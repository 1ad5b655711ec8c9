"""Shows what several methods did to the same held-out pairs, and what each cost: a figure, a table, key figures.

`results` is method -> `utils.evaluate.compare.Track.as_dict()`, to which notebook 08 adds `steps`, `adapters` and
`reference_tokens`.
Left out: measuring them, see `comparison`.
"""

from utils.figures import COLOURS, SEQUENCE, new_figure
from utils.intervals import wilson

MARKERS = "osD^vP"


def plot_tracks(results: dict[str, dict], pairs: int):
    """Draw a panel of log-probabilities for each method, and below them margins and accuracies of all.

    Args:
        results: see above.
        pairs: held-out pairs that were measured, for the interval of the last accuracy.

    Returns:
        (figure, alt text with the first and the last value of each curve).
    """
    count = len(results)
    figure, axes = new_figure(columns=2 * count, rows=2, width=9.6 / (2 * count), height=2.5)
    grid = axes[0].get_gridspec()
    for axis in axes[1 : 2 * count : 2]:
        axis.remove()
    for axis in axes[2 * count + 1 : 3 * count]:
        axis.remove()
    for axis in axes[3 * count + 1 :]:
        axis.remove()
    upper = axes[0 : 2 * count : 2]
    for place, axis in enumerate(upper):
        axis.set_subplotspec(grid[0, 2 * place : 2 * place + 2])
    margins, accuracies = axes[2 * count], axes[3 * count]
    margins.set_subplotspec(grid[1, :count])
    accuracies.set_subplotspec(grid[1, count:])
    furthest = max(result["points"][-1]["tokens"] for result in results.values())
    sentences = []
    for place, ((name, result), axis) in enumerate(zip(results.items(), upper, strict=True)):
        points = result["points"]
        tokens = [point["tokens"] for point in points]
        for side, marker, line in (("chosen", "o", "-"), ("rejected", "s", "--")):
            values = [point[side] for point in points]
            axis.plot(tokens, values, line, marker=marker, markersize=4, color=COLOURS[side], label=side)
        axis.set_title(name, loc="left", fontsize=9, fontweight="bold")
        style = {"color": SEQUENCE[place % 7], "marker": MARKERS[place % 6], "markersize": 4, "label": name}
        margins.plot(tokens, [point["margin"] for point in points], **style)
        accuracies.plot(tokens, [point["accuracy"] for point in points], **style)
        low, high = wilson(points[-1]["accuracy"], pairs)
        beside = furthest * (1.03 + 0.02 * place)  # so that no interval hides another
        accuracies.plot([beside] * 2, [low, high], color=style["color"], linewidth=2)
        told = [f"{key} from {points[0][key]:.2f} to {points[-1][key]:.2f}" for key in points[0] if key != "tokens"]
        sentences.append(f"{name}: {', '.join(told)}")
    _share_scale(upper)
    upper[0].set_ylabel("log-probability\n(nats a token)", fontsize=8)
    upper[0].legend(frameon=False, fontsize=8)
    margins.axhline(0, color="black", linestyle="--", linewidth=0.8, zorder=1)
    accuracies.axhline(0.5, color="black", linestyle="--", linewidth=0.8, zorder=1)
    margins.set_ylabel("margin (nats a token)", fontsize=8)
    accuracies.set(ylim=(-0.04, 1.04))
    accuracies.set_ylabel(f"accuracy, {pairs} pairs, 95 %", fontsize=8)
    for axis in (*upper, margins, accuracies):
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter(_thousands)
    for axis in (margins, accuracies):
        axis.set_xlabel("tokens trained on", fontsize=8)
    handles = margins.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=count, frameon=False, fontsize=9)
    alt = f"Held-out pairs over tokens trained on, first and last value. {'. '.join(sentences)}."
    return figure, alt


def account_rows(results: dict[str, dict], pairs: int) -> list[dict[str, str]]:
    """List what each method came to and what it cost, as rows of a table.

    Args:
        results: see above.
        pairs: held-out pairs, for the interval of the accuracy (Wilson's, 95 %).
    """
    rows = []
    for name, result in results.items():
        last = result["points"][-1]
        low, high = wilson(last["accuracy"], pairs)
        rows.append(
            {
                "method": name,
                "accuracy (95 %)": f"{last['accuracy']:.2f} ({low:.2f} to {high:.2f})",
                "margin": f"{last['margin']:.3f}",
                "chosen": f"{last['chosen']:.3f}",
                "rejected": f"{last['rejected']:.3f}",
                "steps": " + ".join(map(str, result["steps"])),
                "tokens trained": f"{result['tokens']:,}",
                "by the reference": f"{result['reference_tokens']:,}",
                "seconds": f"{result['seconds']:.1f}",
                "peak GB": f"{result['peak_gb']:.3f}",
                "adapters": str(result["adapters"]),
            }
        )
    return rows


def key_figures(results: dict[str, dict]) -> dict[str, float]:
    """Name for each method how far it moved the averages, and its tokens: such as `sft_then_dpo_margin_change`.

    Args:
        results: see above.
    """
    found = {}
    for name, result in results.items():
        first, last, short = result["points"][0], result["points"][-1], name.lower().replace(" ", "_")
        found |= {f"{short}_{key}_change": last[key] - first[key] for key in ("chosen", "rejected", "margin")}
        found |= {f"{short}_accuracy": last["accuracy"], f"{short}_tokens": result["tokens"]}
    return found


def _share_scale(axes) -> None:
    """Give panels the same vertical axis, and its numbers to the first alone."""
    low, high = min(axis.get_ylim()[0] for axis in axes), max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
        axis.tick_params(labelleft=axis is axes[0])


def _thousands(tokens: float, place=None) -> str:
    return f"{tokens / 1000:g}k" if tokens >= 1000 else f"{tokens:g}"
