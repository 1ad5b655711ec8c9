"""Notebook 03 with other parameters: another trainer, another architecture, and a machine that was lost."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support import stand_ins

from utils.practice import course as runner

pytestmark = pytest.mark.timeout(300)


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "run.json").read_text())


def test_the_fused_trainer_learns_the_same(course, run, tmp_path):
    """One parameter changes, on the pairs of the course's own run, and eight pairs go into one row."""
    shutil.copytree(course[1] / "mix", tmp_path / "mix")
    run("03", TRAINER="fused")
    fused, stock = record_of(tmp_path), record_of(course[1])
    for when in ("before", "after"):
        for name in ("nll_loss", "rewards/margins"):
            assert fused["eval"][when][name] == pytest.approx(stock["eval"][when][name], abs=2e-3), (when, name)
    assert fused["eval"]["after"]["nll_loss"] < fused["eval"]["before"]["nll_loss"] - 0.1
    assert (fused["trainer"], fused["micro_batch"], fused["accumulation"]) == ("fused", 8, 1)


def leaks(folder: Path, values: list[str]) -> list[str]:
    """The files under a folder, of any kind, that hold one of these values."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(value.encode() in path.read_bytes() for value in values)]


def test_a_recipe_trains_another_architecture_and_no_secret_is_left(run, hub, tmp_path):
    """Phi-2's shape and its recipe's data and values, with keys of the real forms."""
    stand_ins.publish(hub, names=[stand_ins.PHI, stand_ins.DPO_MIX])
    recipe = yaml.safe_load((runner.ROOT / "recipes" / "lazyorpo-phi2.yaml").read_text())
    key, token = "0a1b2c3d" * 5, "hf_" + "aB" * 17
    hub.tokens[token] = hub.tokens[runner.TOKEN]
    small = {
        "NUM_PAIRS": 120,
        "NUM_EVAL_PAIRS": 24,
        "LEARNING_RATE": 2e-3,
        "MORE": recipe["MORE"] | {"warmup_steps": 4},
    }
    run("03", environment={"WANDB_API_KEY": key, "HF_TOKEN": token}, **recipe | small)
    record = record_of(tmp_path)
    assert record["eval"]["after"]["nll_loss"] < 0.9 * record["eval"]["before"]["nll_loss"]
    assert record["recipe"]["beta"] == recipe["BETA"] and record["pairs"] == {"train": 120, "test": 24}
    assert record["micro_batch"] * record["accumulation"] == recipe["MORE"]["effective_batch"]
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in trained} == {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}
    assert list(tmp_path.rglob("*.wandb")) and leaks(tmp_path, [key, token]) == []
    (tmp_path / "planted.log").write_text(f"using {token}")
    assert len(leaks(tmp_path, [key, token])) == 1


MACHINE = """
import json, sys
from utils.practice import course
path, output, settings, parameters = json.loads(sys.argv[1])
course.run_notebook(course.Path(path), course.Path(output) / "03.ipynb", parameters, settings)
"""


def kept_checkpoint(hub) -> str | None:
    files = hub.files("learner/orpo-run")
    return next((path.split("/")[1] for path in files if path.startswith("checkpoints/")), None)


def test_a_run_that_was_kept_goes_on_on_another_machine(course, run, hub, tmp_path):
    """The first machine is killed after its first checkpoint; the second has only the Hub, and ends the same."""
    kept, first = {"MORE": {"keep_repo": "learner/orpo-run", "save_steps": 10}}, tmp_path / "first"
    for machine in ("first", "second"):
        shutil.copytree(course[1] / "mix", tmp_path / machine / "mix")
    (path,) = [path for path in runner.select() if path.name.startswith("03")]
    parameters = runner.PARAMETERS["03"] | kept | {"ARTIFACTS": str(first)}
    task = json.dumps([str(path), str(first), runner.practice_environment(hub.url, first / "home"), parameters])
    hub.add_repo("learner/orpo-run", private=True)
    with subprocess.Popen([sys.executable, "-c", MACHINE, task], cwd=runner.ROOT, stderr=subprocess.DEVNULL) as machine:
        deadline = time.monotonic() + 150
        while not kept_checkpoint(hub) and machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        machine.kill()  # and its kernel follows, which watches its parent
    assert not (first / "run" / "run.json").exists()  # it was killed in time
    name = kept_checkpoint(hub)

    run("03", output=tmp_path / "second", RESUME=True, **kept)
    executed = (tmp_path / "second" / "03_train_with_orpo.ipynb").read_text()
    assert f"Fetched {name} from learner/orpo-run" in executed
    whole, resumed = record_of(course[1])["eval"], record_of(tmp_path / "second")["eval"]
    for when in ("before", "after"):
        same = [key for key in whole[when] if not key.endswith(("runtime", "per_second"))]
        assert [resumed[when][key] for key in same] == pytest.approx([whole[when][key] for key in same], rel=1e-9)
    files = set(hub.files("learner/orpo-run"))
    assert {"run.json", "trainer_state.json", "held_out.json", "adapter/adapter_model.safetensors"} <= files
    assert not [path for path in files if path.endswith(".bin") or "wandb" in path]
