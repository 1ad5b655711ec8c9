"""What the real W&B client writes of a run: the first panels, the answers, the artifacts, and nothing private."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils.curves import wandb_runs
from utils.train import keep as keeping
from utils.train.wandb_records import FIRST

ROOT = Path(__file__).parents[2]
SECRET = "hf_" + "s" * 34
PATH = "/home/ada/my base"  # of this machine
PROMPT = "a prompt that was trained on"
COLUMNS = {"prompt": ["Why?", "Who?"], "base": ["So.", "é\n<b>"], "after ORPO": ["Because.", ""]}
LOGS = [
    (0, {"eval_loss": 1.5, "eval_rewards/margins": -0.02, "eval_rewards/accuracies": 0.25}),
    (1, {"loss": 1.25, "rewards/margins": 0.01, "rewards/accuracies": 0.5, "rewards/chosen": -0.5}),
    (2, {"loss": 1.0, "rewards/margins": 0.03, "rewards/accuracies": 0.75, "rewards/chosen": -0.25}),
    (2, {"eval_loss": 1.0, "eval_rewards/margins": 0.04, "eval_rewards/accuracies": 1.0}),
    (2, {"train_runtime": 3.0, "train_loss": 1.125}),
]

# A process of its own, without a terminal: nothing can be asked, and what W&B starts ends with it.
SCRIPT = """
import json, os, sys, time
import psutil, torch
from transformers import Trainer, TrainingArguments
from utils import environment
from utils.train import keep, wandb_records

folder, job = sys.argv[1], json.load(sys.stdin)

def log_all(name):
    run = environment.start_wandb("course", "a-run", {"beta": 0.1}, f"{folder}/{name}", "my recipe/1")
    if name == "dead":
        children = psutil.Process().children(recursive=True)
        for process in children:
            process.kill()
        psutil.wait_procs(children, timeout=10)
        time.sleep(0.5)  # until the client has seen that nobody listens
    arguments = TrainingArguments(output_dir=f"{folder}/out", report_to="none" if name == "dead" else "wandb")
    panels = wandb_records.first_panels(run)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=[0], callbacks=[panels])
    for step, logs in job["logs"]:
        trainer.state.global_step = step
        trainer.log(logs)
    wandb_records.log_answers(run, job["columns"])
    wandb_records.log_run(run, job["run_folder"], keep.LOGGED_ADAPTER_FILES)
    wandb_records.log_run(run, f"{folder}/nothing", keep.LOGGED_ADAPTER_FILES)
    return run

for name in ("offline", "disabled"):
    os.environ["WANDB_MODE"] = name
    run = log_all(name)
    started = time.monotonic()
    run.finish()
    print(name, "finished in", time.monotonic() - started)
os.environ["WANDB_MODE"] = "offline"
log_all("dead")
print("the dead one went on", flush=True)
os._exit(0)
"""


def write_run(folder: Path) -> Path:
    """A run as notebook 03 writes it, on a base that lies in a folder, with files beside it that must stay here."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "LICENSE"):
        (adapter / name).write_bytes(name.encode() * 1000)
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "state.pkl"):
        (adapter / name).write_bytes(b"\x80\x04.")
    (adapter / "README.md").write_text(f"---\nbase_model: {PATH}\n---\n")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": PATH, "r": 16}))
    record = {
        "recipe": {
            "name": "article",
            "base_model": PATH,
            "dataset": "ada/pairs",
            "dataset_split": "train",
            "beta": 0.1,
        },
        "revisions": {"base_model": None, "dataset": "c0ffee"},
        "hosts": {"base_model": "local", "dataset": "huggingface.co"},
        "arguments": {"hub_token": "<HUB_TOKEN>", "learning_rate": 8e-5},
        "seed": 42,
        "versions": {"trl": "1.16.0"},
        "pairs": {"train": 2, "test": 1},
        "report": {"examined": 4, "kept": {"train": 2}, "dropped": {"equal": 1}, "examples": {"equal": PROMPT}},
        "mix": {"sources": {"capybara": {"licence": "apache-2.0"}}},
        "eval": {"after": {"loss": 1.0}},
    }
    keeping.write_record(folder, record)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the script wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(folder / "home"), "HF_TOKEN": SECRET, "PYTHONPATH": str(ROOT)}
    environment |= {"WANDB_ERROR_REPORTING": "false"}
    job = {"logs": LOGS, "columns": COLUMNS, "run_folder": str(write_run(folder / "run"))}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, timeout=120, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done.stdout


@pytest.fixture(scope="module")
def run_folder(written):
    (folder,) = (written[0] / "offline" / "wandb").glob("offline-run-*")
    return folder


def records(run_folder: Path, kind: str) -> list:
    (file,) = run_folder.glob("run-*.wandb")
    return [getattr(record, kind) for record in wandb_runs._records(file) if record.WhichOneof("record_type") == kind]


def logged(run_folder: Path) -> list[dict]:
    """The rows without W&B's own `_step`, `_runtime` and `_timestamp`."""
    rows = wandb_runs.read_offline(run_folder).rows
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def artifacts(run_folder: Path) -> dict[str, dict[str, Path]]:
    """Where the files of each type of artifact lie."""
    return {
        it.type: {entry.path: Path(entry.local_path) for entry in it.manifest.contents}
        for it in records(run_folder, "artifact")
    }


def test_margins_and_accuracies_have_rows_of_their_own(run_folder):
    rows = [row for row in logged(run_folder) if any(key.startswith(FIRST) for key in row)]
    assert rows == [
        {f"{FIRST}/step": 0, f"{FIRST}/eval_margins": -0.02, f"{FIRST}/eval_accuracies": 0.25},
        {f"{FIRST}/step": 1, f"{FIRST}/train_margins": 0.01, f"{FIRST}/train_accuracies": 0.5},
        {f"{FIRST}/step": 2, f"{FIRST}/train_margins": 0.03, f"{FIRST}/train_accuracies": 0.75},
        {f"{FIRST}/step": 2, f"{FIRST}/eval_margins": 0.04, f"{FIRST}/eval_accuracies": 1},
    ]


def test_the_answers_are_a_table(run_folder):
    (row,) = [row for row in logged(run_folder) if "answers/before_and_after" in row]
    table = json.loads((run_folder / "files" / row["answers/before_and_after"]["path"]).read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == [["Why?", "So.", "Because."], ["Who?", "é\n<b>", ""]]


def test_three_artifacts_hold_what_is_allowed_and_no_pickle(run_folder):
    files = {kind: set(it) for kind, it in artifacts(run_folder).items()}
    kept = {"adapter_model.safetensors", "adapter_config.json", "run.json", "tokenizer.json", "chat_template.jinja"}
    kept |= {"LICENSE"}
    assert files.pop("run_table") == {"answers/before_and_after.table.json"}  # W&B makes it of the table
    assert files == {"config": {"config.json"}, "dataset": {"data.json"}, "model": kept}
    names = {it.type: it.name for it in records(run_folder, "artifact") if it.type != "run_table"}
    assert names == {"config": "my-recipe-1-config", "dataset": "my-recipe-1-data", "model": "my-recipe-1-adapter"}


def test_nothing_private_goes_along(run_folder):
    for name, path in [item for files in artifacts(run_folder).values() for item in files.items()]:
        content = path.read_text()
        for private in (SECRET, PATH, PROMPT, str(run_folder.parents[2])):
            assert private not in content, f"{name} holds {private}"


def test_a_run_that_is_not_there_is_told_and_costs_nothing(written):
    assert written[1].startswith("W&B did not take the artifacts (FileNotFoundError); the run goes on without.\n")


def test_a_dead_wandb_costs_nothing(written):
    (folder,) = (written[0] / "dead" / "wandb").glob("offline-run-*")
    assert "the dead one went on" in written[1]
    for what in ("the first panels", "accuracies and margins", "the answers", "the artifacts"):
        assert re.search(rf"W&B did not take {what} \((ConnectionReset|BrokenPipe)Error\)", written[1]), written[1]
