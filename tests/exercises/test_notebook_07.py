"""The checks of notebook 07: each mistake is told for what it is, and what is right passes."""

import pytest

from utils import publish
from utils.exercises import notebook_07 as checks

TALK = [{"role": "user", "content": "What is the capital of Italy?"}]


def test_a_blind_choice_is_counted_for_the_model_behind_the_letter(capsys):
    shown = {"Q1": ["tuned", "base"], "Q2": ["base", "tuned"], "Q3": ["base", "tuned"]}
    checks.check_blind({"Q1": "A", "Q2": "B", "Q3": "same"}, shown)
    assert "Preferred: base 0, tuned 2, of 3 questions" in capsys.readouterr().out
    for answer, said in [({"Q1": "A"}, "Still without"), (dict.fromkeys(shown, "C"), "one of 'A', 'B', 'same'")]:
        with pytest.raises(AssertionError, match=said):
            checks.check_blind(answer, shown)


def test_a_wrong_cost_of_a_system_prompt_is_told(tokenizer, capsys):
    system = {"role": "system", "content": "Answer briefly."}
    whole, _ = publish.fit_prompt(tokenizer, [system, *TALK], 512)
    without, _ = publish.fit_prompt(tokenizer, TALK, 512)
    alone = len(tokenizer(system["content"], add_special_tokens=False)["input_ids"])
    right = len(whole) - len(without)
    assert alone < right < len(whole)
    for answer, said in (
        (len(whole), "subtract its tokens"),
        (alone, f"the text alone has {alone}. The template puts a header"),
        (right + 2, "too large. Count with the system message and without it"),
    ):
        with pytest.raises(AssertionError, match=said):
            checks.check_system_cost(answer, tokenizer, TALK, system["content"])
    checks.check_system_cost(right, tokenizer, TALK, system["content"])
    assert f"Right: {right} tokens, {alone} of them the text" in capsys.readouterr().out


def test_the_size_is_that_of_the_gguf_package_and_a_wrong_one_is_told(capsys):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
    assert checks.Q8_0_BITS == 8 * size / weights
    checks.check_file_size(8500, 8_000_000_000)
    assert "8.5 bits a weight, 8,500.0 MB" in capsys.readouterr().out
    for answer, said in [
        (8000, "leaves out the scales"),
        (16000, "16 bits a weight"),
        (24000, "a scale of its own"),
        (68000, "counts bits"),
        (8.5, "is in GB"),
        (9000, "too large. The model has 8,000,000,000 weights"),
    ]:
        with pytest.raises(AssertionError, match=said):
            checks.check_file_size(answer, 8_000_000_000)


def until(grown, word):
    text = ""
    for text in grown:
        if word in text:
            break
    grown.close()
    return text.split(word)[0]


def left_open(grown, word):
    for text in grown:
        if word in text:
            break
    return text.split(word)[0]


def test_a_stop_is_tried_on_a_made_up_stream_and_on_the_model(capsys):
    def stream():
        yield from ("One", "One of", "One of two")

    checks.check_until(until, stream, "One of two")
    checks.check_until(until, stream, "")
    told = capsys.readouterr().out
    assert "until 'of': 'One '" in told and "empty" in told
    for answer, said in [
        (lambda grown, word: list(grown)[-1].split(word)[0], "your function took 5: the model would write on"),
        (left_open, "still open"),
        (lambda grown, word: grown.close(), "returns None, and not a text"),
        (lambda grown, word: next(grown)[word], "fails for .* with TypeError"),
        (lambda grown, word: until(grown, word) if word in ("sat", "dog") else "", "Of the model's answer until 'of'"),
    ]:
        with pytest.raises(AssertionError, match=said):
            checks.check_until(answer, stream, "One of two")
