"""The checks of notebook 01's exercises: a wrong answer is told what it is."""

import math

import pytest
import torch

from utils import exercises
from utils.orpo import math as orpo_math


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (-2.30259, "is the sum"),
        (math.log(0.35), "is the log of the mean probability"),
        (-0.5, "in base 10"),
        (1.1513, "A log-probability is below 0"),
        (-1.0, "divided by their number"),
        ("-1.15", "is a number, not '-1.15'"),
    ],
)
def test_a_wrong_mean_is_told_what_it_is(answer, message):
    with pytest.raises(AssertionError, match=message):
        exercises.check_mean(answer, [0.5, 0.2])


def test_a_wrong_beta_is_told_what_it_gives(capsys):
    for answer, message in ((2.0, "the other way round"), (1.0, "With beta 1 the odds term is 0.8000")):
        with pytest.raises(AssertionError, match=message):
            exercises.check_even_beta(answer, 0.4, 0.8)
    exercises.check_even_beta(0.5, 0.4, 0.8)
    assert "Right" in capsys.readouterr().out


LOGSIGMOID = torch.nn.functional.logsigmoid


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda chosen, rejected: LOGSIGMOID(chosen - rejected), "The value of your loss is -0.3711 at chosen -0.4"),
        (lambda chosen, rejected: -LOGSIGMOID(rejected - chosen), "Mind both signs"),
        (orpo_math.odds_ratio_loss, "leave the 1 - P out"),
        (lambda chosen, rejected: -LOGSIGMOID(chosen.detach() - rejected.detach()), "No gradient flows"),
        (lambda chosen, rejected: -LOGSIGMOID(chosen - rejected.detach()), "slope for rejected of your loss is 0.0000"),
        (lambda chosen, rejected: -LOGSIGMOID(chosen - rejected).item(), "compute with torch"),
        (lambda chosen, rejected: -LOGSIGMOID(chosen - rejected).mean(), "one value for each pair"),
        (lambda chosen: chosen, "Your loss fails for .* with TypeError"),
        (0.5, "Your loss is a function"),
    ],
)
def test_a_wrong_loss_is_told_where_it_differs(answer, message):
    with pytest.raises(AssertionError, match=message):
        exercises.check_own_loss(answer)
