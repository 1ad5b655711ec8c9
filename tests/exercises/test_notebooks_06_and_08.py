"""The checks of notebooks 06 and 08: each mistake is told for what it is, and what is right passes."""

import pandas as pd
import pytest

from utils import evaluate, exercises
from utils.evaluate.scores import summed_margins
from utils.exercises import notebook_06, notebook_08


def scores(rows):
    """Make a table as `score_pairs` does, of (chosen, its tokens, rejected, its tokens)."""
    table = pd.DataFrame(rows, columns=["chosen", "chosen_tokens", "rejected", "rejected_tokens"])
    return table.assign(margin=table.chosen - table.rejected)


BEFORE = scores([(-2.0, 9, -1.0, 4), (-2.0, 3, -1.5, 8), (-1.0, 5, -1.2, 6), (-1.0, 5, -1.3, 30)])
AFTER = scores([(-0.5, 9, -1.5, 4), (-0.7, 3, -1.5, 8), (-1.4, 5, -1.2, 6), (-0.4, 5, -2.0, 30)])


def refused(said: str, check, *given) -> None:
    with pytest.raises(AssertionError, match=said):
        check(*given)


def test_each_flaw_fits_one_finding(capsys):
    right = {name: flaw for name, (flaw, _) in notebook_06.FINDINGS.items()}
    assert sorted(right.values()) == sorted(notebook_06.FLAWS)
    exercises.check_findings(right)
    assert "Right" in capsys.readouterr().out
    refused("A is not a case of 'length': look at which", exercises.check_findings, right | {"A": "length"})
    refused("What is wrong with E is one of", exercises.check_findings, right | {"E": "dull"})
    refused("There is no 'Z'", exercises.check_findings, right | {"Z": "none"})
    del right["B"]
    refused("Still without a flaw: B", exercises.check_findings, right)


def test_the_pairs_that_decide_are_counted(capsys):
    exercises.check_flips((2, 1), BEFORE, AFTER)
    assert "(2 - 1) / 4 = +0.250" in capsys.readouterr().out
    for answer, said in (
        ((1, 2), "other way round"),
        ((3, 2), "the pairs that each model has right"),
        ((2, 2), r"is \+0\.000, and the two accuracies differ by \+0\.250"),
        ((1, 0), "A pair is right where margin > 0"),
        ((0.5, 0.25), "a whole number"),
        (2, "two numbers"),
    ):
        refused(said, exercises.check_flips, answer, BEFORE, AFTER)


def right_accuracy(table, how):
    return float((table.margin > 0).mean() if how == "mean" else (summed_margins(table) > 0).mean())


def test_accuracy_written_by_hand(capsys):
    exercises.check_accuracy(right_accuracy, {"before": BEFORE, "after": AFTER})
    assert "before by mean 0.500, before by sum 0.750" in capsys.readouterr().out
    for answer, said in (
        (lambda table, how: (table.margin > 0).mean(), "loses against a rejected one of 4"),
        (lambda table, how: 100 * right_accuracy(table, how), "divide the pairs"),
        (lambda table, how: (table.margin >= 0).mean(), "a tie is no win"),
        (lambda table, how: 0.25, "2 of these 4 pairs are right, and not 1"),
        (lambda table, how: (summed_margins(table) > 0).mean(), r"By mean, -1\.0 wins"),
        (lambda table, how: right_accuracy(table, how) if len(table) < 4 or how == "sum" else 0.5, "of it by mean"),
    ):
        refused(said, exercises.check_accuracy, answer, {"it": AFTER})


def test_a_reward_margin_by_hand(capsys):
    after, before, beta = AFTER.loc[3], BEFORE.loc[3], 0.1
    right = evaluate.implicit_margins(AFTER, BEFORE, beta)[3]  # 0.1 * (0.6 * 5 + 0.7 * 30)
    assert right == pytest.approx(2.4)
    for answer, said in (
        (24, "without beta"),
        (0.13, "of the means"),
        (0.1 * (-0.4 * 5 + 2.0 * 30), "without the reference"),
        (-2.4, "wrong sign"),
        (-1.8, "the sum of both rewards"),
        (1.0, r"which is 2\.4 times too small"),
    ):
        refused(said, exercises.check_reward_margin, answer, after, before, beta)
    exercises.check_reward_margin(right, after, before, beta)
    assert "gained +3.00 nats, the rejected one -21.00" in capsys.readouterr().out


def test_the_losses_are_the_libraries_and_each_wrong_place_is_told(capsys):
    """The numbers that the check tells are those of TRL's trainers."""
    import torch
    import torch.nn.functional as F
    from trl.experimental.orpo import ORPOTrainer

    right = {"A": {"SFT", "ORPO"}, "B": {"DPO", "ORPO"}, "C": {"DPO"}}
    exercises.check_losses(right)
    assert "Right" in capsys.readouterr().out
    orpo = type("Losses", (), {"beta": notebook_08.BETA, "accelerator": type("On", (), {"device": "cpu"})})
    for letter, (before, after) in notebook_08.MOVES.items():
        now, found = torch.tensor(after), notebook_08.losses(after, before)
        ratio = -ORPOTrainer.odds_ratio_loss(orpo, *now[:, None])[0].mean()
        assert found["ORPO"] == pytest.approx(found["SFT"] + float(ratio), abs=1e-5)
        gained = notebook_08.TOKENS * (now - torch.tensor(before))
        assert found["DPO"] == pytest.approx(float(-F.logsigmoid(notebook_08.BETA * (gained[0] - gained[1]))), abs=1e-5)
        for loss in ("SFT", "DPO", "ORPO"):
            said = "falls" if loss in right[letter] else "does not fall"
            wrong = right | {letter: right[letter] ^ {loss}}
            refused(f"{letter}: {loss}'s loss {said}, from ", exercises.check_losses, wrong)


def test_a_shared_budget(capsys):
    for answer in ([6, 9], [7, 9], [5, 10]):
        exercises.check_stages(answer, 0.25, 24, 12)
        assert "Right" in capsys.readouterr().out
    for answer, said in (
        ([6, 3], "3 steps of DPO spend 25 % of the budget, and 75 % are its part"),
        ([12, 9], "12 steps of SFT spend 50 % of the budget, and 25 % are its part"),
        ([6], "two numbers"),
        ([6.5, 9], "a whole number"),
    ):
        refused(said, exercises.check_stages, answer, 0.25, 24, 12)
