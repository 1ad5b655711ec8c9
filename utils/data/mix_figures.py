"""The pictures of a mix: what each rule takes away, the ratings, and the lengths; each is (figure, alt text)."""

from utils.data import mix
from utils.figures import COLOURS, fill_style, line_style, new_figure

ROUND = [mark * 10**power for power in range(10) for mark in (1, 2, 5)]  # labels of an axis of tokens


def plot_waterfall(ledger):
    """Draw how the rows that come in become the rows that are kept, one bar for each reason, stacked by source."""
    table = mix.account(ledger)
    steps, total = list(table.columns[1:]), table.iloc[-1]
    lines, everything = range(len(steps)), int(total["rows in"])
    figure, (axis,) = new_figure(width=9, height=1.1 + 0.29 * len(steps))
    # Where each bar ends: a reason where the one before it begins
    right = [everything - int(total[steps[1:line]].sum()) for line in lines]
    start = [end - int(total[step]) for step, end in zip(steps, right, strict=True)]
    for (source, place), (_, counts) in zip(_places(ledger).items(), table.iloc[:-1].iterrows(), strict=True):
        sizes = [int(counts[step]) for step in steps]
        axis.barh(lines, sizes, left=start, height=0.72, label=source, **fill_style(place))
        start = [begin + size for begin, size in zip(start, sizes, strict=True)]
    for line, (step, end) in enumerate(zip(steps, right, strict=True)):
        if line:  # also shows where a bar stands that is too short to be seen
            axis.plot([end, end], [line - 1.36, line + 0.36], color="black", linewidth=0.8)
        size = f"{total[step]:,}" if step in ("rows in", "kept") else f"\N{MINUS SIGN}{total[step]:,}"
        share = f" = {100 * total[step] / max(everything, 1):.1f} %" if step == "kept" else ""
        axis.text(end, line, f" {size}{share}", va="center", fontsize=9)
    axis.set_yticks(lines, steps, fontsize=9)
    axis.set(xlim=(0, 1.12 * max(everything, 1)), xlabel="rows", ylim=(len(steps) - 0.4, -0.6))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(False, axis="y")
    figure.legend(loc="outside upper center", ncols=7, frameon=False, fontsize=8, handlelength=1.0, columnspacing=1.2)
    took = "; ".join(f"{step} {total[step]:,}" for step in steps[1:-1]) or "nothing"
    alt = f"Waterfall of {everything:,} rows from {len(table) - 1} sources to {total['kept']:,} that are kept."
    return figure, f"{alt} Dropped, in this order: {took}."


def plot_ratings(ledger, sources):
    """Draw the ratings of each source that has any, in two colours: what its threshold keeps, and what not."""
    import numpy as np

    ratings = {name: part.to_numpy(dtype=float) for name, part in ledger.groupby("source", observed=True)["rating"]}
    rated = [source for source in sources if np.isfinite(ratings.get(source.name, np.array([]))).any()]
    columns = 2 if len(rated) > 1 else 1
    figure, axes = new_figure(columns, -(-len(rated) // columns) or 1, width=9 / columns, height=2.5)
    for axis in axes[len(rated) :]:
        axis.set_axis_off()
    sentences = [] if rated else ["No source has any"]
    axes[0].set_title("".join(sentences))
    for axis, source in zip(axes, rated, strict=False):
        values = ratings[source.name][np.isfinite(ratings[source.name])]
        missing = len(ratings[source.name]) - len(values)
        kept = values >= (-np.inf if source.at_least is None else source.at_least)
        goal = "no threshold" if source.at_least is None else f"threshold {source.at_least:g}"
        # The widest bars whose middles are the values that occur: scales differ in their steps
        step = next((step for step in (1.0, 0.5, 0.25) if np.allclose(values % step, 0)), 0.25)
        low, high = min(1, np.floor(values.min())), max(source.best, values.max())
        edges = np.arange(low - step / 2, high + step, step)
        labels = (f"reach it: {kept.sum():,} ({100 * kept.mean():.0f} %)", f"do not: {(~kept).sum():,}")
        colours = [COLOURS["chosen"], "#bbbbbb"]
        axis.hist([values[kept], values[~kept]], edges, stacked=True, color=colours, rwidth=0.86, label=labels)
        if source.at_least is not None:  # left of the threshold's own bar, all of which is kept
            axis.axvline(source.at_least - step / 2, color="black", linestyle="--", linewidth=1.2)
        axis.legend(title=goal, fontsize=8, title_fontsize=8)
        axis.set(xlim=(low - step, high + step), xticks=range(int(low), int(high) + 1), ylabel="rows")
        axis.set_title(f"{source.name}: {missing:,} without a rating", fontsize=10)
        axis.set_xlabel(f"rating\nrule: {source.rule}", fontsize=8)
        axis.locator_params(axis="y", nbins=5, integer=True)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(False, axis="x")
        reached = f"reached by {kept.sum():,} of {len(values):,} ratings up to {source.best:g}"
        sentences.append(f"{source.name}: {goal}, {reached}; {missing:,} without a rating")
    return figure, "Histograms of the ratings. " + ". ".join(sentences) + "."


def plot_lengths(ledger, max_lengths=(512, 768, 1024, 1536, 2048), chosen: int = 1024):
    """Draw how long the pairs of each source are, and which share would not fit into each window.

    The length of a pair is its prompt with the longer answer, and only pairs whose tokens are known are counted. The
    window that is `chosen` is drawn in bold.
    """
    import numpy as np

    longer = ledger[["chosen_tokens", "rejected_tokens"]].max(axis="columns", skipna=False)
    whole = (ledger["prompt_tokens"] + longer).rename("tokens").to_frame().assign(source=ledger["source"]).dropna()
    lengths = {source: part["tokens"].to_numpy() for source, part in whole.groupby("source", sort=False, observed=True)}
    if not lengths:
        raise ValueError("No pair has its tokens counted, so there are no lengths to draw.")
    figure, (left, right) = new_figure(2, width=4.8, height=3.6)
    windows, places = sorted({*max_lengths, chosen}), _places(ledger)
    for line, (source, tokens) in enumerate(lengths.items()):
        low, first, middle, third, high = np.percentile(tokens, [5, 25, 50, 75, 95])
        left.hlines(line, low, high, color=line_style(places[source])["color"], linewidth=1.5)
        left.barh(line, third - first, left=first, height=0.6, **fill_style(places[source]))
        left.plot([middle, middle], [line - 0.3, line + 0.3], color="black", linewidth=2)
    for window in windows:
        left.axvline(window, color="black", linestyle=":", linewidth=2 if window == chosen else 0.8, zorder=0)
    names = [f"{source} ({len(tokens):,})" for source, tokens in lengths.items()]
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set(xscale="log", xlabel="tokens, whole pair", ylim=(len(names) - 0.4, -0.6))
    left.set_title("Length: 5 to 95 %, middle half, median", fontsize=10)
    _set_ticks(left, ROUND, "{:,}".format, fontsize=8)
    top = left.secondary_xaxis("top")
    top.set_xticks(windows, [f"{window:,}" for window in windows], fontsize=8, rotation=90)
    top.set_xticks([], minor=True)
    for source, tokens in (lengths | {"all": whole["tokens"]}).items():
        percent = [100 * np.mean(tokens > window) for window in windows]
        bold = {"color": "black", "linewidth": 2.5, "zorder": 3}
        style = bold if source == "all" else line_style(places[source])
        right.plot(windows, percent, markersize=4, label=source, **style)
    right.axvline(chosen, color="black", linestyle=":", linewidth=2, zorder=0)
    right.set(xscale="log", xlabel="max_length (tokens)", ylabel="% of pairs", ylim=(0, None))
    _set_ticks(right, windows, "{:,}".format, fontsize=8)
    missed = percent[windows.index(chosen)]
    right.set_title(f"Pairs that do not fit: {missed:.1f} % of all at {chosen:,}", fontsize=10)
    figure.legend(loc="outside upper center", ncols=8, frameon=False, fontsize=8, columnspacing=1.2)
    cut = ", ".join(f"{share:.1f} % at {window:,}" for window, share in zip(windows, percent, strict=True))
    medians = ", ".join(f"{source} {np.median(tokens):,.0f}" for source, tokens in lengths.items())
    return figure, f"Lengths of {len(whole):,} pairs. Median tokens: {medians}. Share that does not fit: {cut}."


def _places(ledger) -> dict[str, int]:
    """Number the sources, so that each has the same colour, marker and pattern in every figure."""
    return {source: place for place, source in enumerate(ledger["source"].unique())}


def _set_ticks(axis, places, write, **options) -> None:
    """Label these places of a logarithmic axis, as far as they are in sight, and no others."""
    low, high = axis.get_xlim()
    shown = [place for place in places if low <= place <= high]
    axis.set_xticks(shown, [write(place) for place in shown], **options)
    axis.set_xticks([], minor=True)
