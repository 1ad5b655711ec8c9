"""Rows of every form become pairs or an error, and every row that is examined is accounted for."""

import json
import re
from collections import Counter

import pytest
from datasets import Dataset, disable_progress_bars

from utils import chat_format, hub_access, preference_data, stand_ins

disable_progress_bars()


def raw_row(question: str, chosen: str = "Yes.", rejected: str = "Perhaps.") -> dict:
    """A row of plain text; the other forms are tested with `pair_formats`."""
    return {"source": "test", "prompt": question, "chosen": chosen, "rejected": rejected}


def words(pair: dict) -> str:
    """A prompt's words: what may stand on one side only."""
    return " ".join(" ".join(message["content"] for message in pair["prompt"]).lower().split())


def account_is_complete(report) -> bool:
    return report.kept.total() + report.dropped.total() == report.examined


# --- loading ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [raw_row(f"Question {number}?") for number in range(6)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_is_loaded_as_its_train_split(tmp_path, rows, suffix):
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        Dataset.from_list(rows).to_parquet(path)
    loaded, test_rows = preference_data.load_splits(str(path))
    assert list(loaded) == rows and test_rows is None
    with pytest.raises(ValueError, match="no split 'train_prefs'. Set DATASET_SPLIT to one of train"):
        preference_data.load_splits(str(path), split="train_prefs")


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("chosen,rejected\n")
    with pytest.raises(ValueError, match=r"pairs\.csv is not one of \.jsonl, \.json, \.parquet"):
        preference_data.load_splits(str(path))


@pytest.mark.parametrize("train, test", [("train", "test"), ("train_prefs", "test_prefs")])
def test_a_folder_has_its_own_splits(tmp_path, rows, train, test):
    for split, part in ((train, rows[:4]), (test, rows[4:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{split}.parquet")
    splits = "".join(f"\n  - split: {split}\n    path: {split}.parquet" for split in (train, test))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:{splits}\n---\n")
    assert [list(part) for part in preference_data.load_splits(str(tmp_path), split=train)] == [rows[:4], rows[4:]]
    alone, none = preference_data.load_splits(str(tmp_path), split=test)
    assert list(alone) == rows[4:] and none is None  # a split is never tested on itself
    with pytest.raises(ValueError, match=f"no split 'validation'. Set DATASET_SPLIT to one of {train}, {test}"):
        preference_data.load_splits(str(tmp_path), split="validation")


def test_a_data_set_of_several_configurations_asks_which(tmp_path, rows):
    for name, part in (("easy", rows[:2]), ("hard", rows[2:])):
        (tmp_path / name).mkdir()
        Dataset.from_list(part).to_parquet(tmp_path / name / "train.parquet")
    listed = "".join(f"\n- config_name: {name}\n  data_files: {name}/*.parquet" for name in ("easy", "hard"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:{listed}\n---\n")
    assert list(preference_data.load_splits(str(tmp_path), config="hard")[0]) == rows[2:]
    for config in (None, "other"):
        with pytest.raises(ValueError, match="is none of them: set DATASET_CONFIG to one of easy, hard"):
            preference_data.load_splits(str(tmp_path), config=config)


def test_fault_a_data_set_with_a_script_is_refused_and_nothing_runs(hub, tmp_path, rows):
    name, ran = "some-lab/with-script", tmp_path / "ran"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "with-script.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")
    hub.add_repo(name, "dataset", exist_ok=True)
    hub.commit_folder(name, tmp_path / "data", repo_type="dataset")
    commit, _ = hub_access.resolve_revision(name, repo_type="dataset")
    with pytest.raises(ValueError, match="without running its code, which the course never does.*with-script.py"):
        preference_data.load_splits(name, commit)
    assert not ran.exists()


def test_the_mix_is_loaded_from_the_hub_at_its_tag(hub):
    commit, _ = hub_access.resolve_revision(stand_ins.ORPO_MIX, "v1.0", "dataset")
    rows, test_rows = preference_data.load_splits(stand_ins.ORPO_MIX, commit)
    assert list(rows) == list(preference_data.load_splits(str(stand_ins.orpo_mix()))[0]) and test_rows is None


def test_the_commit_decides_and_not_what_came_after(hub, tmp_path, rows):
    repo = "learner/moving-pairs"
    hub.add_repo(repo, "dataset")
    for number, part in enumerate((rows, rows[:2])):
        Dataset.from_list(part).to_parquet(tmp_path / "train.parquet")
        hub.commit_folder(repo, tmp_path, repo_type="dataset", tag=f"v{number}")
    old, _ = hub_access.resolve_revision(repo, "v0", "dataset")
    new, _ = hub_access.resolve_revision(repo, None, "dataset")
    assert [len(preference_data.load_splits(repo, commit)[0]) for commit in (old, new)] == [6, 2]


def test_a_private_data_set_needs_the_token(hub, tmp_path, rows):
    from datasets.exceptions import DatasetNotFoundError

    repo = "learner/private-pairs"
    hub.add_repo(repo, "dataset", private=True)
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    commit = hub.commit_folder(repo, tmp_path, repo_type="dataset")
    with pytest.raises(DatasetNotFoundError):
        preference_data.load_splits(repo, commit)
    assert len(preference_data.load_splits(repo, commit, token="practice-read")[0]) == len(rows)


# --- choosing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mix():
    """The stand-in mix: 480 rows, of which 12 are too long for 1024 tokens."""
    return preference_data.load_splits(str(stand_ins.orpo_mix()))[0]


@pytest.fixture(scope="module")
def held_out():
    """Rows whose prompts stand in no other data."""
    return Dataset.from_list([raw_row(f"Held out {number}?") for number in range(20)])


def split_of(pairs) -> dict[str, list[dict]]:
    return {name: list(part) for name, part in pairs.items()}


@pytest.mark.parametrize(
    "truncate, dropped",
    [(False, {"prompt too long": 6, "answer too long": 6}), (True, {"prompt too long": 6})],
    ids=["course-llama3", "article-llama3"],
)
def test_pairs_that_do_not_fit_are_dropped_and_counted_by_kind(mix, held_out, tokenizer, truncate, dropped):
    def problem(pair):
        return chat_format.length_problem(pair, tokenizer, 1024, truncate)

    pairs, report = preference_data.split_pairs(mix, None, len(held_out), problem, eval_rows=held_out)
    assert report.dropped == dropped
    assert report.examined == len(mix) + len(held_out) and account_is_complete(report)
    assert len(pairs["train"]) == report.kept["train"] == len(mix) - sum(dropped.values())
    assert not any(problem(pair) for pair in pairs["train"])


def test_pairs_that_teach_nothing_are_dropped_and_counted():
    bad = {
        "equal answers": [raw_row("E1?", "Yes.", "Yes."), raw_row("E2?", " Yes.\n", "Yes.")],
        "empty answer": [raw_row("N1?", "", "No."), raw_row("N2?", "Yes.", " \n"), raw_row("N3?", "", "")],
    }
    good = [raw_row(f"Good {number}?") for number in range(60)]
    data = Dataset.from_list([*good, *bad["equal answers"], *bad["empty answer"]])
    for text in (data, data.select(range(59, 65))):  # also where they are almost alone
        pairs, report = preference_data.split_pairs(
            text, None, 20, preference_data.answer_problem, eval_rows=Dataset.from_list([raw_row("Good too?")])
        )
        assert report.dropped == {reason: len(rows) for reason, rows in bad.items()}
        assert account_is_complete(report)
        kept = [words(pair) for part in pairs.values() for pair in part]
        assert kept and all(prompt.startswith("good") for prompt in kept)


@pytest.mark.parametrize("num_train, num_eval", [(200, 40), (50, 50), (None, 60), (1000, 100), (1, 1)])
def test_kept_and_dropped_are_what_was_examined(mix, num_train, num_eval):
    def problem(pair):
        return "it is short" if len(words(pair)) % 7 == 0 else preference_data.answer_problem(pair)

    pairs, report = preference_data.split_pairs(mix, num_train, num_eval, problem)
    assert account_is_complete(report) and 0 < report.examined <= len(mix)
    assert report.kept == {name: len(part) for name, part in pairs.items()}
    assert len(pairs["train"]) <= (num_train or len(mix)) and len(pairs["test"]) <= num_eval
    if num_train == 200:
        assert report.kept == {"train": 200, "test": 40} and report.dropped["it is short"] > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_prompt_stands_on_both_sides(mix, seed):
    pairs, _ = preference_data.split_pairs(mix, None, 100, lambda pair: None, seed=seed)
    train, test = ({words(pair) for pair in pairs[name]} for name in ("train", "test"))
    assert len(train) > 100 and len(test) > 30
    assert not train & test


def test_spellings_of_one_prompt_stay_on_one_side():
    rows = [raw_row(text) for n in range(40) for text in (f"Is {n} odd?", f"  is {n}\nODD? ", f"IS {n}  odd?")]
    pairs, _ = preference_data.split_pairs(Dataset.from_list(rows), None, 60, lambda pair: None)
    train, test = (Counter(words(pair) for pair in pairs[name]) for name in ("train", "test"))
    assert test and not set(train) & set(test)
    assert set(train.values()) == {3}


def test_no_prompt_stands_on_both_sides_when_the_data_set_has_a_test_split():
    """The stand-in's own splits share prompts, as real ones do."""
    rows, eval_rows = preference_data.load_splits(str(stand_ins.dpo_mix()))
    shared = [{words(preference_data.to_pair(row)) for row in part} for part in (rows, eval_rows)]
    assert shared[0] & shared[1]
    pairs, report = preference_data.split_pairs(rows, None, 60, lambda pair: None, eval_rows=eval_rows)
    train, test = ({words(pair) for pair in pairs[name]} for name in ("train", "test"))
    assert train and test and not train & test
    assert account_is_complete(report) and report.dropped.total() > 0


def test_a_test_split_is_what_is_evaluated_on(mix, held_out):
    pairs, report = preference_data.split_pairs(mix, 300, 15, lambda pair: None, eval_rows=held_out)
    assert report.kept == {"train": 300, "test": 15}
    assert {words(pair) for pair in pairs["test"]} <= {f"held out {number}?" for number in range(20)}
    assert not any(words(pair).startswith("held out") for pair in pairs["train"])


def test_all_rows_are_taken_where_no_number_is_given(mix, held_out):
    pairs, _ = preference_data.split_pairs(mix, None, 5, lambda pair: None, eval_rows=held_out)
    wanted = Counter(words(preference_data.to_pair(row)) for row in mix)
    assert Counter(words(pair) for pair in pairs["train"]) == wanted


def test_the_seed_decides_the_choice(mix):
    chosen = [
        split_of(preference_data.split_pairs(mix, 100, 20, lambda pair: None, seed=seed)[0]) for seed in (7, 7, 8)
    ]
    assert chosen[0] == chosen[1]
    assert chosen[0]["train"] != chosen[2]["train"]


def test_a_prompt_keeps_its_side_over_seeds(mix):
    sides: dict[str, set[str]] = {}
    for seed in (1, 2):
        for name, part in preference_data.split_pairs(mix, 100, 20, lambda pair: None, seed=seed)[0].items():
            for pair in part:
                sides.setdefault(words(pair), set()).add(name)
    assert all(len(names) == 1 for names in sides.values())


@pytest.mark.parametrize(
    "rows, eval_rows, verb",
    [(30, 0, "train"), (30, 30, "train"), (30, 1, "train")],
    ids=["no split", "test split", "only the test split is left"],
)
def test_nothing_left_stops_with_the_account(rows, eval_rows, verb):
    data = Dataset.from_list([raw_row(f"Question {number}?") for number in range(rows)])
    test = Dataset.from_list([raw_row(f"Held out {number}?") for number in range(eval_rows)]) if eval_rows else None

    def problem(pair):
        return None if eval_rows == 1 and words(pair).startswith("held") else "prompt too long"

    with pytest.raises(ValueError) as error:
        preference_data.split_pairs(data, 10, 5, problem, eval_rows=test)
    text = str(error.value)
    assert f"No pair is left to {verb} on" in text and "MAX_LENGTH" in text
    dropped = rows + (eval_rows if eval_rows > 1 else 0)
    assert re.search(rf"dropped\s+{dropped}\s+prompt too long, e\.g\. '(Question|Held out)", text)


def test_nothing_to_evaluate_on_stops_too():
    data = Dataset.from_list([raw_row(f"Question {number}?") for number in range(30)])
    with pytest.raises(ValueError, match="No pair is left to evaluate on"):
        preference_data.split_pairs(data, 10, 5, lambda pair: None, eval_rows=data.select([]))


# --- the account and the hash ----------------------------------------------------------------------------------


def test_the_report_names_reasons_with_an_example():
    report = preference_data.Report(examined=4, kept=Counter(train=1, test=1))
    for question in ("First? " * 20, "Second?"):
        report.drop("equal answers", preference_data.to_pair(raw_row(question)))
    assert report.as_dict() == {
        "examined": 4,
        "kept": {"train": 1, "test": 1},
        "dropped": {"equal answers": 2},
        "examples": {"equal answers": ("First? " * 20)[:80]},
    }
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    lines = [line.split(maxsplit=2) for line in str(report).splitlines()]
    assert lines[0] == ["examined", "4"]
    assert ["kept", "1", "train"] in lines and ["kept", "1", "test"] in lines
    assert lines[-1][:2] == ["dropped", "2"] and lines[-1][2].startswith("equal answers, e.g. 'First?")


def test_the_hash_sees_words_and_neither_case_nor_spacing():
    def hashed(*contents):
        return preference_data.prompt_hash({"prompt": [{"content": content} for content in contents]})

    assert hashed("What is it?") == hashed("  what IS\n\tit? ")
    assert hashed("What is it?") != hashed("What was it?")
    assert hashed("What is it?", "Why?") != hashed("Why?")


def test_the_hash_is_even():
    """A share of the hashes' range holds that share of the prompts: 1,000 prompts, three standard deviations."""
    hashes = [preference_data.prompt_hash({"prompt": [{"content": f"Question {number}?"}]}) for number in range(1000)]
    assert all(0 <= value < 1 for value in hashes)
    assert abs(sum(value < 0.2 for value in hashes) - 200) < 3 * (1000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("bad, column", [({"chosen": None}, "chosen"), ({"rejected": []}, "rejected")])
def test_fault_in_one_row_is_named_with_source_row_and_column(bad, column):
    rows = [raw_row(f"Question {number}?") | {"source": "capybara"} for number in range(20)]
    rows[13] |= bad
    message = rf"Row 13 \(counted from 0\) of train, source 'capybara': column {column} is "
    with pytest.raises(ValueError, match=message):
        preference_data.split_pairs(rows, None, 4, lambda pair: None)


@pytest.mark.parametrize("count, held_out", [(180, 36), (40, 8)])
def test_small_data_is_not_all_held_out(count, held_out):
    """200 pairs for evaluation are the default; of less data than that, a fifth is held out, give or take."""
    rows = [raw_row(f"Question {number}?") for number in range(count)]
    pairs, report = preference_data.split_pairs(rows, None, 200, lambda pair: None)
    assert held_out / 2 <= len(pairs["test"]) <= 2 * held_out
    assert len(pairs["train"]) + len(pairs["test"]) == count == report.examined
