"""Sources and benchmarks are found and loaded, whole or streamed, and what is wrong is told in one sentence."""

import json
from dataclasses import replace

import httpx
import pytest
from datasets import Dataset, disable_progress_bars
from huggingface_hub import DatasetCard, HfApi
from support import stand_ins

from utils.data import loading
from utils.data.sources import BENCHMARKS, GSM8K_TRAIN, OTHERS, SEVEN, TEXTS, Source

disable_progress_bars()
KNOWN = {source.name: source for source in (*SEVEN, *OTHERS)}
ROWS = [{"prompt": f"Q{number}?", "chosen": "Yes.", "rejected": "No."} for number in range(5)]


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


def load(source: Source, token: str | None = None, seed: int = 42) -> Source:
    return loading.load(loading.find(source, token), token, seed)


def test_a_stand_in_is_found_with_commit_host_licence_and_what_its_card_expects(published):
    for source in SEVEN:
        found, info = loading.find(source), HfApi().dataset_info(source.repository, files_metadata=True)
        card = DatasetCard.load(stand_ins.ALL_DATA[source.repository] / "README.md").data
        assert found.origin.commit == info.sha and found.origin.host == "practice hub at 127.0.0.1"
        assert found.origin.licence == card.license and found.expected == card["rows_kept"] != source.published
        assert found.download_gb == pytest.approx(sum(file.size for file in info.siblings) / 1e9)
    assert loading.find(KNOWN["stack-exchange"]).download_gb == 0  # what is streamed is no download
    assert loading.find(BENCHMARKS[0]).origin.commit == HfApi().dataset_info("openai/gsm8k").sha


def test_a_revision_is_found_and_loaded_whatever_came_after_it(hub, put_data):
    first = put_data("lab/moving", {"data/train.parquet": ROWS})
    put_data("lab/moving", {"data/train.parquet": ROWS[:2]})
    source = Source("moving", "lab/moving", TEXTS, published=7, in_mix=9)
    assert loading.find(source).expected == 9 and loading.find(source).origin.host == "127.0.0.1"
    assert len(load(source).rows) == 2 and len(load(replace(source, revision=first)).rows) == 5
    for repository, revision, told in (("lab/nothing", None, "lab/nothing"), ("lab/moving", "v9", "no revision 'v9'")):
        with pytest.raises(FileNotFoundError, match=told):
            loading.find(Source("x", repository, revision=revision))


def test_a_source_is_loaded_with_the_columns_that_it_needs_and_memory_mapped(published):
    for source in (*SEVEN, *OTHERS):
        found = load(source)
        assert found == source and found.rows.column_names == source.needs
        written = Dataset.from_parquet(str(next(stand_ins.ALL_DATA[source.repository].rglob("train-*.parquet"))))
        assert sorted(map(str, found.rows)) == sorted(map(str, written.select_columns(source.needs)))
        assert found.rows.cache_files


def test_fault_a_missing_column_is_named_with_what_is_there(tmp_path, put_data):
    for source in SEVEN:
        column = source.needs[-1]
        table = Dataset.from_parquet(str(next(stand_ins.ALL_DATA[source.repository].rglob("train-*.parquet"))))
        table.select(range(3)).rename_column(column, f"{column}_v2").to_parquet(tmp_path / f"{source.name}.parquet")
        with pytest.raises(ValueError) as error:
            load(replace(source, repository=str(tmp_path / f"{source.name}.parquet")))
        assert f"{source.name} (" in str(error.value) and f"no column {column}" in str(error.value)
        assert f"{column}_v2" in str(error.value)
    with pytest.raises(ValueError, match="no column chosen, rejected. It has prompt, text"):
        load(Source("mine", write_lines(tmp_path / "mine.jsonl", [{"text": "a", "prompt": "b"}])))


def test_fault_a_score_or_flag_of_another_type_is_named_with_its_row(tmp_path):
    rule = Source("made", "", TEXTS, rating="score", unless="seen", at_least=5)
    cases = {"score": [5, None, "five"], "seen": [True, None, 1]}
    for column, values in cases.items():
        rows = [row | {"score": 5, "seen": False} | {column: value} for row, value in zip(ROWS, values, strict=False)]
        file = write_lines(tmp_path / f"{column}.jsonl", rows)
        with pytest.raises(ValueError, match=rf"{column}|cannot be read") as error:
            load(replace(rule, repository=file))
        assert "made" in str(error.value) or "made" in file or file in str(error.value)
    table = Dataset.from_list([row | {"score": "9"} for row in ROWS])
    table.to_parquet(tmp_path / "words.parquet")
    with pytest.raises(ValueError, match="column score should hold numbers, and row 0 .counted from 0. holds '9'"):
        load(Source("made", str(tmp_path / "words.parquet"), TEXTS, rating="score"))
    for scores in ([9, 8, 10], [9.5, None, 8.0], [None] * 3):
        rows = [row | {"score": score} for row, score in zip(ROWS, scores, strict=False)]
        load(Source("made", write_lines(tmp_path / "fine.jsonl", rows), TEXTS, rating="score"))


def test_a_file_of_ones_own_takes_the_columns_that_it_has_or_says_what_is_wrong(tmp_path):
    rows = [row | {"system": "Be brief.", "other": 1} for row in ROWS]
    assert load(Source("mine", write_lines(tmp_path / "mine.jsonl", rows))).columns == {**TEXTS, "prompt": "prompt"} | {
        "system": "system"
    }
    talks = [{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "a"}]}]
    assert list(load(Source("mine", write_lines(tmp_path / "talks.jsonl", talks))).columns) == ["chosen", "rejected"]
    (tmp_path / "pairs.csv").write_text("chosen,rejected")
    with pytest.raises(ValueError, match="pairs.csv is not one of .jsonl, .json, .parquet"):
        load(Source("mine", str(tmp_path / "pairs.csv")))
    for name, content in (("empty.jsonl", ""), ("broken.jsonl", '{"chosen": '), ("no.parquet", "text")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            load(Source("mine", str(tmp_path / name)))


def test_split_configuration_folder_and_token_are_fields_of_a_source(put_data):
    card = "---\nconfigs:\n- config_name: a\n  data_files: a.parquet\n- config_name: b\n  data_files: b.parquet\n---\n"
    put_data("lab/two", {"README.md": card, "a.parquet": ROWS[:1], "b.parquet": ROWS[:3]})
    assert len(load(Source("two", "lab/two", TEXTS, config="b")).rows) == 3
    with pytest.raises(ValueError, match="has several configurations.*a, b"):
        load(Source("two", "lab/two", TEXTS))
    put_data("lab/stacks", {f"data/{name}/train.parquet": [{**ROWS[0], "prompt": name}] * 4 for name in ("rl", "rm")})
    for streamed in (None, 10):
        source = Source("stacks", "lab/stacks", TEXTS, folder="data/rm", streamed_rows=streamed)
        assert load(source).rows["prompt"][:] == ["rm"] * 4
    put_data("learner/secret", {"train.parquet": ROWS}, private=True)
    assert len(load(Source("secret", "learner/secret", TEXTS), token="practice-read").rows) == 5
    with pytest.raises(FileNotFoundError, match="learner/secret"):
        load(Source("secret", "learner/secret", TEXTS))


def test_of_a_streamed_source_only_so_many_rows_come_by_a_seeded_choice_fetched_once(published, tokenizer):
    everything = [row["question"] for row in stand_ins.rows(stand_ins.STACK_EXCHANGE)]
    source = replace(KNOWN["stack-exchange"], streamed_rows=20)

    def fetched(token=None, seed=1) -> tuple[list[str], bool]:
        before = len(published.requests)
        found = load(source, token, seed).rows["question"][:]
        return found, sum("resolve" in path and "parquet" in path for _, path, _ in published.requests[before:]) > 1

    (first, new), (again, old), (other, third) = fetched(), fetched(token="practice-read"), fetched(seed=2)
    assert len(first) == 20 and set(first) < set(everything) and first != everything[:20]
    assert first == again and other != first and (new, old, third) == (True, False, True)
    pairs, report = loading.load_pairs(stand_ins.STACK_EXCHANGE, tokenizer, None, 25, 4096, stream_rows=25)
    assert report.as_dict()["examined"] == 25 and pairs["train"][0]["source"] == "unnamed"


def test_fault_a_hub_that_fails_while_rows_are_read_is_a_connection_error(put_data, hub, monkeypatch):
    """So that it can be left out; datasets wraps it in errors of three other kinds."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("datasets.config.STREAMING_READ_MAX_RETRIES", 2)
    for name in ("math", "stack-exchange"):
        for kind, fault in (("fails", {"status": 503}), ("drops", {"drop": True})):
            source = replace(KNOWN[name], repository=f"lab/{kind}-{name}")
            row = dict.fromkeys(source.needs, "a") | ({source.rating: 9.0} if source.rating else {})
            put_data(source.repository, {f"{source.folder or 'data'}/train.parquet": [row] * 5})
            found = loading.find(source)
            hub.inject(f"{source.repository}/resolve/.*parquet", times=1000, **fault)
            with pytest.raises(ConnectionError, match=f"failed for {source.repository} .*run this cell again"):
                loading.load(found)


def test_fault_a_network_lost_in_the_middle_of_a_stream_is_a_connection_error(published, monkeypatch):
    def breaks_off(stream):
        yield next(iter(stream))
        raise httpx.ReadTimeout("slow")

    monkeypatch.setattr(loading, "_rows_of", breaks_off)
    with pytest.raises(ConnectionError, match="failed for lvwerra/stack-exchange-paired .*run this cell again"):
        load(replace(KNOWN["stack-exchange"], streamed_rows=47))
    with pytest.raises(ValueError, match="^as it was$"), loading.reading("lab/x", None):
        raise ValueError("as it was")


def test_what_is_out_of_reach_stops_or_is_left_out_if_told_so(hub, tmp_path):
    made, gone = Source("made", write_lines(tmp_path / "made.jsonl", ROWS)), Source("gone", "lab/nothing-here")
    with pytest.raises(FileNotFoundError, match="lab/nothing-here.*To go on without gone, set MORE"):
        loading.find_sources([made, gone], None, False)
    found = loading.find_sources([made, gone], None, True)
    first, second = loading.load_sources(found, None, 1, True)
    assert len(first.rows) == 5 and second.rows is None and "lab/nothing-here" in second.left_out
    with pytest.raises(ValueError, match="No source could be reached"):
        loading.load_sources(found[1:], None, 1, True)
    with pytest.raises(ValueError, match="no column"):  # there, and broken: never left out
        loading.load_sources([replace(first, columns={"chosen": "answer"})], None, 1, True)


def test_items_are_lists_of_texts_with_the_question_first(hub):
    found = loading.load_items(loading.find_sources([*BENCHMARKS, GSM8K_TRAIN], None, False), None, False)
    for benchmark in found:
        made = stand_ins.rows(benchmark.repository, benchmark.split)
        question = next(iter(benchmark.columns))
        assert [texts[0] for texts in benchmark.rows] == [item[question] for item in made]
        assert len(made) > 20 and all(isinstance(text, str) and text for texts in benchmark.rows for text in texts)
    choices = {benchmark.name: len(benchmark.rows[0]) for benchmark in found}
    assert choices["arc"] > 3 and choices["mmlu"] == choices["hellaswag"] == 5 and choices["gsm8k"] == 2
    strange = replace(found[0], columns={"riddle": "riddle"})
    with pytest.raises(ValueError, match="gsm8k .openai/gsm8k. has no column riddle. It has answer, question"):
        loading.load_items([strange], None, True)
