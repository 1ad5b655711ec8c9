"""Draws what a training step costs: the tokens of a batch, who attends to whom, the roofline, the ladder of rungs.

What is drawn is counted or measured by `step_costs` and by notebook 09. Left out: doing so.
"""

from utils.figures import COLOURS, line_style, new_figure

KINDS = {  # colour and hatch of a token's kind: patterns tell apart what stands twice, or for nothing
    "prompt": (COLOURS["neutral"], ""),
    "prompt again": ("#d0d0d0", "///"),
    "chosen": (COLOURS["chosen"], ""),
    "rejected": (COLOURS["rejected"], ""),
    "padding": ("white", "xxx"),
}


def plot_batch(rows: list[dict]):
    """Draw a micro-batch to scale: as the stock trainer pads it, and packed into one row; figure and alt text."""
    sizes = [
        (len(row["prompt_input_ids"]), *(len(row[f"{side}_input_ids"]) for side in ("chosen", "rejected")))
        for row in rows
    ]
    longest, bars, packed = max(map(max, sizes)), [], []
    for number, (prompt, *sides) in enumerate(sizes, 1):
        for side, length in zip(("chosen", "rejected"), sides, strict=True):
            parts = [("prompt" if side == "chosen" else "prompt again", prompt), (side, length - prompt)]
            bars.append((f"pair {number}, {side}", [*parts, ("padding", longest - length)]))
        packed += [("prompt", prompt - 1), ("chosen", sides[0] - prompt + 1), ("rejected", sides[1] - prompt + 1)]
    bars.append(("packed, one row", packed))
    figure, (axis,) = new_figure(width=8.5, height=0.9 + 0.36 * len(bars))
    for place, (_, parts) in enumerate(bars):
        start = 0
        for kind, length in parts:
            colour, hatch = KINDS[kind]
            options = {"color": colour, "hatch": hatch, "edgecolor": "#555555", "linewidth": 0.5}
            axis.barh(place + (place == len(bars) - 1) * 0.4, length, left=start, height=0.8, **options)
            start += length
    axis.set_yticks([*range(len(bars) - 1), len(bars) - 0.6], [name for name, _ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("tokens")
    _add_kinds(figure)
    computed, distinct = 2 * len(rows) * longest, sum(length for _, length in packed)
    alt = f"A micro-batch of {len(rows)} pairs: {computed:,} tokens as padded rows, {distinct:,} in one packed row"
    return figure, alt


def _add_kinds(figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="#555555", label=kind, linewidth=0.5)
        for kind, (colour, hatch) in KINDS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)


def who_sees_whom(branches: list[list[int]]) -> list[list[bool]]:
    """Say for each place of a row which places it sees, if each branch is a text of its own under a causal mask.

    Example:
        >>> who_sees_whom([[0, 1], [0, 2]])
        [[True, False, False], [True, True, False], [True, False, True]]
    """
    length = 1 + max(place for branch in branches for place in branch)
    seen = [[False] * length for _ in range(length)]
    for branch in branches:
        for number, place in enumerate(branch):
            for earlier in branch[: number + 1]:
                seen[place][earlier] = True
    return seen


def plot_attention(panels: dict[str, list[list[bool]]], roles: list[str]):
    """Draw who attends to whom, one panel for each way; figure and alt text."""
    from matplotlib.colors import to_rgb

    figure, axes = new_figure(columns=len(panels), width=2.9, height=3.0)
    for axis, (title, seen) in zip(axes, panels.items(), strict=True):
        colours = [to_rgb(KINDS[role][0]) for role in roles]
        image = [[colours[place] if it else (1, 1, 1) for place, it in enumerate(row)] for row in seen]
        axis.imshow(image)
        axis.set_title(title, fontsize=10)
        axis.grid(False)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel("is seen", fontsize=9)
        for place in range(1, len(roles)):  # lines where the role changes
            if roles[place] != roles[place - 1]:
                axis.axhline(place - 0.5, color="black", linewidth=0.6)
                axis.axvline(place - 0.5, color="black", linewidth=0.6)
        axis.spines[:].set_visible(True)
    axes[0].set_ylabel("token that looks", fontsize=9)
    counts = "; ".join(f"{title}: {sum(map(sum, seen))} of {len(seen) ** 2}" for title, seen in panels.items())
    return figure, f"Who sees whom in a packed row, places seen: {counts}"


def plot_roofline(rates: dict[str, float], parts: dict[str, tuple[float, float]]):
    """Draw the most FLOP/s that a machine reaches for any FLOPs per byte, and what parts of a step reach."""
    figure, (axis,) = new_figure(width=6.4, height=3.6)
    edge = rates["matrix"] / rates["bandwidth"]  # FLOPs per byte, where the two roofs meet
    places = [edge, *(intensity for intensity, _ in parts.values())]
    low, high = min(places) / 4, max(places) * 4
    heights = [min(rates["matrix"], rates["bandwidth"] * at) for at in (low, edge, high)]
    axis.plot([low, edge, high], heights, color="black", label="roof: bandwidth, then matrix rate")
    for place, (name, (intensity, rate)) in enumerate(parts.items()):
        roof = min(rates["matrix"], rates["bandwidth"] * intensity)
        label = f"{name}: {rate / roof:.0%} of its roof"
        axis.plot(intensity, rate, **line_style(place) | {"linestyle": "", "markersize": 8, "label": label})
    axis.set(xscale="log", yscale="log", xlabel="FLOPs for each byte that moves", ylabel="FLOP/s")
    axis.legend(fontsize=8, loc="lower right")
    said = "; ".join(f"{name} {rate:.2g} FLOP/s at {at:.2g} FLOPs a byte" for name, (at, rate) in parts.items())
    return figure, f"Roofline: {rates['matrix']:.2g} FLOP/s, {rates['bandwidth']:.2g} bytes/s; {said}"


def plot_ladder(ladder: dict):
    """Draw seconds and peak memory of each rung, the prediction, and the floor below them; figure and alt text."""
    rungs, floor = ladder["rungs"], ladder["floor_seconds"]
    names = [rung["name"] for rung in rungs]
    figure, (time, memory) = new_figure(columns=2, width=4.6, height=0.9 + 0.42 * len(rungs))
    seconds, predicted = ([rung[key] for rung in rungs] for key in ("seconds", "predicted_seconds"))
    time.barh(names, seconds, color=COLOURS["chosen"], label="measured")
    style = {"color": COLOURS["rejected"], "marker": "D", "linestyle": "", "markersize": 5}
    time.plot(predicted, names, label="predicted", **style)
    time.axvline(floor, color="black", linestyle="--", linewidth=1, label="floor")
    most = max(seconds + predicted)
    for name, value, guess in zip(names, seconds, predicted, strict=True):
        label = f"{value:.3g} s, {seconds[0] / value:.1f}x"
        time.text(max(value, guess) + 0.03 * most, name, label, va="center", fontsize=8)  # clear of the diamond
    time.set(xlabel="seconds", xlim=(0, 1.4 * most))
    unit, scale = ("GB", 1) if max(rung["peak_gb"] for rung in rungs) >= 1 else ("MB", 1000)
    peaks = [rung["peak_gb"] * scale for rung in rungs]
    memory.barh(names, peaks, color=COLOURS["margin"])
    for name, value in zip(names, peaks, strict=True):
        memory.text(value, name, f" {value:.3g}", va="center", fontsize=8)
    memory.set(xlabel=f"peak above the model ({unit})", xlim=(0, 1.2 * max(peaks)), yticks=[])
    for axis in (time, memory):
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    said = "; ".join(f"{rung['name']} {rung['seconds']:.3g} s, {rung['peak_gb']:.3g} GB" for rung in rungs)
    return figure, f"Each rung's seconds and peak memory: {said}; floor {floor:.3g} s"
