"""`wandb sync` of an offline run: the real command uploads all that notebook 03 logged, to a stand-in on 127.0.0.1."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.wandb_api import KEY
from support.wandb_uploads import MANIFEST, WandbUploads
from train.test_wandb_records import COLUMNS, write_run

from utils.curves import wandb_runs
from utils.train.wandb_records import FIRST

CONFIG = {"learning_rate": 8e-5, "lora": {"r": 16, "targets": ["q_proj"]}, "mix": None, "name/with": "slash"}
STEPS = 120

# As notebook 03 logs it, with what the trainer's W&B callback and `first_panels` call, but without a trainer.
TRAIN = """
import json, math, sys
from utils import environment
from utils.train import keep, wandb_records

folder, job = sys.argv[1], json.load(sys.stdin)
run = environment.start_wandb("course", "a run", job["config"], folder, "my recipe/1")
first = wandb_records.FIRST
run.define_metric(f"{first}/step", hidden=True)
run.define_metric(f"{first}/train_margins", step_metric=f"{first}/step")
for step in range(job["steps"]):
    at = {"train/global_step": step, "train/epoch": step / 40}
    run.log(at | {"train/loss": 2 / (step + 3), "train/grad_norm": 1e-300 * step, "train/rewards/margins": -0.1 / 3})
    run.log({f"{first}/step": step, f"{first}/train_margins": -0.1 / 3})
    if step % 30 == 0:
        run.log(at | {"eval/loss": [1.5, math.nan, math.inf, -math.inf][step // 30], "eval/rewards/accuracies": 1.0})
wandb_records.log_answers(run, job["columns"])
wandb_records.log_run(run, folder, keep.LOGGED_ADAPTER_FILES)
run.finish()
print(run.settings.sync_dir)
"""
READ = """
import dataclasses, json, os, sys
from utils.curves import run as curves, wandb_runs

path, folder = sys.argv[1:]
key = os.environ["WANDB_API_KEY"]
online, offline = curves.read_run(path, key=key), curves.read_run(folder)
answer = dataclasses.asdict(wandb_runs.read_online(path, key))
same = online.history.equals(offline.history)
print(json.dumps(answer | {"same": same, "points": len(online.history), "names": [online.name, offline.name]}))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Run Python on a machine that knows of no W&B account, without a terminal, so that nothing can be asked."""
    home = tmp_path_factory.mktemp("home")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}

    def start_one(*arguments, given="", **environment):
        environment = clean | {"WANDB_ERROR_REPORTING": "false"} | environment
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=60, env=environment, cwd=home
        )

    return start_one


@pytest.fixture(scope="module")
def run_folder(start, tmp_path_factory):
    """The W&B folder of an offline run, inside the run's own, of which a copy stands beside it."""
    folder = write_run(tmp_path_factory.mktemp("sync") / "run")
    job = json.dumps({"config": CONFIG, "steps": STEPS, "columns": COLUMNS})
    done = start("-c", TRAIN, folder, given=job, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(folder, folder.with_name("copy"), symlinks=True)
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def logged(run_folder):
    """The files of each artifact by its type: `{name: (content, MD5)}`, before `wandb sync`, which may delete them."""
    (file,) = run_folder.glob("run-*.wandb")
    artifacts = [it.artifact for it in wandb_runs._records(file) if it.WhichOneof("record_type") == "artifact"]
    return {
        it.type: {entry.path: (Path(entry.local_path).read_bytes(), entry.digest) for entry in it.manifest.contents}
        for it in artifacts
    }


@pytest.fixture(scope="module")
def sync(start):
    """Upload a folder to a server of its own; what happened, with the `server`."""
    servers = []

    def sync_one(folder, *options):
        servers.append(WandbUploads().start())
        key = {"WANDB_BASE_URL": servers[-1].url, "WANDB_API_KEY": KEY}
        done = start("-m", "wandb", "sync", folder, *options, **key)
        return SimpleNamespace(code=done.returncode, text=done.stdout + done.stderr, server=servers[-1], key=key)

    yield sync_one
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def synced(sync, run_folder, logged):
    return sync(run_folder)


@pytest.fixture(scope="module")
def read(start, synced, run_folder):
    """The uploaded run, as the course reads it."""
    done = start("-c", READ, f"you/course/{run_id(run_folder)}", run_folder, **synced.key)
    assert done.returncode == 0, done.stderr[-2000:]
    return SimpleNamespace(**json.loads(done.stdout))


def run_id(run_folder) -> str:
    return run_folder.name.split("-")[-1]


def text(rows: list[dict]) -> list[str]:
    """Rows as JSON lines: NaN equals NaN, and every digit counts."""
    return [json.dumps(row, sort_keys=True) for row in rows]


def states(server) -> dict[str, str]:
    """Whether each artifact is whole, by its type."""
    return {it.type: it.state for it in server.artifacts.values()}


def test_the_printed_line_uploads_without_a_question(synced, run_folder):
    assert synced.code == 0, synced.text
    assert "Finished syncing" in synced.text and run_folder.name in synced.text
    assert KEY not in synced.text


def test_the_rows_are_those_that_were_logged(read, run_folder):
    assert text(read.rows) == text(wandb_runs.read_offline(run_folder).rows)
    assert len(read.rows) == 2 * STEPS + 4 + 1, "training and first panels, evaluations, answers"
    assert len([row for row in read.rows if f"{FIRST}/train_margins" in row]) == STEPS


def test_every_artifact_is_whole(synced, logged, run_folder):
    assert logged.keys() == {"config", "dataset", "model", "run_table"}
    assert states(synced.server) == dict.fromkeys(logged, "COMMITTED")
    for artifact in synced.server.artifacts.values():
        contents = json.loads(artifact.files[MANIFEST])["contents"]
        assert artifact.files.keys() - {MANIFEST} == contents.keys() == logged[artifact.type].keys()
        for name, (content, digest) in logged[artifact.type].items():
            assert artifact.files[name] == content
            assert base64.b64encode(hashlib.md5(content).digest()).decode() == digest == contents[name]["digest"]
    names = {it.type: it.name for it in synced.server.artifacts.values() if it.type != "run_table"}
    assert names == {"config": "my-recipe-1-config", "dataset": "my-recipe-1-data", "model": "my-recipe-1-adapter"}


def test_nothing_else_is_uploaded(synced, run_folder):
    names = set(synced.server.files[run_id(run_folder)])
    assert len([name for name in names if name.startswith("media/table/answers/")]) == 1
    own = {"config.yaml", "output.log", "requirements.txt", "wandb-metadata.json", "wandb-summary.json"}
    assert {name for name in names if not name.startswith("media/")} <= own
    names |= {name for it in synced.server.artifacts.values() for name in it.files}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    uploaded = [data for files in synced.server.files.values() for data in files.values()]
    uploaded += [data for it in synced.server.artifacts.values() for data in it.files.values()]
    assert not [data for data in uploaded if data.startswith(b"\x80\x04")], "a pickle"
