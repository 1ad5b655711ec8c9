"""The exercises of notebook 06: what is wrong with a finding, which pairs decide, and accuracy written by hand."""

import math

from utils.exercises.checks import by_letter, choice, close, exercise, function, number, two_numbers

FLAWS = ("none", "chance", "contamination", "length", "a part of the items")
FINDINGS = {  # letter -> its flaw, and where to look
    "A": ("contamination", "which pairs were asked, and who had seen them before"),
    "B": ("chance", "how large the change is compared with its interval"),
    "C": ("none", "which pairs were asked, how many, and whether the interval reaches zero"),
    "D": ("a part of the items", "how many of the 817 questions were asked"),
    "E": ("length", "what a sum does to the longer of two answers, and which of these is the longer one"),
}


@exercise('a flaw for each letter, as in {"A": "chance", "B": "none", ...}')
def check_findings(answer: dict | None) -> str:
    """Check the flaw of each of the five findings."""
    for letter, flaw in by_letter(answer, FINDINGS, "a flaw").items():
        choice(flaw, FLAWS, f"What is wrong with {letter}")
    wrong = [
        f"{letter} is not a case of {answer[letter]!r}: look at {look}."
        for letter, (flaw, look) in FINDINGS.items()
        if answer[letter] != flaw
    ]
    assert not wrong, "\n".join(wrong)
    return "Right: only C can be quoted as it is."


@exercise("how many pairs were gained and how many were lost, as in (12, 3)")
def check_flips(answer: tuple | None, before, after) -> str:
    """Check how many pairs only `after` has right, and how many only `before`; both are tables of `score_pairs`."""
    gained, lost = two_numbers(answer, "(gained, lost)")
    was, now, pairs = before.margin > 0, after.margin > 0, len(before)
    right = int((now & ~was).sum()), int((was & ~now).sum())
    slips = {
        right[::-1]: "are the other way round: a pair is gained that only the tuned model has right.",
        (now.sum(), was.sum()): "are the pairs that each model has right. Count those that one has right, and the "
        "other has not.",
    }
    if (gained, lost) != right:
        slip = slips.get((gained, lost))
        assert not slip, f"{gained:g} and {lost:g} {slip}"
        raise AssertionError(
            f"({gained:g} - {lost:g}) / {pairs} is {(gained - lost) / pairs:+.3f}, and the two accuracies differ by "
            f"{now.mean() - was.mean():+.3f}. A pair is right where margin > 0: count where that holds for one table "
            "and not for the other."
        )
    return (
        f"Right: ({gained:g} - {lost:g}) / {pairs} = {(gained - lost) / pairs:+.3f}, the difference of the two "
        f"accuracies. The models agree on the other {pairs - sum(right)} pairs, which say nothing about it."
    )


@exercise('a function of a table of scores and of how, "mean" or "sum"')
def check_accuracy(answer, scores: dict) -> str:
    """Check a function of a table and of "mean" or "sum" that returns the preference accuracy; `scores` is by model."""
    import pandas as pd

    judge = function(answer, "Your function")
    # Short and unlikely against long and likely, the same the other way round, a tie, and a clear case
    rows = [(-1.0, 10, -1.5, 4), (-1.5, 4, -1.0, 10), (-1.0, 5, -1.0, 5), (-0.5, 6, -2.0, 6)]
    table = pd.DataFrame(rows, columns=["chosen", "chosen_tokens", "rejected", "rejected_tokens"])
    table["margin"] = table.chosen - table.rejected
    for how in ("mean", "sum"):  # the first two rows are decided by how, the third never, the fourth always
        share = number(judge(table, how), f"What your function returns for {how!r}")
        assert share <= 1, f"{share:g} is no share: divide the pairs that are right by all {len(table)}."
        assert not math.isclose(share, 0.75), f"By {how}, a tie is no win: use > and not >=."
        assert math.isclose(share, 0.5), f"By {how}, 2 of these 4 pairs are right, and not {4 * share:g}:\n{table}"
    assert float(judge(table.iloc[:1], "sum")) == 0, (
        "By sum, a chosen answer of 10 tokens at -1.0 (-10 in all) loses against a rejected one of 4 at -1.5 (-6 in "
        "all), and your function lets it win: multiply each mean by the tokens of its own answer."
    )
    assert float(judge(table.iloc[:1], "mean")) == 1, "By mean, -1.0 wins against -1.5, whatever the tokens."
    told = []
    for name, part in scores.items():
        by_sum = part.chosen * part.chosen_tokens > part.rejected * part.rejected_tokens
        for how, right in (("mean", (part.margin > 0).mean()), ("sum", by_sum.mean())):
            close(judge(part, how), float(right), f"The accuracy of {name} by {how}", 1e-6)
            told.append(f"{name} by {how} {right:.3f}")
    return f"Right: {', '.join(told)}, as in the table above."
