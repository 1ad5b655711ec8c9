"""The checks of notebook 09: each mistake is told for what it is, and what is right passes."""

import pytest
import torch

from utils import exercises as checks
from utils.train import cost_figures, step_costs
from utils.train.fused_orpo import PackingCollator

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
    packed = PackingCollator()(step_costs.made_up_rows([(5, 4, 3)], 4096))
    branches = [list(dict.fromkeys(branch)) for branch in packed["branches"].tolist()]
    seen = cost_figures.who_sees_whom(branches)
    for answer in (right_mask, lambda *parts: torch.tensor(right_mask(*parts))):
        checks.check_mask(answer, seen, lengths=(4, 5, 4))
        assert "71 of 169 cells" in capsys.readouterr().out
