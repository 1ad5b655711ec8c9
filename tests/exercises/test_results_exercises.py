"""The checks of notebooks 06 and 08: each mistake is told for what it is, and what is right passes.

That they stand in the notebooks and take what a notebook has, tests/test_exercises.py sees.
"""

import pandas as pd
import pytest

from utils.evaluate import compare as comparison
from utils.evaluate import scores as evaluation
from utils.exercises import results_exercises as checks


def scores(rows):
    """Make a table as `evaluation.score_pairs` does, of (chosen, its tokens, rejected, its tokens)."""
    table = pd.DataFrame(rows, columns=["chosen", "chosen_tokens", "rejected", "rejected_tokens"])
    return table.assign(margin=table.chosen - table.rejected)


BEFORE = scores([(-2.0, 9, -1.0, 4), (-2.0, 3, -1.5, 8), (-1.0, 5, -1.2, 6), (-1.0, 5, -1.3, 30)])
AFTER = scores([(-0.5, 9, -1.5, 4), (-0.7, 3, -1.5, 8), (-1.4, 5, -1.2, 6), (-0.4, 5, -2.0, 30)])


@pytest.mark.parametrize(
    ("letter", "flaw", "said"),
    [
        ("A", "length", "A is another case than 'length': look at which pairs were asked"),
        ("B", "none", "B is another case than 'none': look at how large the change is"),
        ("C", "chance", "C is another case"),
        ("E", "dull", "What is wrong with E is one of 'none'"),
    ],
)
def test_a_flaw_that_is_none_is_told(letter, flaw, said):
    right = {name: flaw for name, (flaw, _) in checks.FINDINGS.items()}
    with pytest.raises(AssertionError, match=said):
        checks.check_findings(right | {letter: flaw})
    with pytest.raises(AssertionError, match=f"Still without a flaw: {letter}"):
        checks.check_findings({name: it for name, it in right.items() if name != letter})
    with pytest.raises(AssertionError, match="There is no 'Z'"):
        checks.check_findings(right | {"Z": "none"})


def test_each_flaw_fits_one_finding(capsys):
    assert sorted(flaw for flaw, _ in checks.FINDINGS.values()) == sorted(checks.FLAWS)
    checks.check_findings({name: flaw for name, (flaw, _) in checks.FINDINGS.items()})
    assert "Right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((1, 2), "other way round"),
        ((3, 2), "the pairs that each model has right"),
        ((4, 3), "more than the 4 pairs"),
        ((2, 2), r"is \+0\.000, and the two accuracies differ by \+0\.250"),
        ((1, 0), "the right difference, but not these pairs"),
        ((0.5, 0.25), "a whole number"),
        (2, "two numbers"),
        (("two", "one"), "Gained is a whole number, not 'two'"),
    ],
)
def test_a_wrong_count_of_pairs_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_flips(answer, BEFORE, AFTER)


def test_the_pairs_that_decide_are_counted(capsys):
    checks.check_flips((2, 1), BEFORE, AFTER)
    assert "(2 - 1) / 4 = +0.250" in capsys.readouterr().out


def right_accuracy(table, how):
    by_sum = evaluation.summed_margins(table)
    return float((table.margin > 0).mean() if how == "mean" else (by_sum > 0).mean())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda table, how: (table.margin > 0).mean(), "loses against a rejected one of 4"),
        (lambda table, how: 100 * right_accuracy(table, how), "divide the pairs"),
        (lambda table, how: (table.margin >= 0).mean(), "a tie is no win"),
        (lambda table, how: 0.25, "2 of these 4 pairs are right, and not 1"),
        (lambda table, how: table["sum"], "fails for .* with KeyError: 'sum'"),
        (lambda table, how: None, "is a number, not None"),
        (lambda table, how: (evaluation.summed_margins(table) > 0).mean(), r"By mean, -1\.0 wins"),
        (lambda table, how: right_accuracy(table, how) if len(table) < 4 or how == "sum" else 0.5, "of it by mean"),
        (0.7, "is a function, given by its name"),
    ],
)
def test_a_wrong_accuracy_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_accuracy(answer, {"it": AFTER})


def test_a_right_accuracy_passes(capsys):
    checks.check_accuracy(right_accuracy, {"before": BEFORE, "after": AFTER})
    assert "before by mean 0.500, before by sum 0.750" in capsys.readouterr().out


def test_a_wrong_reward_margin_is_told(capsys):
    after, before, beta = AFTER.loc[3], BEFORE.loc[3], 0.1
    right = comparison.implicit_margins(AFTER, BEFORE, beta)[3]  # 0.1 * (0.6 * 5 + 0.7 * 30)
    assert right == pytest.approx(2.4)
    for answer, said in (
        (24, "without beta"),
        (0.13, "of the means"),
        (0.1 * (-0.4 * 5 + 2.0 * 30), "without the reference"),
        (-2.4, "wrong sign"),
        (-1.8, "the sum of both rewards"),
        (1.0, r"which is 2\.4 times too small"),
        ("much", "is a number, not 'much'"),
    ):
        with pytest.raises(AssertionError, match=said):
            checks.check_reward_margin(answer, after, before, beta)
    checks.check_reward_margin(right, after, before, beta)
    assert "gained +3.00 nats, the rejected one -21.00" in capsys.readouterr().out


RIGHT_LOSSES = {"A": {"SFT", "ORPO"}, "B": {"DPO", "ORPO"}, "C": {"DPO"}}


@pytest.mark.parametrize("letter", RIGHT_LOSSES)
@pytest.mark.parametrize("loss", ["SFT", "DPO", "ORPO"])
def test_each_loss_that_is_wrongly_placed_is_told(letter, loss):
    said = "falls" if loss in RIGHT_LOSSES[letter] else "does not fall"
    with pytest.raises(AssertionError, match=f"{letter}: {loss}'s loss {said}, from "):
        checks.check_losses(RIGHT_LOSSES | {letter: RIGHT_LOSSES[letter] ^ {loss}})


def test_the_losses_are_the_libraries(capsys):
    """The numbers that the check tells are those of TRL's trainers."""
    import torch
    import torch.nn.functional as F
    from trl.experimental.orpo import ORPOTrainer

    checks.check_losses(RIGHT_LOSSES)
    assert "Right" in capsys.readouterr().out
    orpo = type("Losses", (), {"beta": checks.BETA, "accelerator": type("On", (), {"device": "cpu"})})
    for before, after in checks.MOVES.values():
        now, found = torch.tensor(after), checks.losses(after, before)
        ratio = -ORPOTrainer.odds_ratio_loss(orpo, *now[:, None])[0].mean()
        assert found["ORPO"] == pytest.approx(found["SFT"] + float(ratio), abs=1e-5)
        gained = checks.TOKENS * (now - torch.tensor(before))
        assert found["DPO"] == pytest.approx(float(-F.logsigmoid(checks.BETA * (gained[0] - gained[1]))), abs=1e-5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([6, 3], "3 steps of DPO spend 25 % of the budget, and 75 % are its part"),
        ([12, 9], "12 steps of SFT spend 50 % of the budget, and 25 % are its part"),
        ([6], "two numbers of steps"),
        ([6.5, 9], "a whole number"),
    ],
)
def test_a_budget_that_is_shared_otherwise_is_told(answer, said):
    with pytest.raises(AssertionError, match=said):
        checks.check_stages(answer, 0.25, 24, 12)


def test_a_step_more_or_less_passes(capsys):
    for answer in ([6, 9], [7, 9], [5, 10]):
        checks.check_stages(answer, 0.25, 24, 12)
        assert "Right" in capsys.readouterr().out
