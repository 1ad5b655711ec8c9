"""The files of a mix: written, read back, found again, published and described, with what was left out."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset, disable_progress_bars, load_dataset
from huggingface_hub import DatasetCard, HfApi
from support.mixing import cleaned, examined

from utils.data import loading, mix, mix_files
from utils.data import pairs as preference_data
from utils.data.mix_files import FILES, find_report, push_mix, write_mix
from utils.data.overlap import BenchmarkIndex
from utils.data.sources import SEVEN, Source, choose_benchmarks
from utils.practice import stand_ins

disable_progress_bars()
WRITE = "practice-write"
MINE = [{"prompt": f"Is {n} odd?", "chosen": "Yes." if n % 9 else "", "rejected": "No."} for n in range(60)]


@pytest.fixture(scope="module")
def parts(hub, tokenizer, tmp_path_factory) -> SimpleNamespace:
    """All that the files are made of: two sources of the Hub and a file, one source and one benchmark out of reach."""
    file = tmp_path_factory.mktemp("my-secret-folder") / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in MINE))
    known = {source.name: source for source in SEVEN}
    asked = [known["math"], known["truthy"], Source("mine", str(file)), Source("gone", "lab/gone", published=7)]
    sources = loading.load_sources(loading.find_sources(asked, None, True), None, 42, True)
    benchmarks = loading.load_items(
        loading.find_sources(choose_benchmarks(["gsm8k", "mmlu"]), None, False), None, False
    )
    benchmarks.append(replace(choose_benchmarks(["arc"])[0], left_out="The Hub has no such benchmark."))
    index = BenchmarkIndex({benchmark.name: benchmark.rows for benchmark in benchmarks if benchmark.rows})
    ledger, pairs = examined(sources, tokenizer, index)
    mix.split_mix(cleaned(ledger, pairs, sources), 0.2)
    base = SimpleNamespace(name=stand_ins.BASE_MODEL, commit="c" * 40)
    settings = {"MAX_LENGTH": 1024, "NEAR_DUPLICATE": 0.8, "SEED": 42}
    report = mix_files.mix_report(ledger, sources, benchmarks, tokenizer, base, settings)
    origins = {source.name: source.origin for source in [*sources, *benchmarks]}
    return SimpleNamespace(**locals())


@pytest.fixture
def folder(parts, tmp_path):
    """The files of the mix, in a folder beside something else."""
    write_mix(tmp_path / "mix", parts.pairs, parts.ledger, parts.report)
    (tmp_path / "mix" / "notes.txt").write_text("not for the Hub")
    return tmp_path / "mix"


def pairs_of(parts, split: str) -> list[dict]:
    """What a split should hold, from the ledger and the pairs."""
    numbers = [int(number) for number in parts.ledger.pair[parts.ledger.split == split]]
    return [{column: parts.pairs[number][column] for column in mix_files.PAIR} for number in numbers]


# --- writing ---------------------------------------------------------------------------------------------------


def test_train_and_test_are_read_back_as_they_were(parts, folder):
    rows, test_rows = loading.load_splits(str(folder))
    assert list(rows) == pairs_of(parts, "train") and list(test_rows) == pairs_of(parts, "test")
    assert len(rows) > 150 and len(test_rows) > 30
    for row in (*rows, *test_rows):
        assert preference_data.to_pair(row) == row  # notebook 03 takes them so


def test_a_mix_that_was_written_anew_is_read_anew(parts, folder):
    """Also with as many rows as before: the cache of datasets would not look at the files of a folder with a card."""
    before = loading.load_splits(str(folder))[0]
    turned = parts.ledger.copy()
    turned["split"] = parts.ledger.split.map({"train": "test", "test": "train"})
    swapped = turned.index[turned.split == "train"][:5].union(turned.index[turned.split == "test"][:5])
    ledger = parts.ledger.copy()
    ledger.loc[swapped, "split"] = turned.split[swapped]
    write_mix(folder, parts.pairs, ledger, parts.report)
    rows = loading.load_splits(str(folder))[0]
    assert len(rows) == len(before) and list(rows) != list(before)
    assert [row["prompt"] for row in rows] == [
        parts.pairs[int(number)]["prompt"] for number in ledger.pair[ledger.split == "train"]
    ]


def test_the_ledger_says_of_every_row_what_became_of_it(parts, folder):
    ledger = pd.read_parquet(folder / "ledger.parquet")
    assert list(ledger.columns) == ["source", "row", "rating", "reason", "told", "twin", "item", "match", "split"]
    assert Counter(ledger.source) == {source.name: len(source.rows) for source in parts.sources if source.rows}
    assert not ledger.duplicated(["source", "row"]).any()
    assert (ledger.reason.isna() == ledger.split.notna()).all()
    again = ledger.reason.astype(object).where(ledger.reason.notna(), None)
    assert list(again) == list(parts.ledger.reason.astype(object).where(parts.ledger.reason.notna(), None))
    replaced = ledger[ledger.twin >= 0]
    assert len(replaced) and set(replaced.reason) <= {"same prompt", "near duplicate"}
    assert ledger.reason[replaced.twin].isna().all()  # a line is its place in the file
    assert set(ledger.match[ledger.reason == "in a benchmark"].str.split().str.len() >= 13) == {True}


def test_the_report_adds_up(parts, folder):
    report = json.loads((folder / "report.json").read_text())
    assert list(report["sources"]) == ["math", "truthy", "mine", "gone"]
    whole = Counter()
    for name, entry in report["sources"].items():
        if name == "gone":
            continue
        assert entry["rows"] == entry["train"] + entry["test"] + sum(entry["dropped"].values())
        assert entry["rows"] == len(next(source.rows for source in parts.sources if source.name == name))
        assert entry["train"] == sum(pair["source"] == name for pair in pairs_of(parts, "train"))
        whole.update({key: entry[key] for key in ("rows", "train", "test")})
    assert report["totals"] == whole and whole["rows"] == len(parts.ledger)
    assert report["sources"]["mine"]["dropped"] == {"empty answer": 7}
    assert report["parameters"] == parts.report["parameters"]
    math = report["sources"]["math"]
    assert math["revision"] == parts.origins["math"].commit and math["host"] == "practice hub at 127.0.0.1"
    assert (math["rule"], math["licence"], math["published"]) == ("chosen_rating >= 9", "apache-2.0", 2181)


def test_fault_a_report_is_there_only_if_the_mix_is_whole(parts, folder, monkeypatch):
    assert find_report(str(folder), None)

    def full(*arguments, **options):
        raise OSError("No space left on device")

    for owner in (Dataset, pd.DataFrame):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(owner, "to_parquet", full)
            write_mix(folder, parts.pairs, parts.ledger, parts.report)
        assert not (folder / "report.json").exists() and find_report(str(folder), None) is None
        with pytest.raises(FileNotFoundError, match="holds no whole mix: it has no report.json. Write the mix first"):
            push_mix(folder, "learner/never", WRITE)
        write_mix(folder, parts.pairs, parts.ledger, parts.report)


# --- the card --------------------------------------------------------------------------------------------------


def test_the_card_is_accepted_and_its_splits_are_loaded(hub, folder):
    hub.requests.clear()
    push_mix(folder, "learner/with-a-card", WRITE)
    assert ("POST", "/api/validate-yaml", 200) in hub.requests
    assert HfApi(token=WRITE).dataset_info("learner/with-a-card").card_data.license == "other"
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert data["license"] == "other" and data["task_categories"] == ["text-generation"]
    assert data["source_datasets"] == ["argilla/distilabel-math-preference-dpo", "jondurbin/truthy-dpo-v0.1"]
    loaded = load_dataset(str(folder))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: find_report(str(folder), None)["totals"][split] for split in ("train", "test")
    }
    assert loaded["train"].column_names == ["source", "prompt", "chosen", "rejected"]


def test_no_file_tells_a_local_path(parts, tmp_path):
    """Where a source, or the base whose tokenizer counts, lies on this machine is nobody else's business."""
    base = SimpleNamespace(name="/home/ada/my-secret-base", commit=None)
    asked = parts.ledger, parts.sources, parts.benchmarks, parts.tokenizer, base, parts.settings
    written = write_mix(tmp_path, parts.pairs, parts.ledger, mix_files.mix_report(*asked))
    assert (written["tokenizer"]["repository"], written["tokenizer"]["revision"]) == ("my-secret-base", None)
    assert written["sources"]["mine"]["repository"] == "mine.jsonl"
    for name in ("README.md", "report.json"):
        text = (tmp_path / name).read_text()
        assert "my-secret-base" in text and "mine.jsonl" in text
        assert "/home/ada" not in text and "my-secret-folder" not in text and str(tmp_path) not in text


# --- finding ---------------------------------------------------------------------------------------------------


def test_fault_a_hub_that_fails_is_not_taken_for_one_without_a_report(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    commit = push_mix(folder, "learner/unlucky", WRITE)
    hub.inject("learner/unlucky/resolve/.*/report.json", status=503, times=50)
    with pytest.raises(ConnectionError, match="learner/unlucky"):
        find_report("learner/unlucky", commit, WRITE)


# --- publishing ------------------------------------------------------------------------------------------------


def test_a_mix_is_pushed_in_one_commit_privately_and_only_what_is_on_the_list(hub, parts, folder):
    commit = push_mix(folder, "learner/pushed", WRITE)
    assert hub.repos["dataset", "learner/pushed"]["private"] and len(commit) == 40
    assert set(hub.files("learner/pushed", "dataset")) - {".gitattributes"} == set(FILES)
    history = [each.commit_id for each in HfApi(token=WRITE).list_repo_commits("learner/pushed", repo_type="dataset")]
    assert history[0] == commit and len(history) == 2  # the first one is the hub's own
    rows, test_rows = loading.load_splits("learner/pushed", commit, token="practice-read")
    assert list(rows) == pairs_of(parts, "train") and list(test_rows) == pairs_of(parts, "test")
    assert find_report("learner/pushed", commit, "practice-read") == find_report(str(folder), None)


def test_a_token_that_may_only_read_pushes_nothing(hub, folder):
    with pytest.raises(PermissionError, match="learner/read-only"):
        push_mix(folder, "learner/read-only", "practice-read")
    assert ("dataset", "learner/read-only") not in hub.repos


def test_items_are_counted_for_whatever_reason_and_a_row_that_vanished_is_noticed(parts):
    ledger = parts.ledger.copy()
    ledger["item"] = None
    ledger.loc[[3, 4, 5], "item"] = ["gsm8k 0", "gsm8k 17", "mmlu 3"]
    made = ledger, parts.sources, parts.benchmarks, parts.tokenizer, parts.base, parts.settings
    counts = mix_files.mix_report(*made)["benchmarks"]
    assert {name: entry.get("rows") for name, entry in counts.items()} == {"gsm8k": 2, "mmlu": 1, "arc": None}
    assert counts["gsm8k"]["items"] == len(parts.benchmarks[0].rows) and counts["gsm8k"]["split"] == "test"
    ledger.loc[ledger.index[ledger.split == "train"][0], "split"] = None
    with pytest.raises(ValueError, match="Rows of math vanished"):
        mix_files.mix_report(*made)


def test_what_would_stop_a_mix_later_is_red_at_once(hub, parts, tmp_path):
    base = SimpleNamespace(name="lab/gated", licence="llama3", may_read=False)
    red = mix_files.check_place(parts.sources, base, tmp_path, "learner/mix", "practice-read")
    assert [line.name for line in red if not line.fine][:2] == ["licence", "token"]
    base.may_read = True
    assert all(line.fine for line in mix_files.check_place(parts.sources, base, tmp_path, "", None))
    assert mix_files.own_repository("", WRITE) == "learner/orpo-mix" and mix_files.own_repository("a/b", None) == "a/b"
