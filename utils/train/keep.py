"""Keeps a run where another machine finds it: checkpoints and adapter in a private Hub repository; and finds it again.

A Colab machine vanishes with what is on it; a folder on Drive stays, and is found here too. Left out: publishing.
"""

import json
import re
import tempfile
from pathlib import Path

from utils import hub as hub_access

# What may travel, so that nothing else does: above all no training_args.bin, a pickle that resuming does without. What
# resuming reads, transformers loads with weights_only=True (optimizer, scheduler, scaler, random state), which runs no
# code, and peft as safetensors: a private repository of one's own is safe to resume from.
CHECKPOINT_FILES = ["*.safetensors", "*.json", "*.jinja", "*.pt", "*.pth"]
KEPT_ADAPTER_FILES = ["adapter_model.safetensors", "*.json", "*.jinja", "*.md", "*.txt", "LICENSE*", "USE_POLICY*"]
# For W&B all but README.md: PEFT's may name a folder of this machine.
LOGGED_ADAPTER_FILES = [pattern for pattern in KEPT_ADAPTER_FILES if pattern != "*.md"]
RUN_FILES = [
    "run.json",
    "trainer_state.json",
    "held_out.json",
    *[f"adapter/{pattern}" for pattern in KEPT_ADAPTER_FILES],
]
SHOWN = {"nll": "nll_loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}
HOW = (
    "Run 03_train_with_orpo first; if it ran on another machine, set ARTIFACTS to the same Drive folder, or ADAPTER "
    "(in notebook 04 RUN) to the repository that was its keep_repo. Without any, notebook 04 reads one of the "
    "course's: RUN = 'data/runs/healthy'."
)


def keep_checkpoints(repo_id: str, token: str | None):
    """Make a trainer callback that sends every checkpoint to a private repository while the model trains on.

    Only the newest stays. An upload that fails is told once and stops nothing; the end of training waits for the last.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars
    from transformers import TrainerCallback

    api = HfApi(token=token)  # it has one thread: its background jobs run one after another
    disable_progress_bars()  # of downloads and uploads, from here on: they would be drawn over the curves

    class KeepsCheckpoints(TrainerCallback):
        newest, told, upload = None, False, None

        def on_save(self, args, state, control, **kwargs):
            if state.is_world_process_zero:
                self.newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                self.upload = api.run_as_future(self.send, self.newest)

        def on_train_end(self, args, state, control, **kwargs):
            if self.upload is not None:
                self.upload.result()

        def send(self, checkpoint):
            if checkpoint != self.newest:  # it waited so long that a newer one waits behind it
                return
            try:
                _send(
                    checkpoint, repo_id, CHECKPOINT_FILES, token, f"checkpoints/{checkpoint.name}/", ["checkpoints/*/*"]
                )
                self.told = False
            except Exception as error:  # no network, no rights, a full Hub: none of them may cost the training
                if checkpoint == self.newest and not self.told:  # an older one may be rotated away: the next follows
                    self.told = True  # without the error's text, which may hold a signed address
                    why = type(error).__name__
                    print(f"{checkpoint} is safe here, but not kept in {repo_id} ({why}); a later save tries again.")

    return KeepsCheckpoints()


def forget_checkpoints(repo_id: str, token: str | None) -> None:
    """Delete the checkpoint that a repository keeps of an earlier run, so that the new run never goes on from it."""
    from huggingface_hub import CommitOperationDelete, HfApi

    _, files = _listing(repo_id, token)
    old = [CommitOperationDelete(path) for path in files if path.startswith("checkpoints/")]
    if old:
        with hub_access.in_one_sentence(repo_id):
            HfApi(token=token).create_commit(repo_id, old, commit_message="Begin a new run")


def without_paths(recipe: dict, commits: dict[str, str | None]) -> dict:
    """Return a recipe's values with the bare name of each folder or file, which has no commit, in place of its path.

    Example:
        >>> without_paths({"base_model": "/home/ada/my base", "beta": 0.1}, {"base_model": None})
        {'base_model': 'my base', 'beta': 0.1}
    """
    return recipe | {key: Path(recipe[key]).name for key, commit in commits.items() if commit is None}


def write_record(run_folder, record: dict) -> None:
    """Write a run's record beside it, and beside the adapter without prompts and without paths of this machine.

    The adapter's files may be published; what `run.json` in the run's folder says more is for the next notebook.
    """
    run_folder = Path(run_folder)
    (run_folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    public = json.loads(json.dumps(record))
    public["report"].pop("examples", None)
    public["recipe"] = without_paths(record["recipe"], record["revisions"])
    (run_folder / "adapter" / "run.json").write_text(json.dumps(public, indent=2) + "\n")
    path = run_folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": public["recipe"]["base_model"]}
    path.write_text(json.dumps(config, indent=2) + "\n")


def keep_run(trainer, plan, pairs, report, answers: dict[str, list[str]] | None = None) -> dict:
    """Write and keep all that a run made, print what is kept where, and return its record, the contents of `run.json`.

    In `plan.folder`: `adapter/` with tokenizer and a record that may be published, `run.json`, `held_out.json` and
    `trainer_state.json`; notebooks 04 to 08 need nothing else. In W&B: answers, settings, data report and adapter; the
    W&B run ends. In `plan.keep_repo`, if there is one: the same as in the folder.

    `report` of the dropped rows is a dict, or has `as_dict()`. `answers` are columns of a table: prompts, answers
    before, answers after; one that ended has the end token.
    """
    from utils import environment
    from utils.train import wandb_records

    folder, run = plan.folder, trainer.measured.wandb_run
    trainer.model.save_pretrained(folder / "adapter", save_embedding_layers=False)  # nothing was resized
    trainer.processing_class.save_pretrained(folder / "adapter")
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    record = describe_run(trainer, plan, pairs, report)
    write_record(folder, record)
    held_out = sorted(pairs["test"], key=lambda pair: len(str(pair)))  # short ones first
    (folder / "held_out.json").write_text(json.dumps(held_out, indent=1) + "\n")
    if answers:
        wandb_records.log_answers(run, answers)
    wandb_records.log_run(run, folder, LOGGED_ADAPTER_FILES)
    run.finish()
    print(f"The run lies in {folder}: if that is no folder on Drive, it goes with this machine.")
    if plan.keep_repo:
        print(f"It is kept in {plan.keep_repo} @ {push_run(folder, plan.keep_repo, plan.token)}.")
        print(f"On another machine, notebook 05 finds it with ADAPTER = {plan.keep_repo!r}.")
    end = trainer.processing_class.eos_token
    texts = zip(("before", "after"), list((answers or {}).values())[1:], strict=False)
    environment.record(
        **{f"eval_{key}_before": record["eval"]["before"][name] for key, name in SHOWN.items()},
        **{f"eval_{key}_after": record["eval"]["after"][name] for key, name in SHOWN.items()},
        **{f"stopped_{when}": sum(text.endswith(end) for text in column) for when, column in texts},
        train_seconds=round(record["seconds"], 1),
        pairs_per_second=record["pairs_per_second"],
        predicted_peak_gb=record["predicted_peak_memory_gb"],
        peak_memory_gb=record["peak_memory_gb"],
    )
    return record


def run_settings(trainer, plan) -> dict:
    """Read all that decides what a run learns from trainer and plan, without paths of this machine, ready for JSON."""
    recipe = without_paths(run_recipe(trainer, plan), plan.commits)
    mix = plan.data.mix and plan.data.mix["sha256"]
    return recipe | {"commits": plan.commits, "seed": trainer.args.seed, "mix": mix}


def run_recipe(trainer, plan) -> dict:
    """Read the values of a run from where they act: the trainer's arguments, LoRA's configuration, the plan."""
    args, lora, more = trainer.args, trainer.model.peft_config["default"], plan.more
    recipe = {
        "name": plan.name,
        "base_model": plan.base.name,
        "dataset": plan.data.name,
        "dataset_config": more.get("dataset_config", ""),
        "dataset_split": more.get("dataset_split", "train"),
        "num_pairs": plan.num_pairs,
        "num_eval_pairs": plan.num_eval_pairs,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.warmup_steps,
        "beta": args.beta,
        "num_epochs": args.num_train_epochs,
        "effective_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps,
        "max_length": args.max_length,
        "truncate_answers": more.get("truncate_answers", False),
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": sorted(lora.target_modules),
        "optim": str(getattr(args.optim, "value", args.optim)),
    }
    return recipe | ({"warning": plan.data.warning} if plan.data.warning else {})


def describe_run(trainer, plan, pairs, report) -> dict:
    """Return the record of a run: every setting, where it comes from, what it cost, and what came of it."""
    from collections import Counter

    from utils import environment

    measured, state, arguments = trainer.measured, trainer.state, trainer.args
    evaluated = [
        {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
        for entry in state.log_history
        if "eval_loss" in entry
    ]
    recipe = run_recipe(trainer, plan)
    steps = state.global_step - measured.resumed_from_step
    return {
        "recipe": recipe,
        "revisions": plan.commits,
        "hosts": {"base_model": plan.base.host, "dataset": plan.data.host},
        "licence": plan.base.licence,
        "data_licence": plan.data.licence,
        "profile": plan.profile.name,
        "device": plan.device.name,
        "dtype": plan.device.dtype,
        "trainer": plan.trainer,
        "micro_batch": arguments.per_device_train_batch_size,  # as it ended, if memory ran out
        "accumulation": arguments.gradient_accumulation_steps,
        "arguments": {key: it for key, it in arguments.to_sanitized_dict().items() if key != "output_dir"},
        "seed": arguments.seed,
        "versions": environment.versions(),
        "pairs": {side: len(pairs[side]) for side in ("train", "test")},
        "sources": dict(Counter(pair.get("source", plan.data.name) for pair in pairs["train"]).most_common()),
        "report": report if isinstance(report, dict) else report.as_dict(),
        "mix": plan.data.mix,  # sources, rules and counts, if it is one of notebook 02
        "seconds": measured.seconds,  # since the step that this machine began with
        "resumed_from_step": measured.resumed_from_step,
        "pairs_per_second": steps * recipe["effective_batch"] / measured.seconds,
        "predicted_peak_memory_gb": measured.predicted_gb,
        "peak_memory_gb": measured.peak_gb,
        "steps": state.global_step,
        "eval": {"before": evaluated[0], "after": evaluated[-1]},
    }


def push_run(run_folder, repo_id: str, token: str | None) -> str:
    """Send a run's adapter, records and held-out talks to a private repository in one commit, and return its id."""
    return _send(Path(run_folder), repo_id, RUN_FILES, token)


def fetch_checkpoints(repo_id: str, checkpoints_folder, token: str | None) -> Path | None:
    """Download the checkpoint that a repository keeps into the trainer's `output_dir`, if that holds none as new.

    It is there whole or not at all. Returns its folder, or `None` if none is newer; raises as `find_run`.
    """
    folder, (commit, files) = Path(checkpoints_folder), _listing(repo_id, token)
    kept = max((int(step) for step in re.findall(r"^checkpoints/checkpoint-(\d+)/", "\n".join(files), re.M)), default=0)
    if kept <= max((int(path.name.split("-")[-1]) for path in folder.glob("checkpoint-*")), default=0):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder) as part:
        wanted = [f"checkpoints/checkpoint-{kept}/{pattern}" for pattern in CHECKPOINT_FILES]
        _download(repo_id, commit, files, wanted, Path(part), token)
        print(f"Fetched checkpoint-{kept} from {repo_id} @ {commit}.")
        return (Path(part) / f"checkpoints/checkpoint-{kept}").rename(folder / f"checkpoint-{kept}")


def find_run(given: str | None, run_folder, token: str | None = None, needs=("run.json",)) -> Path:
    """Find a run, and download it, without its checkpoints, next to `run_folder` if it is on the Hub.

    Raises `FileNotFoundError`, which names the notebook that makes it, or `ValueError` for files not as listed.
    """
    folder = Path(run_folder if given is None else given)
    here = given is None or folder.exists()
    commit, files = (None, {}) if here else _listing(given, token)
    files = {path: entry for path, entry in files.items() if not path.startswith("checkpoints/")}
    if not any((folder / path).exists() if here else path in files for path in needs):
        raise FileNotFoundError(f"There is no run in {given or folder} (no {' or '.join(needs)}). {HOW}")
    if not here:  # a copy of its own, not the cache: files are added to it
        folder = Path(run_folder).parent / f"{given.replace('/', '--')}-{commit[:8]}"
        _download(given, commit, files, [*KEPT_ADAPTER_FILES, *RUN_FILES], folder, token)
    return folder


def find_adapter(given: str | None, run_folder, token: str | None = None) -> tuple[Path, dict, list[dict]]:
    """Find a trained adapter as `find_run` does: its folder, its record, and the pairs held out, short ones first.

    There are no pairs if the adapter came without them, as a published one does.
    """
    folder = find_run(given, run_folder, token, needs=("adapter/run.json", "run.json"))
    folder = folder / "adapter" if (folder / "adapter").exists() else folder
    if not (folder / "adapter_config.json").exists() or not (folder / "run.json").exists():
        raise FileNotFoundError(f"There is no adapter with its run.json in {folder}. {HOW}")
    whole = folder.parent / "run.json" if folder.name == "adapter" else folder / "run.json"
    record, held_out = whole if whole.exists() else folder / "run.json", folder.parent / "held_out.json"
    run = json.loads(record.read_text())
    return folder, run, json.loads(held_out.read_text()) if held_out.exists() else []


def _send(folder: Path, repo_id: str, patterns: list[str], token: str | None, below="", replaces=None) -> str:
    hub_access.create_repository(repo_id, token)  # asked each time, for it may have become public
    return hub_access.commit_files(folder, repo_id, patterns, token, below, replaces)


def _listing(repo_id: str, token: str | None) -> tuple[str, dict]:
    from huggingface_hub import HfApi

    try:
        with hub_access.in_one_sentence(repo_id):
            info = HfApi(token=token).model_info(repo_id, files_metadata=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {HOW}") from error
    return info.sha, {file.rfilename: file for file in info.siblings}


def _download(repo_id: str, commit: str, files: dict, patterns: list[str], folder: Path, token) -> None:
    from huggingface_hub import snapshot_download

    files = {path: entry for path, entry in files.items() if hub_access.matches(path, patterns)}
    wanted = [path for path in files if not hub_access.is_as_listed(folder / path, files[path])]
    get = {"allow_patterns": wanted, "force_download": True}  # for the client takes a wrong one that came once for done
    with hub_access.in_one_sentence(repo_id):
        snapshot_download(repo_id, revision=commit, local_dir=folder, token=token, **get)
    if wrong := [path for path in wanted if not hub_access.is_as_listed(folder / path, files[path])]:
        raise ValueError(
            f"{repo_id} @ {commit}: {', '.join(wrong)} did not arrive as the Hub lists it: run this cell again."
        )
