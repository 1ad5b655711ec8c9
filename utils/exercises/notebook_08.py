"""The exercises of notebook 08: which updates a loss rewards, DPO's reward by hand, a budget in two stages."""

import math

from utils.exercises.checks import by_letter, choice, close, exercise, two_numbers
from utils.orpo import math as orpo_math

MOVES = {  # letter -> mean log-probabilities of a token: (chosen, rejected) before, and after
    "A": ((-1.0, -2.0), (-0.7, -1.7)),
    "B": ((-1.0, -2.0), (-1.0, -3.0)),
    "C": ((-1.0, -2.0), (-1.3, -3.0)),
}
BETA, TOKENS = 0.1, 10  # of ORPO and of DPO in `MOVES`, and of both answers


@exercise('the losses that fall for each letter, as in {"A": {"DPO"}, "B": set(), ...}')
def check_losses(answer: dict | None) -> str:
    """Check which of the three losses fall in each of `MOVES`."""
    names = ("SFT", "DPO", "ORPO")
    for letter, given in by_letter(answer, MOVES, "a set of losses").items():
        assert isinstance(given, set | list | tuple), f"{letter} needs a set of losses, and not {given!r}."
        for name in given:
            choice(name, names, f"A loss of {letter}")
        before, after = MOVES[letter]
        old, new = losses(before, before), losses(after, before)
        term = (new["ORPO"] - new["SFT"]) / BETA
        why = {
            "SFT": "It sees the chosen answer alone.",
            "DPO": "It sees how much more the chosen answer gained than the rejected one.",
            "ORPO": f"It is SFT's loss and {BETA:g} times the odds-ratio term, {term:.3f} now.",
        }
        for name in names:
            falls = new[name] < old[name] - 1e-9
            said = f"{'falls' if falls else 'does not fall'}, from {old[name]:.3f} to {new[name]:.3f}"
            assert falls == (name in given), f"{letter}: {name}'s loss {said}. {why[name]}"
    return "Right: DPO accepts that C's chosen answer became less likely. The likelihood in the other two does not."


def losses(now: tuple, before: tuple) -> dict[str, float]:
    """Compute three losses of one pair from its (chosen, rejected) mean log-probabilities, of model and reference.

    ORPO's as in arXiv 2403.07691, DPO's as in arXiv 2305.18290, with `BETA`, `TOKENS` in either answer and no prompt.

    Example:
        >>> {name: round(value, 3) for name, value in losses((-1.0, -2.0), (-1.0, -2.0)).items()}
        {'SFT': 1.0, 'DPO': 0.693, 'ORPO': 1.024}
    """
    import torch

    gained = BETA * TOKENS * ((now[0] - before[0]) - (now[1] - before[1]))
    odds_ratio = orpo_math.odds_ratio_loss(*torch.tensor(now, dtype=torch.float64)).item()
    return {"SFT": -now[0], "DPO": math.log1p(math.exp(-gained)), "ORPO": -now[0] + BETA * odds_ratio}


@exercise("the margin, a number")
def check_reward_margin(answer: float | None, after, before, beta: float) -> str:
    """Check DPO's reward margin of one pair; `after` and `before` are its rows of `score_pairs`."""
    gained = {side: after[side] - before[side] for side in ("chosen", "rejected")}
    whole = {side: gained[side] * after[f"{side}_tokens"] for side in gained}
    now = {side: after[side] * after[f"{side}_tokens"] for side in gained}
    right = beta * (whole["chosen"] - whole["rejected"])
    slips = {
        right / beta: "that is without beta.",
        beta * (gained["chosen"] - gained["rejected"]): "that is of the means. DPO's reward is of the whole answer.",
        beta * (now["chosen"] - now["rejected"]): "that is without the reference.",
        -right: "that has the wrong sign.",
        beta * (whole["chosen"] + whole["rejected"]): "that is the sum of both rewards.",
    }
    why = "Each answer's reward is beta * tokens * (log-probability now - that of the reference)."
    close(answer, float(right), "The margin", why=why, slips=slips)
    return (
        f"Right: the chosen answer gained {whole['chosen']:+.2f} nats, the rejected one {whole['rejected']:+.2f}, and "
        f"beta times the difference is {right:.4f}."
    )


@exercise("the optimizer steps of both stages, as in [5, 20]")
def check_stages(answer: list | None, share: float, sft_steps: int, pair_steps: int) -> str:
    """Check, to within one step, steps of SFT that spend this share of the budget, and of DPO that spend the rest.

    `sft_steps` of SFT, or `pair_steps` of DPO, would spend the whole budget.
    """
    sft, dpo = two_numbers(answer, "[SFT, DPO]")
    for name, steps, whole, part in (("SFT", sft, sft_steps, share), ("DPO", dpo, pair_steps, 1 - share)):
        assert abs(steps - part * whole) <= 1, (
            f"{steps:g} steps of {name} spend {100 * steps / whole:.0f} % of the budget, and {100 * part:.0f} % are "
            f"its part: {whole} steps of {name} alone would spend it all."
        )
    spent = sft / sft_steps + dpo / pair_steps
    return f"Right: together they spend {100 * spent:.0f} % of the budget, in {sft + dpo:g} steps."
