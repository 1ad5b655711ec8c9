"""The rules of the sources against plain Python on their stand-ins' rows, and the choice of sources by name."""

from functools import cache

import pandas as pd
import pytest
from datasets import Dataset
from support import stand_ins

from utils.data.pairs import NotAPair, to_pair
from utils.data.sources import (
    BENCHMARKS,
    OTHERS,
    SEVEN,
    Source,
    apply_rule,
    choose_benchmarks,
    choose_sources,
)

EIGHTH = OTHERS[0]
# The rules once more, as plainly as can be: which rows are taken.
RULES = {
    "capybara": lambda row: row["rating_chosen"] >= 5,
    "intel-orca": lambda row: (
        row["chosen_score"] is not None and row["chosen_score"] >= 9 and not row["in_gsm8k_train"]
    ),
    "ultrafeedback": lambda row: row["chosen-rating"] >= 5,
    "math": lambda row: row["chosen_rating"] >= 9,
    "capybara-preferences": lambda row: row["chosen_rating"] >= 5,
}
MIXED = [*SEVEN, EIGHTH]


def by_name(name: str) -> Source:
    (source,) = [source for source in (*SEVEN, *OTHERS) if source.name == name]
    return source


@cache
def rows_of(repository: str) -> Dataset:
    """The rows of a stand-in, in all of their columns."""
    folder = stand_ins.ALL_DATA[repository]
    return Dataset.from_parquet(str(next(folder.rglob("train-*.parquet"))))


# --- the rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", MIXED, ids=lambda source: source.name)
def test_a_rule_takes_what_plain_python_takes(source):
    rows = rows_of(source.repository)
    ledger = apply_rule(source, rows)
    assert list(ledger.columns) == ["source", "row", "rating", "reason"]
    assert set(ledger.source) == {source.name} and list(ledger.row) == list(range(len(rows)))
    rule = RULES.get(source.name, lambda row: True)
    assert list(ledger.reason.isna()) == [rule(row) for row in rows]
    ratings = [row[source.rating] if source.rating else None for row in rows]
    assert [None if pd.isna(rating) else rating for rating in ledger.rating] == ratings


@pytest.mark.parametrize("source", MIXED, ids=lambda source: source.name)
def test_a_rule_drops_the_rows_that_were_planted_for_it_and_no_other_planted_one(source):
    ledger = apply_rule(source, rows_of(source.repository))
    for what, row in stand_ins.planted_rows(source.repository).items():
        expected = None
        if what == "score just below the threshold":
            expected = "score too low"
        elif what.startswith("no score"):  # also where the row is flagged
            expected = "no score"
        elif what.startswith("GSM8K") and what.endswith(", flagged"):
            expected = "in_gsm8k_train"
        assert ledger.reason[row] == expected or expected is None and pd.isna(ledger.reason[row]), what
    rated = [what for what in stand_ins.planted_rows(source.repository) if "threshold" in what]
    assert len(rated) == (2 if source.at_least else 0)


def test_each_missing_score_or_raised_flag_has_its_reason():
    """The first rule that a row trips over is the one that is told."""
    source = Source("made", "made", rating="score", at_least=9, unless="seen", best=10)
    scores = [9.0, 8.999, None, float("nan"), 10.0, 3.0, None, 9.0, 9.0]
    seen = [False, False, False, False, True, True, True, None, True]
    ledger = apply_rule(source, Dataset.from_dict({"score": scores, "seen": seen}))
    reasons = [None if pd.isna(reason) else reason for reason in ledger.reason]
    low, none = "score too low", "no score"
    assert reasons == [None, low, none, none, "seen", low, none, None, "seen"]
    assert ledger.rating.isna().tolist() == [score is None or score != score for score in scores]


# --- pairs -----------------------------------------------------------------------------------------------------

ANSWER_OF = {  # where the texts of the two answers stand
    "intel-orca": ("chosen", "rejected"),
    "math": ("chosen_response", "rejected_response"),
    "toxic": ("chosen", "rejected"),
    "prm": ("chosen", "rejected"),
    "truthy": ("chosen", "rejected"),
    "stack-exchange": ("response_j", "response_k"),
}


@pytest.mark.parametrize("source", [*SEVEN, *OTHERS], ids=lambda source: source.name)
def test_every_row_of_a_source_becomes_a_pair_with_its_own_answers(source):
    rows, pairs = rows_of(source.repository), 0
    assert set(source.needs) <= set(rows.column_names)
    for row in rows.select_columns(source.needs):
        try:
            pair = source.pair(row)
        except NotAPair as error:
            assert "prompts of the two sides differ" in str(error)
            continue
        pairs += 1
        assert list(pair) == ["source", "prompt", "chosen", "rejected"] and pair["source"] == source.name
        assert pair["prompt"][-1]["role"] == "user" and pair["prompt"][-1]["content"].strip()
        for side, column in zip(
            ("chosen", "rejected"), ANSWER_OF.get(source.name, ("chosen", "rejected")), strict=True
        ):
            ((answer,), found) = pair[side], row[column]
            if isinstance(found, list):
                assert found == pair["prompt"] + [answer]
            else:
                assert answer["role"] == "assistant" and found.endswith(answer["content"])
        if row.get("system"):
            assert pair["prompt"][0] == {"role": "system", "content": row["system"]}
    assert pairs >= len(rows) - sum("other prompt" in what for what in planted(source))


def planted(source: Source):
    return stand_ins.planted_rows(source.repository)


def test_a_source_may_bring_a_mapper_of_its_own():
    def upside_down(row):
        return to_pair(row | {"chosen": row["rejected"], "rejected": row["chosen"]})

    source = Source("made", "made", columns={"prompt": "q", "chosen": "a", "rejected": "b"}, mapper=upside_down)
    pair = source.pair({"q": "Hi?", "a": "Yes.", "b": "No."})
    assert pair["chosen"][0]["content"] == "No." and pair["source"] == "made"


# --- choosing --------------------------------------------------------------------------------------------------


def names_of(*names: str) -> list[str]:
    return [source.name for source in choose_sources(list(names))]


def test_sources_are_chosen_by_name_hub_id_or_path(tmp_path):
    assert names_of("mix") == ["capybara", "intel-orca", "ultrafeedback", "math", "prm", "truthy"]
    assert names_of("mix", "toxic")[-1] == "toxic" and names_of("truthy", "math") == ["truthy", "math"]
    known = [*SEVEN, *OTHERS]
    for source in known:
        assert choose_sources([source.name]) == choose_sources([source.repository]) == [source]
    assert len({source.name for source in known}) == len({source.repository for source in known}) == 11
    assert choose_sources(["somebody/dpo-v0.2", "math"]) == [Source("dpo-v0.2", "somebody/dpo-v0.2"), by_name("math")]
    (tmp_path / "my.pairs.jsonl").touch()
    (tmp_path / "v0.2").mkdir()
    files = [str(tmp_path / "my.pairs.jsonl"), str(tmp_path / "v0.2"), str(tmp_path) + "/"]
    assert names_of(*files) == ["my.pairs", "v0.2", tmp_path.name]


@pytest.mark.parametrize(
    "names, told",
    [
        (["math", "ultrafeedbak"], "SOURCES: ultrafeedbak is no file or folder here, .* none of mix, capybara"),
        (["mix", "math"], "SOURCES has math twice: take one out, or rename a file"),
        (["math", "somebody/math"], "SOURCES has math twice"),
        ([], "SOURCES is empty: name one or more of mix, capybara"),
    ],
)
def test_what_cannot_be_chosen_is_told(names, told):
    with pytest.raises(ValueError, match=told):
        choose_sources(names)


def test_benchmarks_are_chosen_by_name():
    assert choose_benchmarks(["all"]) == BENCHMARKS and choose_benchmarks([]) == []
    assert [benchmark.repository for benchmark in choose_benchmarks(["mmlu", "arc"])] == [
        "cais/mmlu",
        "allenai/ai2_arc",
    ]
    with pytest.raises(ValueError, match="There is no benchmark mmul, squad. Choose from gsm8k, truthfulqa, arc"):
        choose_benchmarks(["squad", "arc", "mmul"])
