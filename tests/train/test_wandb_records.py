"""What the real W&B client writes of a run: the first panels, the answers, the artifacts, and nothing private."""

import base64
import hashlib
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
from utils.train import wandb_records

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
    wandb_records.log_run(run, job["run_folder"])
    wandb_records.log_run(run, f"{folder}/nothing")
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


def test_the_trainers_rows_are_what_they_were(run_folder):
    rows = [row for row in logged(run_folder) if "train/loss" in row or "eval/loss" in row]
    assert [row["train/global_step"] for row in rows] == [0, 1, 2, 2]
    for row, (_, logs) in zip(rows, LOGS, strict=False):
        named = {f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}": it for key, it in logs.items()}
        assert row == named | {key: row[key] for key in ("train/global_step", "train/epoch") if key in row}


def test_their_section_is_the_first(run_folder):
    keys = {key for row in logged(run_folder) for key in row}
    assert all("/" in key for key in keys), "without a section of its own, it goes into W&B's Charts"
    sections = {key.split("/")[0] for key in keys} | {"Charts", "Custom Charts", "Media", "System", "Tables"}
    assert {"train", "eval", "answers"} < sections
    assert min(sections) == min(sections, key=str.lower) == FIRST


def test_they_are_drawn_over_their_own_step(run_folder):
    metrics = {metric.name: metric for metric in records(run_folder, "metric")}
    for name in ("train_margins", "train_accuracies", "eval_margins", "eval_accuracies"):
        assert metrics[f"{FIRST}/{name}"].step_metric == f"{FIRST}/step"
    assert metrics[f"{FIRST}/step"].options.hidden, "the axis would be a panel itself"


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


def test_the_artifacts_say_how_it_was_trained_and_on_what(run_folder):
    found = artifacts(run_folder)
    config, data = (
        json.loads(found[kind][name].read_text())
        for kind, name in (("config", "config.json"), ("dataset", "data.json"))
    )
    assert config["recipe"]["beta"] == 0.1 and config["seed"] == 42 and config["versions"] == {"trl": "1.16.0"}
    assert config["arguments"]["learning_rate"] == 8e-5
    assert data == {
        "dataset": "ada/pairs",
        "dataset_split": "train",
        "commit": "c0ffee",
        "host": "huggingface.co",
        "pairs": {"train": 2, "test": 1},
        "report": {"examined": 4, "kept": {"train": 2}, "dropped": {"equal": 1}},
        "mix": {"sources": {"capybara": {"licence": "apache-2.0"}}},
    }


def test_the_artifacts_lie_in_the_runs_folder_as_they_were_hashed(run_folder):
    for artifact in records(run_folder, "artifact"):
        for entry in artifact.manifest.contents:
            path = Path(entry.local_path)
            assert base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode() == entry.digest
            assert path.is_relative_to(run_folder if artifact.type != "run_table" else run_folder.parent)


def test_nothing_private_goes_along(run_folder):
    for name, path in [item for files in artifacts(run_folder).values() for item in files.items()]:
        content = path.read_text()
        for private in (SECRET, PATH, PROMPT, str(run_folder.parents[2])):
            assert private not in content, f"{name} holds {private}"


def test_a_run_that_is_not_there_is_told_and_costs_nothing(written):
    assert written[1].startswith("W&B did not take the artifacts (FileNotFoundError); the run goes on without.\n")


def test_a_disabled_run_says_and_writes_nothing(written):
    lines = written[1].splitlines()
    (before,) = [number for number, line in enumerate(lines) if line.startswith("offline finished")]
    assert lines[before + 1].startswith("disabled finished")
    assert not any((written[0] / "disabled").iterdir())


def test_a_dead_wandb_costs_nothing(written):
    (folder,) = (written[0] / "dead" / "wandb").glob("offline-run-*")
    assert "the dead one went on" in written[1]
    for what in ("the first panels", "accuracies and margins", "the answers", "the artifacts"):
        assert re.search(rf"W&B did not take {what} \((ConnectionReset|BrokenPipe)Error\)", written[1]), written[1]


def test_finish_does_not_hang(written):
    seconds = [float(line.split()[-1]) for line in written[1].splitlines() if "finished in" in line]
    assert len(seconds) == 2 and max(seconds) < 20
