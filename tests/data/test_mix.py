"""From rows to a mix: every planted row ends with the reason it was planted for, and every step keeps its account.

`examined` and `cleaned` take the steps of notebook 02; other test files use them too.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from support import stand_ins

from utils.data import benchmark_items, chat_format, mix_figures, overlap
from utils.data import mix as mixing
from utils.data import pairs as preference_data
from utils.data.examining import BROKEN, examine
from utils.data.loading import find, load
from utils.data.mix import REASONS, drop
from utils.data.overlap import BenchmarkIndex
from utils.data.sources import ANSWERS, SEVEN, TEXTS, Source, apply_rule

disable_progress_bars()
EIGHTH = Source("eighth", "argilla/Capybara-Preferences", ANSWERS, rating="chosen_rating", at_least=5, published=7424)
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "02_mix_preference_data.ipynb"


def examined(chosen: list[tuple[Source, Dataset]], tokenizer, index) -> tuple[pd.DataFrame, Dataset]:
    """Apply the rules, examine, and enter what was found: the ledger, and the pairs that it speaks of."""
    tables = [(source, rows.select_columns(source.needs)) for source, rows in chosen]
    parts = [apply_rule(source, rows) for source, rows in tables]
    looks = [examine(*table, part, tokenizer, index) for table, part in zip(tables, parts, strict=True)]
    pairs = concatenate_datasets(looks)
    return mixing.enter(pd.concat(parts, ignore_index=True), pairs), pairs


def cleaned(ledger, pairs, chosen: list[Source], max_length: int = 1024, threshold: float = 0.8):
    """Drop what is too long, stands there twice, or holds an item of a benchmark."""
    whole = ledger.prompt_tokens + ledger[["chosen_tokens", "rejected_tokens"]].max(axis=1)
    drop(ledger, ledger.prompt_tokens >= max_length, "prompt too long")
    drop(ledger, whole > max_length, "answer too long")
    drop(ledger, ledger.item.notna(), "in a benchmark")
    for reason, look in {
        "same prompt": lambda order: mixing.same_prompts(ledger, order),
        "near duplicate": lambda order: mixing.near_duplicates(ledger, pairs, order, threshold),
    }.items():
        twins = look(mixing.best_first(ledger, chosen))
        ledger["twin"] = ledger.twin.where(twins < 0, twins)
        drop(ledger, twins >= 0, reason)
    return ledger


def reason_of(ledger, line) -> str | None:
    reason = ledger.reason[line]
    return None if pd.isna(reason) else reason


# --- the stand-ins ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in_rows(hub) -> list[tuple[Source, Dataset]]:
    """The seven sources and an eighth, as they are loaded."""
    return [load(source, find(source)) for source in (*SEVEN, EIGHTH)]


@pytest.fixture(scope="module")
def index(hub) -> BenchmarkIndex:
    """The items of the six benchmarks."""
    return BenchmarkIndex({each.name: benchmark_items.load_items(each, None) for each in benchmark_items.BENCHMARKS})


@pytest.fixture(scope="module")
def mix(stand_in_rows, index, tokenizer) -> SimpleNamespace:
    """All of it mixed and split; tests leave it as it is."""
    ledger, pairs = examined(stand_in_rows, tokenizer, index)
    cleaned(ledger, pairs, [source for source, _ in stand_in_rows])
    mixing.split(ledger, 0.15)
    return SimpleNamespace(ledger=ledger, pairs=pairs, rows={source.name: rows for source, rows in stand_in_rows})


PLANTED = {  # how the name of a planted row begins -> how the row ends; the first that fits
    "score at the threshold": None,
    "score just below the threshold": "score too low",
    "tie": None,
    "no score": "no score",
    "empty chosen": "empty answer",
    "equal answers": "equal answers",
    "answers equal but for white space": "equal answers",
    "other prompt on the rejected side": "prompts of the two sides differ",
    "several turns": None,
    "system message": None,
    "chosen is not correct": None,
    "prompt too long": "prompt too long",
    "20,000 characters in the prompt": "prompt too long",
    "answer too long": "answer too long",
    "20,000 characters in the answer": "answer too long",
    "emoji": None,
    "combining marks": None,
    "Chinese and Japanese": None,
    "right to left": None,
    "text of a special token": "text of a special token",
    "duplicate": "same prompt",
    "near duplicate": "near duplicate",
    "benchmark item": "in a benchmark",
    "short benchmark question": "in a benchmark",
    "GSM8K's train question": "in_gsm8k_train",
}


@pytest.mark.parametrize("source", [*SEVEN, EIGHTH], ids=lambda source: source.name)
def test_every_planted_row_ends_as_it_was_planted_for(mix, source):
    lines = mix.ledger[mix.ledger.source == source.name].reset_index(drop=True)
    expected = {}
    for what, row in stand_ins.planted_rows(source.repository).items():
        reason = next(PLANTED[begin] for begin in PLANTED if what.startswith(begin))
        if what.endswith((": best", ", not flagged")):
            reason = None
        expected[what] = reason
        assert reason_of(lines, row) == reason, what
    ordinary = lines.drop(list(stand_ins.planted_rows(source.repository).values()))
    assert set(ordinary.reason.dropna()) <= {"score too low"} and ordinary.reason.isna().mean() > 0.5
    assert source.name == "toxic" or expected


def test_every_reason_but_four_is_planted(mix):
    """Nothing can be broken in a table of one type, and no cap is set."""
    assert set(REASONS) - set(mix.ledger.reason.dropna()) == {
        BROKEN,
        "does not end with an answer",
        "no question before the answer",
        "over the cap",
    }


def test_of_duplicates_the_best_is_kept_across_two_scales(mix):
    """A 5 of 5 before a 9 of 10, a 10 of 10 before a 9 of 10, and whatever is rated before what is not."""
    groups = {}
    for source in SEVEN:
        for what, row in stand_ins.planted_rows(source.repository).items():
            if "duplicate" in what:
                group, place = what.split(": ")
                line = mix.ledger.index[(mix.ledger.source == source.name) & (mix.ledger.row == row)][0]
                groups.setdefault(group, {})[place] = line
    assert len(groups) == 6
    for lines in groups.values():
        best = lines.pop("best")
        assert mix.ledger.twin[best] == -1 and lines
        assert all(mix.ledger.twin[line] == best for line in lines.values())
    assert (mix.ledger.twin >= 0).sum() == sum(len(lines) for lines in groups.values())


def test_kept_and_dropped_are_what_came_in(mix):
    ledger = mix.ledger
    assert Counter(ledger.source) == {name: len(rows) for name, rows in mix.rows.items()}
    dropped = ledger.reason.notna()
    assert set(ledger.reason[dropped]) <= set(REASONS) and ledger.split[dropped].isna().all()
    assert set(ledger.split[~dropped]) == {"train", "test"}
    assert (ledger.pair >= 0).sum() == len(mix.pairs) and (ledger.pair[~dropped] >= 0).all()
    table = mix_figures.account(ledger, REASONS).set_index("source")
    assert (table["rows in"] == table.drop(columns="rows in").sum(axis=1)).all()


def test_the_ledger_points_at_its_pairs(mix):
    for line in mix.ledger[mix.ledger.pair >= 0].itertuples():
        pair = mix.pairs[int(line.pair)]
        assert (pair["source"], pair["row"]) == (line.source, line.row)
        if pair["prompt"]:
            assert (pair["hash"], pair["prompt_tokens"]) == (line.hash, line.prompt_tokens)
    assert mix.ledger.prompt_tokens.isna().sum() == sum(
        reason in ("no score", "score too low", "in_gsm8k_train", "prompts of the two sides differ")
        for reason in mix.ledger.reason
    )


def test_what_is_kept_is_sound(mix, index, tokenizer):
    kept = mix.ledger[mix.ledger.reason.isna()]
    prompts = Counter()
    for number in kept.pair:
        pair = mix.pairs[int(number)]
        assert preference_data.answer_problem(pair) is None
        assert chat_format.length_problem(pair, tokenizer, 1024) is None
        texts = [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]
        assert index.match(texts, pair["prompt"][-1]["content"]) is None
        prompts[preference_data.prompt_hash(pair)] += 1
    assert max(prompts.values()) == 1 and len(prompts) > 500


def test_the_same_rows_give_the_same_mix(mix, stand_in_rows, index, tokenizer):
    ledger, pairs = examined(stand_in_rows, tokenizer, index)
    mixing.split(cleaned(ledger, pairs, [source for source, _ in stand_in_rows]), 0.15)
    pd.testing.assert_frame_equal(ledger, mix.ledger)


# --- the order of the reasons ----------------------------------------------------------------------------------

ITEM = "a farmer has seven red hens and each of them lays two eggs every day so how many eggs are there"
LONG_QUESTION = " ".join(f"number{n} and number{n + 1}" for n in range(40))


def test_a_row_is_dropped_for_the_first_reason_that_it_trips_over(tmp_path, tokenizer):
    """Each row has the fault that it is named for, and as many of the later ones as can be."""
    end, long = "<|end_of_text|>", "word " * 1200
    rows = {
        "no score": (None, True, "Q0?", "", ""),
        "score too low": (4, True, "Q1?", "Yes.", "Yes."),
        "in_gsm8k_train": (5, True, "Q2?", None, "Yes."),
        BROKEN: (5, False, ITEM, None, ""),
        "empty answer": (5, False, ITEM, "", end),
        "equal answers": (5, False, ITEM, f"{end} {long}", f"{end} {long}"),
        "text of a special token": (5, False, long, end, long),
        "prompt too long": (5, False, f"{long} {ITEM}", long, "No."),
        "answer too long": (5, False, ITEM, long, "No."),
        "in a benchmark": (6, False, LONG_QUESTION, f"Yes, {ITEM}", "No."),
        "same prompt": (5, False, LONG_QUESTION.upper(), "Yes.", "No."),
        "near duplicate": (5, False, f"{LONG_QUESTION} please", "Yes.", "No."),
        "over the cap": (6, False, LONG_QUESTION, "Yes.", "No."),
    }
    columns = ["score", "in_gsm8k_train", "prompt", "chosen", "rejected"]
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows.values()]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rule = {"rating": "score", "best": 6, "at_least": 5, "unless": "in_gsm8k_train"}
    source = Source("made", str(tmp_path / "rows.jsonl"), TEXTS, **rule)
    source, table = load(source, find(source))
    ledger, pairs = examined([(source, table)], tokenizer, BenchmarkIndex({"farm": [[ITEM]]}))
    cleaned(ledger, pairs, [source])
    drop(ledger, mixing.over_caps(ledger, {"made": 0}, 1), "over the cap")
    assert list(ledger.reason) == list(rows) == [reason for reason in REASONS if reason in rows]
    assert ledger.item.notna().sum() == 5  # whatever they are dropped for


def test_a_clean_copy_outlives_one_that_holds_an_item(tokenizer):
    """The better rated copy goes for its answer; were copies looked for first, the clean one would go with it."""
    rows = [
        {"prompt": "Why?", "chosen": answer, "rejected": "No.", "score": score}
        for answer, score in ((ITEM, 5), ("So.", 4))
    ]
    source = Source("made", "", TEXTS, rating="score")
    ledger, pairs = examined([(source, Dataset.from_list(rows))], tokenizer, BenchmarkIndex({"farm": [[ITEM]]}))
    assert [reason_of(cleaned(ledger, pairs, [source]), line) for line in (0, 1)] == ["in a benchmark", None]


# --- the steps by themselves -----------------------------------------------------------------------------------


def ledger_of(*lines: dict) -> pd.DataFrame:
    """A ledger of made-up lines, as `enter` would leave it."""
    frame = pd.DataFrame({"source": [line.get("source", "a") for line in lines]})
    frame["row"] = frame.groupby("source").cumcount()
    frame["rating"] = [line.get("rating", float("nan")) for line in lines]
    frame["reason"] = pd.Series([line.get("reason") for line in lines], dtype=object, index=frame.index)
    frame["hash"] = [line.get("hash", (number + 0.5) / len(lines)) for number, line in enumerate(lines)]
    frame["pair"], frame["twin"] = range(len(lines)), -1
    return frame


def test_a_reason_is_never_written_over():
    ledger = ledger_of({}, {"reason": "equal answers"}, {}, {})
    everything = pd.Series(True, index=ledger.index)
    assert drop(ledger, everything & (ledger.row < 2), "prompt too long") == 1
    assert list(ledger.reason[:2]) == ["prompt too long", "equal answers"]
    assert drop(ledger, everything, pd.Series(list("wxyz"))) == 2  # a reason for each
    assert list(ledger.reason) == ["prompt too long", "equal answers", "y", "z"]
    assert drop(ledger, everything, "over the cap") == 0 == drop(ledger, ~everything, "over the cap")


def test_pairs_of_another_ledger_are_refused(tokenizer):
    source = Source("made", "made", TEXTS, rating="score", at_least=5)
    rows = [{"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No.", "score": n} for n in range(4, 8)]
    table = Dataset.from_list(rows)
    part = apply_rule(source, table)
    pairs = examine(source, table, part, tokenizer, BenchmarkIndex({}))
    with pytest.raises(
        ValueError, match="The ledger keeps 3 rows, and 2 were examined.*Make the ledger from its parts"
    ):
        mixing.enter(part, pairs.select([0, 1]))
    ledger = mixing.enter(part, pairs)
    assert list(ledger.pair) == [-1, 0, 1, 2] and list(ledger.twin) == [-1] * 4 and "pair" not in part
    with pytest.raises(ValueError, match="they go together once"):  # the cell was run twice
        mixing.enter(ledger, pairs)


def test_the_best_rated_come_first_on_one_scale():
    five, ten = Source("five", "", best=5), Source("ten", "", best=10)
    ledger = ledger_of(
        {"source": "ten", "rating": 9},  # 8/9
        {"source": "five", "rating": 4},  # 3/4
        {"source": "none"},
        {"source": "five", "rating": 5},  # 1
        {"source": "ten", "rating": 10},  # 1, and a later source
        {"source": "five", "rating": 5, "reason": "equal answers"},
        {"source": "ten", "rating": 1},  # 0
        {"source": "five", "rating": 0.5},  # below the scale, and still rated
        {"source": "none"},
    )
    order = mixing.best_first(ledger, [five, ten, Source("none", "")])
    assert list(order) == [3, 4, 0, 1, 6, 7, 2, 8]
    assert list(mixing.best_first(ledger.drop(columns="rating").assign(rating=float("nan")), [five])) == [
        line for line in range(9) if line != 5
    ]


def test_same_prompts_are_found_among_what_is_kept():
    ledger = ledger_of({"hash": 0.3}, {"hash": 0.3}, {"hash": 0.3, "reason": "x"}, {"hash": 0.7}, {"hash": 0.3})
    assert list(mixing.same_prompts(ledger, pd.Index([4, 0, 1, 3]))) == [4, 4, -1, -1, -1]
    assert list(mixing.same_prompts(ledger, pd.Index([0, 1, 3, 4]))) == [-1, 0, -1, -1, 0]
    dropped = ledger_of({"hash": 0.3, "reason": "x"}, {"hash": float("nan"), "reason": "y"})
    assert list(mixing.same_prompts(dropped, dropped.index[:0])) == [-1, -1]


def test_case_and_spacing_make_no_other_prompt(tokenizer):
    prompts = ["Why is it so?", "  why IS\nit so? ", "Why is it  so?", "Why is it so!"]
    rows = Dataset.from_list([{"prompt": text, "chosen": "Yes.", "rejected": "No."} for text in prompts])
    source = Source("made", "made", TEXTS)
    ledger, pairs = examined([(source, rows)], tokenizer, BenchmarkIndex({}))
    assert list(cleaned(ledger, pairs, [source]).twin) == [-1, 0, 0, 0]
    assert list(ledger.reason[1:]) == ["same prompt", "same prompt", "near duplicate"]


def sketches(*texts: str) -> Dataset:
    signatures = [overlap.signature(overlap.numbers(overlap.words(text))) for text in texts]
    return Dataset.from_dict({"signature": signatures})


def test_near_duplicates_point_at_lines_and_not_at_pairs():
    """Where a rule has dropped rows, a line and its pair have different numbers."""
    ledger = ledger_of({"reason": "score too low"}, {}, {"reason": "score too low"}, {}, {"reason": "empty answer"}, {})
    ledger["pair"] = [-1, 0, -1, 1, 2, 3]
    pairs = sketches(LONG_QUESTION, f"{LONG_QUESTION} please", LONG_QUESTION, ITEM)
    for order, expected in (([1, 3, 5], [-1, -1, -1, 1, -1, -1]), ([3, 5, 1], [-1, 3, -1, -1, -1, -1])):
        assert list(mixing.near_duplicates(ledger, pairs, pd.Index(order), 0.8)) == expected
    assert list(mixing.near_duplicates(ledger, pairs, pd.Index([1, 3, 5]), 1.0)) == [-1] * 6
    ledger["pair"] = -1
    assert list(mixing.near_duplicates(ledger, pairs.select([]), ledger.index[:0], 0.8)) == [-1] * 6


# --- the window ------------------------------------------------------------------------------------------------


def cell_with(text: str) -> str:
    """The code cell of the notebook that holds a text."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    (source,) = [
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and text in str(cell["source"])
    ]
    return source


def test_max_length_decides_exactly(tokenizer):
    """At each length around a pair's own, what notebook 02 says of it is what the trainer's filter would."""
    source = Source("made", "made", TEXTS)
    rows = [
        {"prompt": "Why is the sea salt?", "chosen": "Because of the rivers, over time.", "rejected": "No."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "Nobody can say why that is, can they?"},
    ]
    ledger, pairs = examined([(source, Dataset.from_list(rows))], tokenizer, BenchmarkIndex({}))
    nothing = SimpleNamespace(show=lambda *_: None, plot_lengths=lambda *_, **__: [])
    code, seen = compile(cell_with('"prompt too long"'), "cell", "exec"), Counter()
    for line, pair in enumerate(pairs):
        prompt, *answers = chat_format.pair_lengths(pair, tokenizer)
        for edge in (prompt, prompt + min(answers), prompt + max(answers)):
            for max_length in (edge - 1, edge, edge + 1):
                copy = ledger.copy()
                names = {
                    "ledger": copy,
                    "MAX_LENGTH": max_length,
                    "mixing": mixing,
                    "json": json,
                    "pd": pd,
                    "ROOT": ROOT,
                }
                exec(code, names | {"figures": nothing, "mix_figures": nothing})
                expected = chat_format.length_problem(pair, tokenizer, max_length)
                assert (
                    reason_of(copy, line)
                    == expected
                    == reason_of(cleaned(ledger.copy(), pairs, [source], max_length), line)
                )
                seen[expected] += 1
    assert set(seen) == {None, "prompt too long", "answer too long"} and min(seen.values()) >= 4


# --- caps ------------------------------------------------------------------------------------------------------


def many(**counts: int) -> pd.DataFrame:
    return ledger_of(*({"source": name} for name, count in counts.items() for _ in range(count)))


def rows_over(ledger, caps, seed=42, source="a") -> set[int]:
    over = mixing.over_caps(ledger, caps, seed)
    assert not over[ledger.reason.notna()].any() and set(ledger.source[over]) <= set(caps)
    return set(ledger.row[over & (ledger.source == source)])


@pytest.mark.parametrize(
    "cap, kept", [(30, 30), (30.7, 30), (1, 1), (0.25, 20), (0.999, 80), (0, 0), (80, 80), (10**6, 80)]
)
def test_a_cap_is_a_number_of_rows_or_a_share(cap, kept):
    ledger = many(a=100, b=50)
    drop(ledger, (ledger.source == "a") & (ledger.row % 5 == 0), "empty answer")
    assert len(rows_over(ledger, {"a": cap})) == 80 - kept
    assert not mixing.over_caps(ledger, {}, 1).any()


def test_a_draw_does_not_depend_on_other_sources():
    alone, caps = rows_over(many(a=100), {"a": 30}), {"a": 30, "b": 10}
    assert rows_over(many(b=77, a=100, c=5), caps) == rows_over(many(a=100, b=5000), caps) == alone
    assert rows_over(many(a=100), {"a": 30}, seed=43) != alone


def test_a_row_that_is_dropped_for_another_source_changes_the_draw_by_one():
    """A duplicate in a source that comes or goes must not turn the whole mix over."""
    ledger = many(a=100)
    before = set(range(100)) - rows_over(ledger, {"a": 30})
    gone = min(before)
    drop(ledger, ledger.row == gone, "same prompt")
    after = set(range(100)) - {gone} - rows_over(ledger, {"a": 30})
    assert len(before) == len(after) == 30 and before - after == {gone} and len(after - before) == 1


@pytest.mark.parametrize("caps", [{"c": 5}, {"a": -1}, {"a": 5, "ultrafeedbak": 5000}])
def test_a_cap_of_no_source_or_of_less_than_nothing_is_refused(caps):
    name, cap = list(caps.items())[-1]
    with pytest.raises(ValueError, match=rf"CAPS = \{{'{name}': {cap}\}}: take rows, or a share up to 1.0, of a, b\."):
        mixing.check_parameters([Source("a", ""), Source("b", "")], caps, 0.8, 0.02)


@pytest.mark.parametrize("cap, left", [(1, 1), (1.0, 40), (0.5, 20), (0, 0), (0.0, 0), (2.0, 2), (100, 40)])
def test_a_whole_number_counts_rows_and_a_fraction_is_a_share(cap, left):
    assert len(rows_over(many(a=40), {"a": cap})) == 40 - left


@pytest.mark.parametrize(
    "near, share, told",
    [(0, 0.02, "NEAR_DUPLICATE = 0"), (1.2, 0.02, "NEAR_DUPLICATE = 1.2"), (0.8, 0, "TEST_SHARE = 0")]
    + [(0.8, 15, "TEST_SHARE = 15: take a share between 0 and 1"), (0.8, 1, "TEST_SHARE = 1")],
)
def test_a_parameter_that_could_only_fail_later_fails_at_once(near, share, told):
    mixing.check_parameters([Source("a", "")], {"a": 0.5}, 1, 0.5)
    with pytest.raises(ValueError, match=told):
        mixing.check_parameters([Source("a", "")], {}, near, share)


# --- train and test --------------------------------------------------------------------------------------------


def hashed(*prompts: str, **same) -> list[dict]:
    return [
        same | {"hash": preference_data.prompt_hash({"prompt": [{"role": "user", "content": prompt}]})}
        for prompt in prompts
    ]


def sides_of(*lines: dict, test_share: float = 0.3) -> dict[tuple, str]:
    ledger = ledger_of(*lines)
    mixing.split(ledger, test_share)
    return dict(zip(ledger.hash, ledger.split, strict=True))


def test_a_prompt_falls_on_the_same_side_in_every_mix():
    first, second = (hashed(*(f"{name} {n}?" for n in range(100)), source=name) for name in "ab")
    alone, both = sides_of(*first), sides_of(*second, *first)
    assert both.items() >= alone.items() and set(alone.values()) == {"train", "test"}
    assert sides_of(*first[::-1]) == alone == sides_of(*(line | {"source": "z"} for line in first))


def test_the_share_decides_and_a_larger_one_only_adds():
    lines = hashed(*(f"Question {n}?" for n in range(2000)))
    tests = []
    for share in (0.02, 0.1, 0.5):
        sides = sides_of(*lines, test_share=share)
        tests.append({prompt for prompt, side in sides.items() if side == "test"})
        assert abs(len(tests[-1]) - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5
    assert tests[0] < tests[1] < tests[2]


def test_what_is_dropped_is_on_no_side():
    ledger = ledger_of(*hashed(*map(str, range(40))), {"reason": "empty answer"}, {"reason": "x"})
    mixing.split(ledger, 0.5)
    assert ledger.split[40:].isna().all() and ledger.split[:40].notna().all()
    drop(ledger, ledger.index == 0, "over the cap")
    mixing.split(ledger, 0.5)  # the cell may run again
    assert pd.isna(ledger.split[0])


@pytest.mark.parametrize("share, side", [(0.0, "test"), (1.0, "train")])
def test_fault_an_empty_side_stops_with_the_account(share, side):
    ledger = ledger_of({}, *({"reason": "prompt too long"} for _ in range(1200)), {"reason": "empty answer"})
    with pytest.raises(ValueError) as error:
        mixing.split(ledger, share)
    text = str(error.value)
    assert f"No pair is left to {side} on. 1 of 1202 rows are kept; change TEST_SHARE" in text and "MAX_LENGTH" in text
    assert "   1,200  prompt too long" in text and "       1  empty answer" in text


def test_fault_nothing_left_stops_with_the_account():
    with pytest.raises(ValueError, match="No pair is left to train on. 0 of 3 rows"):
        mixing.split(ledger_of(*[{"reason": "score too low"}] * 3), 0.1)


def test_a_source_of_which_the_rule_takes_nothing_is_in_the_account(tokenizer):
    strict, all_rows = Source("strict", "", TEXTS, rating="score", at_least=9), Source("all", "", TEXTS)
    rows = Dataset.from_list([{"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No.", "score": 1} for n in range(9)])
    for chosen in ([strict, all_rows], [all_rows, strict]):
        ledger, pairs = examined([(source, rows) for source in chosen], tokenizer, BenchmarkIndex({}))
        mixing.split(cleaned(ledger, pairs, chosen), 0.3)
        account = mix_figures.account(ledger, REASONS).set_index("source")
        assert account.loc["strict"].tolist() == [9, 9, 0] and account.loc["all", "kept"] == 9
    ledger, pairs = examined([(strict, rows)], tokenizer, BenchmarkIndex({}))
    with pytest.raises(ValueError, match="No pair is left to train on. 0 of 9 rows are kept"):
        mixing.split(cleaned(ledger, pairs, [strict]), 0.3)
    assert mixing.clusters(ledger, pairs, [strict]) == []


# --- tables ----------------------------------------------------------------------------------------------------

PUBLISHED = "published, of the real one"


def prompts(*texts: str) -> Dataset:
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts])


def test_clusters_are_led_by_what_is_kept_in_the_end():
    """What replaced a row may itself have been replaced, or be dropped later."""
    ledger = ledger_of(*({"rating": rating} for rating in (5, 4, 4.5, float("nan"), 3, 2, 1, 1)))
    pairs = prompts(*(f"{text} " + "x" * 200 for text in "abcdefgh"))
    ledger["twin"] = [-1, 0, 1, 2, -1, 4, 4, -1]
    drop(ledger, ledger.row == 1, "near duplicate")
    drop(ledger, ledger.row.isin([2, 3, 5, 6]), "same prompt")
    drop(ledger, ledger.row == 4, "in a benchmark")
    made = [Source(name, "") for name in ledger.source.unique()]
    first, second = mixing.clusters(ledger, pairs, made)
    assert first == {
        "prompt": "a " + "x" * 118,
        "kept": "a 0, rated 5 of 5",
        "dropped": "a 1, rated 4 of 5, near duplicate; a 2, rated 4.5 of 5, same prompt; a 3, same prompt",
        "copies": 3,
    }
    assert second["kept"] == "a 4, rated 3 of 5, in a benchmark" and second["copies"] == 2
    assert mixing.clusters(ledger, pairs, made, most=1) == [first]
    ledger["twin"] = -1
    assert mixing.clusters(ledger, pairs, made) == []


def test_one_example_of_each_reason_that_each_source_lost_a_row_for():
    ledger = ledger_of(
        *({"source": name, "reason": reason} for name in "ab" for reason in ("over the cap", BROKEN, "no score", None)),
        {"source": "b", "reason": BROKEN},
        {"source": "b", "reason": "one of ours"},
    )

    def read(name, row):
        if (name, row) == ("b", 1):
            raise ValueError("column chosen is None. The row has the columns chosen, prompt. And so on.")
        return {"prompt": [{"content": "not this"}, {"content": f"{name} {row} " + "x" * 200}]}

    found = mixing.examples(ledger, read, REASONS)
    assert [(entry["source"], entry["dropped for"], entry["row"], entry["rows"]) for entry in found] == [
        ("a", "no score", 2, 1),
        ("b", "no score", 2, 1),
        ("a", BROKEN, 1, 1),
        ("b", BROKEN, 1, 2),
        ("a", "over the cap", 0, 1),
        ("b", "over the cap", 0, 1),
        ("b", "one of ours", 5, 1),
    ]
    assert found[3]["for example"] == "column chosen is None" and found[0]["for example"] == "a 2 " + "x" * 96
    assert mixing.examples(many(a=3), read, REASONS) == []


def test_what_the_rules_take_stands_beside_what_was_published(mix):
    account = mix_figures.account(mix.ledger, REASONS)
    table = mixing.beside_published(account, [*SEVEN, EIGHTH]).set_index("step")
    assert list(table.index[:4]) == ["rows in", "no score", "score too low", "in_gsm8k_train"]
    assert list(table.index[-3:]) == ["kept", "taken by the rule", PUBLISHED]
    assert set(table.index[1:-3]) <= set(REASONS)
    assert table.loc[PUBLISHED, "all"] == f"{39_676 + 7424:,}" and table.loc[PUBLISHED, "prm"] == "7,958"
    for source in (*SEVEN, EIGHTH):
        lines = mix.ledger[mix.ledger.source == source.name]
        assert table.loc["taken by the rule", source.name] == f"{(lines.pair >= 0).sum():,}"
        assert table.loc["kept", source.name] == f"{lines.reason.isna().sum():,}"
    assert table.loc["taken by the rule", "all"] == f"{len(mix.pairs):,}"
    some = [replace(source, published=None) if source.name == "math" else source for source in (*SEVEN, EIGHTH)]
    table = mixing.beside_published(account, some).set_index("step")
    assert table.loc[PUBLISHED, "math"] == "" and table.loc[PUBLISHED, "all"] == f"{39_676 + 7424 - 2181:,}"


def test_without_any_rule_everything_is_taken():
    account = mix_figures.account(many(a=3, b=2), REASONS)
    table = mixing.beside_published(account, [Source("a", ""), Source("b", "")]).set_index("step")
    assert list(table.index) == ["rows in", "kept", "taken by the rule", PUBLISHED]
    assert table.loc["taken by the rule"].tolist() == ["3", "2", "5"] and np.all(table.loc[PUBLISHED] == "")
