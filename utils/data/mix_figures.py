"""The pictures of a mix: what each rule takes away, the ratings, and the lengths; each is (figure, alt text)."""

from utils.data import mix
from utils.figures import COLOURS, fill_style, line_style, new_figure


def plot_waterfall(ledger):
    """Draw how the rows that come in become the rows that are kept, one bar for each reason, stacked by source."""
    table = mix.account(ledger).set_index("source")
    steps, total, everything = list(table), table.loc["all"], len(ledger)
    figure, (axis,) = new_figure(width=9, height=1.1 + 0.29 * len(steps))
    ends = everything - total[steps[1:]].shift(fill_value=0).cumsum()  # a reason ends where the one before it begins
    ends = [everything, *ends]
    left = [end - total[step] for step, end in zip(steps, ends, strict=True)]
    for source, place in _places(ledger).items():
        axis.barh(steps, table.loc[source], left=left, height=0.72, label=source, **fill_style(place))
        left = [begin + count for begin, count in zip(left, table.loc[source], strict=True)]
    for line, (step, end) in enumerate(zip(steps, ends, strict=True)):
        size = f"{total[step]:,}" if step in ("rows in", "kept") else f"\N{MINUS SIGN}{total[step]:,}"
        share = f" = {100 * total[step] / max(everything, 1):.1f} %" if step == "kept" else ""
        axis.vlines(end, line - 0.36, line + 0.36, color="black", linewidth=0.8)  # shows a bar too short to be seen
        axis.text(end, line, f" {size}{share}", va="center", fontsize=9)
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

    ratings = {name: part.to_numpy(dtype=float) for name, part in ledger.groupby("source")["rating"]}
    rated = [source for source in sources if np.isfinite(ratings.get(source.name, np.array([]))).any()]
    figure, axes = new_figure(2, -(-len(rated) // 2) or 1, width=4.5, height=2.5)
    for axis in axes[len(rated) :]:
        axis.set_axis_off()
    sentences = [] if rated else ["No source has any"]
    for axis, source in zip(axes, rated, strict=False):
        values = ratings[source.name][np.isfinite(ratings[source.name])]
        missing = len(ratings[source.name]) - len(values)
        kept = values >= (-np.inf if source.at_least is None else source.at_least)
        goal = "no threshold" if source.at_least is None else f"threshold {source.at_least:g}"
        # The widest bars whose middles are the values that occur: scales differ in their steps
        step = next((step for step in (1.0, 0.5, 0.25) if np.allclose(values % step, 0)), 0.25)
        edges = np.arange(min(1, np.floor(values.min())) - step / 2, max(source.best, values.max()) + step, step)
        labels = (f"reach it: {kept.sum():,} ({100 * kept.mean():.0f} %)", f"do not: {(~kept).sum():,}")
        colours = [COLOURS["chosen"], "#bbbbbb"]
        axis.hist([values[kept], values[~kept]], edges, stacked=True, color=colours, rwidth=0.86, label=labels)
        axis.legend(title=goal, fontsize=8, title_fontsize=8)
        axis.set_title(f"{source.name}: {missing:,} without a rating", fontsize=10)
        axis.set_xlabel(f"rating\nrule: {source.rule}", fontsize=8)
        axis.set_ylabel("rows")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        reached = f"reached by {kept.sum():,} of {len(values):,} ratings up to {source.best:g}"
        sentences.append(f"{source.name}: {goal}, {reached}; {missing:,} without a rating")
    return figure, "Histograms of the ratings. " + ". ".join(sentences) + "."


def plot_lengths(ledger, max_lengths=(512, 768, 1024, 1536, 2048), chosen: int = 1024):
    """Draw how long the pairs of each source are, and which share would not fit into each window; bold: `chosen`.

    The length of a pair is its prompt with the longer answer, and only pairs whose tokens are known are counted.
    """
    import numpy as np

    longer = ledger[["chosen_tokens", "rejected_tokens"]].max(axis="columns", skipna=False)
    whole = (ledger["prompt_tokens"] + longer).dropna()
    lengths = {source: tokens.to_numpy() for source, tokens in whole.groupby(ledger["source"], sort=False)}
    if not lengths:
        raise ValueError("No pair has its tokens counted, so there are no lengths to draw.")
    figure, (left, right) = new_figure(2, width=4.8, height=3.6)
    windows, places = sorted({*max_lengths, chosen}), _places(ledger)
    names = [f"{source} ({len(tokens):,})" for source, tokens in lengths.items()]
    looks = {"whis": (5, 95), "showfliers": False, "widths": 0.6, "patch_artist": True}
    drawn = left.boxplot(list(lengths.values()), orientation="horizontal", tick_labels=names, **looks)
    for box, middle, source in zip(drawn["boxes"], drawn["medians"], lengths, strict=True):
        box.set(**fill_style(places[source]))
        middle.set(color="black", linewidth=2)
    left.set(xscale="log", xlabel="tokens, whole pair")
    left.invert_yaxis()
    left.set_title("Length: 5 to 95 %, middle half, median", fontsize=10)
    for source, tokens in (lengths | {"all": whole.to_numpy()}).items():
        percent = [100 * np.mean(tokens > window) for window in windows]
        bold = {"color": "black", "linewidth": 2.5, "zorder": 3}
        style = bold if source == "all" else line_style(places[source])
        right.plot(windows, percent, markersize=4, label=source, **style)
    right.set(xscale="log", xlabel="max_length (tokens)", ylabel="% of pairs", ylim=(0, None))
    missed = percent[windows.index(chosen)]
    right.set_title(f"Pairs that do not fit: {missed:.1f} % of all at {chosen:,}", fontsize=10)
    for axis in (left, right):
        axis.axvline(chosen, color="black", linestyle=":", linewidth=2, zorder=0)
        axis.set_xticks(windows, [f"{window:,}" for window in windows], fontsize=8, rotation=90)
        axis.set_xticks([], minor=True)
    figure.legend(loc="outside upper center", ncols=8, frameon=False, fontsize=8, columnspacing=1.2)
    cut = ", ".join(f"{share:.1f} % at {window:,}" for window, share in zip(windows, percent, strict=True))
    medians = ", ".join(f"{source} {np.median(tokens):,.0f}" for source, tokens in lengths.items())
    return figure, f"Lengths of {len(whole):,} pairs. Median tokens: {medians}. Share that does not fit: {cut}."


def _places(ledger) -> dict[str, int]:
    """Number the sources, so that each has the same colour, marker and pattern in every figure."""
    return {source: place for place, source in enumerate(ledger["source"].unique())}
