"""The mechanism of the exercises: what is asked, what is refused and with what words."""

import numpy as np
import pytest

from utils.exercises import checks


def refused(check, *given, **named) -> str:
    with pytest.raises(AssertionError) as error:
        check(*given, **named)
    return str(error.value)


def test_none_stops_nothing_and_the_right_answer_is_told(capsys):
    @checks.exercise("a number of legs")
    def check(answer, right, of="an ant"):
        assert answer == right, f"{of} has more"
        return f"Right: {answer}."

    check(None, 6)
    check(6, 6)
    assert capsys.readouterr().out == "Not tried yet: give a number of legs.\nRight: 6.\n"
    assert refused(check, 2, 6, of="a bee").startswith("a bee has more")


def test_a_number_is_finite_and_may_have_to_be_whole_or_large_enough():
    for answer in ["8", True, float("nan"), float("inf"), [8], {}, 1 + 2j]:
        assert refused(checks.number, answer, "The size") == f"The size is a number, not {answer!r}."
    assert checks.number(np.int64(3), "It", whole=True) == 3 and checks.number(np.float32(0.5), "It") == 0.5
    assert refused(checks.number, 2.5, "It", whole=True) == "It is a whole number, not 2.5."
    assert refused(checks.number, 0, "It", least=1) == "It is 1 or more, not 0."


def test_a_number_that_is_off_is_told_by_how_much_and_a_slip_by_its_name():
    def off(answer, right):
        return refused(checks.close, answer, right, "The size", 0.02, "Count bytes.", {64: "these are bits."})

    assert off(16, 8) == "The size is not 16, which is 2 times too large. Count bytes."
    assert off(1, 8) == "The size is not 1, which is 8 times too small. Count bytes."
    assert off(8.5, 8) == "The size is not 8.5, which is too large. Count bytes."
    assert off(-8, 8) == "The size is not -8, which is too small. Count bytes."
    assert off(1, 0) == "The size is not 1, which is too large. Count bytes."
    assert off(64.5, 8) == "The size is not 64.5: these are bits."
    assert checks.close(8.1, 8, "The size") == 8.1
    assert "too large" in refused(checks.close, 1001, 1000, "The size", relative=0)


def test_a_choice_is_one_of_the_names_and_each_letter_gets_something():
    assert checks.choice("t4", {"t4": 1, "l4": 2}, "The card") == "t4"
    for answer in ("T4", 4, ["t4"], None):
        assert refused(checks.choice, answer, ["t4", "l4"], "The card").startswith("The card is one of 't4', 'l4', ")
    assert "Still without a run: B" in refused(checks.by_letter, {"A": "x"}, "AB", "a run")
    assert "There is no 'Z'" in refused(checks.by_letter, {"A": "x", "Z": "y"}, "AB", "a run")


def test_a_function_that_fails_is_told_for_which_input_and_with_what_error():
    doubled = checks.function(lambda it, times=2: times * it["value"], "Your function")
    assert doubled({"value": 4}) == 8
    told = refused(doubled, {"valeu": 4}, times=3)
    assert told == "Your function fails for ({'valeu': 4}, times=3) with KeyError: 'value'"
    assert "by its name without parentheses, not 3" in refused(checks.function, 3, "Your function")
