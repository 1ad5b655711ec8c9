"""The pictures of a mix: what each rule takes away, the ratings, the lengths, and what training on it will cost.

All are drawn from a ledger: a data frame with one line for every row of every source, with the columns `source`, `row`
(its number there), `rating`, `reason` (why the row is dropped, `None` if it is kept), `prompt_tokens`, `chosen_tokens`,
`rejected_tokens` (NaN where they were never counted) and `split` ("train", "test" or `None`). Each function that draws
returns (figure, alt text). Left out: making the ledger, and the texts, which `pair_browser` shows.
"""

from utils.figures import COLOURS, SEQUENCE, fill_style, line_style, new_figure

# What 1,000 pairs that fit into 1,024 tokens hold, each prompt counted twice: modelled from the mix's byte counts, for
# the run that `Profile.hours` is stated for gives no tokens.
TOKENS_OF_HOURS = 853_000
ROUND = [mark * 10**power for power in range(10) for mark in (1, 2, 5)]  # labels of an axis of tokens


def account(ledger, reasons):
    """Count for each source what came in, what each reason took, and what is kept.

    Args:
        reasons: names in the order of the rules; others that occur go last.

    Returns:
        Data frame with one line for each source in order of appearance, and a last line "all": `source`, `rows in`,
        one column for each reason that occurs, `kept`.

    Raises:
        ValueError: if a row belongs to no source, so that kept and dropped rows would not add up.
    """
    import pandas as pd

    found = list(ledger["reason"].dropna().unique())
    columns = [*(reason for reason in dict.fromkeys([*reasons, *found]) if reason in found), "kept"]
    outcome = ledger["reason"].astype(object).where(ledger["reason"].notna(), "kept")
    sources = ledger["source"].astype(object)
    names = sources.dropna().unique()
    table = pd.crosstab(sources, outcome).reindex(index=names, columns=columns, fill_value=0)
    table.insert(0, "rows in", sources.value_counts().reindex(names))
    table.loc["all"] = table.sum()
    lost = table["rows in"] - table[columns].sum(axis="columns")
    if lost.any() or table.loc["all", "rows in"] != len(ledger):
        raise ValueError(f"Kept and dropped rows do not add up to the {len(ledger)} lines:\n{table.to_string()}")
    return table.rename_axis("source").rename_axis(None, axis="columns").reset_index()


def plot_waterfall(ledger, reasons):
    """Draw how the rows that come in become the rows that are kept, one bar for each reason, stacked by source."""
    table = account(ledger, reasons)
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
    """Draw the ratings of each source that has any, in two colours: what its threshold keeps, and what not.

    Args:
        sources: objects with `name`, `best` (the top of the scale, which begins at 1), `at_least` (the threshold or
            `None`) and `rule` (in words).
    """
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

    The length of a pair is its prompt with the longer answer, and only pairs whose tokens are known are counted.

    Args:
        max_lengths: windows in tokens.
        chosen: the window that is set, drawn in bold.
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


def token_budget(ledger, profiles: dict) -> list[dict]:
    """Predict what training costs on 1,000 pairs like the train pairs, and on all of them.

    Args:
        profiles: name -> `utils.train.profiles.Profile`.

    Returns:
        For each of the two: `pairs`, `tokens in the stock trainer` (the prompt beside each answer), `distinct tokens`
        (the prompt once), `hours` (profile name -> predicted hours of one epoch of Llama 3 8B).

    Raises:
        ValueError: if no train pair has its tokens counted.
    """
    parts = ["prompt_tokens", "chosen_tokens", "rejected_tokens"]
    train = ledger.loc[ledger["split"] == "train", parts].dropna()
    if train.empty:
        raise ValueError("No train pair has its tokens counted: count tokens and split before predicting the cost.")
    prompt, chosen, rejected = train.mean()
    budgets = []
    for pairs in (1000, len(train)):
        distinct = pairs * (prompt + chosen + rejected)
        stock = distinct + pairs * prompt
        hours = {name: float(profile.hours * stock / TOKENS_OF_HOURS) for name, profile in profiles.items()}
        tokens = {"tokens in the stock trainer": round(stock), "distinct tokens": round(distinct)}
        budgets.append({"pairs": pairs, **tokens, "hours": hours})
    return budgets


def budget_rows(budgets: list[dict]) -> list[dict]:
    """Write the budgets of `token_budget` as rows for a table, in words."""
    rows = []
    for budget in budgets:
        counts = {name: f"{value:,}" for name, value in budget.items() if name != "hours"}
        rows.append(counts | {f"on {name}": in_words(hours) for name, hours in budget["hours"].items()})
    return rows


def plot_budget(budgets: list[dict]):
    """Draw the budgets of `token_budget`: tokens on the left, predicted hours on each profile on the right."""
    figure, (left, right) = new_figure(2, width=4.8, height=3.0)
    tokens = [[budget["tokens in the stock trainer"], budget["distinct tokens"]] for budget in budgets]
    hours = [list(budget["hours"].values()) for budget in budgets]
    _draw_costs(left, ["stock trainer:\nprompt twice", "distinct:\nprompt once"], tokens, _millions)
    _draw_costs(right, list(budgets[0]["hours"]), hours, in_words)
    left.set_title("Tokens of one epoch", fontsize=10)
    right.set_title("Predicted time of one epoch, Llama 3 8B", fontsize=10)
    units = {1 / 60: "1 min", 1: "1 h", 24: "1 day", 730: "1 month", 8760: "1 year"}
    _set_ticks(left, ROUND, _millions)
    _set_ticks(right, units, units.get)
    names = [f"{budgets[0]['pairs']:,} pairs", f"all {budgets[1]['pairs']:,} train pairs"]
    figure.legend(left.lines[:2], names, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    rows = [", ".join(f"{name} {value}" for name, value in row.items()) for row in budget_rows(budgets)]
    return figure, f"Cost of one epoch: {'; '.join(rows)}."


def in_words(hours: float) -> str:
    """Write a time in the unit that people would use.

    Example:
        >>> [in_words(hours) for hours in (0.25, 3.7, 88, 13_600, 50_000)]
        ['15 min', '3.7 h', '3.7 days', '570 days', '5.7 years']
    """
    units = (("min", 1 / 60, 1), ("h", 1, 48), ("days", 24, 2 * 8760), ("years", 8760, float("inf")))
    unit, size = next((unit, size) for unit, size, most in units if hours < most)
    return f"{float(f'{hours / size:.2g}'):g} {unit}"


def _places(ledger) -> dict[str, int]:
    """Number the sources, so that each has the same colour, marker and pattern in every figure."""
    return {source: place for place, source in enumerate(ledger["source"].unique())}


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:.3g} M"


def _set_ticks(axis, places, write, **options) -> None:
    """Label these places of a logarithmic axis, as far as they are in sight, and no others."""
    low, high = axis.get_xlim()
    shown = [place for place in places if low <= place <= high]
    axis.set_xticks(shown, [write(place) for place in shown], **options)
    axis.set_xticks([], minor=True)


def _draw_costs(axis, labels: list[str], costs: list[list[float]], write) -> None:
    """Draw two costs on each line, joined; the smaller one's value stands on its left, the other on its right."""
    lines = range(len(labels))
    for values, colour, marker in zip(costs, SEQUENCE, "os", strict=False):
        axis.plot(values, lines, color=colour, marker=marker, linestyle="none", markersize=8)
    axis.set(xscale="log", ylim=(len(labels) - 0.4, -0.6))
    axis.set_yticks(lines, labels)
    axis.margins(x=0.3)  # room for the values
    for line, pair in zip(lines, zip(*costs, strict=True), strict=True):
        axis.plot(sorted(pair), [line, line], color="#bbbbbb", zorder=0)
        for value, place, side in ((min(pair), -8, "right"), (max(pair), 8, "left")):
            options = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 8}
            axis.annotate(write(value), (value, line), (place, 0), **options)
