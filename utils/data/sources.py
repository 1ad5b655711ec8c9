"""Where preference pairs and benchmark items come from: repository, columns, rule and mapper of each source.

The seven that `mlabonne/orpo-dpo-mix-40k` names, and four others. The mix's card gives the rules as prose; their
expressions are inferred from it and from the columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.pairs import to_pair
from utils.hub import Repository


@dataclass(frozen=True)
class Source:
    """One place that pairs or items come from: what its columns are called, and which of its rows are taken."""

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
    origin: Repository | None = field(default=None, compare=False, repr=False)  # what the Hub says, once it is found
    expected: int | None = field(default=None, compare=False, repr=False)  # rows that should pass
    rows: object = field(default=None, compare=False, repr=False)  # a `datasets.Dataset`, once it is loaded
    left_out: str | None = field(default=None, compare=False, repr=False)  # why, if it cannot be reached

    @property
    def rule(self) -> str:
        """The rule as an expression over the source's own columns."""
        parts = []
        if self.at_least is not None:
            parts.append(f"{self.rating} >= {self.at_least:g}")
        if self.unless:
            parts.append(f"not {self.unless}")
        return " and ".join(parts) or "all rows"

    @property
    def download_gb(self) -> float:
        """The size of its repository; what is streamed, or on this machine, is no download."""
        files = () if self.origin is None or self.streamed_rows else self.origin.files
        return sum(file.size or 0 for file in files) / 1e9

    @property
    def needs(self) -> list[str]:
        """The columns that are read; all others stay on the disk."""
        return list(dict.fromkeys([*self.columns.values(), *filter(None, [self.rating, self.unless])]))

    def pair(self, row: dict) -> dict:
        """Bring a raw row into the course's form; raises as `pairs.to_pair` does."""
        return self.mapper({"source": self.name} | {ours: row[theirs] for ours, theirs in self.columns.items()})


ANSWERS = {"chosen": "chosen", "rejected": "rejected"}  # whole conversations, which hold the prompt
TEXTS = {"prompt": "prompt", **ANSWERS}
SEVEN = [
    Source(
        "capybara", "argilla/distilabel-capybara-dpo-7k-binarized", ANSWERS, "rating_chosen", at_least=5, published=2882
    ),
    Source(
        "intel-orca",
        "argilla/distilabel-intel-orca-dpo-pairs",
        {"system": "system", "prompt": "input", **ANSWERS},
        "chosen_score",
        best=10,
        at_least=9,
        unless="in_gsm8k_train",
        published=2299,
    ),
    Source(
        "ultrafeedback",
        "argilla/ultrafeedback-binarized-preferences-cleaned",
        ANSWERS,
        "chosen-rating",
        at_least=5,
        published=22799,
    ),
    Source(
        "math",
        "argilla/distilabel-math-preference-dpo",
        {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
        "chosen_rating",
        best=10,
        at_least=9,
        published=2181,
    ),
    Source("toxic", "unalignment/toxic-dpo-v0.2", TEXTS, published=541),
    # With all 7,985 rows of this one, and only with them, the seven add up to the 39,703 rows that the mix has.
    Source("prm", "M4-ai/prm_dpo_pairs_cleaned", TEXTS, published=7958, in_mix=7985),
    Source("truthy", "jondurbin/truthy-dpo-v0.1", {"system": "system", **TEXTS}, published=1016),
]
STACK_TEXTS = {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}
OTHERS = [  # version 1.2 of the mix took the first of these instead of capybara
    Source(
        "capybara-preferences", "argilla/Capybara-Preferences", ANSWERS, "chosen_rating", at_least=5, published=7424
    ),
    Source("dpo-mix-7k", "argilla/dpo-mix-7k", ANSWERS, "chosen_rating"),
    Source("hh-rlhf", "Anthropic/hh-rlhf", ANSWERS),
    Source("stack-exchange", "lvwerra/stack-exchange-paired", STACK_TEXTS, folder="data/rl", streamed_rows=20_000),
]


def _items(name: str, repository: str, split: str, *columns: str, config: str | None = None) -> Source:
    return Source(name, repository, {column: column for column in columns}, split=split, config=config)


# Items that no mix may hold that is scored on them, as lm-evaluation-harness loads them; the question's column first.
BENCHMARKS = [
    _items("gsm8k", "openai/gsm8k", "test", "question", "answer", config="main"),
    _items("truthfulqa", "truthfulqa/truthful_qa", "validation", "question", "best_answer", config="generation"),
    _items("arc", "allenai/ai2_arc", "test", "question", "choices", config="ARC-Challenge"),
    _items("hellaswag", "Rowan/hellaswag", "validation", "ctx", "endings"),  # its test set has no answers
    _items("mmlu", "cais/mmlu", "test", "question", "choices", config="all"),
    _items("ifeval", "google/IFEval", "train", "prompt"),  # its only split
]
GSM8K_TRAIN = _items("gsm8k train", "openai/gsm8k", "train", "question", config="main")


def choose_sources(names: list[str]) -> list[Source]:
    """Choose sources by name, Hub id or path; "mix" is the seven without toxic, others have columns like `TEXTS`.

    Raises `ValueError` for no names, an unknown or a repeated one, naming those there are.
    """
    known = [*SEVEN, *OTHERS]
    six = [source.name for source in SEVEN if source.name != "toxic"]
    names = [part for name in names for part in (six if name == "mix" else [name])]
    by_name = {source.repository: source for source in known} | {source.name: source for source in known}
    listed = ", ".join(["mix", *(source.name for source in known)])
    if not names:
        raise ValueError(f"SOURCES is empty: name one or more of {listed}.")
    chosen = []
    for name in names:
        path = Path(name)
        if name not in by_name and "/" not in name and not path.exists():
            raise ValueError(
                f"SOURCES: {name} is no file or folder here, no Hub id like owner/name, and none of {listed}."
            )
        called = path.stem if path.is_file() else path.name  # in v0.2, as some Hub ids end, .2 is no suffix
        chosen.append(by_name.get(name) or Source(called, name))
    found = [source.name for source in chosen]
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"SOURCES has {', '.join(sorted(twice))} twice: take one out, or rename a file.")
    return chosen


def choose_benchmarks(names: list[str]) -> list[Source]:
    """Choose benchmarks by name, or "all"; raises `ValueError` for an unknown one, naming those there are."""
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    names = list(known) if names == ["all"] else names
    if unknown := set(names) - known.keys():
        raise ValueError(f"There is no benchmark {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    return [known[name] for name in names]


def apply_rule(source: Source, rows):
    """Decide by the source's rule which rows are taken: the source's part of the ledger.

    A data frame of `source`, `row` (its number from 0), `rating` on the source's own scale, and `reason`, why it is
    dropped, or `None`.
    """
    import pandas as pd

    ledger = pd.DataFrame({"source": source.name, "row": range(len(rows)), "rating": float("nan")})
    ledger["reason"] = pd.Series(None, index=ledger.index, dtype=object)
    if source.rating:
        ledger["rating"] = pd.Series(rows[source.rating][:], dtype=float)
    if source.at_least is not None:
        ledger.loc[ledger.rating < source.at_least, "reason"] = "score too low"
        ledger.loc[ledger.rating.isna(), "reason"] = "no score"
    if source.unless:
        flagged = pd.Series(rows[source.unless][:], dtype=object).eq(True)
        ledger.loc[flagged & ledger.reason.isna(), "reason"] = source.unless
    return ledger
