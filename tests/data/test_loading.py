"""Sources are found and loaded with the real clients from the practice hub, and what is wrong with them is named."""

import json
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from datasets import Dataset, disable_progress_bars
from huggingface_hub import DatasetCard, HfApi
from support import stand_ins

from utils.data import loading as source_loading
from utils.data.benchmark_items import BENCHMARKS
from utils.data.loading import Origin, collect, find, load
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


def test_on_the_hub_itself_the_published_numbers_are_expected(put_data):
    """No stand-in, so `in_mix`, or else what the card of the mix lists; and a licence may be a list, or missing."""
    card = "---\nlicense:\n- mit\n- apache-2.0\nrows_kept: 3\n---\n"
    commit = put_data("lab/real", {"README.md": card, "train.parquet": ROWS})
    for numbers, expected in (({"published": 7}, 7), ({"published": 7, "in_mix": 9}, 9), ({}, None)):
        origin = find(Source("real", "lab/real", **numbers))
        assert (origin.commit, origin.host, origin.expected) == (commit, "127.0.0.1", expected)
        assert origin.licence == "mit, apache-2.0"
    put_data("lab/unlicensed", {"train.parquet": ROWS})
    assert find(Source("x", "lab/unlicensed")).licence == "not stated"


def test_a_revision_is_found_and_loaded_whatever_came_after_it(hub, put_data):
    first = put_data("lab/moving", {"train.parquet": ROWS})
    put_data("lab/moving", {"train.parquet": ROWS[:4]})
    source = Source("moving", "lab/moving", TEXTS, revision=first)
    assert find(source).commit == first != find(replace(source, revision=None)).commit
    assert [len(loaded(replace(source, revision=revision))[1]) for revision in (first, None)] == [30, 4]


def test_a_benchmark_is_found_like_a_source(hub):
    origin = find(BENCHMARKS[0])
    assert len(origin.commit) == 40 and origin.licence == "mit" and origin.expected is None


def test_a_folder_or_file_is_local(tmp_path, unreachable):
    file = write_lines(tmp_path / "pairs.jsonl", ROWS)
    for path in (file, str(tmp_path)):
        assert find(Source("mine", path, published=3)) == Origin(None, "local", "not stated", 0.0, None)


def test_what_is_streamed_is_no_download(published):
    assert find(KNOWN["stack-exchange"]).download_gb == 0
    assert find(replace(KNOWN["stack-exchange"], streamed_rows=None)).download_gb > 0


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


def test_fault_a_missing_column_of_a_streamed_source_is_named_too(put_data):
    put_data("lab/stack", {"data/rl/train.parquet": [{"question": "Hi?", "response_j": "Yes.", "other": "No."}]})
    with pytest.raises(ValueError, match="stack-exchange .lab/stack. has no column response_k. It has other, question"):
        loaded(replace(KNOWN["stack-exchange"], repository="lab/stack"))


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


@pytest.mark.parametrize("scores", [[9, 8, 10], [9.5, None, 8.0], [None] * 3], ids=["whole", "with null", "all null"])
def test_numbers_of_any_kind_are_scores(tmp_path, scores):
    source = Source("made", str(tmp_path / "pairs.parquet"), TEXTS, rating="score", unless="seen")
    table = {name: ["a"] * 3 for name in TEXTS} | {"score": scores, "seen": [None] * 3}
    Dataset.from_dict(table).to_parquet(source.repository)
    assert loaded(source)[1]["score"][:] == scores


@pytest.mark.parametrize("bad", ["five", [5], {"value": 5}], ids=["text", "list", "structure"])
def test_fault_one_score_of_another_type_in_json_lines_is_named_with_column_and_row(tmp_path, bad):
    """However late in the file: the reader decides on a type long before."""
    lines = [row | {"score": 5} for row in ROWS] * 100
    lines[2500] = lines[2500] | {"score": bad}
    source = Source("made", write_lines(tmp_path / "pairs.jsonl", lines), TEXTS, rating="score")
    with pytest.raises(ValueError) as error:
        loaded(source)
    text = str(error.value)
    assert "pairs.jsonl" in text and "column score should hold numbers, and row 2500 (counted from 0)" in text
    assert repr(bad) in text


@pytest.mark.parametrize(
    "name, content, told",
    [
        (
            "cut.jsonl",
            '{"prompt": "a", "chosen": "b"\n{"prompt":',
            "cut.jsonl cannot be read: JSON parse error.* in row 0",
        ),
        ("empty.jsonl", "", "empty.jsonl cannot be read: it holds no rows"),
        (
            "lone.jsonl",
            '{"prompt": "\\ud83d", "chosen": "b", "rejected": "c"}',
            "lone.jsonl cannot be read: .*surrogate",
        ),
        ("cut.parquet", "PAR1 and no more", "cut.parquet cannot be read: Parquet magic bytes not found"),
        ("pairs.csv", "prompt,chosen,rejected\n", r"pairs.csv is not one of \.jsonl, \.json, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        loaded(Source("mine", str(tmp_path / name)))


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


def test_whole_conversations_need_no_prompt_column(tmp_path):
    talk = [{"role": "user", "content": "Hi?"}]
    sides = {side: [*talk, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    source, table = loaded(Source("mine", write_lines(tmp_path / "pairs.jsonl", [sides] * 3)))
    assert source.columns == {"chosen": "chosen", "rejected": "rejected"} and source.pair(table[0])["prompt"] == talk


def test_fault_a_file_without_answers_says_what_it_has(tmp_path):
    file = write_lines(tmp_path / "pairs.jsonl", [{"question": "Hi?", "chosen": "Yes."}])
    with pytest.raises(ValueError, match="Source mine .* has no column prompt, rejected. It has chosen, question"):
        loaded(Source("mine", file))


def test_another_split_or_configuration_is_a_field_of_the_source(put_data):
    paths = "".join(f"\n  - split: {name}_prefs\n    path: {name}.parquet" for name in ("train", "test"))
    card = f"---\nconfigs:\n- config_name: default\n  data_files:{paths}\n---\n"
    put_data("lab/prefs", {"README.md": card, "train.parquet": ROWS, "test.parquet": ROWS[:5]})
    with pytest.raises(ValueError, match="no split 'train'.*one of train_prefs"):
        loaded(Source("prefs", "lab/prefs"))
    assert len(loaded(Source("prefs", "lab/prefs", split="test_prefs"))[1]) == 5
    listed = "".join(f"\n- config_name: {name}\n  data_files: {name}.parquet" for name in ("easy", "hard"))
    put_data("lab/two", {"README.md": f"---\nconfigs:{listed}\n---\n", "easy.parquet": ROWS, "hard.parquet": ROWS[:3]})
    with pytest.raises(ValueError, match="set config to one of easy, hard"):
        loaded(Source("two", "lab/two"))
    assert len(loaded(Source("two", "lab/two", config="hard"))[1]) == 3


def test_a_folder_of_the_repository_is_all_that_is_loaded(put_data):
    put_data("lab/folders", {"helpful/train.parquet": ROWS, "harmless/train.parquet": ROWS[:2]})
    assert len(loaded(Source("both", "lab/folders"))[1]) == 32
    assert len(loaded(Source("one", "lab/folders", folder="harmless"))[1]) == 2


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


def test_the_same_streamed_rows_are_fetched_once(published, monkeypatch):
    """And other ones again: of another seed or number. What the token is makes no difference."""
    names, from_generator = [], Dataset.from_generator

    def spy(*arguments, **options):
        names.append(options["fingerprint"])
        return from_generator(*arguments, **options)

    def fetched(token=None, seed=3, rows=11) -> bool:
        before = len(published.requests)
        loaded(replace(KNOWN["stack-exchange"], streamed_rows=rows), token=token, seed=seed)
        return sum("resolve" in path and "parquet" in path for _, path, _ in published.requests[before:]) > 1

    monkeypatch.setattr(Dataset, "from_generator", spy)
    assert fetched() and not fetched()  # the columns are read off each time
    assert fetched(seed=4) and fetched(rows=12) and not fetched(token="practice-read")
    assert names[0] == names[1] == names[4] is not None and len(set(names)) == 3


def test_of_a_streamed_repository_only_the_folder_is_read(published, put_data):
    put_data(
        "lab/stacks", {f"data/{name}/train.parquet": [{**ROWS[0], "prompt": name}] * 4 for name in ("rl", "reward")}
    )
    source = Source("stacks", "lab/stacks", TEXTS, folder="data/reward", streamed_rows=10)
    assert loaded(source)[1]["prompt"][:] == ["reward"] * 4


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


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), ConnectionError("Server Disconnected")], ids=type)
def test_fault_a_network_lost_in_the_middle_of_a_stream_is_a_connection_error(published, monkeypatch, error):
    def breaks_off(stream):
        yield next(iter(stream))
        raise error

    monkeypatch.setattr(source_loading, "_rows_of", breaks_off)
    with pytest.raises(ConnectionError, match="failed for lvwerra/stack-exchange-paired .*run this cell again"):
        loaded(replace(KNOWN["stack-exchange"], streamed_rows=47))


def test_an_error_that_is_not_the_networks_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), source_loading.reading("lab/x", None):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="^as it was$"), source_loading.reading("lab/x", None):
        raise ValueError("as it was")


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


def test_two_of_one_name_are_refused():
    """A file called like a benchmark would be loaded at the benchmark's commit."""
    with pytest.raises(ValueError, match="Two sources or benchmarks are called arc: give one another name"):
        collect([*BENCHMARKS, Source("arc", "arc.jsonl")], lambda thing: 1, go_on=True)


def test_missing_repositories_can_be_left_out(hub):
    wanted = [KNOWN["math"], Source("gone", "lab/nothing-here"), BENCHMARKS[0]]
    with pytest.raises(FileNotFoundError, match="lab/nothing-here.*To go on without gone"):
        collect(wanted, find, go_on=False)
    done, lost = collect(wanted, find, go_on=True)
    assert set(done) == {"math", "gsm8k"} and "lab/nothing-here" in lost["gone"]


def test_all_sources_are_loaded_that_were_found_and_one_at_least(tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text(json.dumps({"prompt": "Q?", "chosen": "Yes.", "rejected": "No."}))
    made, gone = Source("made", str(path)), Source("gone", "somebody/gone")
    by_name, rows, lost = source_loading.load_all([made, gone], {"made": find(made)}, None, 1, False)
    assert list(by_name) == list(rows) == ["made"] and by_name["made"].columns["prompt"] == "prompt" and not lost
    with pytest.raises(ValueError, match="No source could be reached"):
        source_loading.load_all([made, gone], {}, None, 1, True)
