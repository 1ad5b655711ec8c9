"""A trainer's log, and runs that are made up."""

import numpy as np

from utils.curves import run as curves

LOG = [  # as transformers and TRL write it: evaluation before the first step, then both, then a summary
    {"eval_loss": 3.0, "eval_rewards/margins": 0.01, "eval_runtime": 0.5, "epoch": 0, "step": 0},
    {"loss": 2.5, "grad_norm": 1.5, "rewards/margins": 0.02, "rewards/accuracies": 0.5, "epoch": 0.5, "step": 1},
    {"loss": 2.0, "rewards/margins": 0.04, "rewards/accuracies": 1.0, "epoch": 1.0, "step": 2},
    {"eval_loss": 2.2, "eval_rewards/margins": 0.03, "eval_runtime": 0.5, "epoch": 1.0, "step": 2},
    {"train_runtime": 9.0, "train_loss": 2.25, "total_flos": 0.0, "train_steps_per_second": 1, "epoch": 1.0, "step": 2},
]

ORPO = {"loss": 1.5, "nll_loss": 1.4, "rewards/margins": 0.02, "rewards/accuracies": 0.6, "logps/chosen": -0.9}
ORPO |= {"logps/rejected": -1.1, "log_odds_ratio": -0.6, "log_odds_chosen": 0.2}
SETTINGS = {"effective_batch": 8, "pairs": {"test": 50}}
NAN = float("nan")


def made_run(
    name="run", levels=ORPO, steps=60, every=1, evaluations=(0, 30, 60), settings=SETTINGS, change=None, seed=0
):
    """A run whose rows scatter by 0.1 around a level: training points are means of 8, evaluations of 50.

    `change(metric, step, value)` returns another value.
    """
    draw, log, change = np.random.default_rng(seed), [], change or (lambda metric, step, value: value)

    def values(step: int, rows: int, prefix: str, names) -> dict:
        means = {metric: levels[metric] + draw.normal(0, 0.1 / np.sqrt(rows)) for metric in names}
        means |= (
            {"rewards/accuracies": np.clip(means["rewards/accuracies"], 0, 1)} if "rewards/accuracies" in names else {}
        )
        return {prefix + metric: float(change(metric, step, value)) for metric, value in means.items()}

    for step in range(0, steps + 1):
        if step and step % every == 0:
            rate = {"learning_rate": 1e-5 * (1 - step / steps), "grad_norm": 0.5}
            log.append({"step": step, "epoch": 0.0, **values(step, 8 * every, "", levels), **rate})
        if step in evaluations:
            log.append({"step": step, "epoch": 0.0, **values(step, 50, "eval_", levels)})
    return curves.Run(name, curves.read_history(log), settings)
