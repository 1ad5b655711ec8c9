"""The checks of notebooks 00, 02 and 03: the usual slips have words of their own, and what is right passes."""

import re

import pandas as pd
import pytest

from utils.data import sources
from utils.exercises import notebook_00, notebook_02
from utils.train import base, memory


def refused(said: str, check, *given) -> None:
    with pytest.raises(AssertionError) as error:
        check(*given)
    assert re.search(said, str(error.value), re.DOTALL), str(error.value)


@pytest.fixture(scope="module")
def llama3():
    from transformers import AutoConfig

    return base.skeleton(AutoConfig.for_model("llama", **memory.LLAMA_3_8B))


def test_sizes_of_a_model(llama3):
    for answer, said in [
        (16, 'a dictionary with "bf16" and "4 bits"'),
        ({"bf16": 128.5, "4 bits": 5.6}, "billions of bits"),
        ({"bf16": 32.1, "4 bits": 5.6}, "2 times too large"),
        ({"bf16": 16.06, "4 bits": 4.015}, "All weights in 4 bits"),
        ({"bf16": 16.06, "4 bits": 9.1}, "1.63 times too large"),
    ]:
        refused(said, notebook_00.check_size, answer, llama3)
    for small in (5.59, 5.70):  # without the scales, and with them
        notebook_00.check_size({"bf16": 16.06, "4 bits": small}, llama3)


def test_cards():
    chosen = {"RTX 4090": ("l4", "bfloat16"), "V100": ("t4", "float16"), "RTX 3060": ("t4", "bfloat16")}
    notebook_00.check_cards(chosen)
    for change, said in [
        ({"V100": ("t4", "fp16")}, "The dtype of the V100 is one of"),
        ({"V100": ("l4", "float16")}, "V100: not l4"),
        ({"RTX 3060": ("t4", "float16")}, "RTX 3060: not float16"),
    ]:
        refused(said, notebook_00.check_cards, chosen | change)


def test_words():
    for similarity, right in ((0.8, 49), (0.9, 99)):
        notebook_02.check_words(right, similarity)
        refused("which is below", notebook_02.check_words, right - 1, similarity)
        refused(f"{right} words are, too", notebook_02.check_words, right + 1, similarity)


def test_sources():
    given = {
        "name": "handbook",
        "repository": "you/handbook-pairs",
        "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        "rating": "stars",
        "at_least": 4,
        "unless": "bot",
    }
    notebook_02.check_source(sources.Source(**given))
    for change, said in [
        ({"columns": {"question": "prompt", "better": "chosen", "worse": "rejected"}}, "the wrong way round"),
        ({"rating": "score"}, "no column 'score'"),
        ({"at_least": 5}, "leaves out a row that should be taken"),
        ({"unless": None}, "takes a row that should be left out"),
    ]:
        refused(said, notebook_02.check_source, sources.Source(**(given | change)))


def test_filters():
    lines = [("a", 0, 5.0, None, 3, 9, 9), ("a", 1, 5.0, None, 3, 8, 9), ("a", 2, 1.0, "score too low", 3, 90, 9)]
    columns = ["source", "row", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens"]
    ledger = pd.DataFrame(lines, columns=columns)
    notebook_02.check_filter(lambda line: line["chosen_tokens"] <= 2 * line["rejected_tokens"], ledger)
    for function, said in [
        (lambda line: line.rejected_tokens <= 2 * line.chosen_tokens, "it should go"),
        (lambda line: None, "returns None"),
        (lambda line: line.row == 0 and line.chosen_tokens <= 2 * line.rejected_tokens, "stay"),
    ]:
        refused(said, notebook_02.check_filter, function, ledger)
