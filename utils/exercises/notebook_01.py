"""Checks of notebook 01: a mean log-probability, the beta of an even loss, and a loss of one's own."""

import math

from utils.exercises import checks as exercises
from utils.orpo import math as orpo_math

POINTS = [(-0.4, -1.2), (-1.0, -1.0), (-2.5, -0.3)]  # a pair told apart, one undecided, one the wrong way round
RULE = "Raise P(chosen): does it fall? Raise P(rejected): does it grow? Mind both signs."


@exercises.exercise("a number in nats a token")
def check_mean(answer, probabilities: list[float]) -> str:
    """Check the mean log-probability of an answer whose tokens have these probabilities."""
    exercises.number(answer, "The mean log-probability")
    assert answer < 0, f"A log-probability is below 0, because a probability is below 1, and yours is {answer:g}."
    count, total = len(probabilities), sum(math.log(probability) for probability in probabilities)
    right = total / count
    mistakes = {
        "is the sum, which falls with every token. Divide it by the number of tokens": total,
        "is the log of the mean probability. Take the logs first, then their mean": math.log(
            sum(probabilities) / count
        ),
        "is in base 10. Nats are natural logarithms, `math.log`": right / math.log(10),
    }
    for mistake, value in mistakes.items():
        assert not math.isclose(answer, value, rel_tol=0.01), f"{answer:g} {mistake}."
    why = "It is the sum of the logs of all tokens, divided by their number."
    exercises.close(answer, right, "The mean log-probability", relative=0.01, why=why)
    return f"Right: {right:.4f}, so P is {math.exp(right):.3f}; one unlikely token weighs more than in a plain mean."


@exercises.exercise("a number")
def check_even_beta(answer, nll: float, odds_term: float) -> str:
    """Check the beta at which the weighted odds term is as large as the likelihood term."""
    exercises.number(answer, "beta")
    right, inverse = nll / odds_term, odds_term / nll
    if not math.isclose(right, inverse, rel_tol=0.04):
        upside_down = math.isclose(answer, inverse, rel_tol=0.01)
        assert not upside_down, f"{answer:g} is the other way round: beta multiplies the odds term, not the NLL."
    got = f"With beta {answer:g} the odds term is {answer * odds_term:.4f}, and the NLL is {nll:.4f}."
    exercises.close(answer, right, "beta", relative=0.01, why=got)
    return f"Right: {got} The two weigh the same in the loss, though not in its gradient."


@exercises.exercise("a function of two tensors, the log-probabilities of chosen and rejected answers")
def check_own_loss(answer) -> str:
    """Check a function that computes -log sigmoid of the log of a ratio of probabilities, by value and by gradient."""
    loss = exercises.function(answer, "Your loss")
    for place in POINTS:
        at = f"at chosen {place[0]:g} and rejected {place[1]:g}"
        found = _value_and_slopes(loss, place, at)
        wanted = _value_and_slopes(orpo_math.probability_ratio_loss, place, at)
        odds = _value_and_slopes(orpo_math.odds_ratio_loss, place, at)
        told = "This is the odds ratio's loss: leave the 1 - P out." if math.isclose(found[0], odds[0]) else RULE
        for name, ours, theirs in zip(("value", "slope for chosen", "slope for rejected"), found, wanted, strict=True):
            wrong = f"The {name} of your loss is {ours:.4f} {at}, and it should be {theirs:.4f}. {told}"
            assert math.isclose(ours, theirs, rel_tol=1e-4), wrong
    return f"Right, in value and gradient, at {len(POINTS)} points."


def _value_and_slopes(loss, place, at: str) -> list[float]:
    import torch

    points = [torch.tensor([point], dtype=torch.float64, requires_grad=True) for point in place]
    value = loss(*points)
    assert torch.is_tensor(value), f"Your loss returns {value!r} {at}: compute with torch, not with math."
    assert value.shape == (1,), f"Your loss has the shape {tuple(value.shape)} {at}: one value for each pair."
    assert value.requires_grad, f"No gradient flows through your loss {at}: no .item(), no .detach()."
    slopes = torch.autograd.grad(value.sum(), points, allow_unused=True)
    return [value.item(), *(0.0 if slope is None else slope.item() for slope in slopes)]
