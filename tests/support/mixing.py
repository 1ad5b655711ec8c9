"""The steps of notebook 02 in one call, for tests of a mix and of its files."""

from dataclasses import replace

from utils.data import mix, sources


def loaded(source: sources.Source, rows) -> sources.Source:
    """A source with these rows, as `loading.load` leaves it."""
    return replace(source, rows=rows.select_columns(source.needs))


def examined(chosen: list, tokenizer, index):
    """The ledger after the look at every row, and the pairs that it speaks of."""
    return mix.examine_rows(mix.start_ledger(chosen), chosen, tokenizer, index)


def cleaned(ledger, pairs, chosen: list, max_length: int = 1024, threshold: float = 0.8):
    """Drop what is too long, holds an item of a benchmark, or is there twice."""
    whole = ledger.prompt_tokens + ledger[["chosen_tokens", "rejected_tokens"]].max(axis=1)
    mix.drop_rows(ledger, ledger.prompt_tokens >= max_length, "prompt too long")
    mix.drop_rows(ledger, whole > max_length, "answer too long")
    mix.drop_rows(ledger, ledger["item"].notna(), "in a benchmark")
    mix.drop_copies(ledger, pairs, chosen, threshold)
    return ledger
