"""The files of a mix: written, read back, found again, published and described, with what was left out."""

import hashlib
import json
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
from data.test_mix import cleaned, examined
from datasets import Dataset, disable_progress_bars, load_dataset
from huggingface_hub import DatasetCard, HfApi

from utils.data import benchmark_items, loading, mix_files
from utils.data import loading as source_loading
from utils.data import mix as mixing
from utils.data import pairs as preference_data
from utils.data.mix_files import FILES, find_report, push_mix, write_mix
from utils.data.overlap import BenchmarkIndex
from utils.data.sources import SEVEN, Source
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
    chosen = [known["math"], known["truthy"], Source("mine", str(file)), Source("gone", "lab/gone", published=7)]
    benchmarks = benchmark_items.choose(["gsm8k", "mmlu", "arc"])
    origins, lost = source_loading.collect([*chosen, *benchmarks[:2]], source_loading.find, go_on=True)
    loaded, _ = source_loading.collect(
        chosen[:3], lambda source: source_loading.load(source, origins[source.name]), go_on=False
    )
    items = {each.name: benchmark_items.load_items(each, origins[each.name].commit) for each in benchmarks[:2]}
    ledger, pairs = examined(list(loaded.values()), tokenizer, BenchmarkIndex(items))
    mixing.split(cleaned(ledger, pairs, chosen), 0.2)
    lost |= {"arc": "The Hub has no such benchmark."}
    report = {
        "sources": mix_files.count(ledger, chosen, origins, lost),
        "benchmarks": mix_files.count_items(ledger, benchmarks, items, origins, lost),
        "tokenizer": {"repository": stand_ins.BASE_MODEL, "revision": "c" * 40},
        "parameters": {"MAX_LENGTH": 1024, "NEAR_DUPLICATE": 0.8, "SEED": 42},
    }
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


def test_a_folder_of_before_is_replaced(parts, folder):
    half = parts.ledger.copy()
    half.loc[half.source == "mine", ["split", "reason"]] = [None, "over the cap"]
    report = parts.report | {"sources": mix_files.count(half, parts.chosen, parts.origins, parts.lost)}
    write_mix(folder, parts.pairs, half, report)
    rows, test_rows = loading.load_splits(str(folder))
    assert {row["source"] for row in (*rows, *test_rows)} == {"math", "truthy"}
    assert find_report(str(folder), None)["totals"]["train"] == len(rows)


def test_the_ledger_says_of_every_row_what_became_of_it(parts, folder):
    ledger = pd.read_parquet(folder / "ledger.parquet")
    assert list(ledger.columns) == ["source", "row", "rating", "reason", "told", "twin", "item", "match", "split"]
    assert Counter(ledger.source) == {name: len(rows) for name, (_, rows) in parts.loaded.items()}
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
        assert entry["rows"] == len(parts.loaded[name][1])
        assert entry["train"] == sum(pair["source"] == name for pair in pairs_of(parts, "train"))
        whole.update({key: entry[key] for key in ("rows", "train", "test")})
    assert report["totals"] == whole and whole["rows"] == len(parts.ledger)
    assert report["sources"]["mine"]["dropped"] == {"empty answer": 7}
    assert report["parameters"] == parts.report["parameters"]
    math = report["sources"]["math"]
    assert math["revision"] == parts.origins["math"].commit and math["host"] == "stand-in at 127.0.0.1"
    assert (math["rule"], math["licence"], math["published"]) == ("chosen_rating >= 9", "apache-2.0", 2181)


def test_the_report_knows_the_data_by_their_bytes(parts, folder):
    report = find_report(str(folder), None)
    assert report["sha256"] == {
        f"{split}.parquet": hashlib.sha256((folder / f"{split}.parquet").read_bytes()).hexdigest()
        for split in ("train", "test")
    }
    again = write_mix(folder.parent / "again", parts.pairs, parts.ledger, parts.report)
    assert again == report and again != parts.report  # the same mix has the same bytes; and nobody's dict is changed


def test_what_was_left_out_is_told(parts, folder):
    report, card = find_report(str(folder), None), (folder / "README.md").read_text()
    gone = report["sources"]["gone"]
    assert set(gone) == {"repository", "rule", "published", "left_out"} and "lab/gone" in gone["left_out"]
    assert report["benchmarks"]["arc"]["left_out"] == "The Hub has no such benchmark."
    assert "| gone: lab/gone | left out: it could not be reached |" in card
    assert "| arc: allenai/ai2_arc | **not checked**: it could not be reached |" in card
    assert "Preference pairs from 3 sources" in card


def test_items_are_counted_for_whatever_reason_a_row_is_dropped(parts):
    ledger = parts.ledger.copy()
    ledger["item"] = None
    ledger.loc[[3, 4, 5], "item"] = ["gsm8k 0", "gsm8k 17", "mmlu 3"]
    counts = mix_files.count_items(ledger, parts.benchmarks, parts.items, parts.origins, parts.lost)
    assert {name: entry.get("rows") for name, entry in counts.items()} == {"gsm8k": 2, "mmlu": 1, "arc": None}
    assert counts["gsm8k"]["items"] == len(parts.items["gsm8k"]) and counts["gsm8k"]["split"] == "test"
    assert counts["gsm8k"]["revision"] == parts.origins["gsm8k"].commit
    ledger["item"] = None
    counts = mix_files.count_items(ledger, parts.benchmarks, parts.items, parts.origins, parts.lost)
    assert counts["mmlu"]["rows"] == 0
    assert mix_files.count_items(ledger, [], {}, {}, {}) == {}


def test_a_row_that_vanished_is_noticed(parts):
    ledger = parts.ledger.copy()
    ledger.loc[ledger.index[ledger.split == "train"][0], "split"] = None
    with pytest.raises(AssertionError, match="rows of math vanished"):
        mix_files.count(ledger, parts.chosen, parts.origins, parts.lost)


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


def test_the_card_tells_sources_counts_and_settings(parts, folder):
    card = (folder / "README.md").read_text()
    math = find_report(str(folder), None)["sources"]["math"]
    row = f"| math: {math['repository']} | `{math['revision'][:10]}`, stand-in at 127.0.0.1 | apache-2.0 | "
    assert f"{row}chosen_rating >= 9 | {math['rows']} | {math['train']} | {math['test']} |" in card
    assert "| mine | empty answer 7 |" in card and "a pair longer than 1,024 tokens is dropped" in card
    assert "share 80 % or more of their runs of five words" in card and stand_ins.BASE_MODEL in card
    assert f"| gsm8k: openai/gsm8k | `{parts.origins['gsm8k'].commit[:10]}`, stand-in at 127.0.0.1 | 24 | " in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert len(tables) == 2 + 4 + 2 + 3 + 2 + 3 and "{" not in "".join(tables)
    report = mix_files.write_mix(folder, parts.pairs, parts.ledger, parts.report | {"benchmarks": {}})
    assert "None was checked against." in mix_files.data_card(report, title="Mine")
    assert "\n# Mine\n" in mix_files.data_card(report, title="Mine")


def test_no_file_tells_a_local_path(parts, tmp_path):
    """Where a source, or the base whose tokenizer counts, lies on this machine is nobody else's business."""
    report = parts.report | {"tokenizer": {"repository": "/home/ada/my-secret-base", "revision": None}}
    written = write_mix(tmp_path, parts.pairs, parts.ledger, report)
    assert written["tokenizer"] == {"repository": "my-secret-base", "revision": None}
    assert written["sources"]["mine"]["repository"] == "mine.jsonl"
    for name in ("README.md", "report.json"):
        text = (tmp_path / name).read_text()
        assert "my-secret-base" in text and "mine.jsonl" in text
        assert "/home/ada" not in text and "my-secret-folder" not in text and str(tmp_path) not in text


# --- finding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"sources": {}}', '"sources sha256 totals"', "\x00"])
def test_somebody_elses_report_is_none(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    assert find_report(str(tmp_path), None) is None


def test_other_data_have_no_report(hub, tmp_path, unreachable):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    assert find_report(str(tmp_path), None) is find_report(str(tmp_path / "pairs.jsonl"), None) is None


def test_other_data_on_the_hub_have_no_report(hub, tmp_path):
    commit = HfApi().dataset_info(stand_ins.ORPO_MIX).sha
    assert find_report(stand_ins.ORPO_MIX, commit) is None
    (tmp_path / "report.json").write_text("no JSON at all")
    hub.add_repo("lab/with-a-report", "dataset")
    assert find_report("lab/with-a-report", hub.commit_folder("lab/with-a-report", tmp_path, "dataset")) is None


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


def test_a_second_push_replaces_the_first_and_nothing_else(hub, parts, folder, tmp_path):
    first = push_mix(folder, "learner/twice", WRITE, private=False)
    assert not hub.repos["dataset", "learner/twice"]["private"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "LICENSE").write_text("theirs")
    hub.commit_folder("learner/twice", tmp_path / "other", repo_type="dataset")
    report = write_mix(folder, parts.pairs, parts.ledger, parts.report | {"benchmarks": {}})
    second = push_mix(folder, "learner/twice", WRITE, private=False)
    assert set(hub.files("learner/twice", "dataset")) - {".gitattributes"} == {*FILES, "LICENSE"}
    assert find_report("learner/twice", second) == report != find_report("learner/twice", first)


def test_a_public_data_set_is_not_taken_for_a_private_one(hub, folder):
    push_mix(folder, "learner/open-mix", WRITE, private=False)
    with pytest.raises(PermissionError, match="open-mix is there already, and public: make it private at .*/datasets/"):
        push_mix(folder, "learner/open-mix", WRITE)


def test_a_token_that_may_only_read_pushes_nothing(hub, folder):
    with pytest.raises(PermissionError, match="learner/read-only"):
        push_mix(folder, "learner/read-only", "practice-read")
    assert ("dataset", "learner/read-only") not in hub.repos
