"""Reading a run's curves wherever it was logged, and judging them: real runs, made-up ones, and files that are broken.

The made-up runs differ from one healthy run in what their names say. Left out: drawing the curves.
"""

import importlib.util
import json
import math
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_runs import LOG
from support.wandb_api import KEY, WandbAPI

from utils.curves import run as curves
from utils.curves import wandb_runs
from utils.curves.diagnosis import LEVELS, RULES, diagnose_run
from utils.curves.run import GOING, Run, first_and_last, read_history, read_run

ROOT = Path(__file__).parents[2]
STEPS, EVALUATED, ROWS = 124, (0, 31, 62, 93, 124), 200  # of the course's run
SETTINGS = {"learning_rate": 8e-5, "beta": 0.1, "effective_batch": 8}


def frame_of(lines: list):
    """The data frame of lines in any order; equal frames hold equal numbers, to the last digit."""
    frame = pd.DataFrame(lines, columns=curves.COLUMNS).astype({"step": int, "epoch": float, "value": float})
    return frame.sort_values(["step", "split", "metric"], ignore_index=True)


def assert_same(one, other):
    one, other = (frame_of(frame.values.tolist()) for frame in (one, other))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# --- a trainer's log -------------------------------------------------------------------------------------------


def test_a_log_becomes_one_frame():
    history = read_history(LOG)
    assert list(history.columns) == ["step", "epoch", "split", "metric", "value"]
    expected = [
        (0, 0.0, "eval", "loss", 3.0),
        (0, 0.0, "eval", "rewards/margins", 0.01),
        (0, 0.0, "eval", "runtime", 0.5),
        (1, 0.5, "train", "loss", 2.5),
        (1, 0.5, "train", "grad_norm", 1.5),
        (1, 0.5, "train", "rewards/margins", 0.02),
        (1, 0.5, "train", "rewards/accuracies", 0.5),
        (2, 1.0, "train", "loss", 2.0),
        (2, 1.0, "train", "rewards/margins", 0.04),
        (2, 1.0, "train", "rewards/accuracies", 1.0),
        (2, 1.0, "eval", "loss", 2.2),
        (2, 1.0, "eval", "rewards/margins", 0.03),
        (2, 1.0, "eval", "runtime", 0.5),
    ]  # and nothing of the summary at the end
    assert_same(history, frame_of(expected))
    assert history.step.is_monotonic_increasing


def test_values_that_are_not_numbers_are_left_out():
    history = read_history([{"loss": 1.0, "note": "text", "table": {"a": 1}, "flag": True, "none": None, "step": 1}])
    assert list(history.metric) == ["loss"] and history.epoch.isna().all()


def test_a_loss_that_is_not_finite_stays_in_sight():
    history = read_history([{"loss": math.nan, "step": 1}, {"loss": math.inf, "step": 2}])
    assert history.value.isna().tolist() == [True, False] and history.value[1] == math.inf


def test_of_a_step_logged_twice_the_last_counts():
    history = read_history([{"loss": 3.0, "step": 1}, {"loss": 2.0, "step": 2}, {"loss": 1.0, "step": 1}])
    assert history[["step", "value"]].values.tolist() == [[1, 1.0], [2, 2.0]]


def test_the_first_and_the_last_evaluation_are_told():
    table = first_and_last(read_history(LOG))
    assert table.loc["loss"].tolist() == pytest.approx([3.0, 2.2, -0.8])
    assert table.loc["rewards/margins"].tolist() == pytest.approx([0.01, 0.03, 0.02])
    assert first_and_last(read_history(LOG[1:3])).loc["rewards/accuracies"].tolist() == [0.5, 1.0, 0.5]


def test_a_runs_series_and_what_follows_from_them():
    run = Run("a", read_history(LOG))
    assert run.series("loss").to_dict() == {1: 2.5, 2: 2.0} and run.series("loss", "eval").to_dict() == {0: 3.0, 2: 2.2}
    assert run.series("entropy").empty
    assert run.trainer == "DPO" and run.eval_rows is None and run.batch_rows is None
    speed = [{"eval_loss": 1.0, "eval_runtime": 7.0, "eval_samples_per_second": 28.571, "step": 0}]
    assert Run("a", read_history(speed)).eval_rows == 200
    assert Run("a", read_history(speed), {"pairs": {"train": 5, "test": 7}}).eval_rows == 7
    passes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert Run("a", read_history(LOG), passes).batch_rows == 8
    assert Run("a", read_history(LOG), passes | {"effective_batch": 16}).batch_rows == 16


# --- real runs -------------------------------------------------------------------------------------------------

# TRL's trainers in a process of its own: W&B leaves a service behind, and the trainers settings in the environment.
TRAIN = """
import json, sys
from pathlib import Path
import torch, wandb
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from utils.data import chat_format
from utils import environment
from utils.practice import stand_ins
from utils.train import checks as training_checks, wandb_records

folder, base, settings = Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin)
torch.set_num_threads(1)  # two would wait for one another wherever the machine is shared
tokenizer = chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(base))
pairs = stand_ins.preference_pairs(24, seed=5)
talks = [{"messages": pair["prompt"] + pair["chosen"]} for pair in pairs]

def train(name, kind, config, rows, eval_steps, callbacks=(), **more):
    arguments = config(
        output_dir=str(folder / name / "checkpoints"), use_cpu=True, bf16=False, gradient_checkpointing=False,
        learning_rate=settings["learning_rate"], per_device_train_batch_size=2, per_device_eval_batch_size=4,
        logging_steps=1, eval_strategy="steps", eval_steps=eval_steps, eval_on_start=True, disable_tqdm=True,
        num_train_epochs=1, **more,
    )
    trainer = kind(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), args=arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows[8:]), eval_dataset=Dataset.from_list(rows[:8]),
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.state.save_to_json(str(folder / name / "trainer_state.json"))

run = environment.start_wandb("course", "a run", settings, str(folder / "orpo"), "group")
run.log({"other": 1.0, "note": "text", "train_note": 2.0})
callbacks = [wandb_records.first_panels(run), training_checks.remember_settings(settings)]
more = {"beta": 0.1, "save_steps": 3, "remove_unused_columns": False, "report_to": "wandb"}
train("orpo", ORPOTrainer, ORPOConfig, pairs, 3, callbacks, **more)
wandb_records.log_answers(run, {"prompt": ["Why?"], "answer": ["So."]})
run.finish()
(folder / "dpo").mkdir()
(folder / "sft").mkdir()
train("dpo", DPOTrainer, DPOConfig, pairs[:12], 1, beta=0.1, save_strategy="no", report_to="none")
train("sft", SFTTrainer, SFTConfig, talks[:12], 1, save_strategy="no", report_to="none")
"""
PAIRS = {"train": 16, "test": 8}
TRAINED = {"learning_rate": 2e-3, "beta": 0.1, "effective_batch": 2, "name": "small"}


def clean_environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {
        "PYTHONPATH": f"{ROOT}",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        **more,
    }


@pytest.fixture(scope="module")
def trained(small_base, tmp_path_factory):
    """A folder with `orpo`, `dpo` and `sft`: what notebook 03 leaves of a run, and W&B's folder in it."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-c", TRAIN, str(folder), str(small_base)]
    done = subprocess.run(
        command, input=json.dumps(TRAINED), env=clean_environment(), capture_output=True, text=True, timeout=115
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = {"recipe": TRAINED, "pairs": PAIRS}
    (folder / "orpo" / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def offline(trained):
    (folder,) = (trained / "orpo" / "wandb").glob("offline-run-*")
    return folder


READ_ON_REQUEST = """
import json, sys
from utils.curves import run as curves, wandb_runs
wandb_runs.PATIENCE.update(x_graphql_retry_wait_min_seconds=0.1, x_graphql_retry_wait_max_seconds=0.2)
for line in sys.stdin:
    try:
        run = curves.read_run(**json.loads(line))
        answer = {"lines": run.history.values.tolist(), "trainer": run.trainer, "eval_rows": run.eval_rows}
        answer |= {"batch_rows": run.batch_rows, "name": run.name, "settings": run.settings, "state": run.state}
        answer |= {"source": run.source}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def ask(api, tmp_path_factory):
    """Read in a process whose wandb knows the stand-in: `ask(given)` returns a run, or raises what reading raised."""
    home = tmp_path_factory.mktemp("home")
    environment = clean_environment(WANDB_BASE_URL=api.url, HOME=f"{home}", XDG_CACHE_HOME=f"{home}", TMPDIR=f"{home}")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (home / "stderr").open("w")}
    command = [sys.executable, "-c", READ_ON_REQUEST]
    (home / "work").mkdir()  # beside TMPDIR, where wandb makes an empty folder for each run that it has read
    process = subprocess.Popen(command, text=True, cwd=home / "work", env=environment, **pipes)

    def read(given, key=KEY, **more):
        job = {"given": given, "run_folder": str(home / "run"), "key": key} | more
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            kinds = (FileNotFoundError, PermissionError, ConnectionError, ValueError)
            kind = {kind.__name__: kind for kind in kinds}.get(answer["error"], AssertionError)
            raise kind(answer["text"])
        known = {key: answer[key] for key in ("name", "settings", "state", "source")}
        run = Run(history=frame_of(answer["lines"]), **known)
        assert [run.trainer, run.eval_rows] == [answer["trainer"], answer["eval_rows"]]
        return run

    yield read
    process.communicate(timeout=30)


def row(step, **values):
    return {f"train/{metric}": value for metric, value in values.items()} | {"train/global_step": step}


@pytest.fixture(scope="module")
def api(offline):
    """W&B's stand-in with the real run, and with others that went wrong."""
    server = WandbAPI().start()
    kept = wandb_runs.read_offline(offline)
    rows, config = kept.rows, kept.config
    server.add_run("you", "orpo", "real1", "a real run", "finished", config, rows)
    server.add_run("you", "orpo", "empty1", "an empty run", "running", {}, [])
    beside = [{"answers/before_and_after": {"_type": "table-file", "nrows": 1}}, {"other": 1.0}, {"train/loss": 1.0}]
    server.add_run("you", "orpo", "beside1", "a run of tables", "finished", {}, beside)
    odd = [row(1, loss=math.nan, grad_norm=math.inf), row(2, loss=-math.inf, note="NaN or not", epoch=0.5)]
    server.add_run("you", "orpo", "odd1", "an odd run", "crashed", {}, odd)
    first, again = ([row(step, loss=step + start) for step in range(start, 41)] for start in (1, 26))
    server.add_run("you", "orpo", "resumed1", "a resumed run", "finished", {}, first + again)
    server.add_run("you", "orpo", "resumed2", "a resumed run", "running", {}, first + again[:5])
    yield server
    server.stop()


def test_three_places_hold_the_same_run(trained, offline, ask):
    """The trainer's file, W&B's folder on disk and W&B's server: each number the same to the last digit."""
    runs = [read_run(str(trained / "orpo")), read_run(str(offline)), ask("you/orpo/real1")]
    for run in runs:
        assert_same(run.history, runs[0].history)
        assert (run.trainer, run.state, run.eval_rows, run.batch_rows) == ("ORPO", "finished", PAIRS["test"], 2)
        assert {key: run.settings[key] for key in TRAINED if key != "name"} == {
            key: value for key, value in TRAINED.items() if key != "name"
        }
        assert [finding.rule for finding in diagnose_run(run)] == [finding.rule for finding in diagnose_run(runs[0])]
    assert [run.name for run in runs] == ["orpo", "a run", "a real run"]
    assert [run.settings.get("pairs") for run in runs] == [PAIRS, None, None]  # so the others know rows by their speed
    history = runs[0].history
    assert len(history) > 100 and not history.value.isna().any()
    assert sorted(set(history[history.split == "train"].step)) == list(range(1, 9))
    assert sorted(set(history[history.split == "eval"].step)) == [0, 3, 6, 8]
    assert history.groupby("step").epoch.nunique().eq(1).all() and history.epoch.max() == 1.0


def test_the_real_trainer_logs_what_the_rules_read(trained):
    run = read_run(str(trained / "orpo"))
    parts = {"loss", "nll_loss", "log_odds_chosen", "log_odds_ratio"}
    parts |= {f"{kind}/{side}" for kind in ("rewards", "logps") for side in ("chosen", "rejected")}
    for split in ("train", "eval"):
        logged = run.history[run.history.split == split]
        assert parts | {"rewards/margins", "rewards/accuracies"} <= set(logged.metric)
    assert {"learning_rate", "grad_norm"} <= set(run.history.metric)
    gap = run.series("logps/chosen", "eval") - run.series("logps/rejected", "eval")
    assert run.series("rewards/margins", "eval").tolist() == pytest.approx((0.1 * gap).tolist(), abs=1e-6)
    loss = run.series("nll_loss") - 0.1 * run.series("log_odds_ratio")
    assert run.series("loss").tolist() == pytest.approx(loss.tolist(), rel=1e-5)
    assert set(made_up().history.metric) <= set(run.history.metric)  # what is made up below is what is logged


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of the real ORPO run, to change; copies keep their times."""
    return shutil.copytree(trained / "orpo", tmp_path / "artifacts" / "run", ignore=shutil.ignore_patterns("wandb"))


def test_a_run_that_goes_on_is_read_from_its_newest_checkpoint(run_folder):
    (run_folder / "trainer_state.json").unlink()
    shutil.rmtree(run_folder / "checkpoints" / "checkpoint-8")  # of the end
    run = read_run(None, run_folder)
    assert (run.name, run.state, run.history.step.max()) == ("run", GOING, 6)
    assert run.settings == {"max_steps": 8} | TRAINED  # what the callback wrote beside it
    assert run.eval_rows == 8
    assert "not at its end" in rules(run)
    checkpoint = run_folder / "checkpoints" / "checkpoint-3"
    assert read_run(str(checkpoint)).history.step.max() == 3
    os.utime(checkpoint / "trainer_state.json")  # of a run begun anew, whose checkpoints are fewer
    assert read_run(None, run_folder).history.step.max() == 3


def test_a_kept_run_is_found_on_the_hub(hub, run_folder, tmp_path):
    shutil.rmtree(run_folder / "checkpoints")
    hub.add_repo("learner/kept-curves", private=True)
    hub.commit_folder("learner/kept-curves", run_folder)
    run = read_run("learner/kept-curves", tmp_path / "elsewhere" / "run", token="practice-write")
    assert run.name == "learner/kept-curves" and run.state == "finished"
    assert run.settings["pairs"] == PAIRS
    assert_same(run.history, read_run(None, run_folder).history)


# --- runs that cannot be read, and runs that went wrong --------------------------------------------------------


def test_numbers_that_json_does_not_have_arrive(ask):
    run = ask("you/orpo/odd1")
    expected = [(1, None, "train", "grad_norm", math.inf), (1, None, "train", "loss", math.nan)]
    assert_same(run.history, frame_of([*expected, (2, 0.5, "train", "loss", -math.inf)]))
    assert rules(run) == {"not finite", "too short to judge", "no evaluation", "not at its end", "another trainer"}


def test_of_a_resumed_run_the_new_steps_count(ask):
    run = ask("you/orpo/resumed1")
    assert run.series("loss").to_dict() == {step: step + (1 if step < 26 else 26) for step in range(1, 41)}
    run = ask("you/orpo/resumed2")  # which has not come as far as the first time
    assert run.series("loss").to_dict() == {step: step + (1 if step < 26 else 26) for step in range(1, 31)}


# --- the rules -------------------------------------------------------------------------------------------------


def rules(run) -> set[str]:
    """The rules that a run trips; a warning of Python's is an error, for a learner would see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {finding.rule for finding in diagnose_run(run)}


def made_up(
    nll=(1.9, 1.4),
    chosen=(-1.5, -1.2),
    rejected=(-1.55, -1.9),
    odds=(0.05, 1.0),
    accuracy=(0.52, 0.7),
    beta=0.1,
    arrived=4.0,
    held_out=None,
    rows=ROWS,
    change=None,
    seed=0,
    state="finished",
) -> Run:
    """Make up a run, healthy unless told otherwise: a line of the log for each step, five evaluations.

    Args:
        nll, chosen, rejected, odds, accuracy: first and last value of each metric.
        arrived: how much faster the metrics move at the start than at the end, as an exponent; 0.01 for a straight
            line, both for each unit of learning rate.
        held_out: held-out NLL of the five evaluations, if it takes another way than in training.
        change: what is done to the log's entries, one by one; an entry that becomes `None` is left out.
    """
    draw, log, spent = random.Random(seed), [], 0.0
    rates = [8e-5 * min(step / 10, (STEPS - step) / (STEPS - 10)) for step in range(STEPS + 1)]
    for step in range(STEPS + 1):
        spent += rates[step] / sum(rates)
        way = -math.expm1(-arrived * spent) / -math.expm1(-arrived)

        def at(ends, spread, way=way):
            return ends[0] + (ends[1] - ends[0]) * way + draw.gauss(0, spread)

        for split, prefix, noise in (("train", "", 1.0), ("eval", "eval_", 0.02)):
            if split == "train" and not step or split == "eval" and step not in EVALUATED:
                continue
            entry = {"nll_loss": at(nll, 0.06 * noise), "log_odds_chosen": at(odds, 0.3 * noise)}
            if held_out and split == "eval":
                entry["nll_loss"] = held_out[EVALUATED.index(step)]
            entry["log_odds_ratio"] = -math.log1p(math.exp(-entry["log_odds_chosen"]))
            entry["loss"] = entry["nll_loss"] - beta * entry["log_odds_ratio"]
            for side, ends in (("chosen", chosen), ("rejected", rejected)):
                entry[f"logps/{side}"] = at(ends, 0.1 * noise)
                entry[f"rewards/{side}"] = beta * entry[f"logps/{side}"]
            entry["rewards/margins"] = entry["rewards/chosen"] - entry["rewards/rejected"]
            share = at(accuracy, 0)
            entry["rewards/accuracies"] = share if split == "eval" else sum(draw.random() < share for _ in range(8)) / 8
            if split == "eval":
                entry |= {"runtime": 20.0, "samples_per_second": rows / 20}
            else:
                entry |= {"learning_rate": rates[step], "grad_norm": 1.0 + draw.random()}
            entry = {f"{prefix}{key}": value for key, value in entry.items()} | {"step": step, "epoch": step / STEPS}
            log.append(change(entry) if change else entry)
    settings = SETTINGS | {"beta": beta, "max_steps": STEPS}
    return Run("made up", read_history([entry for entry in log if entry]), settings, state)


def from_step(step: int, **values):
    """Set training metrics from a step on."""
    return lambda entry: entry | values if entry["step"] >= step and "loss" in entry else entry


def at_step(step: int, **values):
    return lambda entry: entry | values if entry["step"] == step and "loss" in entry else entry


def only(*starts: str):
    """Keep the metrics whose names begin so."""
    return lambda entry: {key: it for key, it in entry.items() if key.removeprefix("eval_").startswith(starts)}


def as_dpo(entry: dict) -> dict:
    """What TRL's DPO trainer logs; before the first step both rewards are exactly zero, and no pair counts as right."""
    prefix, start = ("eval_", entry["step"] == 0) if "eval_loss" in entry else ("", False)
    margin = 0.0 if start else 30 * (entry[f"{prefix}rewards/margins"] - 0.005)
    entry = {key: value for key, value in entry.items() if "odds" not in key and "nll" not in key} | {
        f"{prefix}loss": math.log1p(math.exp(-margin)),
        f"{prefix}rewards/margins": margin,
        f"{prefix}rewards/chosen": -margin,
        f"{prefix}rewards/rejected": -2 * margin,
        f"{prefix}logps/chosen": -300 - 10 * margin,
        f"{prefix}logps/rejected": -350 - 20 * margin,
        f"{prefix}mean_token_accuracy": 0.6,
        f"{prefix}entropy": 1.5,
    }
    return entry | ({f"{prefix}rewards/accuracies": 0.0} if start else {})


def as_sft(entry: dict) -> dict:
    prefix = "eval_" if "eval_loss" in entry else ""
    entry = only("loss", "learning_rate", "grad_norm", "step", "epoch", "runtime", "samples")(entry)
    return entry | {f"{prefix}mean_token_accuracy": 0.6, f"{prefix}num_tokens": 1e4 * entry["step"]}


def without_evaluation(entry: dict) -> dict | None:
    return None if "eval_loss" in entry else entry


def below_zero(entry: dict) -> dict:
    return entry | {key: value - 3 for key, value in entry.items() if key.endswith("loss") and "nll" not in key}


def until(step: int):
    return lambda entry: entry if entry["step"] <= step else None


NO_MOVE = {
    name: (start, start) for name, start in (("nll", 1.9), ("chosen", -1.5), ("rejected", -1.55), ("odds", 0.05))
}
CONSTANT = {"loss": 1.9, "nll_loss": 1.85, "logps/chosen": -1.5, "logps/rejected": -1.6, "grad_norm": 1.0}
CONSTANT |= {f"eval_{key}": value for key, value in CONSTANT.items()}
UP = "the rejected answer does not fall"
MADE_UP = {  # what it is, how it differs from the healthy run, and the rules that it trips
    "healthy": ({}, {"healthy"}),
    "healthy, as the paper's Mistral": (
        {"rejected": (-1.55, -1.5)},
        {"healthy", UP, "the margin grows by the chosen side"},
    ),
    "one loss that is no number": ({"change": at_step(60, loss=math.nan)}, {"not finite"}),
    "an infinite margin": ({"change": at_step(60, **{"rewards/margins": math.inf})}, {"not finite"}),
    "an infinite loss": ({"change": at_step(1, loss=math.inf)}, {"not finite"}),
    "an infinite held-out loss": (
        {
            "change": lambda entry: (
                entry if entry["step"] else entry | {"eval_loss": math.inf, "eval_nll_loss": math.inf}
            )
        },
        {"not finite"},
    ),
    "gradients that are no numbers": ({"change": from_step(60, grad_norm=math.nan)}, {"not finite"}),
    "fp16's infinite gradients": (
        {"change": lambda entry: entry | {"grad_norm": math.inf} if entry["step"] <= 7 else entry},
        {"healthy"},
    ),
    "fp16's infinite gradient, later": ({"change": at_step(100, grad_norm=math.inf)}, {"healthy"}),
    "a filtered NaN": ({"change": from_step(60, loss=0.0)}, {"stuck"}),
    "a loss that stands still": ({"change": from_step(100, loss=1.234)}, {"stuck"}),
    "all constant": ({"change": lambda entry: entry | CONSTANT}, {"stuck", "plateau from step one", UP}),
    "rate too high": (
        {"nll": (1.9, 6.0), "chosen": (-1.5, -6), "rejected": (-1.55, -7), "arrived": 30},
        {"learning rate too high", "both log-probabilities fall"},
    ),
    "rate too low": (
        {
            "nll": (1.9, 1.84),
            "chosen": (-1.5, -1.45),
            "rejected": (-1.55, -1.51),
            "odds": (0.05, 0.08),
            "arrived": 0.01,
        },
        {"learning rate too low", UP},
    ),
    "little to learn": ({"nll": (1.9, 1.8)}, {"healthy"}),  # it has levelled off
    "plateau": (NO_MOVE | {"nll": (1.9, 1.895)}, {"plateau from step one", UP}),
    "a little worse": (NO_MOVE | {"nll": (1.9, 1.92)}, {"plateau from step one", UP}),
    "still falling": ({"arrived": 0.01}, {"still falling when it stopped"}),
    "overfitting": ({"nll": (1.9, 0.6), "held_out": (1.9, 1.6, 1.5, 1.6, 1.7)}, {"overfitting"}),
    "learnt by heart at once": (
        {"nll": (1.9, 0.3), "held_out": (1.9, 1.95, 2.1, 2.2, 2.3)},
        {"overfitting"},
    ),
    "the odds against the likelihood": (
        {"beta": 1.0, "nll": (1.9, 2.0), "odds": (0.05, 4.0), "rejected": (-1.55, -3.0)},
        {"the odds outweigh the likelihood"},
    ),
    "both fall": ({"beta": 1.0, "chosen": (-1.5, -1.7), "rejected": (-1.55, -2.5)}, {"both log-probabilities fall"}),
    "a large beta": ({"beta": 5.0}, {"the odds outweigh the likelihood"}),
    "a small beta": ({"beta": 0.01}, {"the odds hardly count"}),
    "no preference": (
        {"odds": (0.05, 0.15), "rejected": (-1.55, -1.25)},
        {"no preference learnt", UP},
    ),
    "the chosen side": ({"rejected": (-1.55, -1.575)}, {"healthy", "the margin grows by the chosen side"}),
    "no evaluation": ({"change": without_evaluation}, {"no evaluation"}),
    "no evaluation, by chance steady": ({"change": without_evaluation, "seed": 5}, {"no evaluation"}),
    "no evaluation, rate too high": (
        {"nll": (1.9, 6.0), "chosen": (-1.5, -1.2), "change": without_evaluation},
        {"no evaluation", "learning rate too high"},
    ),
    "ten rows": ({"rows": 10}, {"healthy", "too few held-out rows"} - {"healthy"}),
    "easy pairs": ({"accuracy": (0.8, 0.9)}, {"healthy", "accuracy above one half from the start"}),
    "swapped labels": ({"accuracy": (0.2, 0.7)}, {"healthy", "accuracy below one half at the start"}),
    "still going": ({"change": until(100), "state": GOING}, {"healthy", "not at its end"}),
    "crashed": ({"state": "crashed"}, {"healthy", "not at its end"}),
    "one step": ({"change": until(1), "state": "running"}, {"too short to judge", "not at its end"}),
    "three steps": ({"change": until(3), "state": "running"}, {"too short to judge", "not at its end"}),
    "nothing but NaN": (
        {"change": lambda entry: {key: it if key in ("step", "epoch") else math.nan for key, it in entry.items()}},
        {"not finite", "too short to judge"},
    ),
    "no learning rate": (
        {"change": lambda entry: {k: v for k, v in entry.items() if k != "learning_rate"}},
        {"healthy"},
    ),
    "a loss below zero": ({"change": below_zero}, {"healthy"}),  # of which no share can be taken
    "DPO": ({"change": as_dpo}, {"healthy", "another trainer"}),
    "SFT": ({"change": as_sft}, {"healthy", "another trainer"}),
    "SFT, by heart": (
        {"change": as_sft, "nll": (1.9, 0.6), "held_out": (1.9, 1.6, 1.5, 1.6, 1.7)},
        {"another trainer", "overfitting"},
    ),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_what_is_said_of_a_made_up_run(name):
    how, expected = MADE_UP[name]
    assert rules(made_up(**how)) == expected


def test_every_rule_is_tripped_by_a_made_up_run():
    assert set().union(*(expected for _, expected in MADE_UP.values())) == {*RULES, "healthy"}
    assert all(check.level in LEVELS and check.change and check.advice for check in RULES.values())


def test_the_gravest_finding_comes_first_with_its_numbers_and_its_advice():
    run = made_up(nll=(1.9, 6.0), chosen=(-1.5, -6), rejected=(-1.55, -7), accuracy=(0.2, 0.7), state="killed")
    findings = diagnose_run(run)
    levels = [LEVELS.index(finding.level) for finding in findings]
    assert levels == sorted(levels) and findings[0].rule == "learning rate too high"
    assert "loss 1.96" in findings[0].numbers and "learning rate 8e-05" in findings[0].numbers
    (ended,) = (finding for finding in findings if finding.rule == "not at its end")
    assert "killed" in ended.numbers and "124 of 124" in ended.numbers


def test_what_is_said_of_the_other_trainers(trained):
    for name, kind, made in (("dpo", "DPO", as_dpo), ("sft", "SFT", as_sft)):
        run = read_run(str(trained / name))
        assert run.trainer == kind == made_up(change=made).trainer
        assert (
            {"another trainer"}
            <= rules(run)
            <= {"another trainer", "plateau from step one", "too few held-out rows"}
            | {
                "healthy",
                "learning rate too low",
                "still falling when it stopped",
            }
        )
        assert set(made_up(change=made).history.metric) <= set(run.history.metric)
    start = read_run(str(trained / "dpo")).series("rewards/accuracies", "eval")
    assert start[0] == 0.0  # which says nothing about the base, whatever the rules for ORPO say


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-10, 10) | st.sampled_from([0.0, 1.0, math.nan])
SHARES = st.floats(0, 1) | st.just(math.nan)
POSITIVE = st.floats(0, 1e6)
METRICS = {
    name: NUMBERS for name in ("loss", "nll_loss", "grad_norm", "rewards/margins", "log_odds_chosen", "log_odds_ratio")
}
METRICS |= {"logps/chosen": NUMBERS, "logps/rejected": NUMBERS, "rewards/accuracies": SHARES, "entropy": NUMBERS}
METRICS |= {"learning_rate": POSITIVE, "runtime": POSITIVE, "samples_per_second": POSITIVE}


@st.composite
def any_runs(draw):
    """A run of any metrics at any steps, with any settings."""
    lines = []
    for split in ("train", "eval"):
        steps = sorted(draw(st.sets(st.integers(0, 300), max_size=25)))
        for metric in draw(st.sets(st.sampled_from(sorted(METRICS)))):
            kept = draw(st.integers(0, len(steps)))
            values = draw(st.lists(METRICS[metric], min_size=kept, max_size=kept))
            lines += [(step, None, split, metric, value) for step, value in zip(steps, values, strict=False)]
    known = {"learning_rate": POSITIVE, "beta": POSITIVE, "max_steps": st.integers(-1, 300)}
    known |= {"pairs": st.none() | st.just({"train": 5}) | st.just({"test": 0}) | st.just({"train": 5, "test": 9})}
    recorded = draw(st.fixed_dictionaries({}, optional=known))
    return Run("any", frame_of(lines), recorded, draw(st.sampled_from(["finished", "running", GOING])))


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(run=any_runs().filter(lambda run: not run.history.empty))
def test_any_run_can_be_judged(run):
    findings = diagnose_run(run)
    assert findings and len({finding.rule for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.level in LEVELS and finding.rule and finding.numbers and finding.advice
    asked = any(finding.level in ("alarm", "warning") for finding in findings)
    assert asked != ("healthy" in {finding.rule for finding in findings})


# --- the runs that the course keeps ----------------------------------------------------------------------------

_SPEC = importlib.util.spec_from_file_location("train_runs", ROOT / "data" / "runs" / "train_runs.py")
train_runs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(train_runs)
BELOW = "accuracy below one half at the start"
KEPT = {  # measured; of the alarms and warnings nothing else, and of the notes those that the run was made for
    "healthy": {"healthy", BELOW},
    "rate x 0.01": {"learning rate too low", UP, "the margin grows by the chosen side", BELOW},
    "rate x 100": {"learning rate too high", "both log-probabilities fall", BELOW},
    "beta 0.01": {"the odds hardly count", BELOW},
    "beta 5": {"the odds outweigh the likelihood", BELOW},
    "labels swapped": {"healthy", "accuracy above one half from the start"},
    "prompt as answer": {"healthy", BELOW},
    "16 pairs fifty times": {"overfitting", BELOW},
    "article": {"too few held-out rows", UP, "the margin grows by the chosen side", BELOW},
}


@pytest.mark.parametrize("name", train_runs.RUNS)
def test_what_is_said_of_a_kept_run(name):
    folder = train_runs.folder_of(name)
    assert folder.is_dir(), f"train it: python data/runs/train_runs.py {name!r}"
    usual = {"NUM_PAIRS": train_runs.PAIRS, "NUM_EVAL_PAIRS": train_runs.EVAL_PAIRS}
    usual |= {"LEARNING_RATE": train_runs.LEARNING_RATE}
    data = {"DATASET": f"{train_runs.RUNS[name].get('data', 'pairs')}.jsonl"}
    differs = {key: value for key, value in train_runs.RUNS[name].items() if key != "data"}
    asked = usual | differs | data
    record = json.loads((folder / "run.json").read_text())
    assert record["parameters"] == asked
    assert {key.upper(): record["recipe"][key.lower()] for key in asked} == asked
    run = read_run(str(folder))
    assert (run.name, run.trainer, run.state, run.batch_rows) == (folder.name, "ORPO", "finished", 8)
    assert run.eval_rows == asked["NUM_EVAL_PAIRS"] and run.settings["learning_rate"] == asked["LEARNING_RATE"]
    evaluated = run.series("loss", "eval")
    assert len(evaluated) == 5 and list(run.series("loss").index) == list(range(1, evaluated.index[-1] + 1))
    assert rules(run) == KEPT[name]
