"""Finds sources and benchmarks on the Hub, and loads rows, of a source or a recipe: streamed if they are too many.

Left out: what rows become, see `sources` and `mixing`.
"""

import contextlib
from dataclasses import dataclass

from utils import hub as hub_access
from utils.data import preference_data
from utils.data.sources import OTHERS, TEXTS, Source


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
    from dataclasses import replace

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


def load_recipe(recipe, commit: str | None, token: str | None = None, seed: int = 42):
    """Load the raw rows of a recipe's data: whole, or of a data set that is too large so many as the recipe says.

    Args:
        recipe: a `utils.train.recipes.Recipe`.
        commit: of its data set; `None` for a folder or file.
        token: Hub token.
        seed: of the choice among rows that are streamed.

    Returns:
        (rows to train on, rows to test on or `None`), as `utils.data.preference_data.load_splits` does.

    Raises:
        ValueError, FileNotFoundError, PermissionError, ConnectionError: see `load`, or `load_splits`.
    """
    from dataclasses import replace

    known = [source for source in OTHERS if source.streamed_rows and source.repository == recipe.dataset]
    if not known:
        where = recipe.dataset, commit, recipe.dataset_split, recipe.dataset_config, token
        return preference_data.load_splits(*where)
    source = replace(known[0], streamed_rows=recipe.stream_rows or known[0].streamed_rows)
    source, rows = load(source, Origin(commit, "", "", 0.0, None), token, seed)
    return rows.rename_columns({theirs: ours for ours, theirs in source.columns.items()}), None


def _open(source: Source, origin: Origin, token: str | None, seed: int):
    from datasets import Dataset, load_dataset
    from datasets.fingerprint import Hasher

    repository, config, split = source.repository, source.config, source.split
    if source.folder is None and source.streamed_rows is None:
        try:
            return preference_data.load_splits(repository, origin.commit, split, config, token)[0]
        except ValueError as error:
            if "DATASET_" not in str(error):
                raise
            raise ValueError(f"{error} In a mix these are `split` and `config` of a `Source` of your own.") from error
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
