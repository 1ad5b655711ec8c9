"""From rows to a mix: every planted row ends with the reason it was planted for, and every step keeps its account."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mixing import cleaned, examined, loaded
from support.stand_ins import planted_rows

from utils.data import chat_format, loading, mix, overlap, pairs
from utils.data.mix import BROKEN, REASONS, drop_rows
from utils.data.overlap import BenchmarkIndex
from utils.data.sources import BENCHMARKS, OTHERS, SEVEN, TEXTS, Source
from utils.environment import course_prompts

disable_progress_bars()
EIGHT = [*SEVEN, OTHERS[0]]
NOTHING = BenchmarkIndex({})


def reason_of(ledger, line) -> str | None:
    reason = ledger.reason[line]
    return None if pd.isna(reason) else reason


@pytest.fixture(scope="module")
def whole(hub, tokenizer) -> SimpleNamespace:
    """The stand-ins of eight sources and six benchmarks, mixed and split; tests leave it as it is."""
    sources = loading.load_sources(loading.find_sources(EIGHT, None, False), None, 42, False)
    items = loading.load_items(loading.find_sources(BENCHMARKS, None, False), None, False)
    index = BenchmarkIndex({benchmark.name: benchmark.rows for benchmark in items})
    ledger, found = examined(sources, tokenizer, index)
    mix.split_mix(cleaned(ledger, found, sources), 0.15)
    return SimpleNamespace(ledger=ledger, pairs=found, sources=sources, index=index)


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


def test_every_planted_row_ends_as_it_was_planted_for(whole):
    for source in EIGHT:
        lines = whole.ledger[whole.ledger.source == source.name].reset_index(drop=True)
        for what, row in planted_rows(source.repository).items():
            reason = next(PLANTED[begin] for begin in PLANTED if what.startswith(begin))
            if what.endswith((": best", ", not flagged")):
                reason = None
            assert reason_of(lines, row) == reason, (source.name, what)
        ordinary = lines.drop(list(planted_rows(source.repository).values()))
        assert set(ordinary.reason.dropna()) <= {"score too low"} and ordinary.reason.isna().mean() > 0.5


def test_of_duplicates_the_best_is_kept_across_two_scales(whole):
    """A 5 of 5 before a 9 of 10, a 10 of 10 before a 9 of 10, and whatever is rated before what is not."""
    groups = {}
    for source in SEVEN:
        for what, row in planted_rows(source.repository).items():
            if "duplicate" in what:
                group, place = what.split(": ")
                lines = whole.ledger.index[(whole.ledger.source == source.name) & (whole.ledger.row == row)]
                groups.setdefault(group, {})[place] = lines[0]
    assert len(groups) == 6
    for lines in groups.values():
        best = lines.pop("best")
        assert whole.ledger.twin[best] == -1 and lines
        assert all(whole.ledger.twin[line] == best for line in lines.values())
    assert (whole.ledger.twin >= 0).sum() == sum(len(lines) for lines in groups.values())


def test_kept_and_dropped_are_what_came_in_and_the_ledger_points_at_its_pairs(whole):
    ledger = whole.ledger
    assert Counter(ledger.source) == {source.name: len(source.rows) for source in whole.sources}
    dropped = ledger.reason.notna()
    assert set(ledger.reason[dropped]) <= set(REASONS) and ledger.split[dropped].isna().all()
    assert set(ledger.split[~dropped]) == {"train", "test"}
    assert (ledger.pair >= 0).sum() == len(whole.pairs) and (ledger.pair[~dropped] >= 0).all()
    table = mix.account(ledger).set_index("source")
    assert (table["rows in"] == table.drop(columns="rows in").sum(axis=1)).all()
    with pytest.raises(ValueError, match="do not add up"):
        mix.account(ledger.assign(source=ledger.source.where(ledger.index > 0)))
    for line in ledger[ledger.pair >= 0].itertuples():
        pair = whole.pairs[int(line.pair)]
        assert (pair["source"], pair["row"]) == (line.source, line.row)
        if pair["prompt"]:
            assert (pair["hash"], pair["prompt_tokens"]) == (line.hash, line.prompt_tokens)


def test_what_is_kept_is_sound(whole, tokenizer):
    prompts = Counter()
    for number in whole.ledger.pair[whole.ledger.reason.isna()]:
        pair = whole.pairs[int(number)]
        assert pairs.judge_pair(pair, tokenizer, 1024) is None
        texts = [message["content"] for part in ("prompt", "chosen", "rejected") for message in pair[part]]
        assert whole.index.match(texts, pair["prompt"][-1]["content"]) is None
        prompts[pairs.prompt_hash(pair)] += 1
    assert max(prompts.values()) == 1 and len(prompts) > 500


def test_tables_tell_what_the_ledger_knows(whole):
    taken = {entry["source"]: entry for entry in mix.count_taken(whole.ledger.assign(reason=None), whole.sources)}
    assert taken["truthy"]["compared"] == "as expected" and "source has changed" in taken["math"]["compared"]
    table = mix.account_beside_published(whole.ledger, EIGHT).set_index("step")
    assert table.loc["published, of the real one", "all"] == f"{39_676 + 7424:,}"
    for source in EIGHT:
        lines = whole.ledger[whole.ledger.source == source.name]
        assert table.loc["taken by the rule", source.name] == f"{(lines.pair >= 0).sum():,}"
        assert table.loc["kept", source.name] == f"{lines.reason.isna().sum():,}"
    read = mix.row_reader(whole.sources)
    for entry in mix.lost_examples(whole.ledger, read):
        lines = whole.ledger[(whole.ledger.source == entry["source"]) & (whole.ledger.reason == entry["dropped for"])]
        assert entry["rows"] == len(lines) and entry["row"] == lines.row.iloc[0]
    phrases = mix.shared_phrases(whole.ledger)
    assert phrases.rows.sum() == (whole.ledger.reason == "in a benchmark").sum()
    groups = mix.copy_groups(whole.ledger, whole.pairs, EIGHT, most=99)
    assert sum(group["copies"] for group in groups) == (whole.ledger.twin >= 0).sum()
    (questions,) = loading.load_items(loading.find_sources([mix.GSM8K_TRAIN], None, False), None, False)
    flags = mix.compare_flags(whole.sources, questions)
    orca = next(source for source in whole.sources if source.name == "intel-orca")
    assert flags.to_numpy().sum() == len(orca.rows) and flags.loc[True].sum() == sum(orca.rows["in_gsm8k_train"])
    assert flags.loc[True, True] and flags.loc[True, False] and flags.loc[False, True]
    assert mix.compare_flags(whole.sources, replace(questions, left_out="no network")) is None


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
        "asked by the course": (5, False, course_prompts()[0], long, "No."),
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
    (source,) = loading.find_sources([Source("made", str(tmp_path / "rows.jsonl"), TEXTS, **rule)], None, False)
    source = loading.load(source)
    ledger, found = examined([source], tokenizer, BenchmarkIndex({"farm": [[ITEM]]}))
    cleaned(ledger, found, [source])
    drop_rows(ledger, mix.over_caps(ledger, {"made": 0}, 1), "over the cap")
    assert list(ledger.reason) == list(rows) == [reason for reason in REASONS if reason in rows]
    assert ledger["item"].notna().sum() == 5  # whatever they are dropped for
    assert "column chosen is None" in ledger.told[3]
    assert list(mix.examine_rows(ledger, [source], tokenizer, NOTHING)[0].reason[:8]) == list(rows)[:8]  # run again


def made_rows(*rows: tuple, columns=("prompt", "chosen", "rejected")) -> Dataset:
    return Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])


def test_a_clean_copy_outlives_one_that_holds_an_item(tokenizer):
    """The better rated copy goes for its answer; were copies looked for first, the clean one would go with it."""
    rows = made_rows(("Why?", ITEM, "No.", 5), ("Why?", "So.", "No.", 4), columns=(*TEXTS, "score"))
    source = loaded(Source("made", "", TEXTS, rating="score"), rows)
    ledger, found = examined([source], tokenizer, BenchmarkIndex({"farm": [[ITEM]]}))
    assert [reason_of(cleaned(ledger, found, [source]), line) for line in (0, 1)] == ["in a benchmark", None]


def test_two_processes_see_what_one_sees_and_the_system_message_is_not_compared(monkeypatch, tokenizer):
    rows = made_rows(
        *((f"Be {n}.", f"Question {n % 7} of many?", "Yes.", "No.") for n in range(12)), columns=("system", *TEXTS)
    )
    source = loaded(Source("made", "", {"system": "system", **TEXTS}), rows)
    monkeypatch.setattr(mix, "SMALL", 5)
    ledger = mix.start_ledger([source])
    one, two = (mix.examine(source, ledger, tokenizer, NOTHING, processes) for processes in (None, 2))
    assert one.to_list() == two.to_list() and one["row"] == list(range(12))
    assert one[0]["signature"] == one[7]["signature"] and one[0]["hash"] != one[7]["hash"]


def test_a_source_of_which_the_rule_takes_nothing_is_in_the_account(tokenizer):
    rows = made_rows(*((f"Q{n}?", "Yes.", "No.", 1) for n in range(9)), columns=(*TEXTS, "score"))
    strict, every = (
        loaded(Source(name, "", TEXTS, rating="score", at_least=least), rows)
        for name, least in (("strict", 9), ("every", None))
    )
    for chosen in ([strict, every], [every, strict]):
        ledger, found = examined(chosen, tokenizer, NOTHING)
        mix.split_mix(cleaned(ledger, found, chosen), 0.3)
        account = mix.account(ledger).set_index("source")
        assert account.loc["strict"].tolist() == [9, 9, 0] and account.loc["every", "kept"] == 9
    ledger, found = examined([strict], tokenizer, NOTHING)
    with pytest.raises(ValueError, match="No pair is left to train on. 0 of 9 rows are kept"):
        mix.split_mix(cleaned(ledger, found, [strict]), 0.3)


# The steps by themselves


def ledger_of(*lines: dict) -> pd.DataFrame:
    """A ledger of made-up lines, as `examine_rows` would leave it."""
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
    assert drop_rows(ledger, everything & (ledger.row < 2), "prompt too long") == 1
    assert list(ledger.reason[:2]) == ["prompt too long", "equal answers"]
    assert drop_rows(ledger, everything, pd.Series(list("wxyz"))) == 2  # a reason for each
    assert list(ledger.reason) == ["prompt too long", "equal answers", "y", "z"]


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
    assert list(mix.best_first(ledger, [five, ten, Source("none", "")])) == [3, 4, 0, 1, 6, 7, 2, 8]


def test_copies_are_found_among_what_is_kept_and_point_at_lines():
    ledger = ledger_of({"hash": 0.3}, {"hash": 0.3}, {"hash": 0.3, "reason": "x"}, {"hash": 0.7}, {"hash": 0.3})
    assert list(mix.same_prompts(ledger, pd.Index([4, 0, 1, 3]))) == [4, 4, -1, -1, -1]
    # Where a rule has dropped rows, a line and its pair have different numbers
    ledger = ledger_of({"reason": "score too low"}, {}, {"reason": "score too low"}, {}, {"reason": "empty answer"}, {})
    ledger["pair"] = [-1, 0, -1, 1, 2, 3]
    texts = (LONG_QUESTION, f"{LONG_QUESTION} please", LONG_QUESTION, ITEM)
    sketches = [overlap.signature(overlap.numbers(overlap.words(text))) for text in texts]
    found = Dataset.from_dict({"signature": sketches})
    for order, expected in (([1, 3, 5], [-1, -1, -1, 1, -1, -1]), ([3, 5, 1], [-1, 3, -1, -1, -1, -1])):
        assert list(mix.near_duplicates(ledger, found, pd.Index(order), 0.8)) == expected


def test_groups_are_led_by_what_is_kept_in_the_end():
    """What replaced a row may itself have been replaced, or be dropped later."""
    ledger = ledger_of(*({"rating": rating} for rating in (5, 4, 4.5, float("nan"), 3, 2, 1, 1)))
    ledger["twin"] = [-1, 0, 1, 2, -1, 4, 4, -1]
    drop_rows(ledger, ledger.row == 1, "near duplicate")
    drop_rows(ledger, ledger.row.isin([2, 3, 5, 6]), "same prompt")
    found = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in "abcdefgh"])
    first, second = mix.copy_groups(ledger, found, [Source("a", "")])
    dropped = "a 1, rated 4 of 5, near duplicate; a 2, rated 4.5 of 5, same prompt; a 3, same prompt"
    assert first == {"prompt": "a", "kept": "a 0, rated 5 of 5", "dropped": dropped, "copies": 3}
    assert second["kept"] == "a 4, rated 3 of 5" and second["copies"] == 2


def test_max_length_decides_as_the_trainers_filter_does(tokenizer):
    rows = made_rows(
        ("Why is the sea salt?", "Because of the rivers, over time.", "No."),
        ("Why?", "So.", "Nobody can say why that is, can they?"),
    )
    source = loaded(Source("made", "made", TEXTS), rows)
    ledger, found = examined([source], tokenizer, NOTHING)
    seen = Counter()
    for line, pair in enumerate(found):
        prompt, *answers = chat_format.pair_lengths(pair, tokenizer)
        for edge in (prompt, prompt + min(answers), prompt + max(answers)):
            for window in (edge - 1, edge, edge + 1):
                expected = chat_format.length_problem(pair, tokenizer, window)
                assert reason_of(cleaned(ledger.copy(), found, [source], window), line) == expected
                seen[expected] += 1
    assert set(seen) == {None, "prompt too long", "answer too long"} and min(seen.values()) >= 4


def many(**counts: int) -> pd.DataFrame:
    return ledger_of(*({"source": name} for name, count in counts.items() for _ in range(count)))


def rows_over(ledger, caps, seed=42, source="a") -> set[int]:
    over = mix.over_caps(ledger, caps, seed)
    assert not over[ledger.reason.notna()].any() and set(ledger.source[over]) <= set(caps)
    return set(ledger.row[over & (ledger.source == source)])


def test_a_cap_is_a_number_of_rows_or_a_share_drawn_whatever_else_is_there():
    ledger = many(a=100, b=50)
    drop_rows(ledger, (ledger.source == "a") & (ledger.row % 5 == 0), "empty answer")
    for cap, kept in ((30, 30), (30.7, 30), (1, 1), (1.0, 80), (2.0, 2), (0.25, 20), (0.0, 0), (0, 0), (10**6, 80)):
        assert len(rows_over(ledger, {"a": cap})) == 80 - kept, cap
    alone, caps = rows_over(many(a=100), {"a": 30}), {"a": 30, "b": 10}
    assert rows_over(many(b=77, a=100, c=5), caps) == rows_over(many(a=100, b=5000), caps) == alone
    assert rows_over(many(a=100), {"a": 30}, seed=43) != alone
    # A duplicate in a source that comes or goes must not turn the whole mix over
    ledger, before = many(a=100), set(range(100)) - alone
    drop_rows(ledger, ledger.row == min(before), "same prompt")
    after = set(range(100)) - {min(before)} - rows_over(ledger, {"a": 30})
    assert len(before) == len(after) == 30 and len(after - before) == 1


def test_a_parameter_that_could_only_fail_later_fails_at_once():
    made = [Source("a", ""), Source("b", "")]
    mix.check_mix(made, {"a": 0.5}, 1, 0.5)
    for caps, near, share, told in (
        ({"c": 5}, 0.8, 0.02, "CAPS = {'c': 5}: take rows, or a share up to 1.0, of a, b"),
        ({"a": -1}, 0.8, 0.02, "CAPS = {'a': -1}"),
        ({}, 0, 0.02, "NEAR_DUPLICATE = 0"),
        ({}, 1.2, 0.02, "NEAR_DUPLICATE = 1.2"),
        ({}, 0.8, 15, "TEST_SHARE = 15: take a share between 0 and 1"),
    ):
        with pytest.raises(ValueError) as error:
            mix.check_mix(made, caps, near, share)
        assert told in str(error.value)


def hashed(*prompts: str, **same) -> list[dict]:
    talks = ({"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts)
    return [same | {"hash": pairs.prompt_hash(talk)} for talk in talks]


def sides_of(*lines: dict, test_share: float = 0.3) -> dict[tuple, str]:
    ledger = ledger_of(*lines)
    mix.split_mix(ledger, test_share)
    return dict(zip(ledger.hash, ledger.split, strict=True))


def test_a_prompt_falls_on_the_same_side_in_every_mix_and_a_larger_share_only_adds():
    first, second = (hashed(*(f"{name} {n}?" for n in range(100)), source=name) for name in "ab")
    alone, both = sides_of(*first), sides_of(*second, *first)
    assert both.items() >= alone.items() and set(alone.values()) == {"train", "test"}
    assert sides_of(*first[::-1]) == alone == sides_of(*(line | {"source": "z"} for line in first))
    lines, tests = hashed(*(f"Question {n}?" for n in range(2000))), []
    for share in (0.02, 0.1, 0.5):
        sides = sides_of(*lines, test_share=share)
        tests.append({prompt for prompt, side in sides.items() if side == "test"})
        assert abs(len(tests[-1]) - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5
    assert tests[0] < tests[1] < tests[2]


def test_what_is_dropped_is_on_no_side_and_an_empty_side_stops_with_the_account():
    ledger = ledger_of(*hashed(*map(str, range(40))), {"reason": "empty answer"}, {"reason": "x"})
    mix.split_mix(ledger, 0.5)
    assert ledger.split[40:].isna().all() and ledger.split[:40].notna().all()
    drop_rows(ledger, ledger.index == 0, "over the cap")
    mix.split_mix(ledger, 0.5)  # the cell may run again
    assert pd.isna(ledger.split[0])
    ledger = ledger_of({}, *({"reason": "prompt too long"} for _ in range(1200)), {"reason": "empty answer"})
    for share, side in ((0.0, "test"), (1.0, "train")):
        with pytest.raises(ValueError) as error:
            mix.split_mix(ledger, share)
        told = str(error.value)
        assert f"No pair is left to {side} on. 1 of 1202 rows are kept" in told and "1,200  prompt too long" in told


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, *REASONS])), min_size=1, max_size=60))
def test_the_account_adds_up_whatever_is_dropped(lines):
    ledger = ledger_of(*({"source": source, "reason": reason} for source, reason in lines))
    table = mix.account(ledger).set_index("source")
    for source in {source for source, _ in lines}:
        assert table.loc[source, "rows in"] == sum(each == source for each, _ in lines)
        assert table.loc[source, "kept"] == sum(line == (source, None) for line in lines)
    assert (table["rows in"] == table.drop(columns="rows in").sum(axis=1)).all()


def test_the_budget_is_that_of_the_train_pairs():
    ledger = ledger_of({}, {}, {}, {"reason": "x"}).assign(split=["train", "train", "test", None])
    tokens = {"prompt_tokens": [10, 30, 9000, None], "chosen_tokens": [100, 200, 1, None]}
    ledger = ledger.assign(**tokens, rejected_tokens=[40, 60, 1, None])
    thousand, every = mix.token_budget(ledger, {"l4": 2.0})
    assert every["pairs"] == "2" and every["tokens, prompts twice"] == "480" and every["prompts once"] == "440"
    assert thousand["tokens, prompts twice"] == "240,000"
    assert thousand["on l4"] == mix.in_words(2.0 * 240_000 / mix.TOKENS_OF_HOURS)
