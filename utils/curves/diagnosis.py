"""What a run's curves say, as findings; no curve can tell whether an answer is true."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from utils.curves.run import NotLogged
from utils.intervals import rows_for, wilson

LEVELS = ("alarm", "warning", "note", "fine")
ASKING = LEVELS[:2]  # for a change
LEAST_CHANGE = 0.02  # nats a token, 2 % in probability; of a loss, 2 % of its start: less is no change
LEAST_FALL = 0.10  # of its start: a loss that fell by less has hardly been learnt from
NO_FALL = 0.005  # of its start: a loss that moved by less has not been learnt from at all
LEAST_PREFERENCE = 0.05  # nats a token, 5 % in probability: a margin of 0.005 at beta 0.1
LEAST_ODDS, MOST_ODDS = 0.015, 0.5  # of the loss at the start; 0.12 in the healthy run of data/runs
STEADY = 0.7  # of the mean pace: a loss that falls so evenly has not begun to level off; 1 is a straight line
FAR_OFF = 0.10  # half of an accuracy's interval: wider, and a good run looks like a coin
SAME_LOSS = 5  # steps in a row with the very same loss
SCALE_SEARCH = 10  # infinite gradients, by which fp16 finds its loss scale; it leaves out these steps
RULES = {}  # name -> function of a `Run` that returns its numbers, or `None`, in this order


@dataclass(frozen=True)
class Finding:
    """What a rule found, and the numbers that it rests on; `level` is one of `LEVELS`."""

    rule: str
    level: str
    numbers: str
    change: str
    advice: str


def rule(name: str, level: str, change: str) -> Callable:
    """Add a function to `RULES`; its docstring is the advice."""

    def add(check: Callable) -> Callable:
        check.level, check.change, check.advice = level, change, " ".join(check.__doc__.split())
        RULES[name] = check
        return check

    return add


def diagnose_run(run) -> list[Finding]:
    """Apply every rule to a run: findings, the gravest first; if none asks for a change, one says so."""
    found = []
    for name, check in RULES.items():
        with suppress(NotLogged):  # of which the rule has nothing to say
            if numbers := check(run):
                found.append(Finding(name, check.level, numbers, check.change, check.advice))
    if not any(finding.level in ASKING for finding in found):
        numbers = _told(run, "nll_loss", "rewards/margins", "rewards/accuracies") or _told(run, "loss")
        advice = "Nothing here asks for a change. Now read its answers: a curve does not know whether they are true."
        found.append(Finding("healthy", "fine", numbers, "nothing", advice))
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def list_rules() -> list[dict[str, str]]:
    """List every finding that asks for a change, as rows."""
    rows = [{"finding": name, "level": check.level, "what to change": check.change} for name, check in RULES.items()]
    return [row for row in rows if row["level"] in ASKING]


def _told(run, *metrics: str) -> str:
    """Write down where metrics begin and end, as far as they were logged."""
    told = []
    for metric in metrics:
        with suppress(NotLogged):
            told.append("{} {:.3f} to {:.3f}".format(metric, *run.ends(metric)))
    return ", ".join(told)


def _least(run) -> float:
    """What counts as a change: more without evaluations, because means of few batches scatter by some percent."""
    return LEAST_CHANGE if len(run.series("loss", "eval")) > 1 else LEAST_FALL


def _rate(run) -> str:
    rates = run.series("learning_rate")
    return f"learning rate {run.settings.get('learning_rate', 'not recorded' if rates.empty else f'{rates.max():g}')}"


def _beta(run) -> str:
    return f"beta {run.settings.get('beta', 'not recorded')}"


def _only_orpo(run) -> None:
    """Other trainers' log-probabilities are sums over an answer, and their rewards start at zero."""
    if run.trainer != "ORPO":
        raise NotLogged("log_odds_ratio")


@rule("not finite", "alarm", "drop the bad row, then lower the learning rate")
def not_finite(run) -> str | None:
    """The weights may be spoilt from there on. Go back to the checkpoint before it, and look at the rows of that step:
    an answer without tokens does this.
    """
    import numpy as np

    for split in ("train", "eval"):
        for metric in ("loss", "nll_loss", "rewards/margins", "grad_norm"):
            values = run.series(metric, split)
            bad = values[~np.isfinite(values)]
            if len(bad) > (SCALE_SEARCH if metric == "grad_norm" else 0):
                return f"{split} {metric} is {bad.iloc[0]} at step {bad.index[0]}, and {len(bad)} times in all"
    return None


@rule("stuck", "alarm", "let the adapter's weights require a gradient")
def stuck(run) -> str | None:
    """No two batches have the same loss. At 0.0 none of them was a number, and `logging_nan_inf_filter`,
    which logs the mean of what is finite, hid it; at another value nothing is trained.
    """
    loss = run.series("loss")
    runs = [part for _, part in loss.groupby((loss != loss.shift()).cumsum())]
    longest = max(runs, key=len, default=loss)
    if len(longest) < SAME_LOSS:
        return None
    return f"train loss is {longest.iloc[0]:g} for {len(longest)} steps in a row, from step {longest.index[0]}"


@rule("learning rate too high", "alarm", "learning rate: divide by 10")
def rate_too_high(run) -> str | None:
    """The optimizer makes worse what it should make better: its steps leap over the valley. Whatever margin and
    accuracy say, the base wrote these answers better.
    """
    trained = run.series("loss").dropna()
    if run.fall("loss") > -_least(run) or trained.tail(5).mean() < trained.head(5).mean():
        return None
    return f"{_told(run, 'loss', 'rewards/accuracies')}; {_rate(run)}"


@rule("learning rate too low", "warning", "learning rate: times 10 below 3e-5, else times 2 or 3, up to 5e-4")
def rate_too_low(run) -> str | None:
    """It goes the right way, in steps too small to arrive. With LoRA, a rate below 3e-5 is one for full fine-tuning.
    After that, take more pairs.
    """
    fall, pace = run.fall("loss"), run.pace("loss")
    if pace < STEADY or not NO_FALL < fall < LEAST_FALL:
        return None
    return f"{_told(run, 'loss')} ({-fall:.1%}), the second half at {pace:.0%} of the mean pace; {_rate(run)}"


@rule("plateau from step one", "warning", "learning rate: times 10; or what is trained")
def plateau(run) -> str | None:
    """Nothing was learnt. Either the learning rate is next to nothing, or no trained weight reaches the loss (look at
    `print_trainable_parameters` and at `grad_norm`), or the base knew these answers already.
    """
    fall, loss = run.fall("loss"), run.series("loss")
    if len(loss) < 10 or not -LEAST_CHANGE <= fall <= NO_FALL:
        return None
    return f"{_told(run, 'loss')} ({-fall:+.2%}) in {loss.index[-1]} steps; {_rate(run)}"


@rule("still falling when it stopped", "warning", "more pairs, then a second epoch, then a higher rate")
def still_falling(run) -> str | None:
    """It was learning when it had to stop. The schedule ends at zero, so start a longer run from the beginning."""
    pace = run.pace("loss")
    if pace < STEADY or run.fall("loss") < LEAST_FALL:
        return None
    return f"{_told(run, 'loss')}; for its learning rate, the second half fell at {pace:.0%} of the mean pace"


@rule("overfitting", "warning", "fewer epochs, or more pairs")
def overfitting(run) -> str | None:
    """It learns its pairs by heart: the held-out loss rises again while the training loss still falls. Stop near the
    best step.
    """
    metric = "loss" if run.series("nll_loss").empty else "nll_loss"  # not every trainer logs the NLL
    held_out, trained = (run.series(metric, split).dropna() for split in ("eval", "train"))
    if len(held_out) < 3:
        return None
    best, last = held_out.idxmin(), held_out.iloc[-1]
    until = trained[trained.index <= best].tail(5)
    before = (until if len(until) else trained.head(5)).mean()  # the best one may come before the first step
    after = trained[trained.index > best].tail(5).mean()
    if last < held_out[best] * (1 + LEAST_CHANGE) or not after < before:
        return None
    told = f"held-out {metric} {held_out[best]:.3f} at step {best}, its best, {last:.3f} at the end"
    return f"{told}; in training {before:.3f} and {after:.3f}"


def _odds_share(run) -> tuple[float, str]:
    """The odds term's share of the loss at the start, which is what is left without the NLL, and it in words."""
    loss, nll = run.ends("loss")[0], run.ends("nll_loss")[0]
    if loss <= 0:
        raise NotLogged("loss")
    share = 1 - nll / loss
    return share, f"{share:.1%} of the loss at the start; {_told(run, 'nll_loss', 'log_odds_chosen')}; {_beta(run)}"


@rule("the odds outweigh the likelihood", "warning", "beta: lower, to 0.1 to 0.25 as in the paper")
def odds_outweigh(run) -> str | None:
    """The model is busier with what it should not write than with what it should. Compare the NLL with that of a run
    of smaller `beta`.
    """
    share, told = _odds_share(run)
    at_a_cost = run.fall("nll_loss") < -LEAST_CHANGE < 0 < run.change("log_odds_chosen") and not overfitting(run)
    if rate_too_high(run) or not (share > MOST_ODDS or at_a_cost):
        return None
    return told


@rule("the odds hardly count", "warning", "beta: raise, to 0.1 to 0.25 as in the paper")
def odds_silent(run) -> str | None:
    """This is almost plain fine-tuning on the chosen answers. It may still learn to tell the answers apart, from the
    chosen side alone.
    """
    share, told = _odds_share(run)
    return None if share > LEAST_ODDS else told


@rule("no preference learnt", "warning", "the pairs; then the learning rate, then beta")
def no_preference(run) -> str | None:  # odds would grow with any probability, so the gap counts
    """It learns to answer, but not which answer. Read ten pairs yourself: can you tell which answer is the better one?
    With LoRA at a rate below 3e-5 raise the rate first.
    """
    _only_orpo(run)
    gap = run.change("logps/chosen") - run.change("logps/rejected")
    if run.fall("nll_loss") < LEAST_FALL or gap > LEAST_PREFERENCE:
        return None
    return f"the gap grew by {gap:+.3f} nats a token; {_told(run, 'nll_loss')}; {_beta(run)}, {_rate(run)}"


@rule("both log-probabilities fall", "warning", "beta or learning rate: lower")
def both_fall(run) -> str | None:
    """The margin may grow, but the chosen answer becomes less likely as well. The paper sees it at a lambda of 1.0."""
    _only_orpo(run)
    if max(run.change("logps/chosen"), run.change("logps/rejected")) >= -_least(run):
        return None
    return f"{_told(run, 'logps/chosen', 'logps/rejected')} nats a token"


@rule("too short to judge", "warning", "nothing yet: let it train")
def too_short(run) -> str | None:
    """A curve needs two evaluations, or ten training points. Read it again when it has more."""
    with suppress(NotLogged):
        run.ends("loss")
        return None
    return f"{len(run.series('loss', 'eval'))} evaluations, {len(run.series('loss'))} training points"


@rule("no evaluation", "warning", "hold out 200 pairs, and evaluate before the first step too")
def no_evaluation(run) -> str | None:
    """A training curve also falls when pairs are learnt by heart. 200 rows know an accuracy within 7 points."""
    evaluated = (run.history.split == "eval").any()
    return None if evaluated else f"{len(run.series('loss'))} training points, no evaluation"


def _accuracy(run, place: int) -> tuple[int, float, float, str]:
    """One evaluation's step, both ends of its accuracy's 95 % interval, and both in words."""
    seen, rows = run.series("rewards/accuracies", "eval").dropna(), run.eval_rows
    if seen.empty or not rows:
        raise NotLogged("rewards/accuracies")
    low, high = wilson(seen.iloc[place], rows)
    return seen.index[place], low, high, f"{seen.iloc[place]:.2f} of {rows} rows: {low:.2f} to {high:.2f} (95 %)"


@rule("too few held-out rows", "warning", "hold out more pairs: 200")
def few_rows(run) -> str | None:
    """Do not read this accuracy. NLL and margin, which are no yes or no, usually need fewer rows; but one odd pair
    among ten can carry a mean.
    """
    _, low, high, told = _accuracy(run, -1)
    if high - low <= 2 * FAR_OFF:
        return None
    return f"{told}; {rows_for(0.07)} rows would know it within 7 points, {rows_for(0.03):,} within 3"


@rule("accuracy above one half from the start", "note", "nothing")
def starts_above_half(run) -> str | None:
    """The base already prefers the chosen side, most often for its style or its length: that part of the accuracy is
    not learnt. Judge by how far it has come, and by the margin.
    """
    _only_orpo(run)
    step, low, _, told = _accuracy(run, 0)
    return f"before the first step {told}" if step == 0 and low > 0.5 else None


@rule("accuracy below one half at the start", "note", "nothing, if the labels are right")
def starts_below_half(run) -> str | None:
    """The base prefers the rejected side: perhaps its style, perhaps swapped labels, and no curve can tell them apart.
    Read ten pairs.
    """
    _only_orpo(run)
    step, _, high, told = _accuracy(run, 0)
    return f"before the first step {told}" if step == 0 and high < 0.5 else None


@rule("the rejected answer does not fall", "note", "nothing")
def rejected_stays(run) -> str | None:
    """Both answer the same question, so what lifts one lifts the other. The paper sees the same at a lambda of 0.1,
    the value of its Mistral model: no alarm.
    """
    _only_orpo(run)
    if run.change("logps/rejected") < -LEAST_CHANGE:
        return None
    return f"{_told(run, 'logps/chosen', 'logps/rejected')} nats a token"


@rule("the margin grows by the chosen side", "note", "nothing")
def chosen_side_only(run) -> str | None:
    """Fine-tuning on the chosen answers alone would look like this too. To see what the odds term adds, compare with a
    run of smaller `beta`.
    """
    _only_orpo(run)
    chosen, rejected = run.change("logps/chosen"), run.change("logps/rejected")
    gap = chosen - rejected
    if gap < LEAST_CHANGE or chosen < 0.9 * gap:
        return None
    return f"the gap grew by {gap:.3f} nats a token: chosen {chosen:+.3f}, rejected {rejected:+.3f}"


@rule("not at its end", "note", "nothing yet")
def not_ended(run) -> str | None:
    """Every other finding is about the steps so far. Read it again when the run has ended."""
    if run.state == "finished":
        return None
    steps = run.settings.get("max_steps") or -1
    return f"{run.state}; read up to step {run.history.step.max()}" + (f" of {steps}" if steps > 0 else "")


@rule("another trainer", "note", "nothing")
def other_trainer(run) -> str | None:
    """A DPO run's rewards are beta times the distance from a reference model, summed over tokens, so its margins are
    not ORPO's and its loss starts at 0.693. An SFT run sees no rejected answer: read loss, learning rate and gradient.
    """
    logged = ", ".join(sorted(run.history.metric.unique())[:10])
    return None if run.trainer == "ORPO" else f"trainer {run.trainer}, which logged {logged}"
