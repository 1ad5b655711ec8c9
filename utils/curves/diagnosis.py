"""What a run's curves say, as findings: each with the numbers that it rests on, and what a tutor would say.

Every rule is a function of a `curves.Run` that returns its numbers or `None`, and stands in `RULES`; how grave it is
and what to do stand in `diagnosis.md`. Left out: what no curve can tell, such as whether an answer is true.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from utils.intervals import rows_for, wilson

LEVELS = ("alarm", "warning", "note", "fine")
LEAST_CHANGE = 0.02  # nats a token, 2 % in probability; of a loss, 2 % of its start: less is no change
LEAST_FALL = 0.10  # of its start: a loss that fell by less has hardly been learnt from
NO_FALL = 0.005  # of its start: a loss that moved by less has not been learnt from at all
LEAST_PREFERENCE = 0.05  # nats a token, 5 % in probability: a margin of 0.005 at beta 0.1
LEAST_ODDS, MOST_ODDS = 0.015, 0.5  # of the loss at the start; 0.12 in the healthy run of data/runs
STEADY = 0.7  # of the mean pace: a loss that falls so evenly has not begun to level off; 1 is a straight line
FAR_OFF = 0.10  # half of an accuracy's interval: wider, and a good run looks like a coin
SAME_LOSS = 5  # steps in a row with the very same loss
SCALE_SEARCH = 10  # infinite gradients, by which fp16 finds its loss scale; it leaves out these steps


@dataclass(frozen=True)
class Finding:
    """One finding: a rule's name, how grave it is (one of `LEVELS`), its numbers, and what to make of them."""

    rule: str
    level: str
    numbers: str
    advice: str


def diagnose_run(run) -> list[Finding]:
    """Apply every rule to a run.

    Returns:
        Findings, the gravest first; if none asks for a change, one says so.
    """
    meanings = read_meanings()
    tripped = {name: numbers for name, rule in RULES.items() if (numbers := rule(run))}
    found = [Finding(name, meanings[name][0], numbers, meanings[name][1]) for name, numbers in tripped.items()]
    if not any(finding.level in ("alarm", "warning") for finding in found):
        numbers = _told(run, "nll_loss", "rewards/margins", "rewards/accuracies") or _told(run, "loss")
        found.append(Finding("healthy", meanings["healthy"][0], numbers, meanings["healthy"][1]))
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def read_meanings() -> dict[str, tuple[str, str]]:
    """Return (level, advice) of every rule, by name, in the order of `diagnosis.md`."""
    text = Path(__file__).with_suffix(".md").read_text()
    parts = re.findall(r"^## (.+?) \| (\w+)\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: (level, " ".join(advice.split())) for name, level, advice in parts}


# What the rules say their numbers with


def _told(run, *metrics: str) -> str:
    return ", ".join(f"{metric} {pair[0]:.3f} to {pair[1]:.3f}" for metric in metrics if (pair := run.ends(metric)))


def _least(run) -> float:
    """What counts as a change: more without evaluations, for means of few batches scatter by some percent."""
    return LEAST_CHANGE if len(run.series("loss", "eval")) > 1 else LEAST_FALL


def _rate(run) -> str:
    rates = run.series("learning_rate")
    return f"learning rate {run.settings.get('learning_rate', 'not recorded' if rates.empty else f'{rates.max():g}')}"


def _beta(run) -> str:
    return f"beta {run.settings.get('beta', 'not recorded')}"


def _writing(run) -> str:
    """The loss that says how well the model writes: the NLL, or, of a trainer that logs none, its loss."""
    return "loss" if run.series("nll_loss").empty else "nll_loss"


# The rules


def not_finite(run) -> str | None:
    """A loss or gradient is no number."""
    import numpy as np

    for split in ("train", "eval"):
        for metric in ("loss", "nll_loss", "rewards/margins", "grad_norm"):
            values = run.series(metric, split)
            bad = values[~np.isfinite(values)]
            if len(bad) > (SCALE_SEARCH if metric == "grad_norm" else 0):
                return f"{split} {metric} is {bad.iloc[0]} at step {bad.index[0]}, and {len(bad)} times in all"
    return None


def stuck(run) -> str | None:
    """The training loss repeats itself to the last digit."""
    loss = run.series("loss")
    runs = [part for _, part in loss.groupby((loss != loss.shift()).cumsum())]
    longest = max(runs, key=len, default=loss)
    if len(longest) < SAME_LOSS:
        return None
    return f"train loss is {longest.iloc[0]:g} for {len(longest)} steps in a row, from step {longest.index[0]}"


def rate_too_high(run) -> str | None:
    """The loss that is minimised ends above its start, and not on the held-out rows alone."""
    fall, trained = run.fall("loss"), run.series("loss").dropna()
    if not fall or fall > -_least(run) or trained.tail(5).mean() < trained.head(5).mean():
        return None
    return f"{_told(run, 'loss', 'rewards/accuracies')}; {_rate(run)}"


def rate_too_low(run) -> str | None:
    """The loss falls by little, and as fast for its learning rate at the end as at the start."""
    fall, pace = run.fall("loss"), run.pace("loss")
    if not fall or not pace or pace < STEADY or not NO_FALL < fall < LEAST_FALL:
        return None
    return f"{_told(run, 'loss')} ({-fall:.1%}), the second half at {pace:.0%} of the mean pace; {_rate(run)}"


def plateau(run) -> str | None:
    """The loss is at the end where it was at the start."""
    fall, loss = run.fall("loss"), run.series("loss")
    if fall is None or len(loss) < 10 or not -LEAST_CHANGE <= fall <= NO_FALL:
        return None
    return f"{_told(run, 'loss')} ({-fall:+.2%}) in {loss.index[-1]} steps; {_rate(run)}"


def still_falling(run) -> str | None:
    """The loss has fallen by much, and had not levelled off when training stopped."""
    fall, pace = run.fall("loss"), run.pace("loss")
    if not fall or not pace or pace < STEADY or fall < LEAST_FALL:
        return None
    return f"{_told(run, 'loss')}; for its learning rate, the second half fell at {pace:.0%} of the mean pace"


def overfitting(run) -> str | None:
    """The held-out loss rises again while the training loss goes on falling."""
    held_out, trained = (run.series(_writing(run), split).dropna() for split in ("eval", "train"))
    if len(held_out) < 3:
        return None
    best, last = held_out.idxmin(), held_out.iloc[-1]
    until = trained[trained.index <= best].tail(5)
    before = (until if len(until) else trained.head(5)).mean()  # the best one may come before the first step
    after = trained[trained.index > best].tail(5).mean()
    if last < held_out[best] * (1 + LEAST_CHANGE) or not after < before:
        return None
    return (
        f"held-out {_writing(run)} {held_out[best]:.3f} at step {best}, its best, {last:.3f} at the end; in training "
        f"{before:.3f} and {after:.3f}"
    )


def _odds_share(run) -> float | None:
    """The odds term's share of the loss at the start: what is left of it without the NLL."""
    loss, nll = run.ends("loss"), run.ends("nll_loss")
    return 1 - nll[0] / loss[0] if loss and nll and loss[0] > 0 else None


def odds_outweigh(run) -> str | None:
    """The odds term is most of the loss, or the odds grow at the cost of the likelihood."""
    share, fall = _odds_share(run), run.fall("nll_loss")
    at_a_cost = fall is not None and fall < -LEAST_CHANGE < 0 < run.change("log_odds_chosen") and not overfitting(run)
    if share is None or rate_too_high(run) or not (share > MOST_ODDS or at_a_cost):
        return None
    return f"{share:.0%} of the loss at the start; {_told(run, 'nll_loss', 'log_odds_chosen')}; {_beta(run)}"


def odds_silent(run) -> str | None:
    """The odds term is next to nothing in the loss."""
    share = _odds_share(run)
    if share is None or share > LEAST_ODDS:
        return None
    return f"{share:.1%} of the loss at the start; {_told(run, 'nll_loss', 'log_odds_chosen')}; {_beta(run)}"


def no_preference(run) -> str | None:
    """The likelihood is learnt, and the preference is not: odds would grow with any probability, so the gap counts."""
    fall, gap = run.fall("nll_loss"), run.change("logps/chosen") - run.change("logps/rejected")
    if run.trainer != "ORPO" or not fall or fall < LEAST_FALL or gap > LEAST_PREFERENCE:
        return None
    return f"the gap grew by {gap:+.3f} nats a token; {_told(run, 'nll_loss')}; {_beta(run)}, {_rate(run)}"


def both_fall(run) -> str | None:
    """Both answers become less likely."""
    if run.trainer != "ORPO":  # DPO's are sums over the answer, and both fall as a rule
        return None
    falls = max(run.change(f"logps/{side}") for side in ("chosen", "rejected")) < -_least(run)
    return f"{_told(run, 'logps/chosen', 'logps/rejected')} nats a token" if falls else None


def rejected_stays(run) -> str | None:
    """The rejected answer becomes no less likely."""
    if run.trainer != "ORPO" or not run.ends("logps/rejected") or run.change("logps/rejected") < -LEAST_CHANGE:
        return None
    return f"{_told(run, 'logps/chosen', 'logps/rejected')} nats a token"


def chosen_side_only(run) -> str | None:
    """The gap between the answers grows, and by the chosen one alone."""
    chosen, rejected = (run.change(f"logps/{side}") for side in ("chosen", "rejected"))
    if run.trainer != "ORPO" or chosen - rejected < LEAST_CHANGE or chosen < 0.9 * (chosen - rejected):
        return None
    return f"the gap grew by {chosen - rejected:.3f} nats a token: chosen {chosen:+.3f}, rejected {rejected:+.3f}"


def too_short(run) -> str | None:
    """Too little was logged to tell an end from a start."""
    evaluated, trained = (len(run.series("loss", split)) for split in ("eval", "train"))
    return None if run.ends("loss") else f"{evaluated} evaluations, {trained} training points"


def no_evaluation(run) -> str | None:
    """Nothing was held out."""
    evaluated = (run.history.split == "eval").any()
    return None if evaluated else f"{len(run.series('loss'))} training points, no evaluation"


def few_rows(run) -> str | None:
    """The held-out rows are too few for their accuracy to say anything."""
    seen, rows = run.series("rewards/accuracies", "eval").dropna(), run.eval_rows
    if seen.empty or not rows:
        return None
    low, high = wilson(seen.iloc[-1], rows)
    told = f"accuracy {seen.iloc[-1]:.2f} of {rows} rows: {low:.2f} to {high:.2f} (95 %)"
    enough = f"{rows_for(0.07)} rows would know it within 7 points, {rows_for(0.03):,} within 3"
    return f"{told}; {enough}" if high - low > 2 * FAR_OFF else None


def _accuracy_at_start(run) -> tuple[float, float, str]:
    """The 95 % interval of the accuracy before the first step, and what to say of it; all accuracies if not known."""
    seen, rows = run.series("rewards/accuracies", "eval").dropna(), run.eval_rows
    if run.trainer != "ORPO" or seen.empty or not rows or seen.index[0] > 0:  # DPO's rewards start at zero
        return 0.0, 1.0, ""
    low, high = wilson(seen.iloc[0], rows)
    return low, high, f"{seen.iloc[0]:.2f} of {rows} rows before the first step: {low:.2f} to {high:.2f} (95 %)"


def starts_above_half(run) -> str | None:
    """The base prefers the chosen side before it has learnt anything."""
    low, _, told = _accuracy_at_start(run)
    return told if low > 0.5 else None


def starts_below_half(run) -> str | None:
    """The base prefers the rejected side before it has learnt anything."""
    _, high, told = _accuracy_at_start(run)
    return told if high < 0.5 else None


def not_ended(run) -> str | None:
    """The run goes on, or was stopped."""
    steps = run.settings.get("max_steps") or -1
    seen = f"{run.state}; read up to step {run.history.step.max()}" + (f" of {steps}" if steps > 0 else "")
    return None if run.state == "finished" else seen


def other_trainer(run) -> str | None:
    """The run was not trained with ORPO."""
    logged = ", ".join(sorted(run.history.metric.unique())[:10])
    return None if run.trainer == "ORPO" else f"trainer {run.trainer}, which logged {logged}"


RULES = {
    "not finite": not_finite,
    "stuck": stuck,
    "learning rate too high": rate_too_high,
    "learning rate too low": rate_too_low,
    "plateau from step one": plateau,
    "still falling when it stopped": still_falling,
    "overfitting": overfitting,
    "the odds outweigh the likelihood": odds_outweigh,
    "the odds hardly count": odds_silent,
    "no preference learnt": no_preference,
    "both log-probabilities fall": both_fall,
    "too short to judge": too_short,
    "no evaluation": no_evaluation,
    "too few held-out rows": few_rows,
    "accuracy above one half from the start": starts_above_half,
    "accuracy below one half at the start": starts_below_half,
    "the rejected answer does not fall": rejected_stays,
    "the margin grows by the chosen side": chosen_side_only,
    "not at its end": not_ended,
    "another trainer": other_trainer,
}
