"""What one look at every row notes, against the functions that look at one pair; broken rows; and two processes."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset, disable_progress_bars

from utils.data import chat_format, examining, overlap
from utils.data import pairs as preference_data
from utils.data.examining import BROKEN, examine
from utils.data.loading import find, load
from utils.data.overlap import BenchmarkIndex
from utils.data.sources import ANSWERS, SEVEN, TEXTS, Source, apply_rule

disable_progress_bars()
NOTHING = BenchmarkIndex({})
MADE = Source("made", "made", {"system": "system", **TEXTS}, rating="score", at_least=5)
TALKS = Source("talks", "talks", ANSWERS)


def row(prompt="Why?", chosen="Because.", rejected="No.", system="", score=5.0) -> dict:
    return {"system": system, "prompt": prompt, "chosen": chosen, "rejected": rejected, "score": score}


def look(source, rows, tokenizer, index=NOTHING, **options):
    """Examine rows, a list or a data set."""
    rows = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return examine(source, rows.select_columns(source.needs), apply_rule(source, rows), tokenizer, index, **options)


def said(text: str, role: str = "user") -> dict:
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def capybara(hub):
    """A source with several turns and system messages, as it is loaded."""
    (source,) = [source for source in SEVEN if source.name == "capybara"]
    return load(source, find(source))


def test_each_row_that_the_rule_took_has_one_line_with_all_that_is_to_know(capybara, tokenizer):
    source, rows = capybara
    ledger = apply_rule(source, rows)
    found = examine(source, rows, ledger, tokenizer, NOTHING)
    taken = ledger.row[ledger.reason.isna()]
    assert found["row"][:] == list(taken) and 0 < len(taken) < len(rows)
    assert set(found["source"][:]) == {"capybara"}
    pairs = 0
    for line in found:
        try:
            pair = source.pair(rows[line["row"]])
        except ValueError as error:
            assert line["problem"] == str(error)
            continue
        pairs += 1
        assert {part: line[part] for part in pair} == pair
        lengths = tuple(line[f"{part}_tokens"] for part in ("prompt", "chosen", "rejected"))
        assert lengths == chat_format.pair_lengths(pair, tokenizer)
        assert line["hash"] == preference_data.prompt_hash(pair)
        talk = " ".join(message["content"] for message in pair["prompt"] if message["role"] != "system")
        assert line["signature"] == overlap.signature(overlap.numbers(overlap.words(talk))).tolist()
        assert line["item"] is line["match"] is line["told"] is None
        assert line["problem"] == preference_data.answer_problem(pair)
    assert pairs > 50


@pytest.mark.parametrize(
    "bad, problem",
    [
        ({"chosen": ""}, "empty answer"),
        ({"rejected": " \n\t"}, "empty answer"),
        ({"chosen": "", "rejected": ""}, "empty answer"),
        ({"chosen": " No.\n"}, "equal answers"),
        ({"chosen": "It ends <|end_of_text|> here."}, "text of a special token"),
        ({"prompt": "<|begin_of_text|>"}, "text of a special token"),
        ({"system": "<|eot_id|>"}, "text of a special token"),
        ({"system": None}, None),
    ],
)
def test_a_pair_that_teaches_nothing_keeps_its_texts_and_gets_its_reason(tokenizer, bad, problem):
    found = look(MADE, [row(), row() | bad, row()], tokenizer)
    assert found["problem"][:] == [None, problem, None] and found["told"][:] == [None] * 3
    assert found[1]["prompt"] and found[1]["prompt_tokens"] and found[1]["hash"] is not None


@pytest.mark.parametrize(
    "bad, told",
    [
        ({"chosen": None}, "column chosen is None"),
        ({"prompt": None}, "column prompt is None"),
        ({"prompt": 5}, "column prompt is 5"),
        ({"rejected": []}, "column rejected is []"),
        ({"rejected": {"text": "a"}}, "column rejected is {'text': 'a'}"),
        ({"rejected": ["a"]}, "column rejected holds 'a', not a role and a content that are text"),
        ({"chosen": [{"role": "assistant"}]}, "column chosen holds {'role': 'assistant'}, not a role and a content"),
        ({"chosen": [said(None, "assistant")]}, "column chosen holds {'role': 'assistant', 'content': None}, not"),
    ],
)
def test_fault_a_broken_row_is_told_and_stops_nothing(tmp_path, tokenizer, bad, told):
    """As JSON lines may hold it, in which every row may have types of its own."""
    lines = [row(), row() | bad, row()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = replace(MADE, repository=str(tmp_path / "rows.jsonl"))
    source, rows = load(source, find(source))
    found = look(source, rows, tokenizer)
    assert found["problem"][:] == [None, BROKEN, None]
    assert found["told"][1].startswith(told) and "The row has" not in found["told"][1]
    line = found[1]
    assert line["prompt"] == line["chosen"] == line["rejected"] == [] and line["row"] == 1
    assert line["hash"] is line["prompt_tokens"] is line["item"] is None and set(line["signature"]) == {0}


@pytest.mark.parametrize(
    "chosen, rejected, problem",
    [
        ([said("Hi?")], [said("Hi?")], "does not end with an answer"),
        (
            [said("Hi?"), said("A", "assistant")],
            [said("Ho?"), said("B", "assistant")],
            "prompts of the two sides differ",
        ),
        ([said("A", "assistant")], [said("B", "assistant")], "no question before the answer"),
        (
            [said("x", "system"), said("A", "assistant")],
            [said("x", "system"), said("B", "assistant")],
            "no question bef",
        ),
        ([said("Hi?"), said("A", "gpt")], [said("Hi?"), said("B", "gpt")], "does not end with an answer"),
    ],
)
def test_a_row_that_is_no_pair_says_why(tokenizer, chosen, rejected, problem):
    good = {"chosen": [said("Hi?"), said("A", "assistant")], "rejected": [said("Hi?"), said("B", "assistant")]}
    found = look(TALKS, [good, {"chosen": chosen, "rejected": rejected}], tokenizer)
    assert found["problem"][0] is None and found["problem"][1].startswith(problem)
    assert found[1]["prompt"] == [] and found["told"][1] is None


def test_benchmark_items_are_found_in_prompts_and_answers(tokenizer):
    long = "a word and a word and one more word and again a word or two"
    index = BenchmarkIndex({"long": [[long]], "short": [["Who?"]]})
    asked = [said("So?"), said("Yes.", "assistant"), said("Who?")]
    talks = [
        asked,
        asked[2:],
        [said("Who? Who?")],
        [*asked[:2], said("Where?")],
        [said("Who?"), *asked[1:2], said("So?")],
    ]
    sides = {"chosen": said("A.", "assistant"), "rejected": said("B.", "assistant")}
    found = look(TALKS, [{side: [*talk, sides[side]] for side in sides} for talk in talks], tokenizer, index)
    assert found["item"][:] == ["short 0", "short 0", None, None, None]  # the last question, and it as a whole
    assert found["match"][:] == ["who", "who", None, None, None]
    rows = [row(long.upper()), row(chosen=f"Well: {long}"), row(rejected=f"{long}."), row("Who?"), row(long[:30])]
    found = look(MADE, rows, tokenizer, index)
    assert found["item"][:] == ["long 0"] * 3 + ["short 0", None] and found["match"][1] == long


@pytest.mark.timeout(120)
def test_two_processes_see_what_one_sees(tmp_path, tokenizer):
    """Also which row is which, where the rule has left some out; and the rows stay on the disk."""
    index = BenchmarkIndex({"short": [["Is 77 a number?"]]})
    rows = [row(f"Is {n} a number?", chosen="" if n % 50 == 7 else "Yes.", score=n % 8) for n in range(6000)]
    found = []
    for processes in (1, 2):  # files of their own: on the same one, datasets takes as many processes as at first
        path = str(tmp_path / f"{processes}.parquet")
        Dataset.from_list(rows).to_parquet(path)
        found.append(look(MADE, Dataset.from_parquet(path), tokenizer, index, processes=processes))
    assert len(found[0]) == 2250 > examining.SMALL
    frames = [table.with_format("arrow")[:] for table in found]
    assert frames[0].equals(frames[1])
    assert len(found[0].cache_files) == 1 and len(found[1].cache_files) == 2
    numbers = [n for n in range(6000) if n % 8 >= 5]
    assert found[1]["row"][:] == numbers
    assert [prompt[0]["content"] for prompt in found[1]["prompt"]] == [f"Is {n} a number?" for n in numbers]
    assert [n for n, item in zip(numbers, found[1]["item"], strict=True) if item] == [77]
    assert [n for n, problem in zip(numbers, found[1]["problem"], strict=True) if problem] == [
        n for n in numbers if n % 50 == 7
    ]


def test_numbers_are_those_of_the_source_where_the_rule_left_rows_out(tokenizer):
    rows = [row(f"{number}?", score=score) for number, score in enumerate((5.0, 4.0, None, 5.0))]
    found = look(MADE, rows, tokenizer)
    assert found["row"][:] == [0, 3] and [prompt[0]["content"] for prompt in found["prompt"]] == ["0?", "3?"]
