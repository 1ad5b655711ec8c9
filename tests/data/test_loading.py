"""Sources are found and loaded with the real clients from the practice hub, and what is wrong with them is named."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from datasets import Dataset, disable_progress_bars
from huggingface_hub import DatasetCard, HfApi
from support import stand_ins

from utils.data.loading import collect, find, load
from utils.data.sources import OTHERS, SEVEN, TEXTS, Source

disable_progress_bars()
KNOWN = {source.name: source for source in (*SEVEN, *OTHERS)}
ROWS = [{"prompt": f"Question {number}?", "chosen": "Yes.", "rejected": "No."} for number in range(30)]


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """After a stream, datasets sleeps for five seconds."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.02)


@pytest.fixture
def published(hub):
    """The hub with the stand-ins that the course does not ask for by itself."""
    stand_ins.publish(hub, [stand_ins.STACK_EXCHANGE, stand_ins.HH_RLHF])
    return hub


@pytest.fixture
def put_data(hub, tmp_path):
    """Put files into a data set on the hub: `put_data(name, {path: rows or text})`; rows become Parquet."""

    def put(name: str, files: dict, **repository) -> str:
        folder = tmp_path / name.replace("/", "-")
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                (folder / path).write_text(content)
            else:
                Dataset.from_list(content).to_parquet(folder / path)
        hub.add_repo(name, "dataset", exist_ok=True, **repository)
        return hub.commit_folder(name, folder, repo_type="dataset")

    return put


def write_lines(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def local(source: Source, path) -> Source:
    """A source whose rows lie in a file."""
    return replace(source, repository=str(path), folder=None, streamed_rows=None)


def loaded(source: Source, **options):
    return load(source, find(source, options.get("token")), **options)


# --- finding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SEVEN, ids=lambda source: source.name)
def test_a_stand_in_is_found_with_commit_host_licence_and_what_its_card_expects(published, source):
    origin, info = find(source), HfApi().dataset_info(source.repository, files_metadata=True)
    card = DatasetCard.load(stand_ins.ALL_DATA[source.repository] / "README.md").data
    assert origin.commit == info.sha and origin.host == "stand-in at 127.0.0.1"
    assert origin.licence == card.license and origin.expected == card["rows_kept"] != source.published
    assert origin.download_gb == pytest.approx(sum(file.size for file in info.siblings) / 1e9)
    assert 1e-6 < origin.download_gb < 1e-3


@pytest.mark.parametrize(
    "repository, revision, told",
    [("lab/nothing-here", None, "has no dataset 'lab/nothing-here'"), ("argilla/dpo-mix-7k", "v9", "no revision 'v9'")],
)
def test_what_is_not_there_is_told(hub, repository, revision, told):
    with pytest.raises(FileNotFoundError, match=told):
        find(Source("x", repository, revision=revision))


# --- loading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [*SEVEN, *OTHERS], ids=lambda source: source.name)
def test_a_source_is_loaded_with_the_columns_that_it_needs_and_memory_mapped(published, source):
    found, table = loaded(source)
    assert found == source and table.column_names == source.needs
    folder = stand_ins.ALL_DATA[source.repository]
    written = Dataset.from_parquet(str(next(folder.rglob("train-*.parquet")))).select_columns(source.needs)
    assert sorted(map(str, table)) == sorted(map(str, written))  # streamed rows come in another order
    if not source.streamed_rows:
        assert list(table) == list(written)
    assert stays_on_the_disk(table)


def stays_on_the_disk(table: Dataset) -> bool:
    blocks = getattr(table.data, "blocks", [[table.data]])
    return {type(block).__name__ for row in blocks for block in row} == {"MemoryMappedTable"}


NEEDED = [(source, column) for source in (*SEVEN, *OTHERS) for column in source.needs]


@pytest.mark.parametrize("source, column", NEEDED, ids=[f"{source.name}-{column}" for source, column in NEEDED])
def test_fault_a_missing_or_renamed_column_is_named_with_what_is_there(tmp_path, source, column):
    folder = stand_ins.ALL_DATA[source.repository]
    table = Dataset.from_parquet(str(next(folder.rglob("train-*.parquet")))).select(range(3))
    table.rename_column(column, f"{column}_v2").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError) as error:
        loaded(local(source, tmp_path / "train.parquet"))
    text = str(error.value)
    assert text.startswith(f"Source {source.name} ({tmp_path / 'train.parquet'}) has no column {column}. It has ")
    there = text.split("It has ")[1].split(":")[0].split(", ")
    assert there == sorted({*table.column_names, f"{column}_v2"} - {column}) and "`columns`" in text


@pytest.mark.parametrize(
    "column, values, told",
    [
        ("score", ["9.5", "9", "8"], "column score should hold numbers, and row 0 .counted from 0. holds '9.5'"),
        ("score", [None, None, "9"], "column score should hold numbers, and row 2 .counted from 0. holds '9'"),
        ("score", [[9.0], [8.0], []], "column score should hold numbers, and row 0 .counted from 0. holds .9.0."),
        ("score", [True, False, True], "column score should hold numbers, and row 0 .counted from 0. holds True"),
        ("seen", [None, "no", "yes"], "column seen should hold true or false, and row 1 .counted from 0. holds 'no'"),
        ("seen", [0, 1, 1], "column seen should hold true or false, and row 0 .counted from 0. holds 0"),
    ],
    ids=["text", "text after nulls", "lists", "flags", "text as a flag", "numbers as a flag"],
)
def test_fault_a_score_or_flag_of_another_type_is_named_with_its_row(tmp_path, column, values, told):
    source = Source("made", str(tmp_path / "pairs.parquet"), TEXTS, rating="score", unless="seen")
    table = {"score": [9.0, None, 8.0], "seen": [False, None, True]} | {column: values}
    Dataset.from_dict({name: ["a"] * 3 for name in TEXTS} | table).to_parquet(source.repository)
    with pytest.raises(ValueError, match=f"Source made .*pairs.parquet.: {told}"):
        loaded(source)


@pytest.mark.parametrize(
    "name", ["pairs.jsonl", "pairs.json", "pairs.parquet", ""], ids=["lines", "json", "parquet", "folder"]
)
@pytest.mark.parametrize("system", [False, True])
def test_a_file_or_folder_of_ones_own_takes_the_columns_that_it_has(tmp_path, name, system):
    mine = [row | {"note": "x"} | ({"system": "Be brief."} if system else {}) for row in ROWS]
    if name.endswith(".json"):
        (tmp_path / name).write_text(json.dumps(mine))
    elif name.endswith(".jsonl"):
        write_lines(tmp_path / name, mine)
    else:
        Dataset.from_list(mine).to_parquet(tmp_path / (name or "train.parquet"))
    source, table = loaded(Source("mine", str(tmp_path / name)))
    assert set(source.columns) == {"prompt", "chosen", "rejected"} | ({"system"} if system else set())
    assert table.column_names == source.needs and len(table) == 30 and stays_on_the_disk(table)
    assert source.pair(table[0])["prompt"][-1]["content"] == "Question 0?"
    assert (source.pair(table[0])["prompt"][0]["role"] == "system") == system


def test_fault_a_file_without_answers_says_what_it_has(tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", [{"question": "Hi?", "chosen": "Yes."}])
    with pytest.raises(ValueError, match="Source mine .* has no column prompt, rejected. It has chosen, question"):
        loaded(Source("mine", file))


def test_a_private_source_needs_the_token(put_data):
    put_data("learner/private-source", {"train.parquet": ROWS}, private=True)
    source = Source("private", "learner/private-source")
    assert len(loaded(source, token="practice-read")[1]) == 30
    with pytest.raises(FileNotFoundError, match="that you may read"):
        find(source)


# --- streaming -------------------------------------------------------------------------------------------------


def test_of_a_streamed_source_only_so_many_rows_come_by_a_seeded_choice(published):
    def questions(seed: int, count: int = 20) -> list[str]:
        source, table = loaded(replace(KNOWN["stack-exchange"], streamed_rows=count), seed=seed)
        assert source.streamed_rows == count and stays_on_the_disk(table)
        return table["question"][:]

    everything = [row["question"] for row in stand_ins.rows(stand_ins.STACK_EXCHANGE)]
    first = questions(1)
    assert len(first) == 20 and set(first) < set(everything) and first != everything[:20]
    assert questions(1) == first and questions(2) != first
    assert sorted(questions(1, 1000)) == sorted(everything)


# --- a hub that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}], ids=["it fails", "it hangs up"])
@pytest.mark.parametrize("name", ["math", "stack-exchange"], ids=["whole", "streamed"])
def test_fault_a_hub_that_fails_while_rows_are_read_is_a_connection_error(put_data, hub, monkeypatch, name, fault):
    """So that it can be left out; datasets wraps it in errors of three other kinds."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("datasets.config.STREAMING_READ_MAX_RETRIES", 2)
    source = replace(KNOWN[name], repository=f"lab/failing-{name}-{len(fault)}-{next(iter(fault))}")
    row = dict.fromkeys(source.needs, "a") | ({source.rating: 9.0} if source.rating else {})
    put_data(source.repository, {f"{source.folder or 'data'}/train.parquet": [row] * 5})
    origin = find(source)
    hub.inject(f"{source.repository}/resolve/.*parquet", times=1000, **fault)
    with pytest.raises(ConnectionError, match=f"failed for {source.repository} .*run this cell again"):
        load(source, origin)


# --- several at once -------------------------------------------------------------------------------------------


def things(*names):
    return [SimpleNamespace(name=name) for name in names]


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, ConnectionError])
def test_what_is_out_of_reach_stops_or_is_left_out_if_told_so(kind):
    def work(thing):
        if thing.name == "gone":
            raise kind("The Hub has no such thing.")
        return thing.name.upper()

    with pytest.raises(kind, match="no such thing. To go on without gone, set SKIP_UNREACHABLE = True.") as error:
        collect(things("a", "gone", "b"), work, go_on=False)
    assert isinstance(error.value.__cause__, kind)
    assert collect(things("a", "b"), work, go_on=False) == ({"a": "A", "b": "B"}, {})
    done, lost = collect(things("a", "gone", "b"), work, go_on=True)
    assert done == {"a": "A", "b": "B"} and lost == {"gone": "The Hub has no such thing."}
    assert collect([], work, go_on=False) == ({}, {})


def test_a_source_that_is_there_and_broken_is_never_left_out():
    def work(thing):
        raise ValueError("no column chosen")

    with pytest.raises(ValueError, match="no column chosen$"):
        collect(things("a"), work, go_on=True)
