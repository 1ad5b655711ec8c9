"""Where preference pairs come from: repository, columns, rule and mapper of each source.

The seven that `mlabonne/orpo-dpo-mix-40k` names, and three others. The rules stand in the mix's card as prose; their
expressions are inferred from prose and columns. Left out: how rows are fetched, see `source_loading`, and cleaning,
which is the same for all of them, see `mixing`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.pairs import to_pair


@dataclass(frozen=True)
class Source:
    """One place that pairs come from: what its columns are called, and which of its rows are taken."""

    name: str
    repository: str  # Hub id, folder, or file of JSON lines or Parquet
    columns: dict[str, str] = field(default_factory=dict)  # what the course calls it -> what it is called there
    rating: str | None = None  # column with the score of the chosen answer, from 1 to `best`
    best: float = 5.0
    at_least: float | None = None  # the rule: the lowest score that is kept
    unless: str | None = None  # the rule: rows in which this column is true are left out
    mapper: Callable[[dict], dict] = to_pair  # a row under the course's names -> a pair
    revision: str | None = None  # branch, tag or commit; None is main
    config: str | None = None  # configuration, where it has several
    split: str = "train"
    folder: str | None = None  # of the repository, where it holds several data sets
    streamed_rows: int | None = None  # so many rows of a source that is too large to be downloaded whole
    published: int | None = None  # rows that pass the rule, as the mix's card lists them
    in_mix: int | None = None  # where the mix itself holds another number than its card lists

    @property
    def rule(self) -> str:
        """The rule as an expression over the source's own columns."""
        parts = [f"{self.rating} >= {self.at_least:g}"] if self.at_least is not None else []
        return " and ".join(parts + [f"not {self.unless}"] * bool(self.unless)) or "all rows"

    @property
    def needs(self) -> list[str]:
        """The columns that are read; all others stay on the disk."""
        return list(dict.fromkeys([*self.columns.values(), *filter(None, [self.rating, self.unless])]))

    def pair(self, row: dict) -> dict:
        """Bring a raw row into the course's form.

        Raises:
            NotAPair, ValueError: see `utils.data.pairs.to_pair`.
        """
        return self.mapper({"source": self.name} | {ours: row[theirs] for ours, theirs in self.columns.items()})


ANSWERS = {"chosen": "chosen", "rejected": "rejected"}  # whole conversations, which hold the prompt
TEXTS = {"prompt": "prompt", **ANSWERS}
SEVEN = [
    Source(
        "capybara",
        "argilla/distilabel-capybara-dpo-7k-binarized",
        columns=ANSWERS,
        rating="rating_chosen",
        at_least=5,
        published=2882,
    ),
    Source(
        "intel-orca",
        "argilla/distilabel-intel-orca-dpo-pairs",
        columns={"system": "system", "prompt": "input", **ANSWERS},
        rating="chosen_score",
        best=10,
        at_least=9,
        unless="in_gsm8k_train",
        published=2299,
    ),
    Source(
        "ultrafeedback",
        "argilla/ultrafeedback-binarized-preferences-cleaned",
        columns=ANSWERS,
        rating="chosen-rating",
        at_least=5,
        published=22799,
    ),
    Source(
        "math",
        "argilla/distilabel-math-preference-dpo",
        columns={"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
        rating="chosen_rating",
        best=10,
        at_least=9,
        published=2181,
    ),
    Source("toxic", "unalignment/toxic-dpo-v0.2", columns=TEXTS, published=541),
    # With all 7,985 rows of this one, and only with them, the seven add up to the 39,703 rows that the mix has.
    Source("prm", "M4-ai/prm_dpo_pairs_cleaned", columns=TEXTS, published=7958, in_mix=7985),
    Source("truthy", "jondurbin/truthy-dpo-v0.1", columns={"system": "system", **TEXTS}, published=1016),
]
OTHERS = [
    Source("dpo-mix-7k", "argilla/dpo-mix-7k", columns=ANSWERS, rating="chosen_rating"),
    Source("hh-rlhf", "Anthropic/hh-rlhf", columns=ANSWERS),
    Source(
        "stack-exchange",
        "lvwerra/stack-exchange-paired",
        columns={"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
        folder="data/rl",
        streamed_rows=20_000,
    ),
]


def choose(names: list[str] | None, include_toxic: bool, known: list[Source]) -> list[Source]:
    """Choose sources by name.

    Args:
        names: of `known` ones or their Hub ids; or other Hub ids, folders or files with columns like `TEXTS`, which
            are called by the last part of their path; `None` is the seven.
        include_toxic: whether the toxic one is among the seven; a name asks for it too.
        known: the sources that have names.

    Raises:
        ValueError: if nothing is named, two have the same name, or a name is none.

    Example:
        >>> [source.name for source in choose(None, False, SEVEN)][-3:]
        ['math', 'prm', 'truthy']
    """
    if names is None:
        names = [source.name for source in SEVEN if include_toxic or source.name != "toxic"]
    names = [names] if isinstance(names, str) else names
    by_name = {source.repository: source for source in known} | {source.name: source for source in known}
    if unknown := [name for name in names if name not in by_name and "/" not in name and not Path(name).exists()]:
        raise ValueError(
            f"SOURCES: {', '.join(unknown)} is no file or folder here, no Hub id like owner/name, and none of "
            f"{', '.join(source.name for source in known)}."
        )
    chosen = [by_name.get(name) or Source(_called(Path(name)), name, columns={}) for name in names]
    found = [source.name for source in chosen]
    if not chosen:
        raise ValueError(f"SOURCES is empty: name one or more of {', '.join(source.name for source in known)}.")
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"SOURCES has {', '.join(sorted(twice))} twice: take one out, or rename a file.")
    return chosen


def _called(path: Path) -> str:
    return path.stem if path.is_file() else path.name  # in v0.2, as some Hub ids end, .2 is no suffix


def first_pair(source: Source, rows) -> tuple[dict, dict]:
    """Return a source's first row that is a pair, as it is and as a pair.

    Args:
        source, rows: of `source_loading.load`.

    Raises:
        ValueError: if none of them is one, with what is wrong with the last.
    """
    trouble: ValueError | None = None
    for row in rows:
        try:
            return row, source.pair(row)
        except ValueError as error:
            trouble = error
    raise ValueError(f"Source {source.name} holds no pair at all: {trouble or 'it has no rows'}") from trouble


def apply_rule(source: Source, rows):
    """Decide by the source's rule which rows are taken.

    Args:
        source, rows: of `load`.

    Returns:
        `pandas.DataFrame`, the source's part of the ledger: `source`, `row` (its number from 0), `rating` on the
        source's own scale, and `reason`, why it is dropped, or `None`.
    """
    import pandas as pd

    asked = [column for column in (source.rating, source.unless) if column]
    values = rows.select_columns(asked).to_pandas() if asked else None
    ledger = pd.DataFrame({"source": source.name, "row": range(len(rows)), "rating": float("nan")})
    ledger["reason"] = pd.Series(None, index=ledger.index, dtype=object)
    if source.rating:
        ledger["rating"] = values[source.rating].astype(float)
    if source.at_least is not None:
        ledger.loc[ledger.rating < source.at_least, "reason"] = "score too low"
        ledger.loc[ledger.rating.isna(), "reason"] = "no score"
    if source.unless:
        flagged = values[source.unless].eq(True) & ledger.reason.isna()
        ledger.loc[flagged, "reason"] = source.unless
    return ledger
