"""The checks of notebooks 00, 02, 03 and 05: the usual slips have words of their own, and what is right passes."""

import re

import pandas as pd
import pytest

from utils import hub
from utils.data import sources
from utils.exercises import data_exercises, training_exercises
from utils.publish import merge
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
        ({"bf16": 16.06, "4 bits": 4.015}, "would be all weights in 4 bits"),
        ({"bf16": 16.06, "4 bits": 9.1}, "1.63 times too large"),
    ]:
        refused(said, data_exercises.check_size, answer, llama3)
    for small in (5.59, 5.70):  # without the scales, and with them
        data_exercises.check_size({"bf16": 16.06, "4 bits": small}, llama3)


def test_cards():
    chosen = {"RTX 4090": ("l4", "bfloat16"), "V100": ("t4", "float16"), "RTX 3060": ("t4", "bfloat16")}
    data_exercises.check_cards(chosen)
    for change, said in [
        ({"V100": ("t4", "fp16")}, "The dtype of the V100 is one of"),
        ({"V100": ("l4", "float16")}, "V100: not l4"),
        ({"RTX 3060": ("t4", "float16")}, "RTX 3060: not float16"),
    ]:
        refused(said, data_exercises.check_cards, chosen | change)


def test_words():
    for similarity, right in ((0.8, 49), (0.9, 99)):
        data_exercises.check_words(right, similarity)
        refused("which is below", data_exercises.check_words, right - 1, similarity)
        refused(f"{right} words are, too", data_exercises.check_words, right + 1, similarity)


def test_sources():
    given = {
        "name": "handbook",
        "repository": "you/handbook-pairs",
        "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        "rating": "stars",
        "at_least": 4,
        "unless": "bot",
    }
    data_exercises.check_source(sources.Source(**given))
    for change, said in [
        ({"columns": {"question": "prompt", "better": "chosen", "worse": "rejected"}}, "the wrong way round"),
        ({"rating": "score"}, "no column 'score'"),
        ({"at_least": 5}, "leaves out a row that should be taken"),
        ({"unless": None}, "takes a row that should be left out"),
    ]:
        refused(said, data_exercises.check_source, sources.Source(**(given | change)))


def test_filters():
    lines = [("a", 0, 5.0, None, 3, 9, 9), ("a", 1, 5.0, None, 3, 8, 9), ("a", 2, 1.0, "score too low", 3, 90, 9)]
    columns = ["source", "row", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens"]
    ledger = pd.DataFrame(lines, columns=columns)
    data_exercises.check_filter(lambda line: line["chosen_tokens"] <= 2 * line["rejected_tokens"], ledger)
    for function, said in [
        (lambda line: line.rejected_tokens <= 2 * line.chosen_tokens, "it should go"),
        (lambda line: None, "returns None"),
        (lambda line: line.row == 0 and line.chosen_tokens <= 2 * line.rejected_tokens, "stay"),
    ]:
        refused(said, data_exercises.check_filter, function, ledger)


def test_lost_updates():
    from bitsandbytes.functional import get_4bit_type

    levels = sorted(get_4bit_type("nf4", device="cpu").tolist())
    training_exercises.check_lost(0.00199, levels, 0.05)
    for answer, said in [
        (0.00398, "the whole way to the next level"),
        (0.0398, "shares of the block's largest weight"),
        (0.001, "1.99 times too small"),
    ]:
        refused(said, training_exercises.check_lost, answer, levels, 0.05)


def test_merges():
    def in_place(weight, A, B, alpha, rank):
        weight += (alpha / rank * B @ A).to(weight.dtype)
        return weight

    training_exercises.check_merge(lambda weight, *others: in_place(weight.clone(), *others))
    for function, said in [
        (lambda weight, A, B, alpha, rank: weight, "without any update"),
        (lambda weight, A, B, alpha, rank: weight + B @ A, "not scaled"),
        (lambda weight, A, B, alpha, rank: weight - alpha / rank * B @ A, r"Not W \+ alpha / r"),
        (lambda weight, A, B, alpha, rank: weight + alpha / rank * A @ B, "fails for .* RuntimeError"),
        (in_place, "changes the weight that it is given"),
    ]:
        refused(said, training_exercises.check_merge, function)


def test_files_that_may_go_are_those_that_the_course_pushes():
    good = [name for name, why in training_exercises.FILES.items() if why is None]
    assert good == [name for name in training_exercises.FILES if hub.matches(name, merge.ADAPTER_FILES)]
    training_exercises.check_files(set(good))
    refused("training_args.bin is a pickle", training_exercises.check_files, [*good, "training_args.bin"])
    refused("are needed or wanted", training_exercises.check_files, good[:2])
