"""The items of public benchmarks, which no mix that is scored on them may hold.

Named as lm-evaluation-harness loads them. Left out: scoring, and how items are found in rows, see `overlap`.
"""

from dataclasses import dataclass

from utils.data import loading as source_loading


@dataclass(frozen=True)
class Benchmark:
    """A set of items, and the columns that hold their texts, the question first."""

    name: str
    repository: str
    config: str | None
    split: str
    columns: tuple[str, ...]
    revision: str | None = None  # branch, tag or commit; None is main


BENCHMARKS = [
    Benchmark("gsm8k", "openai/gsm8k", "main", "test", ("question", "answer")),
    Benchmark("truthfulqa", "truthfulqa/truthful_qa", "generation", "validation", ("question", "best_answer")),
    Benchmark("arc", "allenai/ai2_arc", "ARC-Challenge", "test", ("question", "choices")),
    Benchmark("hellaswag", "Rowan/hellaswag", None, "validation", ("ctx", "endings")),  # its test set has no answers
    Benchmark("mmlu", "cais/mmlu", "all", "test", ("question", "choices")),
    Benchmark("ifeval", "google/IFEval", None, "train", ("prompt",)),  # its only split
]
GSM8K_TRAIN = Benchmark("gsm8k train", "openai/gsm8k", "main", "train", ("question",))


def choose(names: list[str] | None) -> list[Benchmark]:
    """Choose benchmarks by name; `None` is all six, an empty list none.

    Raises:
        ValueError: for an unknown name, naming those there are.

    Example:
        >>> [benchmark.repository for benchmark in choose(["arc"])]
        ['allenai/ai2_arc']
    """
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if unknown := set(names or ()) - known.keys():
        raise ValueError(f"There is no benchmark {', '.join(sorted(unknown))}. Choose from {', '.join(known)}.")
    return BENCHMARKS if names is None else [known[name] for name in names]


def load_items(benchmark: Benchmark, commit: str | None, token: str | None = None) -> list[list[str]]:
    """Load the texts of a benchmark's items.

    Args:
        benchmark: which.
        commit: of its repository.
        token: Hub token.

    Returns:
        One list of texts for each item, the question first, each choice a text.

    Raises:
        ValueError: if it has no such column, naming those it has, or cannot be read.
        FileNotFoundError, PermissionError, ConnectionError: see `utils.hub.in_one_sentence`.
    """
    from datasets import load_dataset

    where = {"split": benchmark.split, "revision": commit, "token": token}
    with source_loading.reading(benchmark.repository, commit):
        rows = load_dataset(benchmark.repository, benchmark.config, **where)
    if missing := set(benchmark.columns) - set(rows.column_names):
        raise ValueError(
            f"Benchmark {benchmark.name} ({benchmark.repository}) has no column {', '.join(sorted(missing))}. It has "
            f"{', '.join(sorted(rows.column_names))}."
        )
    rows = rows.select_columns(list(benchmark.columns))
    return [[text for column in benchmark.columns for text in _texts(row[column])] for row in rows]


def _texts(value) -> list[str]:
    """List the texts in a cell: one, a list of them, or a structure with a list called text, as ARC's choices are."""
    if isinstance(value, dict):
        value = value["text"]
    return [value] if isinstance(value, str) else [text for text in value or [] if isinstance(text, str)]
