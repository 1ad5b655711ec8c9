"""The benchmark of a training step runs, and reads its results rightly; what it says of speed, it says elsewhere."""

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_step.py"
STOCK = {"losses": [9.0, 8.0], "seconds": [10.0], "peak_gb": 4.0, "model_gb": 6.0}
STOCK |= {"tokens": {"distinct": 100, "repeated": 20, "padding": 30}}
WEIGHTS = {"b": torch.tensor([3.0, 4.0]), "a": torch.tensor([2.0])}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(script, tmp_path, monkeypatch):
    """Make the table of made-up results: `table(variant={what differs from STOCK}, ...)`."""

    def make(shape="mid", weights=WEIGHTS, **results):
        found = {}
        for name, changes in results.items():
            torch.save([WEIGHTS, weights if name == "fused" else WEIGHTS], tmp_path / name)
            rounds = changes if isinstance(changes, list) else [changes]
            found[name] = [STOCK | {"adapter": str(tmp_path / name)} | each for each in rounds]
        monkeypatch.setattr(sys, "argv", ["train_step.py", "--shape", shape, "--pairs", "20"])
        rows = script.compare(found, script.read_options(), matrix_rate=1e12)
        return {row["variant"]: row for row in rows}

    return make


def test_it_measures_trl_and_the_fused_trainer(tmp_path):
    command = [sys.executable, SCRIPT, "--shape", "tiny", "--pairs", "9", "--rounds", "1", "--only", "trl", "fused"]
    command += ["--repeats", "2", "--json", tmp_path / "table.json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    written = json.loads((tmp_path / "table.json").read_text())
    assert run.stdout.startswith(written["environment"] + "\n") and f"torch {version('torch')}" in run.stdout
    assert re.search(r"^tiny, 8 pairs; tokens .*: [\d,]+ distinct, [\d,]+ repeated, [\d,]+ padding$", run.stdout, re.M)
    stock, fused = written["table"]
    for row in (stock, fused):
        assert re.search(rf"^{row['variant']} +{row['seconds']:.2f} ", run.stdout, re.M)
        assert row["seconds"] > 0 < row["peak_gb"] and row["pairs_per_second"] == pytest.approx(8 / row["seconds"])
        assert len(row["losses"]) == 3 and 0 < row["rate"] < 1
    assert stock["losses"] != fused["losses"] or stock["peak_gb"] != fused["peak_gb"]  # two trainers, not one twice
    assert fused["loss"] <= 1e-5 >= fused["gradient"] and 0 < fused["adapter"] < 1e-2
    assert fused["speed"] == pytest.approx(stock["seconds"] / fused["seconds"])
    assert written["verdicts"] == []  # no target is set for the tiny shape


def test_figures_are_relative_to_the_stock_trainers(table):
    weights = {"b": torch.tensor([3.0, 4.5]), "a": torch.tensor([2.002])}
    rounds = [{"seconds": [4.0], "losses": [9.0, 8.25], "peak_gb": 1.0}, {"seconds": [6.0, 5.0], "peak_gb": 2.0}]
    rows = table(trl={}, fused=rounds, weights=weights)
    fused = rows["fused"]
    assert fused["seconds"] == 5.0 and fused["best"] == 4.0 and fused["spread"] == pytest.approx(0.4)
    assert fused["pairs_per_second"] == 16 / 5 and fused["speed"] == 2.0  # of 20 pairs 16 fill whole steps
    assert fused["memory"] == 0.5 and fused["whole"] == 0.8
    assert fused["loss"] == 0.25 and fused["gradient"] == 0 and fused["adapter"] == pytest.approx(0.1)
    assert rows["trl"]["speed"] == rows["trl"]["memory"] == rows["trl"]["whole"] == 1


def test_a_variant_that_fails_keeps_its_row(script, table, monkeypatch, tmp_path):
    def fails(error):
        def run(*_):
            raise error

        monkeypatch.setattr(script, "run_variant", run)
        script.be_child("fused", "{}", "", str(tmp_path / "result.json"))
        return json.loads((tmp_path / "result.json").read_text())

    assert fails(torch.OutOfMemoryError("no more")) == {"failed": "out of memory"}
    assert fails(ImportError("no module")) == {"failed": "not run: no module"}
    with pytest.raises(ValueError, match="anything else"):
        fails(ValueError("anything else"))
    rows = table(trl={"failed": "out of memory"}, fused={})
    assert rows["trl"] == {"variant": "trl", "failed": "out of memory"}
    assert rows["fused"]["seconds"] == 10 and "speed" not in rows["fused"]
    lines = script.lines_of(list(rows.values()))
    assert (
        lines[1].split() == ["trl", "out", "of", "memory"]
        and lines[2].split()[:5] == "fused 10.00 10.00 0% 1.60".split()
    )
    assert all(line.startswith("missed fused: not measured") for line in script.verdicts([rows["trl"]], "mid"))


def test_targets_are_judged_by_the_figures(script, table):
    fast = {"seconds": [4.0], "peak_gb": 1.0}
    verdicts = script.verdicts(list(table(trl={}, fused=fast).values()), "mid")
    assert verdicts == [
        "met    fused: 2.5, wanted >= 2.3 times the pairs per second of trl",
        "met    fused: 0.25, wanted <= 0.333 of the peak of trl above the loaded model",
        "met    fused: 0, wanted <= 1e-05 largest difference of a loss",
        "met    fused: 0, wanted <= 1e-05 relative difference of the gradient",
    ]
    slow = {"seconds": [4.5], "peak_gb": 1.5, "losses": [9.0, 8.1]}
    verdicts = script.verdicts(list(table(trl={}, fused=slow).values()), "mid")
    assert [line.split()[0] for line in verdicts] == ["missed", "missed", "missed", "met"]
    large = script.verdicts(list(table("llama3-8b", trl={}, fused=fast).values()), "llama3-8b")
    assert len(large) == 6 and [line.split()[0] for line in large[2:4]] == ["met", "met"]
    assert "fused: 0.7, wanted <= 1 of the peak of trl with the model" in large[3]


def test_wrong_losses_are_found(script, table):
    assert script.wrong_losses(list(table(trl={}, fused={"losses": [9.0, 8.000009]}).values())) == []
    assert script.wrong_losses(list(table(trl={}, fused={"losses": [9.0, 8.00002]}).values())) == ["fused"]
    assert script.wrong_losses(list(table(trl={}, fused={"losses": [9.0, float("nan")]}).values())) == ["fused"]
    assert script.wrong_losses(list(table(trl={}, fast={"losses": [9.0, 8.5]}).values())) == []  # not meant to be equal


@pytest.mark.parametrize("wrong", [False, True])
def test_the_exit_code_tells_of_wrong_losses_and_of_crashes(script, monkeypatch, capsys, tmp_path, wrong):
    def measured(options, folder):
        torch.save([WEIGHTS, WEIGHTS], tmp_path / "end")
        stock = STOCK | {"adapter": str(tmp_path / "end"), "model_gb": None}
        return {"trl": [stock], "fused": [stock | {"losses": [9.0, 8.1 if wrong else 8.0]}]}

    on_cpu = SimpleNamespace(kind="cpu", dtype="float32")
    monkeypatch.setattr(script.environment, "find_device", lambda: on_cpu)
    monkeypatch.setattr(script.step_costs, "measured_rates", lambda *_: {"matrix": 1e12})
    monkeypatch.setattr(script, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["train_step.py"])
    assert script.main() == int(wrong)
    assert ("wrong: fused has other losses than trl" in capsys.readouterr().out) == wrong
    monkeypatch.setattr(script, "measure", lambda *_: measured(*_) | {"fast": [{"failed": "crashed: here"}]})
    assert script.main() == 1


def test_fused_keeps_what_trl_needs_more(script, monkeypatch, tmp_path):
    """Each round runs every variant in turn, and one that failed no more."""
    given = []

    def child(command, **_):
        name, options, result = command[3], json.loads(command[4]), Path(command[6])
        given.append((name, options["keep_gb"]))
        failed = name == "fast"
        peak = {"trl": 9.0, script.ALL: 2.5}.get(name, 5.0)
        if name != script.EIGHT:
            result.write_text(json.dumps({"failed": "out of memory"} if failed else STOCK | {"peak_gb": peak}))
        return subprocess.CompletedProcess(command, 1, stderr="one line\nValueError: the last")

    monkeypatch.setattr(script.subprocess, "run", child)
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--recompute", "--rounds", "2"])
    results = script.measure(script.read_options(), tmp_path)
    first = [("trl", None), (script.ALL, None), ("fused", 6.5), (script.EIGHT, 6.5), ("fast", 6.5)]
    assert given == first + [("trl", 6.5), (script.ALL, 6.5), ("fused", 6.5)]
    assert [result["peak_gb"] for result in results["trl"]] == [9.0, 9.0]
    assert results[script.EIGHT] == [{"failed": "crashed: ValueError: the last"}]
