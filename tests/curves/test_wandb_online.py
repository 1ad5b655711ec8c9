"""Reading a W&B run from a server: the real client of the installed wandb, against a stand-in on 127.0.0.1.

The client runs in a process of its own, as wandb reads its settings once per process and leaves a service behind.
"""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.wandb_api import KEY, START, WandbAPI

from utils.curves.wandb_runs import ANSWER_SECONDS, PATIENCE, run_path

READ_ON_REQUEST = """
import dataclasses, json, sys, time, traceback
import wandb
from utils.curves import wandb_runs
for line in sys.stdin:
    job = json.loads(line)
    wandb_runs.PATIENCE, wandb_runs.ANSWER_SECONDS = job["patience"], job["answer_seconds"]
    start = time.monotonic()
    try:
        answer = {"run": dataclasses.asdict(wandb_runs.read_online(job["path"], job["key"]))}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error)}
        answer["shown"] = "".join(traceback.format_exception(error))
    retries = wandb.setup().settings.x_graphql_retry_max
    print(json.dumps(answer | {"seconds": time.monotonic() - start, "retries": retries}), flush=True)
"""
NUMBER_OF_ROWS = 2500  # three pages of the client's 1,000 steps
CONFIG = {"learning_rate": 8e-5, "lora": {"r": 16, "targets": ["q_proj"]}, "seed": None, "name/with": "slash"}
QUICK = PATIENCE | {"x_graphql_retry_max": 1}
INSTEAD = 'RUN = "artifacts/run"'


def logged_rows(number: int = NUMBER_OF_ROWS) -> list[dict]:
    """Rows as a training logs them; evaluation comes every 100th step, and one step was never logged."""
    rows = []
    for step in range(number):
        row = {"_step": step + (step > 1200), "_timestamp": 1.7e9 + step + 0.123, "train/loss": 2 / (step + 3)}
        row |= {"train/tiny": 1e-300 * (step + 1), "train/global_step": step, "nested": {"a": {"b": step}, "c": 0.5}}
        if step % 100 == 0:
            row |= {
                "eval/loss": math.nan,
                "eval/best": math.inf,
                "eval/worst": -math.inf,
                "note": f"é {step}",
                "list": [0.5, math.nan],
            }
        rows.append(row)
    return rows


def text(rows: list[dict]) -> list[str]:
    """Rows as JSON lines: NaN equals NaN, and every digit counts."""
    return [json.dumps(row, sort_keys=True) for row in rows]


@pytest.fixture(scope="module")
def api():
    server = WandbAPI().start()
    server.add_run("you", "orpo", "done1", "calm-sun-1", "finished", CONFIG, logged_rows())
    server.add_run("you", "orpo", "going1", "brisk-moon-2", "running", {}, logged_rows(3))
    server.add_run("you", "orpo", "empty1", "still-air-3", "crashed", {}, [])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_client(tmp_path_factory):
    """Start a process that reads runs from the server at an address; it returns a function, `read(path, key)`."""
    clients = []

    def start(url):
        home = tmp_path_factory.mktemp("home")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {"WANDB_BASE_URL": url, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
        environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-c", READ_ON_REQUEST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "stderr").open("w"),
            text=True,
            cwd=home,
            env=environment,
        )
        clients.append(process)

        def read(path="you/orpo/done1", key=KEY, patience=QUICK, answer_seconds=ANSWER_SECONDS):
            job = {"path": path, "key": key, "patience": patience, "answer_seconds": answer_seconds}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = SimpleNamespace(**json.loads(process.stdout.readline()))
            answer.stderr = (home / "stderr").read_text()
            return answer

        return read

    yield start
    for process in clients:
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def read(api, start_client):
    return start_client(api.url)


@pytest.fixture
def break_down(api):
    """Make the server misbehave for the length of a test."""

    def set_fault(fault, start):
        api.fault, api.fault_from = fault, start

    yield set_fault
    api.fault = None


def refused(answer, kind, *words, key=KEY):
    """The call failed with this kind of error; its sentence has these words, and nothing shows the key."""
    assert answer.error == kind, answer.text
    for word in (*words, INSTEAD):
        assert word in answer.text
    assert not key or key not in answer.shown
    assert answer.shown.count("Traceback") == 1, "wandb's own chain of errors is shown as well"
    assert answer.retries is None, "the short patience stays behind for whoever trains next"
    assert answer.stderr == ""


@pytest.mark.parametrize("text_numbers", [True, False])
def test_a_finished_run(read, api, monkeypatch, text_numbers):
    monkeypatch.setattr(api, "text_numbers", text_numbers)
    answer = read()
    assert text(answer.run.pop("rows")) == text(logged_rows())
    assert answer.run == {"name": "calm-sun-1", "state": "finished", "config": CONFIG}
    assert answer.retries is None and answer.stderr == "" and answer.seconds < 15


def test_rows_come_in_order(read, api):
    rows = logged_rows(9)
    api.add_run("you", "orpo", "mixed1", "x", "finished", {}, rows[::2] + rows[1::2])
    assert text(read("you/orpo/mixed1").run["rows"]) == text(rows)


def parquet(rows):
    """Rows as W&B exports them: a column for every key, empty where a row has none."""
    import pyarrow
    import pyarrow.parquet

    keys = sorted({key for row in rows for key in row})
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in keys})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def test_an_exported_run(read, api):
    """Two exports that share the rows of a page between them, and rows that are not exported yet in the same page."""
    rows = logged_rows()
    exports = [parquet(rows[1:1700:2]), parquet(rows[:1700:2])]
    api.add_run("you", "orpo", "exported1", "x", "running", {}, rows, exports=exports, live_from=rows[1700]["_step"])
    for _ in range(2):  # also when the first time left its files behind
        assert text(read("you/orpo/exported1").run["rows"]) == text(rows)
    rows[3]["train/loss"] = -1.5
    api.add_run("you", "orpo", "exported1", "x", "finished", {}, rows, exports=[parquet(rows)], live_from=9999)
    assert text(read("you/orpo/exported1").run["rows"]) == text(rows), "old files were read"


def test_an_export_that_is_lost_or_cut(read, api):
    rows = logged_rows(50)
    for number, damaged in enumerate((None, parquet(rows)[:-100], b"")):
        path = f"you/orpo/damaged{number}"
        api.add_run(*path.split("/"), "x", "finished", {}, rows, exports=[damaged], live_from=9999)
        answer = read(path)
        refused(answer, "ConnectionError", path)
        assert answer.seconds < 30


def test_without_a_key_the_server_is_not_asked(read, api):
    before = len(api.queries)
    refused(read(key=None), "PermissionError", "you/orpo/done1", "WANDB_API_KEY", key=None)
    assert len(api.queries) == before


def test_a_refused_key_and_an_unknown_run(read, api):
    for key in ("k" * 40, "short", "k" * 39 + "!"):
        refused(read(key=key), "PermissionError", api.url, "you/orpo/done1", "WANDB_API_KEY", key=key)
    for path in ("you/orpo/other", "you/other/done1", "they/orpo/done1"):
        refused(read(path), "FileNotFoundError", api.url, path, "may not see it")


@pytest.mark.parametrize("start", [START, 1000])
def test_a_server_that_never_answers(read, break_down, start):
    break_down("silence", start)
    answer = read(patience=QUICK | {"x_graphql_timeout_seconds": 1}, answer_seconds=2)
    refused(answer, "ConnectionError", "you/orpo/done1")
    assert answer.seconds < (25 if start == START else 12)  # wandb before 0.31 has 20 seconds of its own for the key


def test_a_path_of_a_run():
    for given in (
        "you/orpo/8qk2d1xz",
        " you/orpo/8qk2d1xz/\n",
        "you/orpo/runs/8qk2d1xz",
        "https://wandb.ai/you/orpo/runs/8qk2d1xz?nw=nwuseryou",
        "https://wandb.ai/you/orpo/runs/8qk2d1xz/overview#a/b/runs/c",
        "http://wandb.example.com:8080/you/orpo/runs/8qk2d1xz/",
        "https://example.com/wandb/you/orpo/runs/8qk2d1xz",
    ):
        assert run_path(given) == "you/orpo/8qk2d1xz", given
    folders = ["", "run", "artifacts/run/", "/a/b/c", "./artifacts/run", "../other/run", "~/artifacts/run", "a/b/c/d"]
    folders += ["artifacts/run/trainer_state.json", "wandb/offline-run-1/run-1.wandb", "C:\\you\\orpo\\run"]
    pages = ["you/orpo-run", "you/orpo/runs", "https://huggingface.co/you/orpo-run/tree/main"]
    pages += ["https://wandb.ai/you/orpo", "https://wandb.ai/you/orpo/sweeps/abc", "https://wandb.ai/you/orpo/runs/"]
    for given in folders + pages:
        assert run_path(given) is None, given
