"""One look at every row of a source: what it is as a pair, how long, and what it may be compared by.

The rows stay on the disk; a batch at a time is in memory, and several processes share the work. Left out: what is
dropped in the end, see `mixing`.
"""

from functools import partial

from utils.data import chat_format, overlap
from utils.data import pairs as preference_data
from utils.data.pairs import NotAPair

BROKEN = "broken row"
SECONDS_A_ROW = 0.0016  # measured by benchmarks/mixing.py on 2 CPU cores, at real lengths
BATCH = 100  # rows that are Python objects at one time, in each process
SMALL = 2000  # fewer rows are examined sooner than another process is started


def examine(source, rows, ledger, tokenizer, index, processes: int = 2):
    """Look once at every row that the rule took: make it a pair, count its tokens, and note what others may compare.

    Args:
        source: a `utils.data.sources.Source`.
        rows: its raw rows.
        ledger: its part of the ledger, of `utils.data.sources.apply_rule`.
        tokenizer: prepared by `utils.data.chat_format.prepare_tokenizer`.
        index: a `utils.data.overlap.BenchmarkIndex`.
        processes: that share the work.

    Returns:
        `datasets.Dataset`, memory-mapped, one line for each row: the pair (`source`, `prompt`, `chosen`, `rejected`,
        all empty if it is none), `row`, `problem` (a reason, or `None`) and `told` (more about it), three counts of
        tokens, `hash` of the prompt, `signature`, and `item` and `match` of a benchmark (or `None`).
    """
    from datasets import Dataset

    taken = ledger.row[ledger.reason.isna()].to_numpy()
    if not len(taken):
        return Dataset.from_dict({column: [] for column in _features()}, features=_features())
    look = partial(_examine, source=source, tokenizer=tokenizer, index=index)
    return rows.select(taken).map(
        lambda batch, places: look(batch, taken[places]),
        with_indices=True,
        batched=True,
        batch_size=BATCH,
        num_proc=processes if len(taken) > SMALL else None,
        remove_columns=rows.column_names,
        features=_features(),
        load_from_cache_file=False,  # the cache would not notice that this code has changed
        desc=f"Examining {source.name}",
    )


def _features():
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    return Features(
        {
            "source": Value("string"),
            **{part: messages for part in ("prompt", "chosen", "rejected")},
            "row": Value("int64"),
            "problem": Value("string"),
            "told": Value("string"),
            **{f"{part}_tokens": Value("int32") for part in ("prompt", "chosen", "rejected")},
            "hash": Value("float64"),
            "signature": List(Value("uint32"), length=overlap.PERMUTATIONS),
            "item": Value("string"),
            "match": Value("string"),
        }
    )


def _examine(batch: dict, numbers, source, tokenizer, index) -> dict[str, list]:
    found = [_pair_of(source, dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
    special = chat_format.special_text(tokenizer)
    lengths = iter(chat_format.batch_lengths([line for line in found if line["prompt"]], tokenizer))
    for line, number in zip(found, numbers, strict=True):
        line |= {"source": source.name, "row": int(number)}
        if line["prompt"]:
            tokens = zip(("prompt_tokens", "chosen_tokens", "rejected_tokens"), next(lengths), strict=True)
            line["problem"] = preference_data.answer_problem(line) or chat_format.special_text_problem(line, special)
            line |= dict(tokens) | {"hash": preference_data.prompt_hash(line)} | _compare(line, index)
    return {column: [line.get(column) for line in found] for column in _features()}


def _pair_of(source, row: dict) -> dict:
    import numpy as np

    nothing = {"prompt": [], "chosen": [], "rejected": [], "signature": np.zeros(overlap.PERMUTATIONS, np.uint32)}
    try:
        return source.pair(row)
    except NotAPair as error:
        return nothing | {"problem": str(error)}
    except ValueError as error:
        return nothing | {"problem": BROKEN, "told": str(error).split(". The row has")[0]}


def _compare(pair: dict, index) -> dict:
    """Note what a pair is compared by: the words of the talk without its system message, which thousands share."""
    import numpy as np

    talk = [message for message in pair["prompt"] if message["role"] != "system"]
    texts = [overlap.words(message["content"]) for message in [*talk, *pair["chosen"], *pair["rejected"]]]
    numbers = [overlap.numbers(text) for text in texts]
    item, match = index.match_words(texts, texts[len(talk) - 1], numbers) or (None, None)
    return {"signature": overlap.signature(np.concatenate(numbers[: len(talk)])), "item": item, "match": match}
