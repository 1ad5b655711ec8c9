"""From the rows of many sources to one mix: a ledger that says what became of each.

The ledger is a data frame with one line for every row of every source. A line whose `reason` is empty is kept; each
step writes its reason into lines that have none yet. So nothing can vanish uncounted. Left out: what the steps look
at, see `sources`, `examining` and `overlap`, and the files that come of it, see `mix_files`.
"""

from utils.data import overlap
from utils.data.examining import BROKEN

# The steps in their order: what a row is dropped for is the first of these that it trips over.
REASONS = [
    "no score",
    "score too low",
    "in_gsm8k_train",
    BROKEN,
    "does not end with an answer",
    "prompts of the two sides differ",
    "no question before the answer",
    "empty answer",
    "equal answers",
    "text of a special token",
    "prompt too long",
    "answer too long",
    "in a benchmark",
    "same prompt",
    "near duplicate",
    "over the cap",
]


def check_parameters(sources, caps: dict[str, float], near_duplicate: float, test_share: float) -> None:
    """Stop at a parameter that could only fail, or surprise, after all rows have been examined.

    Args:
        sources: `utils.data.sources.Source` that are wanted.
        caps, near_duplicate, test_share: see `over_caps`, `near_duplicates`, `split`.

    Raises:
        ValueError: naming the parameter, its value, and what it may be.
    """
    names = [source.name for source in sources]
    if wrong := {name: cap for name, cap in caps.items() if name not in names or cap < 0}:
        raise ValueError(f"CAPS = {wrong}: take rows, or a share up to 1.0, of {', '.join(names)}.")
    if not 0 < near_duplicate <= 1:
        raise ValueError(f"NEAR_DUPLICATE = {near_duplicate}: take a similarity above 0 and up to 1, such as 0.8.")
    if not 0 < test_share < 1:
        raise ValueError(f"TEST_SHARE = {test_share}: take a share between 0 and 1, such as 0.02.")


def enter(ledger, pairs):
    """Write into the ledger what `examine` found.

    Args:
        ledger: all sources' parts, one under the other, with an index from 0.
        pairs: what `examine` returned for each of them, in the same order, as one data set.

    Returns:
        The ledger with `pair` (the pair's number in `pairs`, or -1), and the columns that `examine` found, without
        texts and signatures.

    Raises:
        ValueError: if the pairs are not those that the ledger keeps so far.
    """
    import numpy as np

    few = ["problem", "told", "prompt_tokens", "chosen_tokens", "rejected_tokens", "hash", "item", "match"]
    found = pairs.select_columns(few).to_pandas()
    taken = np.flatnonzero(ledger.reason.isna())
    if "pair" in ledger or len(taken) != len(found):
        raise ValueError(
            f"The ledger keeps {len(taken)} rows, and {len(found)} were examined: they go together once. Make the "
            "ledger from its parts again, examine those, then enter them."
        )
    ledger = ledger.join(found.set_index(taken))
    ledger["pair"] = -1
    ledger.loc[taken, "pair"] = range(len(taken))
    ledger["twin"] = -1  # the line that is kept in this one's place
    drop(ledger, ledger.problem.notna(), ledger.problem)
    return ledger.drop(columns="problem")


def drop(ledger, lines, reason) -> int:
    """Give lines of the ledger a reason, if they have none yet, and return how many.

    Args:
        ledger: changed in place.
        lines: which, a boolean for each.
        reason: one text, or one for each line.
    """
    lines = lines & ledger.reason.isna()
    ledger.loc[lines, "reason"] = reason if isinstance(reason, str) else reason[lines]
    return int(lines.sum())


def best_first(ledger, sources):
    """Order the lines kept so far: the best rated first, on one scale from 0 to 1, then those without a rating.

    Args:
        ledger: of `enter`.
        sources: `utils.data.sources.Source`, whose scales differ.

    Returns:
        Index of the ledger in this order; equals stay in the order of the sources and rows.
    """
    best = ledger.source.map({source.name: source.best for source in sources}).astype(float)
    share = ((ledger.rating - 1) / (best - 1)).fillna(-1.0)[ledger.reason.isna()]
    return share.sort_values(ascending=False, kind="stable").index


def same_prompts(ledger, order):
    """Find for each line the better one with the same prompt, whatever its case and spacing.

    Args:
        ledger: of `enter`.
        order: of `best_first`.

    Returns:
        Line that is kept in the place of each, or -1.
    """
    first = ledger.loc[order].drop_duplicates("hash").reset_index().set_index("hash")["index"]
    twins = ledger.hash.map(first).where(ledger.reason.isna(), -1).fillna(-1).astype(int)
    return twins.where(twins != ledger.index, -1)


def near_duplicates(ledger, pairs, order, threshold: float):
    """Find for each line the better one that it nearly repeats.

    Args:
        ledger: of `enter`.
        pairs: the pairs that it speaks of.
        order: of `best_first`.
        threshold: Jaccard similarity of 5-word runs; see `utils.data.overlap.find_near_duplicates`.

    Returns:
        Line that is kept in the place of each, or -1.
    """
    import numpy as np
    import pandas as pd

    column = pairs.select_columns(["signature"]).with_format("arrow")[:]["signature"].combine_chunks()
    signatures = np.zeros((len(ledger), overlap.PERMUTATIONS), dtype=np.uint32)
    lines = ledger.index[ledger.pair >= 0]
    signatures[lines] = np.stack(column.to_numpy(zero_copy_only=False)) if len(lines) else 0
    return pd.Series(overlap.find_near_duplicates(signatures, order, threshold), index=ledger.index)


def over_caps(ledger, caps: dict[str, float], seed: int):
    """Choose by a seeded draw what is too much of a source.

    Args:
        ledger: of `enter`.
        caps: source -> the most rows of it, an integer, or the share of its rows, up to 1.0; see `check_parameters`.
        seed: of the draw, which gives every row of a source its place in the queue, whatever else was dropped.

    Returns:
        A boolean for each line.
    """
    import numpy as np
    import pandas as pd

    over = pd.Series(False, index=ledger.index)
    for name, cap in caps.items():
        lines = ledger.index[ledger.source == name]
        drawn = lines[np.random.default_rng(seed).permutation(len(lines))]
        left = drawn[ledger.reason[drawn].isna()]
        share = isinstance(cap, float) and cap <= 1
        over[left[round(cap * len(left)) if share else int(cap) :]] = True
    return over


def split(ledger, test_share: float) -> None:
    """Write into the ledger on which side each kept pair falls, by the hash of its prompt alone.

    Args:
        ledger: of `enter`; its column `split` becomes "train", "test", or `None` for what is dropped.
        test_share: of the pairs, from 0 to 1.

    Raises:
        ValueError: if a side is empty, with the reasons of what was dropped.
    """
    kept = ledger.reason.isna()
    ledger["split"] = None
    ledger.loc[kept, "split"] = "train"
    ledger.loc[kept & (ledger.hash < test_share), "split"] = "test"
    for side in ("train", "test"):
        if not (ledger.split == side).any():
            why = "\n".join(f"{number:>8,}  {reason}" for reason, number in ledger.reason.value_counts().items())
            raise ValueError(
                f"No pair is left to {side} on. {int(kept.sum())} of {len(ledger)} rows are kept; change TEST_SHARE, "
                f"raise MAX_LENGTH, or choose other sources. Dropped:\n{why}"
            )


def clusters(ledger, pairs, sources, most: int = 8) -> list[dict]:
    """List the largest groups of prompts that are alike: what is kept of each, and what went for it.

    Args:
        ledger: with `twin` filled in.
        pairs: the pairs that it speaks of.
        sources: `utils.data.sources.Source`, for the ends of their scales.
        most: groups.
    """
    best = {source.name: source.best for source in sources}
    ends = ledger.twin[ledger.twin >= 0]
    while (further := ledger.twin[ends].to_numpy()).max(initial=-1) >= 0:  # what replaced a row may itself be replaced
        ends = ends.where(further < 0, further)
    rows = []
    for line, members in sorted(ends.groupby(ends).groups.items(), key=lambda group: (-len(group[1]), group[0]))[:most]:
        rows.append(
            {
                "prompt": pairs[int(ledger.pair[line])]["prompt"][-1]["content"][:120],
                "kept": _place(ledger.loc[line], best),
                "dropped": "; ".join(_place(ledger.loc[member], best) for member in members[:6]),
                "copies": len(members),
            }
        )
    return rows


def _place(line, best: dict[str, float]) -> str:
    import pandas as pd

    rating = "" if pd.isna(line.rating) else f", rated {line.rating:g} of {best[line.source]:g}"
    return f"{line.source} {line.row}{rating}{'' if pd.isna(line.reason) else f', {line.reason}'}"


def examples(ledger, read, reasons) -> list[dict]:
    """Show the first row that each source lost for each reason.

    Args:
        ledger: of `enter`.
        read: function of a source's name and a row's number that returns the pair, or raises a ValueError.
        reasons: in their order.

    Returns:
        Rows of a table: source, reason, rows, row (its number), and the beginning of its prompt or what was wrong.
    """
    found = []
    for (name, reason), lines in ledger[ledger.reason.notna()].groupby(["source", "reason"], sort=False):
        line = lines.iloc[0]
        try:
            text = read(name, int(line.row))["prompt"][-1]["content"]
        except ValueError as error:
            text = str(error).split(". The row has")[0]
        entry = {"source": name, "dropped for": reason, "rows": len(lines), "row": int(line.row)}
        found.append(entry | {"for example": text[:100]})
    order = {reason: place for place, reason in enumerate(reasons)}
    return sorted(found, key=lambda entry: order.get(entry["dropped for"], len(order)))


def beside_published(account, sources):
    """Turn an account on its side, and end it with what each rule took and what it took for the published mix.

    Args:
        account: of `utils.data.mix_figures.account`.
        sources: `utils.data.sources.Source` that it speaks of.

    Returns:
        `pandas.DataFrame`: one column for each source and one for all, one line for each step.
    """
    table = account.set_index("source").T
    rules = ["no score", "score too low", *(source.unless for source in sources)]
    published = {source.name: source.published or 0 for source in sources}
    taken = table.loc["rows in"] - table.loc[[step for step in table.index if step in rules]].sum()
    table.loc["taken by the rule"] = taken
    table.loc["published, of the real one"] = [published.get(name, sum(published.values())) for name in table]
    table = table.astype(object).map(lambda count: f"{count:,}" if count else "")
    return table.rename_axis("step").rename_axis(None, axis="columns").reset_index()
