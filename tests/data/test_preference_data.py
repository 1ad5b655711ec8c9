"""Rows of every form become pairs or an error, and every row that is examined is accounted for."""

import json
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset, Features, Json, Value, disable_progress_bars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import stand_ins
from support.mixing import cleaned, examined

from utils import hub as hub_access
from utils.data import chat_format, loading, mix_files
from utils.data import mix as mixing
from utils.data import pairs as preference_data
from utils.data.mix import BROKEN
from utils.data.overlap import BenchmarkIndex
from utils.data.pairs import NotAPair
from utils.data.sources import SEVEN
from utils.practice import small_world

disable_progress_bars()


def raw_row(question: str, chosen: str = "Yes.", rejected: str = "Perhaps.") -> dict:
    """A row of plain text; the other forms are tested with `pair_formats`."""
    return {"source": "test", "prompt": question, "chosen": chosen, "rejected": rejected}


def words(pair: dict) -> str:
    """A prompt's words: what may stand on one side only."""
    return " ".join(" ".join(message["content"] for message in pair["prompt"]).lower().split())


def account_is_complete(report) -> bool:
    told = report.as_dict()
    return sum(told["kept"].values()) + sum(told["dropped"].values()) == told["examined"] == len(report.ledger)


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
    loaded, test_rows = loading.load_splits(str(path))
    assert list(loaded) == rows and test_rows is None
    with pytest.raises(ValueError, match="no split 'train_prefs': set split to one of train"):
        loading.load_splits(str(path), split="train_prefs")


def test_a_data_set_of_several_configurations_asks_which(tmp_path, rows):
    for name, part in (("easy", rows[:2]), ("hard", rows[2:])):
        (tmp_path / name).mkdir()
        Dataset.from_list(part).to_parquet(tmp_path / name / "train.parquet")
    listed = "".join(f"\n- config_name: {name}\n  data_files: {name}/*.parquet" for name in ("easy", "hard"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:{listed}\n---\n")
    assert list(loading.load_splits(str(tmp_path), config="hard")[0]) == rows[2:]
    for config in (None, "other"):
        with pytest.raises(ValueError, match="is none of them: set config to one of easy, hard"):
            loading.load_splits(str(tmp_path), config=config)


def test_fault_a_data_set_with_a_script_is_refused_and_nothing_runs(hub, tmp_path, rows):
    name, ran = "some-lab/with-script", tmp_path / "ran"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "with-script.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")
    hub.add_repo(name, "dataset", exist_ok=True)
    hub.commit_folder(name, tmp_path / "data", repo_type="dataset")
    commit = hub_access.describe_repository(name, "dataset").commit
    with pytest.raises(ValueError, match="without running its code, which the course never does.*with-script.py"):
        loading.load_splits(name, commit)
    assert not ran.exists()


# --- choosing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mix():
    """The stand-in mix: 480 rows, of which 12 are too long for 1024 tokens."""
    return loading.load_splits(str(stand_ins.ALL_DATA[stand_ins.ORPO_MIX]))[0]


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
    assert report.as_dict()["dropped"] == dropped
    assert report.as_dict()["examined"] == len(mix) + len(held_out) and account_is_complete(report)
    assert len(pairs["train"]) == report.as_dict()["kept"]["train"] == len(mix) - sum(dropped.values())
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
        assert report.as_dict()["dropped"] == {reason: len(rows) for reason, rows in bad.items()}
        assert account_is_complete(report)
        kept = [words(pair) for part in pairs.values() for pair in part]
        assert kept and all(prompt.startswith("good") for prompt in kept)


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
    rows, eval_rows = loading.load_splits(str(stand_ins.ALL_DATA[stand_ins.DPO_MIX]))
    shared = [{words(preference_data.to_pair(row)) for row in part} for part in (rows, eval_rows)]
    assert shared[0] & shared[1]
    pairs, report = preference_data.split_pairs(rows, None, 60, lambda pair: None, eval_rows=eval_rows)
    train, test = ({words(pair) for pair in pairs[name]} for name in ("train", "test"))
    assert train and test and not train & test
    assert account_is_complete(report) and sum(report.as_dict()["dropped"].values()) > 0


def test_a_test_split_is_what_is_evaluated_on(mix, held_out):
    pairs, report = preference_data.split_pairs(mix, 300, 15, lambda pair: None, eval_rows=held_out)
    assert report.as_dict()["kept"] == {"train": 300, "test": 15}
    assert {words(pair) for pair in pairs["test"]} <= {f"held out {number}?" for number in range(20)}
    assert not any(words(pair).startswith("held out") for pair in pairs["train"])


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


# --- the account and the hash ----------------------------------------------------------------------------------


def test_the_report_names_reasons_with_an_example():
    rows = [raw_row(f"Good {number}?") for number in range(3)] + [raw_row("Bad? " * 30, "same", "same")] * 2
    held_out = Dataset.from_list([raw_row("Held out?")])
    _, report = preference_data.split_pairs(
        Dataset.from_list(rows), None, 1, preference_data.answer_problem, eval_rows=held_out
    )
    told = report.as_dict()
    assert told == {
        "examined": 6,
        "kept": {"train": 3, "test": 1},
        "dropped": {"equal answers": 2},
        "examples": {"equal answers": ("Bad? " * 30)[:80]},
    }
    assert json.loads(json.dumps(told)) == told
    assert "equal answers, e.g. 'Bad?" in str(report)


def test_the_hash_sees_words_and_neither_case_nor_spacing():
    def hashed(*contents):
        return preference_data.prompt_hash({"prompt": [{"content": content} for content in contents]})

    assert hashed("What is it?") == hashed("  what IS\n\tit? ")
    assert hashed("What is it?") != hashed("What was it?")
    assert hashed("What is it?", "Why?") != hashed("Why?")


@pytest.mark.parametrize("bad, column", [({"chosen": None}, "chosen"), ({"rejected": []}, "rejected")])
def test_fault_in_one_row_is_named_with_source_row_and_column(bad, column):
    rows = [raw_row(f"Question {number}?") | {"source": "capybara"} for number in range(20)]
    rows[13] |= bad
    message = rf"Row 13 \(counted from 0\) of train, source 'capybara': column {column} is "
    with pytest.raises(ValueError, match=message):
        preference_data.split_pairs(rows, None, 4, lambda pair: None)


# --- random rows -----------------------------------------------------------------------------------------------

# The same examples every time, and no clock: a slow machine is no fault.
STEADY = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
ODD_TEXTS = [
    "",
    " \n",
    "\x00",
    "\x1b[0m\u202e",
    "e\u0301 \ufeff",
    "🙂👩\u200d🚀",
    "二加三等于几？",
    "word " * 3000,
    "x" * 9000,
]
ODD_TEXTS += [
    "<|end_of_text|>",
    "<|im_start|>user",
    "Human: a\n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant: b",
    "nan",
    "[]",
]
COMMON_TEXTS = [
    "Why?",
    "  WHY? ",
    "Who are you, and what do you want?",
    "who are you and what do you want",
    "Yes.",
    "No.",
]
TEXTS = st.sampled_from(COMMON_TEXTS) | st.sampled_from(ODD_TEXTS) | st.text(max_size=40)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "User", "", "<|end_of_text|>"])
WRONG = (
    st.none() | st.integers(-5, 5) | st.booleans() | st.just([]) | st.just({}) | st.lists(st.none() | TEXTS, max_size=2)
)
MESSAGES = st.fixed_dictionaries({}, optional={"role": ROLES | st.none(), "content": TEXTS | st.none(), "name": TEXTS})
SCORES = st.none() | st.sampled_from([1.0, 4.5, 5.0, 8.5, 9.0, 10.0]) | st.floats(allow_nan=True, allow_infinity=True)


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


@st.composite
def talks(draw) -> dict:
    """Two whole conversations, mostly with the same prompt."""
    asked = [turn("user", draw(TEXTS)) for _ in range(draw(st.integers(1, 3)))]
    talk = [message for question in asked for message in (question, turn("assistant", draw(TEXTS)))][:-1]
    talk = [*([turn("system", draw(TEXTS))] if draw(st.booleans()) else []), *talk]
    other = talk if draw(st.integers(0, 4)) else talk[:-1]
    chosen, rejected = draw(TEXTS), draw(TEXTS)
    return {"chosen": [*talk, turn("assistant", chosen)], "rejected": [*other, turn("assistant", rejected)]}


@st.composite
def rows_of_a_source(draw, source) -> dict:
    """A row in a source's own columns, sound or broken in one or more of them."""
    row = draw(talks()) if "prompt" not in source.columns else {name: draw(TEXTS) for name in source.columns}
    row = {source.columns[name]: value for name, value in row.items()}
    for column in row:
        if not draw(st.integers(0, 7)):
            row[column] = draw(WRONG | st.lists(MESSAGES, max_size=3))
    row |= {source.rating: draw(SCORES)} if source.rating else {}
    return row | ({source.unless: draw(st.none() | st.booleans())} if source.unless else {})


MIXES = st.fixed_dictionaries({source.name: st.lists(rows_of_a_source(source), max_size=6) for source in SEVEN})


def as_table(source, rows: list[dict]) -> Dataset:
    """Rows of any types in one table, as JSON lines would be read."""
    types = {column: Json() for column in source.columns.values()}
    types |= {source.rating: Value("float64")} if source.rating else {}
    types |= {source.unless: Value("bool")} if source.unless else {}
    columns = {
        column: [json.dumps(row[column]) if isinstance(kind, Json) else row[column] for row in rows]
        for column, kind in types.items()
    }
    return Dataset.from_dict(columns, features=Features(types))


class Tokenizers:
    """Tokenizers by name, in a thing that is written in one line where an example fails."""

    def __init__(self, by_name: dict):
        self.by_name = by_name


@pytest.fixture(scope="module")
def tokenizers(tokenizer) -> Tokenizers:
    """The stand-in base's tokenizer, and others of the kinds that Phi, Qwen and Llama 2 have."""
    texts = small_world.pretraining_text(300, 0)
    makers = [stand_ins.phi_tokenizer, stand_ins.qwen_tokenizer, stand_ins.llama_2_tokenizer]
    made = {make.__name__: chat_format.prepare_tokenizer(make(texts), 2000) for make in makers}
    return Tokenizers({"llama_3_tokenizer": tokenizer, **made})


@settings(max_examples=150, **STEADY)
@given(data=st.data())
def test_any_row_is_a_pair_or_says_why_it_is_none(data):
    source = data.draw(st.sampled_from(SEVEN))
    row = data.draw(rows_of_a_source(source))
    try:
        pair = source.pair(row)
    except NotAPair as error:
        assert str(error) in mixing.REASONS
        return
    except ValueError as error:
        assert re.match("column (prompt|chosen|rejected) (is|holds) .* The row has the columns", str(error), re.DOTALL)
        return
    assert pair["prompt"][-1]["role"] == "user" and pair["source"] == source.name
    assert [[answer["role"] for answer in pair[side]] for side in ("chosen", "rejected")] == [["assistant"]] * 2
    assert all(
        isinstance(message["content"], str) for part in ("prompt", "chosen", "rejected") for message in pair[part]
    )


@pytest.mark.timeout(180)
@settings(max_examples=12, **STEADY)
@given(rows=MIXES)
def test_whatever_comes_in_is_kept_or_dropped_for_a_reason(tokenizers, rows):
    tokenizer = tokenizers.by_name["llama_3_tokenizer"]
    index = BenchmarkIndex({"made": [["Who are you, and what do you want?"]]})
    sources = [replace(source, rows=as_table(source, rows[source.name])) for source in SEVEN]
    assert [dict(row) for row in sources[4].rows] == rows["toxic"]  # nothing is lost on the way
    ledger, pairs = examined(sources, tokenizer, index)
    ledger = cleaned(ledger, pairs, SEVEN, max_length=200)
    assert Counter(ledger.source) == Counter({name: len(part) for name, part in rows.items() if part})
    assert set(ledger.reason.dropna()) <= set(mixing.REASONS)
    assert (ledger.told.notna() == (ledger.reason == BROKEN)).all()
    kept = ledger[ledger.reason.isna()]
    prompts = []
    for line in kept.itertuples():
        pair = pairs[int(line.pair)]
        assert preference_data.answer_problem(pair) is None
        assert chat_format.length_problem(pair, tokenizer, 200) is None
        assert (line.source, line.row) == (pair["source"], pair["row"])
        prompts.append(words(pair))
    assert len(set(prompts)) == len(prompts)
    try:
        mixing.split_mix(ledger, 0.5)
    except ValueError as error:
        sides = ledger.split.dropna().unique()
        assert len(sides) < 2 and f"{len(kept)} of {len(ledger)} rows are kept" in str(error)
    assert (ledger.split.notna() == ledger.reason.isna()).all()
    found = [replace(source, origin=hub_access.Repository("x", "c" * 40)) for source in SEVEN]
    base = SimpleNamespace(name="base", commit=None)
    counts = mix_files.mix_report(ledger, found, [], tokenizer, base, {})["sources"]  # refuses if a row vanished
    assert sum(entry["train"] + entry["test"] for entry in counts.values()) == len(kept)
    if rows["math"]:  # the same again
        once_more, _ = examined(sources, tokenizer, index)
        columns = ["source", "row", "reason", "hash", "twin", "prompt_tokens"]
        again = cleaned(once_more, pairs, SEVEN, max_length=200)
        pd.testing.assert_frame_equal(again[columns], ledger[columns])


# --- tokens of whole talks ----------------------------------------------------------------------------------


MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<s>",
    "<unk>",
    "▁",
    "\n<|im_start|>assistant\n",
    "  a",
    "\u0301b",
]
SPOKEN = st.lists(TEXTS | st.sampled_from(MARKS), max_size=3).map("".join)


@st.composite
def pairs_to_count(draw) -> dict:
    prompt = [turn(draw(ROLES), draw(SPOKEN)) for _ in range(draw(st.integers(1, 4)))]
    return {"prompt": prompt} | {side: [turn("assistant", draw(SPOKEN))] for side in ("chosen", "rejected")}


@settings(max_examples=40, **STEADY)
@given(pairs=st.lists(pairs_to_count(), max_size=3))
def test_tokens_are_those_of_whole_talks(tokenizers, pairs):
    """On tokenizers with and without a begin token, a normalizer, and a mark of their own at the start of a text."""
    for name, tokenizer in tokenizers.by_name.items():
        for pair, (prompt, *answers) in zip(pairs, chat_format.batch_lengths(pairs, tokenizer), strict=True):
            head = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=False)
            assert len(head) == prompt, name
            for side, tokens in zip(("chosen", "rejected"), answers, strict=True):
                talk = pair["prompt"] + pair[side]
                assert len(tokenizer.apply_chat_template(talk, return_dict=False)) == prompt + tokens, name
