"""The checks of notebook 05: the usual slips have words of their own, and what is right passes."""

import re

import pytest

from utils import hub
from utils.exercises import notebook_05
from utils.publish import merge


def refused(said: str, check, *given) -> None:
    with pytest.raises(AssertionError) as error:
        check(*given)
    assert re.search(said, str(error.value), re.DOTALL), str(error.value)


def test_lost_updates():
    from bitsandbytes.functional import get_4bit_type

    levels = sorted(get_4bit_type("nf4", device="cpu").tolist())
    notebook_05.check_lost(0.00199, levels, 0.05)
    for answer, said in [
        (0.00398, "the whole way to the next level"),
        (0.0398, "shares of the block's largest weight"),
        (0.001, "1.99 times too small"),
    ]:
        refused(said, notebook_05.check_lost, answer, levels, 0.05)


def test_merges():
    def in_place(weight, A, B, alpha, rank):
        weight += (alpha / rank * B @ A).to(weight.dtype)
        return weight

    notebook_05.check_merge(lambda weight, *others: in_place(weight.clone(), *others))
    for function, said in [
        (lambda weight, A, B, alpha, rank: weight, "without any update"),
        (lambda weight, A, B, alpha, rank: weight + B @ A, "not scaled"),
        (lambda weight, A, B, alpha, rank: weight - alpha / rank * B @ A, r"Not W \+ alpha / r"),
        (lambda weight, A, B, alpha, rank: weight + alpha / rank * A @ B, "fails for .* RuntimeError"),
        (in_place, "changes the weight that it is given"),
    ]:
        refused(said, notebook_05.check_merge, function)


def test_files_that_may_go_are_those_that_the_course_pushes():
    good = [name for name, why in notebook_05.FILES.items() if why is None]
    assert good == [name for name in notebook_05.FILES if hub.matches(name, merge.ADAPTER_FILES)]
    notebook_05.check_files(set(good))
    refused("training_args.bin is a pickle", notebook_05.check_files, [*good, "training_args.bin"])
    refused("are needed or wanted", notebook_05.check_files, good[:2])
