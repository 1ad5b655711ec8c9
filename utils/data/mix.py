"""From the rows of many sources to one mix: a ledger that says what became of each.

The ledger is a data frame with one line for every row of every source. A line without a `reason` is kept, and each step
writes its reason only into such lines. So nothing can vanish uncounted.
"""

import json
from dataclasses import replace
from functools import partial
from statistics import median

from utils.data import chat_format, overlap
from utils.data import pairs as pair_rows
from utils.data.pairs import NotAPair
from utils.data.sources import GSM8K_TRAIN, Source, apply_rule

BROKEN = "broken row"
BATCH = 100  # rows that are Python objects at one time, in each process
SMALL = 2000  # fewer rows are examined sooner than another process is started
TOKENS = ["prompt_tokens", "chosen_tokens", "rejected_tokens"]
REASONS = [  # the steps in their order: what a row is dropped for is the first of these that it trips over
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
    "asked by the course",
    "prompt too long",
    "answer too long",
    "in a benchmark",
    "same prompt",
    "near duplicate",
    "over the cap",
]
# What 1,000 pairs that fit into 1,024 tokens hold, each prompt counted twice: modelled from the mix's byte counts,
# because the run that `train.profiles.Profile.hours` is stated for gives no tokens.
TOKENS_OF_HOURS = 853_000


def check_mix(sources: list[Source], caps: dict[str, float], near_duplicate: float, test_share: float) -> None:
    """Raise `ValueError` for a parameter that could only fail, or surprise, after all rows have been examined."""
    names = [source.name for source in sources]
    if wrong := {name: cap for name, cap in caps.items() if name not in names or cap < 0}:
        raise ValueError(f"CAPS = {wrong}: take rows, or a share up to 1.0, of {', '.join(names)}.")
    if not 0 < near_duplicate <= 1:
        raise ValueError(f"NEAR_DUPLICATE = {near_duplicate}: take a similarity above 0 and up to 1, such as 0.8.")
    if not 0 < test_share < 1:
        raise ValueError(f"TEST_SHARE = {test_share}: take a share between 0 and 1, such as 0.02.")


def start_ledger(sources: list[Source]):
    """Ask each source's rule which of its rows are taken: one line for every row, see `apply_rule`."""
    import pandas as pd

    parts = [apply_rule(source, source.rows) for source in sources if source.rows is not None]
    return pd.concat(parts, ignore_index=True)


def count_taken(ledger, sources: list[Source]) -> list[dict]:
    """Compare how many rows each rule takes with how many it took when the mix was published: rows of a table."""
    table = []
    for source in sources:
        lines = ledger[ledger.source == source.name]
        taken = int(lines.reason.isna().sum())
        row = {"source": source.name, "a row is taken if": source.rule, "rows": len(lines), "taken": taken}
        row |= {"expected": "", "compared": "nothing is published to compare with"}
        if source.expected is not None:
            told = f"{taken - source.expected:+,}: the source has changed, or the rule is another one; look at its card"
            row |= {"expected": source.expected, "compared": "as expected" if taken == source.expected else told}
        table.append(row | ({"compared": source.left_out} if source.left_out else {}))
    return table


def examine_rows(ledger, sources: list[Source], tokenizer, index: overlap.BenchmarkIndex, processes: int = 2):
    """Look once at every row that the rules took, write what is wrong into the ledger, and return (ledger, pairs).

    The ledger gets `pair` (a number in `pairs`, or -1), the tokens of each part, `hash` of the prompt, `item` and
    `match` of a benchmark, and `told`, more about a broken row; `twin` is for the line kept in this one's place.
    """
    import numpy as np
    from datasets import concatenate_datasets, disable_progress_bars
    from tqdm.auto import tqdm

    if "pair" in ledger:  # the cell runs again
        ledger = start_ledger(sources)
    disable_progress_bars()  # two for each source and process would fill the notebook
    parts = []
    for source in tqdm([source for source in sources if source.rows is not None], desc="Examining", leave=False):
        parts.append(examine(source, ledger[ledger.source == source.name], tokenizer, index, processes))
    pairs = concatenate_datasets(parts)
    found = pairs.select_columns(["problem", "told", *TOKENS, "hash", "item", "match"]).to_pandas()
    taken = np.flatnonzero(ledger.reason.isna())
    ledger = ledger.join(found.set_index(taken))
    ledger["pair"] = ledger["twin"] = -1
    ledger.loc[taken, "pair"] = range(len(taken))
    drop_rows(ledger, ledger.problem.notna(), ledger.problem)
    return ledger.drop(columns="problem"), pairs


def examine(source: Source, ledger, tokenizer, index: overlap.BenchmarkIndex, processes: int | None = 2):
    """Examine the rows of one source that its part of the ledger takes: a data set, memory-mapped, one line each.

    A row that is no pair has empty `prompt`, `chosen` and `rejected`.
    """
    from datasets import Dataset, Features, List, Value

    messages, text = List({"role": Value("string"), "content": Value("string")}), Value("string")
    kinds = {"source": text, "prompt": messages, "chosen": messages, "rejected": messages, "row": Value("int64")}
    kinds |= {"problem": text, "told": text, **dict.fromkeys(TOKENS, Value("int32")), "hash": Value("float64")}
    kinds |= {"signature": List(Value("uint32"), length=overlap.PERMUTATIONS), "item": text, "match": text}
    taken = ledger.row[ledger.reason.isna()].to_numpy()
    if not len(taken):
        return Dataset.from_dict({column: [] for column in kinds}, features=Features(kinds))
    look = partial(_examine, source=replace(source, rows=None), tokenizer=tokenizer, index=index, columns=list(kinds))
    return source.rows.select(taken).map(
        lambda batch, places: look(batch, taken[places]),
        with_indices=True,
        batched=True,
        batch_size=BATCH,
        num_proc=processes if len(taken) > SMALL else None,
        remove_columns=source.rows.column_names,
        features=Features(kinds),
        load_from_cache_file=False,  # the cache would not notice that this code has changed
    )


def _examine(batch: dict, numbers, source: Source, tokenizer, index, columns: list[str]) -> dict[str, list]:
    found = []
    for number, values in zip(numbers, zip(*batch.values(), strict=True), strict=True):
        line = _read(source, dict(zip(batch, values, strict=True)))
        found.append(line | {"source": source.name, "row": int(number)})
    whole = [line for line in found if line["prompt"]]
    for line, lengths in zip(whole, chat_format.batch_lengths(whole, tokenizer), strict=True):
        line |= dict(zip(TOKENS, lengths, strict=True))
        line["problem"] = pair_rows.text_problem(line, tokenizer)
        line["hash"] = pair_rows.prompt_hash(line)
        # Prompts are compared without the system message, which thousands share
        talk = [message["content"] for message in line["prompt"] if message["role"] != "system"]
        answers = [line[side][0]["content"] for side in ("chosen", "rejected")]
        line["item"], line["match"] = index.match([*talk, *answers], talk[-1]) or (None, None)
        line["signature"] = overlap.signature(overlap.numbers([word for text in talk for word in overlap.words(text)]))
    return {column: [line.get(column) for line in found] for column in columns}


def _read(source: Source, row: dict) -> dict:
    import numpy as np

    nothing = {"prompt": [], "chosen": [], "rejected": [], "signature": np.zeros(overlap.PERMUTATIONS, np.uint32)}
    try:
        return source.pair(row)
    except NotAPair as error:
        return nothing | {"problem": str(error)}
    except ValueError as error:
        return nothing | {"problem": BROKEN, "told": _first_sentence(error)}


def _first_sentence(error: ValueError) -> str:
    return str(error).split(". The row has")[0]


def share_lost(path, windows=(512, 768, 1024, 1536, 2048)) -> list[dict]:
    """Say of the real pairs whose tokens a file lists what share each window would cost, and of what answers."""
    lengths = [(prompt + max(answers), answers[0]) for prompt, *answers in json.loads(path.read_text())["pairs"]]
    table = []
    for window in windows:
        kept = [chosen for whole, chosen in lengths if whole <= window]
        lost = [chosen for whole, chosen in lengths if whole > window]
        row = {"max_length": f"{window:,}", "pairs lost": f"{len(lost) / len(lengths):.0%}"}
        row |= {"chosen answer kept, median tokens": median(kept), "chosen answer lost, median tokens": median(lost)}
        table.append(row)
    return table


def drop_rows(ledger, lines, reason) -> int:
    """Give `lines` (a boolean each) of the ledger a reason, or each its own, if they have none yet; return how many."""
    lines = lines & ledger.reason.isna()
    ledger.loc[lines, "reason"] = reason if isinstance(reason, str) else reason[lines]
    return int(lines.sum())


def drop_copies(ledger, pairs, sources: list[Source], threshold: float) -> dict[str, int]:
    """Drop all but the best rated of the lines with one prompt, then of those with similar ones; count both.

    `threshold` is the Jaccard similarity of 5-word runs. The line that is kept in a dropped one's place goes into
    `twin`.
    """
    counts = {}
    looks = {"same prompt": same_prompts, "near duplicate": partial(near_duplicates, pairs=pairs, threshold=threshold)}
    for reason, look in looks.items():
        twins = look(ledger, order=best_first(ledger, sources))
        ledger["twin"] = ledger.twin.where(twins < 0, twins)  # the cell may run again
        counts[reason] = drop_rows(ledger, twins >= 0, reason)
    return counts


def best_first(ledger, sources: list[Source]):
    """Order the lines kept so far: the best rated first, on one scale from 0 to 1, then those without a rating."""
    best = ledger.source.map({source.name: source.best for source in sources}).astype(float)
    share = ((ledger.rating - 1) / (best - 1)).fillna(-1.0)[ledger.reason.isna()]
    return share.sort_values(ascending=False, kind="stable").index


def same_prompts(ledger, order):
    """Find for each line the first one in `order` with the same prompt, whatever its case and spacing, or -1."""
    first = ledger.loc[order].drop_duplicates("hash").reset_index().set_index("hash")["index"]
    twins = ledger.hash.map(first).where(ledger.reason.isna(), -1).fillna(-1).astype(int)
    return twins.where(twins != ledger.index, -1)


def near_duplicates(ledger, pairs, order, threshold: float):
    """Find for each line the better one that it nearly repeats, or -1."""
    import numpy as np
    import pandas as pd

    column = pairs.select_columns(["signature"]).with_format("arrow")[:]["signature"].combine_chunks()
    signatures = np.zeros((len(ledger), overlap.PERMUTATIONS), dtype=np.uint32)
    lines = ledger.index[ledger.pair >= 0]
    signatures[lines] = np.stack(column.to_numpy(zero_copy_only=False)) if len(lines) else 0
    return pd.Series(overlap.find_near_duplicates(signatures, order, threshold), index=ledger.index)


def over_caps(ledger, caps: dict[str, float], seed: int):
    """Choose what is too much of a source, a boolean for each line; a cap is rows (an integer), or a share up to 1.0.

    A seeded draw gives every row of a source its place in the queue, whatever else was dropped.
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


def split_mix(ledger, test_share: float) -> None:
    """Write into the ledger's `split` "train" or "test" for what is kept, by the hash of its prompt alone.

    Raises `ValueError` if a side is empty.
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


def row_reader(sources: list[Source]):
    """Make a function of a source's name and a row's number that returns the pair, or raises `ValueError`."""
    by_name = {source.name: source for source in sources}
    return lambda name, row: by_name[name].pair(by_name[name].rows[row])


def copy_groups(ledger, pairs, sources: list[Source], most: int = 8) -> list[dict]:
    """List the largest groups of prompts that are alike: what is kept of each, and what went for it."""
    best = {source.name: source.best for source in sources}
    ends = ledger.twin[ledger.twin >= 0]
    while (further := ledger.twin[ends].to_numpy()).max(initial=-1) >= 0:  # what replaced a row may itself be replaced
        ends = ends.where(further < 0, further)
    table = []
    for line, members in sorted(ends.groupby(ends).groups.items(), key=lambda group: (-len(group[1]), group[0]))[:most]:
        dropped = [_place(ledger.loc[member], best) for member in members[:6]]
        kept = {"prompt": pairs[int(ledger.pair[line])]["prompt"][-1]["content"][:120]}
        kept |= {"kept": _place(ledger.loc[line], best), "dropped": "; ".join(dropped), "copies": len(members)}
        table.append(kept)
    return table


def _place(line, best: dict[str, float]) -> str:
    import pandas as pd

    rating = "" if pd.isna(line.rating) else f", rated {line.rating:g} of {best[line.source]:g}"
    reason = "" if pd.isna(line.reason) else f", {line.reason}"
    return f"{line.source} {line.row}{rating}{reason}"


def shared_phrases(ledger, most: int = 20):
    """List the words that rows dropped for a benchmark share with its items, the most frequent first."""
    hits = ledger[ledger.reason == "in a benchmark"]
    phrases = hits.groupby("match").agg(rows=("row", "size"), source=("source", "first"), item=("item", "first"))
    return phrases.sort_values("rows", ascending=False).reset_index().head(most)


def compare_flags(sources: list[Source], questions: Source):
    """Count the rows that a source flags as GSM8K training questions, and those that 13 words find: a table.

    `questions` is `GSM8K_TRAIN` with its items. `None` if no source has such a flag, or if one is out of reach.
    """
    import pandas as pd

    flagged = [source for source in sources if source.unless == "in_gsm8k_train" and source.rows is not None]
    if not flagged or questions.left_out:
        return None
    index = overlap.BenchmarkIndex({GSM8K_TRAIN.name: questions.rows})
    rows = flagged[0].rows
    found = [index.match([asked], asked) is not None for asked in rows[flagged[0].columns["prompt"]]]
    flag = pd.Series(rows["in_gsm8k_train"][:], name="flagged by the source")
    return pd.crosstab(flag, pd.Series(found, name="found by 13 words"))


def lost_examples(ledger, read) -> list[dict]:
    """Show the first row that each source lost for each reason; `read` is of `row_reader`. Rows of a table."""
    found = []
    for (name, reason), lines in ledger[ledger.reason.notna()].groupby(["source", "reason"], sort=False):
        row = int(lines.row.iloc[0])
        try:
            text = read(name, row)["prompt"][-1]["content"]
        except ValueError as error:
            text = _first_sentence(error)
        entry = {"source": name, "dropped for": reason, "rows": len(lines), "row": row}
        found.append(entry | {"for example": text[:100]})
    order = in_order(ledger.reason.dropna())
    return sorted(found, key=lambda entry: order.index(entry["dropped for"]))


def in_order(found) -> list[str]:
    """Return the different reasons of some lines in the order of the steps, then those that are no step of ours."""
    found = list(dict.fromkeys(found))
    return sorted(found, key=lambda reason: REASONS.index(reason) if reason in REASONS else len(REASONS))


def account(ledger):
    """Count for each source, and in a last line for "all", what came in, what each reason took, and what is kept.

    Returns a data frame with `source`, `rows in`, one column for each reason that occurs, and `kept`. Raises
    `ValueError` if kept and dropped rows do not add up.
    """
    import pandas as pd

    columns = [*in_order(ledger.reason.dropna()), "kept"]
    outcome = ledger.reason.where(ledger.reason.notna(), "kept")
    table = pd.crosstab(ledger.source, outcome)
    table = table.reindex(index=ledger.source.dropna().unique(), columns=columns, fill_value=0)
    table.insert(0, "rows in", ledger.source.value_counts())
    table.loc["all"] = table.sum()
    lost = table["rows in"] - table[columns].sum(axis="columns")
    if lost.any() or table.loc["all", "rows in"] != len(ledger):
        raise ValueError(f"Kept and dropped rows do not add up to the {len(ledger)} lines:\n{table.to_string()}")
    return table.rename_axis("source").rename_axis(None, axis="columns").reset_index()


def account_beside_published(ledger, sources: list[Source]):
    """Turn the account on its side, and end it with what each rule took and what it took for the published mix."""
    table = account(ledger).set_index("source").T
    rules = ["no score", "score too low", *(source.unless for source in sources)]
    published = {source.name: source.published or 0 for source in sources}
    table.loc["taken by the rule"] = table.loc["rows in"] - table[table.index.isin(rules)].sum()
    table.loc["published, of the real one"] = [published.get(name, sum(published.values())) for name in table]
    table = table.astype(object).map(lambda count: f"{count:,}" if count else "")
    return table.rename_axis("step").rename_axis(None, axis="columns").reset_index()


def token_budget(ledger, hours: dict[str, float]) -> list[dict]:
    """Predict what one epoch costs on 1,000 pairs like the train pairs, and on all of them: rows of a table.

    The stock trainer reads a prompt with each answer; `hours` are those of 1,000 pairs on each card.
    """
    trained = ledger[ledger["split"] == "train"]
    prompt, chosen, rejected = trained[TOKENS].mean()
    table = []
    for pairs in (1000, len(trained)):
        distinct = pairs * (prompt + chosen + rejected)
        stock = distinct + pairs * prompt
        row = {"pairs": f"{pairs:,}", "tokens, prompts twice": f"{stock:,.0f}", "prompts once": f"{distinct:,.0f}"}
        table.append(row | {f"on {name}": in_words(each * stock / TOKENS_OF_HOURS) for name, each in hours.items()})
    return table


def in_words(hours: float) -> str:
    """Write a time in the unit that people would use.

    Example:
        >>> [in_words(hours) for hours in (0.25, 3.7, 88, 13_600, 50_000)]
        ['15 min', '3.7 h', '3.7 days', '570 days', '5.7 years']
    """
    for unit, size, most in (("min", 1 / 60, 1), ("h", 1, 48), ("days", 24, 2 * 8760), ("years", 8760, float("inf"))):
        if hours < most:
            return f"{float(f'{hours / size:.2g}'):g} {unit}"
