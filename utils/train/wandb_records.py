"""What a W&B run holds besides the trainer's curves: the panels to see first, the answers, and three artifacts.

A run that is offline keeps all of it in its own folder, for `wandb sync` to upload; one that is disabled keeps nothing.
If W&B fails, one line says so and the training goes on. Left out: starting and finishing a run, the alert of a loss
that is not finite (`training_checks`), and a workspace of one's own, which W&B builds online and with another package.
"""

import json
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from utils import hub as hub_access

# W&B makes a section of what stands before the slash and sorts the sections by name, as projects report that number
# theirs; it documents only the first half. A capital A is first with and without regard to case.
FIRST = "Accuracies_and_margins"


def first_panels(run):
    """Make a trainer callback that logs accuracies and margins once more, in the section that W&B shows first.

    They have a step of their own, so that their rows carry nothing of the trainer's: what reads the curves back by
    their prefixes, `train/` and `eval/`, finds the trainer's rows only.
    """
    from transformers import TrainerCallback

    step = f"{FIRST}/step"
    names = {
        f"{prefix}rewards/{metric}": f"{FIRST}/{split}_{metric}"
        for split, prefix in (("train", ""), ("eval", "eval_"))
        for metric in ("accuracies", "margins")
    }
    with _at_no_cost("the first panels"):
        run.define_metric(step, hidden=True)
        for name in names.values():
            run.define_metric(name, step_metric=step)

    class FirstPanels(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            row = {names[key]: value for key, value in (logs or {}).items() if key in names}
            if row and state.is_world_process_zero:
                with _at_no_cost("accuracies and margins"):
                    run.log(row | {step: state.global_step})

    return FirstPanels()


def log_answers(run, columns: dict[str, list[str]]) -> None:
    """Log prompts and answers as a table, in a section `answers`."""
    import wandb

    with _at_no_cost("the answers"):
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        run.log({"answers/before_and_after": wandb.Table(columns=list(columns), data=rows)})


def log_run(run, run_folder, adapter_files: list[str]) -> None:
    """Log the configuration, the data report and the adapter as artifacts of the types `config`, `dataset` and `model`.

    They are named after the run's group, the recipe, and made of the record beside the adapter, which has no prompts
    and no paths of this machine. An online run uploads the adapter, 84 MB for Llama 3 8B, while the notebook goes on.
    """
    if run.disabled:
        return
    with _at_no_cost("the artifacts"):
        adapter = Path(run_folder) / "adapter"
        config = json.loads((adapter / "run.json").read_text())
        recipe = config["recipe"]
        data = {key: value for key, value in recipe.items() if key.startswith("dataset")}
        data |= {"commit": config["revisions"]["dataset"], "host": config["hosts"]["dataset"]}
        data |= {key: config.pop(key) for key in ("pairs", "report", "mix")}
        kept = [path for path in sorted(adapter.iterdir()) if hub_access.matches(path.name, adapter_files)]
        for kind, suffix, files in (
            ("config", "config", {"config.json": config}),
            ("dataset", "data", {"data.json": data}),
            ("model", "adapter", {path.name: path for path in kept}),
        ):
            _log_artifact(run, kind, suffix, files)


def _log_artifact(run, kind: str, suffix: str, files: dict) -> None:
    """Log files, each a path or what becomes JSON. They are put into the W&B run's folder, where `wandb sync` finds
    them later; copies of its own W&B would keep in the home folder, which goes with a Colab machine. And copies they
    must be: W&B 0.28 deletes what it has uploaded."""
    import wandb

    folder = Path(tempfile.mkdtemp(prefix=f"{suffix}-", dir=run.settings.sync_dir))
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.group or run.name)
    artifact = wandb.Artifact(f"{name}-{suffix}", type=kind)
    artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
    run.log_artifact(artifact)


@contextmanager
def _at_no_cost(what: str):
    """Say that W&B did not take something, instead of raising."""
    try:
        yield
    except Exception as error:  # a service that died, a full disk, a refused name: none of them may cost the training
        print(f"W&B did not take {what} ({type(error).__name__}); the run goes on without.")
