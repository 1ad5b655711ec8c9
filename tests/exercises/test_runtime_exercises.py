"""The checks of notebooks 07 and 09: each mistake is told for what it is, and what is right passes.

That they stand in the notebooks and take what a notebook has, tests/test_exercises.py sees.
"""

import pytest

from utils.exercises import runtime_exercises as checks
from utils.publish import chat_app
from utils.train import step_costs

TALK = [{"role": "user", "content": "What is the capital of Italy?"}]


def test_a_wrong_cost_of_a_system_prompt_is_told(tokenizer, capsys):
    system = {"role": "system", "content": "Answer briefly."}
    whole, _ = chat_app.fit_prompt(tokenizer, [system, *TALK], 512)
    without, _ = chat_app.fit_prompt(tokenizer, TALK, 512)
    alone = len(tokenizer(system["content"], add_special_tokens=False)["input_ids"])
    right = len(whole) - len(without)
    assert alone < right < len(whole)
    for answer, said in (
        (len(whole), "subtract those of the question"),
        (alone, f"The text alone has {alone} tokens. The template puts a header"),
        (right + 2, "too large. Count with the system message and without it"),
        (right + 0.5, "a whole number"),
        ("some", "not 'some'"),
    ):
        with pytest.raises(AssertionError, match=said):
            checks.check_system_cost(answer, tokenizer, TALK, system["content"])
    checks.check_system_cost(right, tokenizer, TALK, system["content"])
    assert f"Right: {right} tokens, {alone} of them the text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (8000, "leaves out the scales"),
        (16000, "16 bits a weight"),
        (24000, "a scale of its own"),
        (68000, "counts bits"),
        (8.5, "is in GB"),
        (9000, "too large. The model has 8,000,000,000 weights"),
        (-1, "0 or more"),
    ],
)
def test_a_wrong_size_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_file_size(answer, 8_000_000_000)


def test_the_size_is_that_of_the_gguf_package(capsys):
    """The package that reads and writes such files says how many bytes a block of 32 weights has."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
    assert checks.Q8_0_BITS == 8 * size / weights
    checks.check_file_size(8500, 8_000_000_000)
    assert "8.5 bits a weight, 8,500.0 MB" in capsys.readouterr().out


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


def with_the_word(grown, word):
    for text in grown:
        if word in text:
            break
    grown.close()
    return text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda grown, word: list(grown)[-1].split(word)[0], "your function took 5: the model would write on"),
        (left_open, "still open"),
        (with_the_word, "returns 'The cat sat on', and not 'The cat '"),
        (lambda grown, word: grown.close(), "returns None, and not a text"),
        (lambda grown, word: next(grown)[word], "fails for .* with TypeError"),
        ("until", "is a function, given by its name"),
    ],
)
def test_a_wrong_stop_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_until(answer, lambda: iter(()), "One of two")


def test_the_stop_is_tried_on_the_model(capsys):
    def stream():
        yield from ("One", "One of", "One of two")

    checks.check_until(until, stream, "One of two")
    assert "until 'of': 'One '" in capsys.readouterr().out
    checks.check_until(until, stream, "")
    assert "empty" in capsys.readouterr().out

    def only_made_up(grown, word):
        return until(grown, word) if word in ("sat", "dog") else ""

    with pytest.raises(AssertionError, match="Of the model's answer until 'of', your function returns ''"):
        checks.check_until(only_made_up, stream, "One of two")


PAIRS = [(100, 50, 150), (300, 80, 40)]
COUNTED = {"distinct": 722, "repeated": 398, "padding": 400}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"padding": 100}, "The rows have 150, 250, 380, 340 tokens"),
        ({"repeated": 400}, "The last token of a prompt stands twice"),
        ({"repeated": 100}, "The prompts have 100 and 300 tokens"),
        ({"distinct": 720}, "All 4 rows of 380 tokens, less padding"),
        ({"distinct": None}, "not None"),
        ({"wasted": 1}, "a dictionary of distinct, repeated, padding"),
    ],
)
def test_a_wrong_count_of_tokens_is_told(change, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_pass(COUNTED | change, PAIRS)


def test_the_tokens_are_those_that_the_notebook_counts(capsys):
    rows = step_costs.made_up_rows(PAIRS, 4096)
    assert step_costs.count_tokens(rows, 2) == COUNTED
    checks.check_pass(COUNTED, PAIRS)
    assert "52 % of what the stock trainer computes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (5.0, "is in per cent"),
        (15e12, "divide them by the matrix rate"),
        (1.4, "above 1"),
        (0.5, "which is 10 times too large. 10 FLOPs a byte times"),
        (-0.05, "0 or more"),
    ],
)
def test_a_wrong_roof_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_roof(answer, 10, matrix_rate=300e12, bandwidth=1.5e12)


def test_right_of_the_bend_the_roof_is_flat(capsys):
    checks.check_roof(0.05, 10, matrix_rate=300e12, bandwidth=1.5e12)
    checks.check_roof(1, 900, matrix_rate=300e12, bandwidth=1.5e12)
    assert "Right: 5.0 %. The roof bends at 200 FLOPs a byte" in capsys.readouterr().out


def masked(prefix, chosen, rejected, seen=lambda place, other, middle, end: other <= place):
    middle, end = prefix, prefix + chosen
    size = range(end + rejected)
    return [[seen(place, other, middle, end) for other in size] for place in size]


def right_mask(prefix, chosen, rejected):
    return masked(
        prefix, chosen, rejected, lambda at, it, middle, end: it <= at and not (at >= end and middle <= it < end)
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (masked, r"token 3 \(rejected\) sees token 2 \(chosen\), .* must not read the chosen one"),
        (lambda *parts: masked(*parts, lambda at, it, *rest: True), "never sees what comes later"),
        (lambda *parts: masked(*parts, lambda at, it, *rest: it < at), "sees itself and what stands before it"),
        (lambda *parts: masked(*parts, lambda at, it, middle, end: it <= at < end), "does not see token 0"),
        (lambda *parts: [[True]], "4 rows of 4 values"),
        (lambda *parts: [1] * sum(parts), "4 rows of 4 values"),
        (lambda *parts: 1 / 0, r"fails for \(2, 1, 1\) with ZeroDivisionError"),
    ],
)
def test_a_wrong_mask_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_mask(answer, [], lengths=(4, 5, 4))


def test_a_right_mask_is_the_collators(capsys):
    """A mask as a tensor passes too, and is the one that the branches of a packed row allow."""
    import torch

    from utils.train import cost_figures
    from utils.train.fused_orpo import PackingCollator

    packed = PackingCollator()(step_costs.made_up_rows([(5, 4, 3)], 4096))
    branches = [list(dict.fromkeys(branch)) for branch in packed["branches"].tolist()]
    seen = cost_figures.who_sees_whom(branches)
    for answer in (right_mask, lambda *parts: torch.tensor(right_mask(*parts))):
        checks.check_mask(answer, seen, lengths=(4, 5, 4))
        assert "71 of 169 cells" in capsys.readouterr().out
