"""The exercises of notebook 03 take the right answer, and tell the usual slips; its cells agree with the helpers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import LlamaConfig

from utils import data, environment
from utils.exercises import notebook_03
from utils.train import base

CELLS = {
    cell["id"]: "".join(cell["source"])
    for cell in json.loads(Path("notebooks/03_train_with_orpo.ipynb").read_text())["cells"]
}
LLAMA = base.skeleton(
    LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    )
)  # fmt: skip
PLAN = SimpleNamespace(base=SimpleNamespace(skeleton=LLAMA), lora_r=4)
RIGHT = 4 * 3 * ((64 + 64) + (32 + 64))


def refused(check, *arguments, **named) -> str:
    with pytest.raises(AssertionError) as refusal:
        check(*arguments, **named)
    return str(refusal.value)


def test_template_and_questions_are_written_out_as_the_helpers_have_them():
    template = re.search(r"chat_template = (\(.*?\n\))", CELLS["tokenizer"], re.DOTALL)[1]
    assert eval(template) == data.CHAT_TEMPLATE
    questions = re.search(r"QUESTIONS = (\[.*?\n\])", CELLS["ask-base"], re.DOTALL)[1]
    assert eval(questions) == environment.course_prompts()


def test_the_weights_that_lora_trains(capsys):
    for slip, told in (
        (RIGHT // 3, "one layer"),
        (RIGHT // 2, "two matrices"),
        (RIGHT // 4, "rank 1"),
        (RIGHT + 1, "m + n"),
    ):
        assert told in refused(notebook_03.check_trainable, slip, PLAN)
    notebook_03.check_trainable(RIGHT, PLAN)
    notebook_03.check_trainable(None, PLAN)
    assert re.search(r"Right: 2,688.*Not tried yet", capsys.readouterr().out, re.DOTALL)


def test_the_smallest_window(tokenizer, capsys):
    messages = [{"role": "user", "content": "why"}], [{"role": "assistant", "content": "so"}]
    long = [{"role": "assistant", "content": "because of that and so on"}]
    pairs = [
        {"prompt": messages[0], "chosen": messages[1], "rejected": long if n < 3 else messages[1]} for n in range(4)
    ]
    prompt, chosen, rejected = data.pair_lengths(pairs[0], tokenizer)
    check = notebook_03.check_window
    assert "never in one row" in refused(check, prompt + chosen + rejected, pairs, tokenizer)
    assert "rejected answers" in refused(check, prompt + chosen, pairs, tokenizer)
    assert "3 should" in refused(check, prompt + rejected - 1, pairs, tokenizer)
    assert "smaller window" in refused(check, prompt + rejected + 1, pairs, tokenizer)
    check(prompt + rejected, pairs, tokenizer)
    assert "Right" in capsys.readouterr().out
