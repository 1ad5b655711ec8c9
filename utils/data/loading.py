"""Finds sources and benchmarks on the Hub, and loads their rows or a data set's pairs."""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from utils import hub
from utils.data import mix_files
from utils.data import pairs as pair_rows
from utils.data.sources import OTHERS, TEXTS, Origin, Source

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def find_sources(wanted: list[Source], token: str | None, go_on: bool) -> list[Source]:
    """Look sources or benchmarks up on the Hub, and return each with its `origin`.

    Raises as `hub.in_one_sentence` does for one that cannot be reached; to `go_on`, it is returned with `left_out`.
    """
    return _reach(wanted, lambda source: replace(source, origin=find(source, token)), go_on)


def load_sources(found: list[Source], token: str | None, seed: int, go_on: bool) -> list[Source]:
    """Load the rows of sources that are found, memory-mapped; those out of reach are treated as by `find_sources`.

    Raises `ValueError` if none is left, or for a column that is missing or of the wrong type.
    """
    loaded = _reach(found, lambda source: load(source, token, seed), go_on)
    if all(source.left_out for source in loaded):
        raise ValueError("No source could be reached: run this cell again, when the network is back.")
    return loaded


def load_items(found: list[Source], token: str | None, go_on: bool) -> list[Source]:
    """Load the items of benchmarks that are found, as their `rows`: a list of texts each, the question first."""
    return _reach(found, lambda benchmark: replace(benchmark, rows=_items_of(benchmark, token)), go_on)


def _reach(wanted: list[Source], work, go_on: bool) -> list[Source]:
    from tqdm.auto import tqdm

    done = []
    for source in tqdm(wanted, desc="Fetching", leave=False):
        if source.left_out:
            done.append(source)
            continue
        try:
            done.append(work(source))
        except (FileNotFoundError, PermissionError, ConnectionError) as error:
            if not go_on:
                way = f"To go on without {source.name}, set MORE['skip_unreachable'] = True."
                raise type(error)(f"{error} {way}") from error
            done.append(replace(source, left_out=str(error)))
    return done


def find(source: Source, token: str | None = None) -> Origin:
    """Look a source or benchmark up on the Hub: its commit, licence and size; raises as `hub.in_one_sentence` does."""
    found = hub.describe_repository(source.repository, "dataset", source.revision, token)
    if found.commit is None:
        return Origin(None, found.host, "not stated", 0.0, None)
    expected = source.in_mix or source.published
    if expected and found.host.startswith("stand-in"):
        expected = _card(source.repository, found.commit, token).get("rows_kept", expected)
    size = sum(file.size or 0 for file in found.files) / 1e9
    return Origin(found.commit, found.host, found.licence, 0.0 if source.streamed_rows else size, expected)


def _card(repository: str, commit: str, token: str | None) -> dict:
    from huggingface_hub import HfApi

    with hub.in_one_sentence(repository, "dataset", commit):
        info = HfApi(token=token).dataset_info(repository, revision=commit)
    return info.card_data.to_dict() if info.card_data else {}


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
    missing = [name for name in source.needs if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Source {source.name} ({source.repository}) has no column {', '.join(missing)}. It has "
            f"{', '.join(sorted(rows.column_names))}: if one was renamed, name it so in the source's `columns`."
        )
    rows = rows.select_columns(source.needs)
    _check_types(source, rows)
    return replace(source, rows=rows)


def load_pairs(
    dataset: str,
    tokenizer,
    num_pairs: int | None,
    num_eval_pairs: int,
    max_length: int,
    *,
    artifacts=None,
    use_mix: bool = True,
    revision: str = "",
    config: str = "",
    split: str = "train",
    stream_rows: int = 0,
    truncate_answers: bool = False,
    seed: int = 42,
    token: str | None = None,
):
    """Load pairs to train and evaluate on: of a Hub id, perhaps with `@revision`, of a folder, or of a file.

    Notebook 03 calls it through `train.load_pairs`: keep its signature. If the folder `artifacts` holds a mix of
    notebook 02, that is read, unless `use_mix` is false. A mix's pairs are judged already: they are judged again only
    for another tokenizer or a shorter window. `num_pairs=None` takes all; `stream_rows` are read of a data set that is
    too large to be downloaded, if not as many as its source says.

    Returns (`DatasetDict` with train and test, `DataReport`). Raises `ValueError` for rows or names that are wrong, or
    if nothing is left; FileNotFoundError, PermissionError, ConnectionError as `hub.in_one_sentence` does.
    """
    if use_mix and artifacts is not None and (Path(artifacts) / "mix" / "report.json").is_file():
        dataset, revision = str(Path(artifacts) / "mix"), ""
    if "@" in dataset and not Path(dataset).exists():
        dataset, revision = dataset.split("@", 1)
    found = hub.describe_repository(dataset, "dataset", revision or None, token)
    mix = mix_files.find_report(dataset, found.commit, token)
    judge = partial(pair_rows.judge_pair, tokenizer=tokenizer, max_length=max_length, truncate_answers=truncate_answers)
    if mix is not None and mix_files.is_judged(mix, dataset, tokenizer, max_length):
        judge = _trust
    rows, test_rows = load_rows(dataset, found.commit, split, config or None, stream_rows or None, token, seed)
    pairs, report = pair_rows.split_pairs(rows, num_pairs, num_eval_pairs, judge, seed, test_rows)
    origin = {"dataset": dataset, "commit": found.commit, "host": found.host, "licence": found.licence}
    return pairs, replace(report, origin=origin, mix=mix)


def _trust(pair: dict) -> None:
    return None


def load_rows(
    dataset: str,
    commit: str | None,
    split: str = "train",
    config: str | None = None,
    stream_rows: int | None = None,
    token: str | None = None,
    seed: int = 42,
):
    """Load raw rows: whole, or of a data set that is too large some; returns them, and those to test on or `None`."""
    known = [source for source in OTHERS if source.streamed_rows and source.repository == dataset]
    if not known:
        return load_splits(dataset, commit, split, config, token)
    origin = Origin(commit, "", "", 0.0, None)
    source = replace(known[0], streamed_rows=stream_rows or known[0].streamed_rows, origin=origin)
    rows = load(source, token, seed).rows
    return rows.rename_columns({theirs: ours for ours, theirs in source.columns.items()}), None


def load_splits(
    dataset: str,
    revision: str | None = None,
    split: str = "train",
    config: str | None = None,
    token: str | None = None,
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
    return Dataset.from_generator(
        _rows_of, gen_kwargs={"stream": some}, features=stream.features, fingerprint=fingerprint
    )


def _rows_of(stream):
    yield from stream


def _check_types(source: Source, rows) -> None:
    """Stop at a column of scores that are no numbers, or of flags that are neither true nor false."""
    from datasets import Value

    columns = (
        (source.rating, "numbers", ("int", "uint", "float", "null"), (int, float)),
        (source.unless, "true or false", ("bool", "null"), (bool,)),
    )
    for column, what, kinds, types in columns:
        kind = rows.features.get(column)
        if column is None or isinstance(kind, Value) and kind.dtype.startswith(kinds):
            continue
        for number, value in enumerate(rows[column]):  # JSON lines may be right but for one row
            if value is not None and type(value) not in types:
                raise ValueError(
                    f"Source {source.name} ({source.repository}): column {column} should hold {what}, and row "
                    f"{number} (counted from 0) holds {value!r:.80}."
                )


def _items_of(benchmark: Source, token: str | None) -> list[list[str]]:
    """Load a benchmark's items, one list of texts each; raises `ValueError` if it has no such column."""
    from datasets import load_dataset

    columns, commit = list(benchmark.columns), benchmark.origin.commit
    where = {"split": benchmark.split, "revision": commit, "token": token}
    with reading(benchmark.repository, commit):
        rows = load_dataset(benchmark.repository, benchmark.config, **where)
    if missing := set(columns) - set(rows.column_names):
        raise ValueError(
            f"Benchmark {benchmark.name} ({benchmark.repository}) has no column {', '.join(sorted(missing))}. It has "
            f"{', '.join(sorted(rows.column_names))}."
        )
    return [[text for column in columns for text in _texts(row[column])] for row in rows.select_columns(columns)]


def _texts(value) -> list[str]:
    """List the texts in a cell: one, a list of them, or a structure with a list called text, as ARC's choices are."""
    if isinstance(value, dict):
        value = value["text"]
    return [value] if isinstance(value, str) else [text for text in value or [] if isinstance(text, str)]
