"""A run's history as one data frame, wherever it was logged: by the trainer on disk, or by W&B, online or offline."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from utils import hub
from utils.curves import wandb_runs

COLUMNS = ["step", "epoch", "split", "metric", "value"]
MAIN = ("loss", "nll_loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
GOING = "still going, or stopped early"
STATE = "trainer_state.json"
WANDB_AXES = ("train/global_step", "train/epoch")  # in every row: where the other numbers belong
COURSE = Path(__file__).parents[2]
HOW = (
    "Run 03_train_with_orpo first. If it ran on another machine, set ARTIFACTS to the same Drive folder, or RUN to the "
    'repository that was its keep_repo. Without any, read one of the course\'s runs: RUN = "data/runs/healthy".'
)


class NotLogged(Exception):
    """A metric was not logged, or too rarely for what is asked of it."""


@dataclass(frozen=True)
class Run:
    """A run as its curves tell it.

    `history` has one line for each logged number, with the columns `COLUMNS`: the split is "train" or "eval", the
    metric the trainer's own name without "eval_". `settings` is what was recorded beside it (learning_rate, beta,
    `pairs`), or nothing; `state` is "finished", or another word.
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
        return dict(iter(self.history.set_index("step").groupby(["metric", "split"])["value"]))

    def points(self, metric: str):
        """Return a metric's evaluations; without two of them, the means of ten equal parts of its training points.

        Raises NotLogged if there are fewer than ten training points as well.
        """
        import numpy as np

        evaluated, trained = (self.series(metric, split) for split in ("eval", "train"))
        evaluated, trained = (series[np.isfinite(series)] for series in (evaluated, trained))
        if len(evaluated) >= 2:
            return evaluated
        if len(trained) < 10:
            raise NotLogged(metric)
        parts = [trained.iloc[places] for places in np.array_split(np.arange(len(trained)), 10)]
        return type(trained)({part.index[-1]: part.mean() for part in parts})

    def ends(self, metric: str) -> tuple[float, float]:
        """Return the first and the last of a metric's `points`."""
        points = self.points(metric)
        return float(points.iloc[0]), float(points.iloc[-1])

    def change(self, metric: str) -> float:
        """Return how far a metric has come."""
        start, end = self.ends(metric)
        return end - start

    def fall(self, metric: str) -> float:
        """Return which share of its start a loss has lost, below 0 if it rose."""
        start, end = self.ends(metric)
        if start <= 0:  # of which no share can be taken
            raise NotLogged(metric)
        return 1 - end / start

    def pace(self, metric: str) -> float:
        """Return how fast a metric fell in the second half, in parts of its mean pace, for each unit of learning rate.

        A schedule that ends at zero makes every curve level off; one that has really arrived falls slower than that.
        Only evaluations count: single batches are too uneven to tell a pace by.
        """
        points, rates = self.series(metric, "eval").dropna(), self.series("learning_rate")
        if len(points) < 3 or points.iloc[0] <= points.iloc[-1]:
            raise NotLogged(metric)
        begin, half, end = points.index[[0, len(points) // 2, -1]]
        rates = rates[(rates.index > begin) & (rates.index <= end)]
        spent = rates[rates.index > half].sum()
        if not spent > 0:
            raise NotLogged("learning_rate")
        fallen = (points[half] - points[end]) / (points[begin] - points[end])
        return float(fallen * rates.sum() / spent)

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
        pairs = self.settings.get("pairs")
        if isinstance(pairs, dict) and pairs.get("test"):
            return pairs["test"]
        rows = (self.series("samples_per_second", "eval") * self.series("runtime", "eval")).median()
        return round(rows) if rows > 0 else None

    @property
    def batch_rows(self) -> int | None:
        """How many rows a logged training step averages: the effective batch; `None` if it was not recorded."""
        one_pass = self.settings.get("per_device_train_batch_size")
        passes = self.settings.get("gradient_accumulation_steps", 1)
        return self.settings.get("effective_batch") or (one_pass and one_pass * passes)


def read_history(log_history: list[dict]):
    """Turn a trainer's `state.log_history` into the data frame.

    >>> read_history([{"step": 2, "epoch": 0.5, "eval_loss": 1.5}]).values.tolist()
    [[2, 0.5, 'eval', 'loss', 1.5]]
    """
    rows = []
    for entry in log_history:
        for key, value in entry.items():
            split = "eval" if key.startswith("eval_") else "train"
            rows.append((entry["step"], entry.get("epoch"), split, key.removeprefix("eval_"), value))
    return _frame(rows)


def first_and_last(history):
    """Return a table of the first and the last evaluation of the main metrics; of training, if none was evaluated.

    >>> history = read_history([{"step": 0, "eval_loss": 2.0}, {"step": 9, "eval_loss": 1.5}])
    >>> first_and_last(history).loc["loss"].tolist()
    [2.0, 1.5, -0.5]
    """
    split = "eval" if (history["split"] == "eval").any() else "train"
    table = history[history["split"] == split].groupby("metric")["value"].agg(["first", "last"])
    table = table.reindex(MAIN).dropna()
    return table.assign(change=table["last"] - table["first"])


def read_run(given: str | None, run_folder=None, name: str | None = None, token=None, key=None) -> Run:
    """Find a run and read its history; `token` is for the Hub, `key` for W&B.

    `given` is a folder with a `trainer_state.json`, the folder of an offline W&B run, "entity/project/run_id" or an
    address at W&B, or the Hub id of a kept run; nothing means `run_folder`, where notebook 03 leaves its run. Raises
    FileNotFoundError, PermissionError or ConnectionError if it cannot be had, ValueError if it is damaged or empty.
    """
    folder = Path(given or run_folder)
    if not folder.exists() and (COURSE / folder).exists():
        folder = COURSE / folder
    path = wandb_runs.run_path(str(given or ""))
    if folder.suffix == ".wandb" or list(folder.glob("run-*.wandb")):
        run = _from_wandb(wandb_runs.read_offline(folder), folder.name, f"{folder}, written by W&B")
    elif folder.exists():
        run = _from_folder(folder)
    elif not given:
        raise FileNotFoundError(f"There is no run in {folder}. {HOW}")
    elif path:
        run = _from_wandb(wandb_runs.read_online(path, key), path, f"{given}, at W&B")
    elif "/" not in given:
        raise FileNotFoundError(f"There is no folder {given!r}, and names on the Hub and at W&B have a slash. {HOW}")
    else:
        run = replace(_from_folder(_from_hub(given, token)), name=given)
    if run.history.empty:
        raise ValueError(f"{run.source} holds no logged step, so there is no curve yet: look again later.")
    return replace(run, name=name or run.name)


def read_made_runs() -> tuple[dict[str, Run], list[dict]]:
    """Read the runs of `data/runs`: name -> run, and rows with what was changed in each."""
    folders = {path.parent.name.replace("_", " "): path for path in sorted((COURSE / "data/runs").glob("*/run.json"))}
    runs = {name: read_run(str(path.parent), name=name) for name, path in folders.items()}
    given = {name: _json(path)["parameters"] for name, path in folders.items()}
    rows = []
    for name, parameters in given.items():
        changed = [f"{key} = {value}" for key, value in parameters.items() if value != given["healthy"].get(key)]
        rows.append({"run": name, "changed": ", ".join(changed) or "nothing"})
    return runs, rows


def _from_hub(repo_id: str, token) -> Path:
    from huggingface_hub import snapshot_download

    with hub.in_one_sentence(repo_id):
        return Path(snapshot_download(repo_id, allow_patterns=[STATE, "run.json"], token=token))


def _from_folder(folder: Path) -> Run:
    """Read what the trainer left: the whole run, or, of one that has not ended, its newest checkpoint."""
    states = [path for depth in ("", "checkpoint*/", "checkpoints/checkpoint*/") for path in folder.glob(depth + STATE)]
    if not states:
        raise FileNotFoundError(
            f"{folder} holds no {STATE}, and no checkpoint with one. A run that has just begun writes the first after "
            f"save_steps steps; its W&B folder has every step at once. {HOW}"
        )
    path = max(states, key=lambda path: path.stat().st_mtime)  # a new run may stand beside an old one's end
    state = _json(path, "log_history", "global_step", "max_steps")
    settings = {"max_steps": state["max_steps"]}
    record, recipe = path.with_name("run.json"), path.with_name("run_settings.json")  # a checkpoint has the second
    if record.exists():
        record = _json(record, "recipe", "pairs")
        settings |= record["recipe"] | {"pairs": record["pairs"]}
    elif recipe.exists():
        settings |= _json(recipe)
    ended = 0 < state["max_steps"] <= state["global_step"]
    return Run(folder.name, read_history(state["log_history"]), settings, "finished" if ended else GOING, str(path))


def _from_wandb(run: wandb_runs.WandbRun, name: str, source: str) -> Run:
    """Turn W&B's rows into the data frame; what was logged beside the trainer's metrics is left out."""
    found, before = [], 0
    for row in run.rows:
        step = row.get("train/global_step", before)
        if step < before:  # a resumed run, which began again from there
            found = [line for line in found if line[0] <= step]
        before = step
        for key, value in row.items():
            split, _, metric = key.partition("/")
            if split in ("train", "eval") and "train/global_step" in row and key not in WANDB_AXES:
                found.append((step, row.get("train/epoch"), split, metric, value))
    return Run(run.name or name, _frame(found), run.config, run.state or GOING, source)


def _frame(rows: list[tuple]):
    """Build the data frame: numbers only, without the summary that ends a run, and of a step logged twice the last."""
    import pandas as pd

    kept = []
    for row in rows:
        metric, value = row[3:]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and metric not in ("step", "epoch") and not metric.startswith(("train_", "total_")):
            kept.append(row)
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
