"""A run's history as one data frame, wherever it was logged: on disk by the trainer, or by W&B, online or offline.

The frame has one line for each logged number: `step`, `epoch`, `split` ("train" or "eval"), `metric` (the trainer's own
name, without "eval_"), `value`. Left out: drawing it, see `curve_figures`, and judging it, see `diagnosis`.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from utils.curves import wandb_offline, wandb_online
from utils.train import keep as keeping

MAIN = ("loss", "nll_loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
COLUMNS = ["step", "epoch", "split", "metric", "value"]
GOING = "still going, or stopped early"
STATE = "trainer_state.json"
WANDB_AXES = ("train/global_step", "train/epoch")  # in every row: where the other numbers belong


@dataclass(frozen=True)
class Run:
    """A run as its curves tell it.

    `history` is the data frame; `settings` what was recorded beside it (learning_rate, beta, `pairs`), or nothing;
    `state` is "finished", or another word; `source` says where all this was read.
    """

    name: str
    history: object
    settings: dict = field(default_factory=dict)
    state: str = "finished"
    source: str = ""

    def series(self, metric: str, split: str = "train"):
        """Return one metric of one split as a pandas series over `step`; empty if it was not logged."""
        return self._parts.get((metric, split), self.history.set_index("step")["value"][:0])

    @cached_property
    def _parts(self) -> dict:
        parts = self.history.groupby(["metric", "split"])
        return {name: part.set_index("step")["value"] for name, part in parts}

    def points(self, metric: str):
        """Return a metric's evaluations, all on the same held-out rows, as a series over `step`.

        For a run without two of them: the means of ten equal parts of its training points; `None` if those are fewer.
        """
        import numpy as np

        evaluated, trained = (self.series(metric, split) for split in ("eval", "train"))
        evaluated, trained = (series[np.isfinite(series)] for series in (evaluated, trained))
        if len(evaluated) >= 2:
            return evaluated
        if len(trained) < 10:
            return None
        parts = [trained.iloc[places] for places in np.array_split(np.arange(len(trained)), 10)]
        return type(trained)({part.index[-1]: part.mean() for part in parts})

    def ends(self, metric: str) -> tuple[float, float] | None:
        """Return the first and the last of a metric's `points`; `None` if it was logged too rarely to tell."""
        points = self.points(metric)
        return None if points is None else (float(points.iloc[0]), float(points.iloc[-1]))

    def change(self, metric: str) -> float:
        """Return how far a metric has come; 0 if that is not known."""
        start, end = self.ends(metric) or (0.0, 0.0)
        return end - start

    def fall(self, metric: str) -> float | None:
        """Return how much of its start a loss has lost, below 0 if it rose; `None` if that is not known."""
        pair = self.ends(metric)
        return 1 - pair[1] / pair[0] if pair and pair[0] > 0 else None

    def pace(self, metric: str) -> float | None:
        """Return how fast a metric fell in the second half, in parts of its mean pace, for each unit of learning rate.

        A schedule that ends at zero makes every curve level off; one that has really arrived falls slower than that.
        `None` without three evaluations: single batches are too uneven to tell a pace by.
        """
        points, rates = self.series(metric, "eval").dropna(), self.series("learning_rate")
        if len(points) < 3 or points.iloc[0] <= points.iloc[-1]:
            return None
        begin, half, end = (points.index[place] for place in (0, len(points) // 2, -1))
        rates = rates[(rates.index > begin) & (rates.index <= end)]
        spent = rates[rates.index > half].sum()
        fallen = (points[half] - points[end]) / (points[begin] - points[end])
        return float(fallen * rates.sum() / spent) if spent > 0 else None

    @property
    def trainer(self) -> str:
        """The trainer that logged these metrics: "ORPO", "DPO", "SFT", or "unknown"."""
        metrics = set(self.history.metric)
        if "log_odds_ratio" in metrics:
            return "ORPO"
        if "rewards/margins" in metrics:
            return "DPO"
        return "SFT" if metrics & {"mean_token_accuracy", "num_tokens"} else "unknown"

    @property
    def eval_rows(self) -> int | None:
        """How many rows each evaluation saw, as recorded, or else as speed times duration; `None` if unknown."""
        if isinstance(pairs := self.settings.get("pairs"), dict) and pairs.get("test"):
            return pairs["test"]
        rows = (self.series("samples_per_second", "eval") * self.series("runtime", "eval")).dropna()
        return round(rows.median()) if rows.median() > 0 else None

    @property
    def batch_rows(self) -> int | None:
        """How many rows a logged training step averages: the effective batch; `None` if it was not recorded."""
        one_pass = self.settings.get("per_device_train_batch_size")
        passes = self.settings.get("gradient_accumulation_steps", 1)
        return self.settings.get("effective_batch") or (one_pass and one_pass * passes)


def read_history(log_history: list[dict]):
    """Turn a trainer's `state.log_history` into the data frame.

    Example:
        >>> read_history([{"step": 2, "epoch": 0.5, "eval_loss": 1.5}]).values.tolist()
        [[2, 0.5, 'eval', 'loss', 1.5]]
    """
    rows = []
    for entry in log_history:
        for key, value in entry.items():
            split, metric = ("eval", key[5:]) if key.startswith("eval_") else ("train", key)
            rows.append((entry["step"], entry.get("epoch"), split, metric, value))
    return _frame(rows)


def first_and_last(history):
    """Return a table of the first and the last evaluation of the main metrics; of training, if none was evaluated.

    Example:
        >>> history = read_history([{"step": 0, "eval_loss": 2.0}, {"step": 9, "eval_loss": 1.5}])
        >>> first_and_last(history).loc["loss"].tolist()
        [2.0, 1.5, -0.5]
    """
    import pandas as pd

    split = "eval" if (history["split"] == "eval").any() else "train"
    run, rows = Run("", history), {}
    for metric in MAIN:
        values = run.series(metric, split).dropna()
        if len(values):
            rows[metric] = {
                "first": values.iloc[0],
                "last": values.iloc[-1],
                "change": values.iloc[-1] - values.iloc[0],
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["first", "last", "change"])


def read_run(given: str | None, run_folder, name: str | None = None, token=None, key=None) -> Run:
    """Find a run and read its history.

    Args:
        given: run folder of notebook 03, or any folder with a `trainer_state.json`; folder of an offline W&B run;
            path or address of a run at W&B, as "entity/project/run_id"; Hub id of a kept run; `None` for `run_folder`.
        run_folder: where notebook 03 leaves its run.
        name: in figures; `None` takes that of the folder, or the one that W&B shows.
        token, key: of the Hub, and of W&B.

    Raises:
        FileNotFoundError: if there is no such run.
        PermissionError, ConnectionError: if W&B cannot be asked.
        ValueError: if the history is damaged, or nothing was logged in it.
    """
    folder = Path(run_folder if given is None else given)
    if given is not None and "/" not in given and not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {given!r} here, and neither the Hub nor W&B has names without a slash. {keeping.HOW}"
        )
    if given is not None and not folder.exists() and (path := wandb_online.run_path(given)):
        run = _from_wandb(wandb_online.read_run(path, key), given)
    elif given is not None and (folder.suffix == ".wandb" or list(folder.glob("run-*.wandb"))):
        run = _from_offline(folder)
    else:
        here = given is not None and folder.is_dir()  # as it is, also a folder that holds nothing but checkpoints
        run = _from_folder(folder if here else keeping.find_run(given, run_folder, token, (STATE, "checkpoints")))
    if run.history.empty:
        raise ValueError(
            f"{run.source} holds no logged step, so there is no curve yet: look again when it has trained."
        )
    return Run(name or run.name, run.history, run.settings, run.state, run.source)


def _from_folder(folder: Path) -> Run:
    """Read what the trainer left: the whole run, or, of one that has not ended, its newest checkpoint."""
    states = [folder / STATE, *folder.glob(f"checkpoint*/{STATE}"), *folder.glob(f"checkpoints/checkpoint*/{STATE}")]
    states = [path for path in states if path.exists()]
    if not states:
        raise FileNotFoundError(
            f"{folder} holds no {STATE}, nor a checkpoint with one: a run that has just begun writes the first after "
            "SAVE_STEPS steps, and its W&B folder has every step at once."
        )
    path = max(states, key=lambda path: path.stat().st_mtime)  # a new run may stand beside an old one's end
    state = _json(path, "log_history", "global_step", "max_steps")
    record, settings = path.parent / "run.json", path.parent / "run_settings.json"  # a checkpoint has the second
    if record.exists():
        record = _json(record, "recipe", "pairs")
        settings = record["recipe"] | {"pairs": record["pairs"]}
    else:
        settings = _json(settings) if settings.exists() else {}
    ended = state["max_steps"] > 0 and state["global_step"] >= state["max_steps"]
    settings = {"max_steps": state["max_steps"]} | settings
    return Run(folder.name, read_history(state["log_history"]), settings, "finished" if ended else GOING, str(path))


def _from_offline(run: Path) -> Run:
    about = wandb_offline.describe(run)
    history = _wandb_frame(wandb_offline.read_history(run))
    name, state = about["name"] or run.name, about["state"] or GOING
    return Run(name, history, wandb_offline.read_config(run), state, f"{run}, written by W&B")


def _from_wandb(run, given: str) -> Run:
    return Run(run.name, _wandb_frame(run.rows), run.config, run.state, f"{given}, at W&B")


def _wandb_frame(rows: list[dict]):
    """Turn W&B's rows into the data frame; what was logged beside the trainer's metrics is left out."""
    found, before = [], 0
    for row in rows:
        step = row.get("train/global_step", before)
        if step < before:  # a resumed run, which began again from there
            found = [line for line in found if line[0] <= step]
        before = step
        for key, value in row.items():
            split, _, metric = key.partition("/")
            if split in ("train", "eval") and "train/global_step" in row and key not in WANDB_AXES:
                found.append((row["train/global_step"], row.get("train/epoch"), split, metric, value))
    return _frame(found)


def _frame(rows: list[tuple]):
    """Build the data frame: numbers only, without the summary that ends a run, and of a step logged twice the last."""
    import pandas as pd

    kept = [
        row
        for row in rows
        if isinstance(row[4], int | float)
        and not isinstance(row[4], bool)
        and row[3] not in ("step", "epoch")
        and not row[3].startswith(("train_", "total_"))
    ]
    frame = pd.DataFrame(kept, columns=COLUMNS).astype({"step": int, "epoch": float, "value": float})
    frame = frame.drop_duplicates(["step", "split", "metric"], keep="last")
    return frame.sort_values(["step", "split", "metric"], ignore_index=True)


def _json(path: Path, *needs: str) -> dict:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again from where the run was written.") from error
    if not isinstance(found, dict) or not found.keys() >= set(needs):
        raise ValueError(f"{path} is not what the trainer writes: it lacks {', '.join(needs) or 'settings'}.")
    return found
