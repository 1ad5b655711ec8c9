"""Finds sources and benchmarks on the Hub, and loads their rows or a data set's pairs."""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from utils import hub
from utils.data import mix_files
from utils.data import pairs as pair_rows
from utils.data.sources import OTHERS, TEXTS, Source

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def find_sources(wanted: list[Source], token: str | None, go_on: bool) -> list[Source]:
    """Look sources or benchmarks up on the Hub, and return each with its `origin`.

    Raises as `hub.in_one_sentence` does for one that cannot be reached; to `go_on`, it is returned with `left_out`.
    """
    return _reach(wanted, partial(find, token=token), go_on)


def load_sources(found: list[Source], token: str | None, seed: int, go_on: bool) -> list[Source]:
    """Load the rows of sources that are found, memory-mapped; those out of reach are treated as by `find_sources`.

    Raises `ValueError` if none is left, or for a column that is missing or of the wrong type.
    """
    loaded = _reach(found, partial(load, token=token, seed=seed), go_on)
    if all(source.left_out for source in loaded):
        raise ValueError("No source could be reached: run this cell again, when the network is back.")
    return loaded


def load_items(found: list[Source], token: str | None, go_on: bool) -> list[Source]:
    """Load the items of benchmarks that are found, as their `rows`: a list of texts each, the question first."""
    return _reach(found, partial(_load_items_of, token=token), go_on)


def _reach(wanted: list[Source], work, go_on: bool) -> list[Source]:
    from tqdm.auto import tqdm

    done = []
    for source in tqdm(wanted, desc="Fetching", leave=False):
        try:
            done.append(source if source.left_out else work(source))
        except (FileNotFoundError, PermissionError, ConnectionError) as error:
            if not go_on:
                way = f"To go on without {source.name}, set MORE['skip_unreachable'] = True."
                raise type(error)(f"{error} {way}") from error
            done.append(replace(source, left_out=str(error)))
    return done


def find(source: Source, token: str | None = None) -> Source:
    """Look a source or benchmark up on the Hub, and say how many rows should pass its rule there."""
    found = hub.describe_repository(source.repository, "dataset", source.revision, token)
    expected = None if found.commit is None else source.in_mix or source.published
    if expected and found.host.startswith("practice hub"):
        expected = found.card.get("rows_kept", expected)
    return replace(source, origin=found, expected=expected)


@contextlib.contextmanager
def reading(repository: str, commit: str | None):
    """Tell in one sentence what goes wrong while rows are read, also where `datasets` hides it in an error of its own.

    Raises `ValueError` if what is there cannot be read, and what `hub.in_one_sentence` raises.
    """
    import httpx
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException

    with hub.in_one_sentence(repository, "dataset", commit):
        try:
            yield
        except Exception as error:
            cause = error
            while cause is not None:
                if isinstance(cause, httpx.HTTPError):
                    raise cause from cause.__cause__
                if isinstance(cause, ConnectionError):  # as datasets calls it, after it has tried often enough
                    raise httpx.NetworkError(str(cause)) from error
                cause = cause.__cause__
            if isinstance(error, StopIteration):  # what datasets raises for an empty file of JSON lines
                raise ValueError(f"{repository} cannot be read: it holds no rows.") from error
            if isinstance(error, DatasetGenerationError | ArrowException):  # the cause names the row, and its column
                raise ValueError(f"{repository} cannot be read: {error.__cause__ or error}") from error
            raise


def load(source: Source, token: str | None = None, seed: int = 42) -> Source:
    """Load the rows of a source that has its `origin`, with the columns that it needs; see `load_sources`."""
    with reading(source.repository, source.origin.commit):
        rows = _open(source, token, seed)
    if not source.columns:
        found = {name: name for name in (*TEXTS, "system") if name in rows.column_names}
        source = replace(source, columns=found if {"chosen", "rejected"} <= found.keys() else TEXTS)
    rows = _take_columns(source, rows, "if one was renamed, name it so in the source's `columns`")
    for column, what, types in ((source.rating, "numbers", (int, float)), (source.unless, "true or false", (bool,))):
        for number, value in enumerate(rows[column][:] if column else []):
            if value is not None and type(value) not in types:
                raise ValueError(
                    f"Source {source.name} ({source.repository}): column {column} should hold {what}, and row "
                    f"{number} (counted from 0) holds {value!r:.80}."
                )
    return replace(source, rows=rows)


def _take_columns(source: Source, rows, way: str):
    missing = [name for name in source.needs if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"{source.name} ({source.repository}) has no column {', '.join(missing)}. It has "
            f"{', '.join(sorted(rows.column_names))}: {way}."
        )
    return rows.select_columns(source.needs)


def _open(source: Source, token: str | None, seed: int):
    from datasets import Dataset, load_dataset
    from datasets.fingerprint import Hasher

    repository, config, split, commit = source.repository, source.config, source.split, source.origin.commit
    if source.folder is None and source.streamed_rows is None:
        return load_splits(repository, commit, split, config, token)[0]
    where = {"data_dir": source.folder, "split": split, "revision": commit, "token": token}
    if source.streamed_rows is None:
        return load_dataset(repository, config, **where)
    stream = load_dataset(repository, config, streaming=True, **where)
    some = stream.shuffle(seed=seed).take(source.streamed_rows)
    # Of a commit, the same rows are fetched once; datasets by itself would take each stream for another one.
    which = [repository, commit, config, source.folder, split, source.streamed_rows, seed]
    fingerprint = Hasher.hash(which) if commit else None
    options = {"gen_kwargs": {"stream": some}, "features": stream.features, "fingerprint": fingerprint}
    return Dataset.from_generator(_rows_of, **options)


def _rows_of(stream):
    yield from stream


def load_pairs(
    dataset: str,
    tokenizer,
    num_pairs: int | None,
    num_eval_pairs: int,
    max_length: int,
    *,
    revision: str = "",
    config: str = "",
    split: str = "train",
    stream_rows: int = 0,
    truncate_answers: bool = False,
    seed: int = 42,
    token: str | None = None,
):
    """Load pairs to train and evaluate on: of a Hub id, perhaps with `@revision`, of a folder, or of a file.

    `num_pairs=None` takes all; `stream_rows` are read of a data set that is too large to be downloaded, if not as many
    as its source says. The pairs of a mix of notebook 02 are judged again only for another tokenizer or a shorter
    window. Returns (`DatasetDict` with train and test, `DataReport`), and raises as `split_pairs` and `hub` do.
    """
    if "@" in dataset and not Path(dataset).exists():
        dataset, revision = dataset.split("@", 1)
    found = hub.describe_repository(dataset, "dataset", revision or None, token)
    mix = mix_files.find_report(dataset, found.commit, token)
    judge = partial(pair_rows.judge_pair, tokenizer=tokenizer, max_length=max_length, truncate_answers=truncate_answers)
    if mix is not None and mix_files.is_judged(mix, dataset, tokenizer, max_length):
        judge = _trust
    known = [source for source in OTHERS if source.streamed_rows and source.repository == dataset]
    if known:
        source = replace(known[0], streamed_rows=stream_rows or known[0].streamed_rows, origin=found)
        rows, test_rows = load(source, token, seed).rows, None
        rows = rows.rename_columns({theirs: ours for ours, theirs in source.columns.items()})
    else:
        rows, test_rows = load_splits(dataset, found.commit, split, config or None, token)
    pairs, report = pair_rows.split_pairs(rows, num_pairs, num_eval_pairs, judge, seed, test_rows)
    name = dataset if found.commit else Path(dataset).name
    origin = {"dataset": name, "commit": found.commit, "host": found.host, "licence": found.licence}
    return pairs, replace(report, origin=origin | ({"mix": mix} if mix else {}))


def _trust(pair: dict) -> None:
    return None


def load_splits(
    dataset: str, revision: str | None = None, split: str = "train", config: str | None = None, token: str | None = None
):
    """Load the raw rows to train on, and those to test on, or `None`, of a Hub id, a folder or a file.

    A file is one split, train. The test split is called as `split` is, with test instead of train, as test_prefs.
    Raises `ValueError` for a file of another format, an unknown split or config, or data that need code to load.
    """
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    path = Path(dataset)
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"{dataset} is not one of {', '.join(FILE_FORMATS)}. Convert it, one pair a row.")
        kind, where, splits = FILE_FORMATS[path.suffix], {"data_files": str(path)}, ["train"]
    else:
        try:
            configs = get_dataset_config_names(dataset, revision=revision, token=token)
            if config not in configs and (config is not None or "default" not in configs and len(configs) > 1):
                raise ValueError(
                    f"{dataset} has several configurations, and {config!r} is none of them: set config to one of "
                    f"{', '.join(configs)}."
                )
            splits = get_dataset_split_names(dataset, config, revision=revision, token=token)
        except RuntimeError as error:  # what datasets raises where a repository brings a script
            raise ValueError(
                f"{dataset} cannot be loaded without running its code, which the course never does: {error} "
                "Choose data in Parquet or JSON lines."
            ) from error
        kind, where = dataset, {"name": config, "revision": revision, "token": token}
    if split not in splits:
        raise ValueError(f"{dataset} has no split {split!r}: set split to one of {', '.join(splits)}.")
    test = split.replace("train", "test")
    if path.is_dir():  # of a folder with a card, datasets would take the rows of before from its cache
        where |= {"download_mode": "force_redownload", "verification_mode": "no_checks"}
    parts = load_dataset(kind, **where)
    return parts[split], parts[test] if test != split and test in splits else None


def _load_items_of(benchmark: Source, token: str | None) -> Source:
    from datasets import load_dataset

    commit = benchmark.origin.commit
    where = {"split": benchmark.split, "revision": commit, "token": token}
    with reading(benchmark.repository, commit):
        rows = load_dataset(benchmark.repository, benchmark.config, **where)
    rows = _take_columns(benchmark, rows, "choose other BENCHMARKS")
    return replace(benchmark, rows=[[text for value in row.values() for text in _texts(value)] for row in rows])


def _texts(value) -> list[str]:
    """List the texts in a cell: one, a list of them, or a structure with a list called text, as ARC's choices are."""
    if isinstance(value, dict):
        value = value["text"]
    return [value] if isinstance(value, str) else [text for text in value or [] if isinstance(text, str)]
