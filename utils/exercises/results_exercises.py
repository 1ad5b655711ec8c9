"""The exercises on results: what figures of notebook 06 say, what the losses of notebook 08 reward, and what they cost.

Left out: the models and their scores, which the notebooks pass in.
"""

import math

from utils.exercises.checks import choice, close, exercise, function, number
from utils.orpo import math as orpo_math

FLAWS = ("none", "chance", "contamination", "length", "a part of the items")
FINDINGS = {  # letter -> its flaw, and where to look
    "A": ("contamination", "which pairs were asked, and who had seen them before"),
    "B": ("chance", "how large the change is beside its interval"),
    "C": ("none", "which pairs were asked, how many, and whether the interval reaches zero"),
    "D": ("a part of the items", "how many of the 817 questions were asked"),
    "E": ("length", "what a sum does to the longer of two answers, and which of these is the longer one"),
}
MOVES = {  # letter -> mean log-probabilities of a token: (chosen, rejected) before, and after
    "A": ((-1.0, -2.0), (-0.7, -1.7)),
    "B": ((-1.0, -2.0), (-1.0, -3.0)),
    "C": ((-1.0, -2.0), (-1.3, -3.0)),
}
BETA, TOKENS = 0.1, 10  # of ORPO and of DPO in `MOVES`, and of both answers


@exercise('a flaw for each letter, as in {"A": "chance", "B": "none", ...}')
def check_findings(answer: dict | None) -> str:
    """Check what is wrong with each of the five findings that notebook 06 lists, if anything is.

    Args:
        answer: letter -> one of `FLAWS`.
    """
    answer = _by_letter(answer, FINDINGS, "a flaw")
    for letter, flaw in answer.items():
        choice(flaw, FLAWS, f"What is wrong with {letter}")
    wrong = [
        f"{letter} is another case than {answer[letter]!r}: look at {look}."
        for letter, (flaw, look) in FINDINGS.items()
        if answer[letter] != flaw
    ]
    assert not wrong, "\n".join(wrong)
    return "Right: only C can be quoted as it stands."


@exercise("how many pairs were gained and how many were lost, as in (12, 3)")
def check_flips(answer: tuple | None, before, after) -> str:
    """Check on how many pairs two models disagree: those that only `after` has right, and those that only `before` has.

    Args:
        answer: (gained, lost).
        before, after: data frames of `evaluation.score_pairs`, of the same pairs.
    """
    is_two = isinstance(answer, tuple | list) and len(answer) == 2
    assert is_two, f"The answer is two numbers, (gained, lost), not {answer!r}."
    gained, lost = (number(it, what, 0, True) for it, what in zip(answer, ("Gained", "Lost"), strict=True))
    was, now, pairs = before.margin > 0, after.margin > 0, len(before)
    right = int((now & ~was).sum()), int((was & ~now).sum())
    if (gained, lost) == right:
        difference = (gained - lost) / pairs
        return (
            f"Right: ({gained:g} - {lost:g}) / {pairs} = {difference:+.3f}, the difference of the two accuracies. The "
            f"other {pairs - sum(right)} pairs were decided alike and say nothing about it."
        )
    assert (gained, lost) != (right[1], right[0]), (
        f"{gained:g} and {lost:g} are the other way round: a pair is gained that only the tuned model has right."
    )
    assert (gained, lost) != (now.sum(), was.sum()), (
        f"{gained:g} and {lost:g} are the pairs that each model has right. Most of them are the same pairs: count "
        "those that one model has right and the other has not."
    )
    assert gained + lost <= pairs, f"{gained:g} and {lost:g} are more than the {pairs} pairs that there are."
    of_all, difference = (gained - lost) / pairs, float(now.mean() - was.mean())
    assert math.isclose(of_all, difference, abs_tol=0.5 / pairs), (
        f"({gained:g} - {lost:g}) / {pairs} is {of_all:+.3f}, and the two accuracies differ by {difference:+.3f}."
    )
    raise AssertionError(
        f"{gained:g} less {lost:g} is the right difference, but not these pairs: a pair is right where margin > 0, so "
        "count where that holds for one table and not for the other."
    )


@exercise('a function of a table of scores and of how, "mean" or "sum"')
def check_accuracy(answer, scores: dict) -> str:
    """Check a function that computes the preference accuracy, by mean or by summed log-probability.

    Args:
        answer: function of a data frame of `evaluation.score_pairs` and of "mean" or "sum"; returns a share.
        scores: model -> data frame of `evaluation.score_pairs`.
    """
    import pandas as pd

    judge = function(answer, "Your function")
    # Short and unlikely against long and likely, the same the other way round, a tie, and a clear case
    rows = [(-1.0, 10, -1.5, 4), (-1.5, 4, -1.0, 10), (-1.0, 5, -1.0, 5), (-0.5, 6, -2.0, 6)]
    table = pd.DataFrame(rows, columns=["chosen", "chosen_tokens", "rejected", "rejected_tokens"])
    table["margin"] = table.chosen - table.rejected
    # The first two rows are decided by how, the third never, the fourth always
    for how, right in (("mean", 0.5), ("sum", 0.5)):
        share = number(judge(table, how), f"What your function returns for {how!r}")
        assert share <= 1, f"{share:g} is no share: divide the pairs that are right by all {len(table)}."
        assert not math.isclose(share, right + 0.25), f"By {how}, a tie is no win: use > and not >=."
        assert math.isclose(share, right), f"By {how}, 2 of these 4 pairs are right, and not {4 * share:g}:\n{table}"
    first = float(judge(table.iloc[:1], "sum"))
    assert first == 0, (
        "By sum, a chosen answer of 10 tokens at -1.0 (-10 in all) loses against a rejected one of 4 at -1.5 (-6 in "
        "all), and your function lets it win: multiply each mean by the tokens of its own answer."
    )
    assert float(judge(table.iloc[:1], "mean")) == 1, "By mean, -1.0 wins against -1.5, whatever the tokens."
    said = []
    for name, part in scores.items():
        by_sum = part.chosen * part.chosen_tokens > part.rejected * part.rejected_tokens
        for how, right in (("mean", (part.margin > 0).mean()), ("sum", by_sum.mean())):
            close(judge(part, how), float(right), f"The accuracy of {name} by {how}", 1e-6)
            said.append(f"{name} by {how} {right:.3f}")
    return f"Right: {', '.join(said)}, as in the table above."


@exercise("the margin, a number")
def check_reward_margin(answer: float | None, after, before, beta: float) -> str:
    """Check DPO's reward margin of one pair, computed by hand.

    Args:
        answer: the margin, in `beta` times nats.
        after, before: rows of `evaluation.score_pairs` of that pair, of the model and of its reference.
        beta: DPO's.
    """
    number(answer, "The margin")
    gained = {side: after[side] - before[side] for side in ("chosen", "rejected")}
    whole = {side: gained[side] * after[f"{side}_tokens"] for side in gained}
    right = beta * (whole["chosen"] - whole["rejected"])
    mistakes = {
        "without beta: the reward is beta times the gain": right / beta,
        "of the means: DPO's reward is of the whole answer, so multiply each by its tokens": beta
        * (gained["chosen"] - gained["rejected"]),
        "without the reference: a gain is what the model gives less what its reference gave": beta
        * (after["chosen"] * after["chosen_tokens"] - after["rejected"] * after["rejected_tokens"]),
        "with the wrong sign: chosen less rejected, and model less reference": -right,
        "the sum of both rewards: the margin is their difference": beta * (whole["chosen"] + whole["rejected"]),
    }
    for mistake, wrong in mistakes.items():
        is_it = math.isclose(answer, wrong, rel_tol=0.02) and not math.isclose(answer, right, rel_tol=0.02)
        assert not is_it, f"{answer:g} is the margin {mistake}."
    why = "Each answer's reward is beta * tokens * (log-probability now - that of the reference)."
    close(answer, float(right), "The margin", why=why)
    return (
        f"Right: the chosen answer gained {whole['chosen']:+.2f} nats, the rejected one {whole['rejected']:+.2f}, and "
        f"beta times the difference is {right:.4f}."
    )


@exercise('the losses that fall for each letter, as in {"A": {"DPO"}, "B": set(), ...}')
def check_losses(answer: dict | None) -> str:
    """Check which of the three losses fall as chosen and rejected answer move, see `MOVES`.

    Args:
        answer: letter -> set of names among "SFT", "DPO" and "ORPO".
    """
    answer, names = _by_letter(answer, MOVES, "a set of losses"), ("SFT", "DPO", "ORPO")
    for letter, (before, after) in MOVES.items():
        given = answer[letter]
        assert isinstance(given, set | list | tuple), f"{letter} needs a set of losses, and not {given!r}."
        for name in given:
            choice(name, names, f"A loss of {letter}")
        values = {name: (losses(before, before)[name], losses(after, before)[name]) for name in names}
        for name, (old, new) in values.items():
            falls, said = new < old - 1e-9, "falls" if new < old - 1e-9 else "does not fall"
            why = {
                "SFT": "It sees the chosen answer alone.",
                "DPO": "It sees how much more the chosen answer gained than the rejected one.",
                "ORPO": f"It is SFT's loss and {BETA:g} times the odds-ratio term, "
                f"{(new - values['SFT'][1]) / BETA:.3f} now.",
            }[name]
            assert falls == (name in given), f"{letter}: {name}'s loss {said}, from {old:.3f} to {new:.3f}. {why}"
    return "Right: DPO does not mind that C's chosen answer became unlikelier. The likelihood in the other two does."


def losses(now: tuple, before: tuple) -> dict[str, float]:
    """Compute three losses of one pair from the mean log-probabilities of its two answers, without a prompt.

    ORPO's as in arXiv 2403.07691, DPO's as in arXiv 2305.18290, with `BETA`, and `TOKENS` in either answer.

    Args:
        now, before: (chosen, rejected) in nats a token, of the model and of DPO's reference.

    Example:
        >>> {name: round(value, 3) for name, value in losses((-1.0, -2.0), (-1.0, -2.0)).items()}
        {'SFT': 1.0, 'DPO': 0.693, 'ORPO': 1.024}
    """
    import torch

    chosen, rejected = now
    gained = BETA * TOKENS * ((chosen - before[0]) - (rejected - before[1]))
    likelihood = -chosen
    return {
        "SFT": likelihood,
        "DPO": math.log1p(math.exp(-gained)),
        "ORPO": likelihood + BETA * orpo_math.odds_ratio_loss(*torch.tensor(now, dtype=torch.float64)).item(),
    }


@exercise("the optimizer steps of both stages, as in [5, 20]")
def check_stages(answer: list | None, share: float, sft_steps: int, pair_steps: int) -> str:
    """Check how a token budget is shared between a stage of SFT and one of DPO, each to within one step.

    Args:
        answer: [steps of SFT, steps of DPO].
        share: of the budget that SFT shall have.
        sft_steps, pair_steps: that spend the whole budget, of SFT and of DPO.
    """
    is_two = isinstance(answer, tuple | list) and len(answer) == 2
    assert is_two, f"The answer is two numbers of steps, [SFT, DPO], not {answer!r}."
    given = [
        number(it, f"The number of {what} steps", 0, True) for it, what in zip(answer, ("SFT", "DPO"), strict=True)
    ]
    wholes, shares = (sft_steps, pair_steps), (share, 1 - share)
    for name, steps, whole, part in zip(("SFT", "DPO"), given, wholes, shares, strict=True):
        left = f"; SFT leaves {100 - 100 * share:.0f} % of the budget to DPO" if name == "DPO" else ""
        assert abs(steps - part * whole) <= 1, (
            f"{steps:g} steps of {name} spend {100 * steps / whole:.0f} % of the budget, and {100 * part:.0f} % are "
            f"its part: {whole} steps of {name} alone would spend it all{left}."
        )
    spent = sum(steps / whole for steps, whole in zip(given, wholes, strict=True))
    return f"Right: together they spend {100 * spent:.0f} % of the budget, in {sum(given):g} steps."


def _by_letter(answer, letters, what: str) -> dict:
    """Return the answer where it is a dictionary that gives something to each letter, and to no other."""
    assert isinstance(answer, dict), f"The answer is a dictionary of letter and {what}, not {answer!r}."
    strange = [letter for letter in answer if letter not in letters]
    assert not strange, f"There is no {strange[0]!r}: the letters are {', '.join(letters)}."
    missing = [letter for letter in letters if letter not in answer]
    assert not missing, f"Still without {what}: {', '.join(missing)}."
    return answer
