"""Finds sources and benchmarks on the Hub, and loads rows, of a source or a recipe: streamed if they are too many.

Left out: what rows become, see `sources` and `mixing`.
"""

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from utils import hub as hub_access
from utils.data import mix_files
from utils.data import pairs as pair_rows
from utils.data.sources import OTHERS, TEXTS, Source

FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Origin:
    """Where a repository's rows come from today: what a record of the mix needs."""

    commit: str | None  # None for a local file or folder
    host: str
    licence: str
    download_gb: float
    expected: int | None  # rows that should pass the rule: as published, or as a stand-in's card says


def find(source, token: str | None = None) -> Origin:
    """Look a source or benchmark up on the Hub: its commit, licence and size.

    Args:
        source: a `utils.data.sources.Source` or `utils.data.benchmark_items.Benchmark`.
        token: Hub token.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `utils.hub.in_one_sentence`.
    """
    from huggingface_hub import HfApi

    commit, host = hub_access.resolve_revision(source.repository, source.revision, "dataset", token)
    expected = getattr(source, "in_mix", None) or getattr(source, "published", None)
    if commit is None:
        return Origin(None, host, "not stated", 0.0, None)
    with hub_access.in_one_sentence(source.repository, "dataset", commit):
        info = HfApi(token=token).dataset_info(source.repository, revision=commit, files_metadata=True)
    card = info.card_data.to_dict() if info.card_data else {}
    size = sum(file.size or 0 for file in info.siblings) / 1e9
    licence = card.get("license") or "not stated"
    streamed = getattr(source, "streamed_rows", None)
    return Origin(
        commit,
        host,
        licence if isinstance(licence, str) else ", ".join(licence),
        0.0 if streamed else size,
        card.get("rows_kept", expected) if host.startswith("stand-in") else expected,
    )


@contextlib.contextmanager
def reading(repository: str, commit: str | None):
    """Tell in one sentence what goes wrong while rows are read, also where `datasets` hides it in an error of its own.

    Args:
        repository: Hub id, folder or file.
        commit: of the repository.

    Raises:
        ValueError: if what is there cannot be read.
        FileNotFoundError, PermissionError, ConnectionError: see `utils.hub.in_one_sentence`.
    """
    import httpx
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException

    with hub_access.in_one_sentence(repository, "dataset", commit):
        try:
            yield
        except Exception as error:
            behind: list[BaseException] = [error]
            while (cause := behind[-1].__cause__) is not None and cause not in behind:
                behind.append(cause)
            for cause in behind:
                if isinstance(cause, httpx.HTTPError):
                    raise cause from cause.__cause__
                if isinstance(cause, ConnectionError):  # as datasets calls it, after it has tried often enough
                    raise httpx.NetworkError(str(cause)) from error
            if isinstance(error, StopIteration):  # what datasets raises for an empty file of JSON lines
                raise ValueError(f"{repository} cannot be read: it holds no rows.") from error
            if isinstance(error, DatasetGenerationError | ArrowException):  # the cause names the row, and its column
                raise ValueError(f"{repository} cannot be read: {error.__cause__ or error}") from error
            raise


def load(source: Source, origin: Origin, token: str | None = None, seed: int = 42):
    """Load a source's rows, memory-mapped, with the columns that it needs.

    Args:
        source: which; without columns it takes the ones that it finds among prompt, chosen, rejected and system.
        origin: of `find`.
        token: Hub token.
        seed: of the choice among rows that are streamed.

    Returns:
        (`Source` with its columns, `datasets.Dataset`).

    Raises:
        ValueError: naming the source, and a column that is missing or of the wrong type with what is there.
        FileNotFoundError, PermissionError, ConnectionError: see `utils.hub.in_one_sentence`.
    """
    with reading(source.repository, origin.commit):
        rows = _open(source, origin, token, seed)
    if not source.columns:
        source = replace(source, columns={name: name for name in (*TEXTS, "system") if name in rows.column_names})
        source = source if {"chosen", "rejected"} <= source.columns.keys() else replace(source, columns=TEXTS)
    missing = [name for name in source.needs if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Source {source.name} ({source.repository}) has no column {', '.join(missing)}. It has "
            f"{', '.join(sorted(rows.column_names))}: if one was renamed, name it so in the source's `columns`."
        )
    rows = rows.select_columns(source.needs)
    _check_types(source, rows)
    return source, rows


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

    If the folder `artifacts` holds a mix of notebook 02, that is read, unless `use_mix` is false. A mix's pairs are
    judged already: they are judged again only for another tokenizer or a shorter window. `num_pairs=None` takes all;
    `stream_rows` are read of a data set that is too large to be downloaded, if not as many as its source says.

    Returns (`DatasetDict` with train and test, `DataReport`). Raises `ValueError` for rows or names that are wrong, or
    if nothing is left; FileNotFoundError, PermissionError, ConnectionError as `utils.hub.in_one_sentence` does.
    """
    if use_mix and artifacts is not None and (Path(artifacts) / "mix" / "report.json").is_file():
        dataset, revision = str(Path(artifacts) / "mix"), ""
    if "@" in dataset and not Path(dataset).exists():
        dataset, revision = dataset.split("@", 1)
    commit, host = hub_access.resolve_revision(dataset, revision or None, "dataset", token)
    licence = hub_access.stated_licence(dataset, commit, "dataset", token)
    mix = mix_files.find_report(dataset, commit, token)
    judge = partial(pair_rows.judge_pair, tokenizer=tokenizer, max_length=max_length, truncate_answers=truncate_answers)
    if mix is not None and mix_files.is_judged(mix, dataset, tokenizer, max_length):
        judge = _trust
    rows, test_rows = load_rows(dataset, commit, split, config or None, stream_rows or None, token, seed)
    pairs, report = pair_rows.split_pairs(rows, num_pairs, num_eval_pairs, judge, seed, test_rows)
    origin = {"dataset": dataset, "commit": commit, "host": host, "licence": licence}
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
    source = replace(known[0], streamed_rows=stream_rows or known[0].streamed_rows)
    source, rows = load(source, Origin(commit, "", "", 0.0, None), token, seed)
    return rows.rename_columns({theirs: ours for ours, theirs in source.columns.items()}), None


def load_recipe(recipe, commit: str | None, token: str | None = None, seed: int = 42):
    """Load the raw rows of a recipe's data, as `load_rows` does."""
    where = recipe.dataset_split, recipe.dataset_config, recipe.stream_rows
    return load_rows(recipe.dataset, commit, *where, token, seed)


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


def _open(source: Source, origin: Origin, token: str | None, seed: int):
    from datasets import Dataset, load_dataset
    from datasets.fingerprint import Hasher

    repository, config, split = source.repository, source.config, source.split
    if source.folder is None and source.streamed_rows is None:
        return load_splits(repository, origin.commit, split, config, token)[0]
    where = {"data_dir": source.folder, "split": split, "revision": origin.commit, "token": token}
    if source.streamed_rows is None:
        return load_dataset(repository, config, **where)
    stream = load_dataset(repository, config, streaming=True, **where)
    some = stream.shuffle(seed=seed).take(source.streamed_rows)
    # Of a commit, the same rows are fetched once; datasets by itself would take each stream for another one.
    which = [repository, origin.commit, config, source.folder, split, source.streamed_rows, seed]
    fingerprint = Hasher.hash(which) if origin.commit else None
    return Dataset.from_generator(
        _rows_of, gen_kwargs={"stream": some}, features=stream.features, fingerprint=fingerprint
    )


def _rows_of(stream):
    yield from stream


def _check_types(source: Source, rows) -> None:
    """Stop at a column of scores that are no numbers, or of flags that are neither true nor false."""
    from datasets import Value

    numbers, flags = ("numbers", ("int", "uint", "float", "null")), ("true or false", ("bool", "null"))
    for column, (what, kinds) in {source.rating: numbers, source.unless: flags}.items():
        kind = rows.features.get(column)
        if column and not (isinstance(kind, Value) and kind.dtype.startswith(kinds)):
            right = (bool,) if column == source.unless else (int, float)
            for number, value in enumerate(rows[column]):  # JSON lines may be right but for one row
                if value is not None and type(value) not in right:
                    raise ValueError(
                        f"Source {source.name} ({source.repository}): column {column} should hold {what}, and row "
                        f"{number} (counted from 0) holds {value!r:.80}."
                    )


def load_all(wanted: list[Source], origins: dict, token: str | None, seed: int, go_on: bool) -> tuple[dict, dict, dict]:
    """Load the rows of all sources that could be found.

    Args:
        wanted: the sources.
        origins: name -> `Origin`, of those that could be found.
        token, seed: see `load`.
        go_on: without a source that cannot be reached.

    Returns:
        (name -> `Source` with its columns, name -> rows, name of what could not be loaded -> why).

    Raises:
        ValueError: if no source is left; see `load` and `collect` for the others.
    """
    found = [source for source in wanted if source.name in origins]
    loaded, lost = collect(found, lambda source: load(source, origins[source.name], token, seed), go_on)
    if not loaded:
        raise ValueError("No source could be reached: run this cell again, when the network is back.")
    sources, rows = ({name: pair[place] for name, pair in loaded.items()} for place in (0, 1))
    return sources, rows, lost


def collect(wanted, work, go_on: bool) -> tuple[dict, dict[str, str]]:
    """Do the same work for several sources or benchmarks, and go on without one that cannot be reached only if told to.

    Args:
        wanted: things with a `name`.
        work: function of one of them.
        go_on: without what is out of reach.

    Returns:
        (name -> result, name of what is left out -> why).

    Raises:
        ValueError: if two have the same name, for one would take the other's place.
        FileNotFoundError, PermissionError, ConnectionError: what the work raised, with the way on.
    """
    from tqdm.auto import tqdm

    done, lost, names = {}, {}, [thing.name for thing in wanted]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two sources or benchmarks are called {', '.join(sorted(twice))}: give one another name.")
    for thing in tqdm(wanted, desc="Fetching"):
        try:
            done[thing.name] = work(thing)
        except (FileNotFoundError, PermissionError, ConnectionError) as error:
            if not go_on:
                raise type(error)(f"{error} To go on without {thing.name}, set SKIP_UNREACHABLE = True.") from error
            lost[thing.name] = str(error)
    return done, lost
