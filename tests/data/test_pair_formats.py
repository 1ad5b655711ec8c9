"""Rows of the four forms become pairs; any other is refused with column, value and the forms."""

import json

import pytest
from support import stand_ins

from utils.data import loading
from utils.data import pairs as pair_formats


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def raw_row(question: str, chosen: str = "Yes.", rejected: str = "Perhaps.") -> dict:
    """A row in the schema of `mlabonne/orpo-dpo-mix-40k` at v1.0."""
    sides = {"chosen": [user(question), assistant(chosen)], "rejected": [user(question), assistant(rejected)]}
    return {"source": "test", **sides, "prompt": question}


# --- one row ---------------------------------------------------------------------------------------------------

TEXTS = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "Perhaps."}
EARLIER = [{"role": "system", "content": "Be brief."}, user("What colour is snow?"), assistant("White.")]


@pytest.mark.parametrize(
    "row, prompt, source",
    [
        (raw_row("Hi?") | {"source": "capybara"}, [user("Hi?")], "capybara"),
        (
            {
                "dataset": "argilla/some",
                "chosen": [*EARLIER, user("Hi?"), assistant("Yes.")],
                "rejected": [*EARLIER, user("Hi?"), assistant("Perhaps.")],
                "chosen_rating": 5.0,
                "rejected_rating": 2.0,
            },
            [*EARLIER, user("Hi?")],
            "argilla/some",
        ),
        (
            {"prompt": [*EARLIER, user("Hi?")], "chosen": [assistant("Yes.")], "rejected": [assistant("Perhaps.")]},
            [*EARLIER, user("Hi?")],
            "unnamed",
        ),
        (
            {"prompt": "Hi?", "chosen": [assistant("Yes.")], "rejected": [assistant("Perhaps.")]},
            [user("Hi?")],
            "unnamed",
        ),
        ({"source": "truthy", "system": "", **TEXTS}, [user("Hi?")], "truthy"),
        ({"system": "Be brief.", **TEXTS}, [EARLIER[0], user("Hi?")], "unnamed"),
        ({"system": None, **TEXTS, "prompt": [*EARLIER, user("Hi?")]}, [*EARLIER, user("Hi?")], "unnamed"),
        (
            {
                "chosen": "\n\nHuman: Ho?\n\nAssistant: Ah:\n\n- so.\n\nHuman: Hi?\n\nAssistant: Yes.",
                "rejected": "\n\nHuman: Ho?\n\nAssistant: Ah:\n\n- so.\n\nHuman: Hi?\n\nAssistant: Perhaps.",
            },
            [user("Ho?"), assistant("Ah:\n\n- so."), user("Hi?")],
            "unnamed",
        ),
        (
            {"prompt": "\n\nHuman: Hi?\n\nAssistant:", "chosen": " Yes.", "rejected": " Perhaps."},
            [user("Hi?")],
            "unnamed",
        ),
    ],
    ids=[
        "prompt column is text",
        "no prompt column, many turns",
        "prompt column is a message list",
        "answers are one message each, the prompt is text",
        "plain text",
        "plain text with a system message",
        "plain answers to a message list",
        "transcripts",
        "a transcript as prompt, plain answers",
    ],
)
def test_a_row_becomes_a_pair(row, prompt, source):
    kept = json.dumps(row)
    assert pair_formats.to_pair(row) == {
        "source": source,
        "prompt": prompt,
        "chosen": [assistant("Yes.")],
        "rejected": [assistant("Perhaps.")],
    }
    assert json.dumps(row) == kept  # the row itself is left alone


def test_a_prompt_column_that_repeats_the_conversation_is_not_trained_on_twice():
    row = {"prompt": [user("Hi?")], "chosen": [user("Hi?"), assistant("Yes.")]}
    row["rejected"] = [user("Hi?"), assistant("No.")]
    assert pair_formats.to_pair(row)["prompt"] == [user("Hi?")]


def test_other_keys_of_a_message_are_left_aside():
    row = raw_row("Hi?")
    row["chosen"][1]["weight"] = 1
    row["chosen"][0]["name"] = "Ada"
    pair = pair_formats.to_pair(row)
    assert pair["prompt"] == [user("Hi?")] and pair["chosen"] == [assistant("Yes.")]


def test_every_row_of_the_stand_ins_becomes_a_pair():
    for name in (stand_ins.ORPO_MIX, stand_ins.DPO_MIX, stand_ins.TRUTHY_DPO, stand_ins.HH_RLHF):
        for rows in loading.load_splits(str(stand_ins.ALL_DATA[name])):
            for row in rows or ():
                pair = pair_formats.to_pair(row)
                assert pair["prompt"][-1]["role"] == "user" and pair["chosen"][0]["role"] == "assistant"
                if isinstance(row["chosen"], list):
                    assert all(pair["prompt"] + pair[side] == row[side] for side in ("chosen", "rejected"))


GOOD = [user("Hi?"), assistant("Yes.")]


@pytest.mark.parametrize(
    "row, told",
    [
        ({"system": "", "input": "Hi?", "chosen": "Yes.", "rejected": "No."}, "column chosen is plain text"),
        ({"instruction": "Hi?", "chosen_response": "Yes.", "rejected_response": "No."}, "column chosen is missing"),
        ({"prompt": "Hi?", "chosen": "Yes."}, "column rejected is missing"),
        ({"chosen": GOOD, "rejected": "No."}, "column rejected is plain text"),
        ({"chosen": [], "rejected": GOOD}, "column chosen is []"),
        ({"chosen": None, "rejected": GOOD}, "column chosen is None"),
        ({"prompt": "Hi?", "chosen": "Yes.", "rejected": 3}, "column rejected is 3"),
        ({"prompt": None, "chosen": "Yes.", "rejected": "No."}, "column prompt is None"),
        ({"prompt": {"text": "Hi?"}, "chosen": "Yes.", "rejected": "No."}, "column prompt is {'text': 'Hi?'}"),
        ({"chosen": ["Hi?", "Yes."], "rejected": GOOD}, "column chosen holds 'Hi?'"),
        ({"chosen": [{"from": "gpt", "value": "Yes."}], "rejected": GOOD}, "column chosen holds {'from': 'gpt'"),
        ({"chosen": [user("Hi?"), {"content": "Yes."}], "rejected": GOOD}, "column chosen holds {'content': 'Yes.'}"),
        ({"chosen": GOOD, "rejected": [user("Hi?"), assistant(None)]}, "column rejected holds {'role': 'assistant'"),
        ({"chosen": [user(None), assistant("Yes.")], "rejected": GOOD}, "column chosen holds {'role': 'user'"),
        ({"chosen": [user([{"type": "image"}]), assistant("Yes.")], "rejected": GOOD}, "column chosen holds {'role'"),
    ],
    ids=[
        "texts without a prompt",
        "other columns",
        "one column is missing",
        "one side is text",
        "empty list",
        "None",
        "a number",
        "no prompt in this row",
        "a prompt of another type",
        "list of texts",
        "other keys",
        "no role",
        "answer is None",
        "question is None",
        "an image",
    ],
)
def test_format_of_another_kind_is_refused_with_column_value_and_the_four_forms(row, told):
    with pytest.raises(ValueError) as error:
        pair_formats.to_pair(row)
    assert told in str(error.value) and not isinstance(error.value, pair_formats.NotAPair)
    assert f"the columns {', '.join(sorted(row))}. A pair has one of four forms" in str(error.value)
    assert all(f"\n{number}. " in str(error.value) for number in (1, 2, 3, 4))


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"chosen": [user("Ho?"), assistant("Yes.")], "rejected": GOOD}, "prompts of the two sides differ"),
        ({"chosen": [user("Hi?"), user("Yes.")], "rejected": GOOD}, "does not end with an answer"),
        (
            {
                "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Why?",
                "rejected": "\n\nHuman: Hi?\n\nAssistant: No.",
            },
            "does not end with an answer",
        ),
        ({"chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}, "no question before the answer"),
        ({"prompt": " \n", "chosen": "Yes.", "rejected": "No."}, "no question before the answer"),
        (
            {side: [{"role": "system", "content": "Hi"}, assistant(side)] for side in ("chosen", "rejected")},
            "no question before the answer",
        ),
    ],
)
def test_a_row_whose_sides_are_no_pair_is_dropped_and_counted(row, reason):
    with pytest.raises(pair_formats.NotAPair, match=reason):
        pair_formats.to_pair(row)
    rows = [json.loads(json.dumps(row))] * 3 + [raw_row(f"Question {number}?") for number in range(12)]
    pairs, report = pair_formats.split_pairs(rows, None, 3, lambda pair: None)
    assert report.as_dict()["dropped"] == {reason: 3} and report.as_dict()["examined"] == 15
    assert len(pairs["train"]) + len(pairs["test"]) == 12
