"""The cells that are the lesson, alone: in an empty folder, in a process where the course's helpers cannot be imported.

A learner copies them into an empty notebook. 03's cells train an adapter and 05's merge it, one after the other.
"""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from utils.practice import course as runner

ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("utils", "support"):
            raise ModuleNotFoundError(f"an essential cell imports {name}")

sys.meta_path.insert(0, Refuse())
space = {"__name__": "__main__"}
for name, source in json.loads(sys.argv[1]):
    exec(compile(source, name, "exec"), space)
if "trainer" in space:
    losses = [entry["eval_nll_loss"] for entry in space["trainer"].state.log_history if "eval_nll_loss" in entry]
    print("LOSSES", json.dumps(losses))
"""
# Small values of the parameters: a base of one million weights learns at a hundred times the rate.
SMALL = {
    "01": "STEPS = 4",
    "02": "",
    "03": "NUM_PAIRS, NUM_EVAL_PAIRS, NUM_EPOCHS, LEARNING_RATE = 64, 16, 2, 2e-3\n"
    'MORE |= {"warmup_steps": 2, "optimizer": "adamw_torch"}',
    "05": "",
}


@pytest.fixture
def run_alone(hub, tmp_path):
    """Run the essential cells of notebooks in one process, and return what they printed and the folder they filled."""

    def run(*numbers: str) -> tuple[str, object]:
        cells = []
        for path in (path for path in runner.select() if path.name[:2] in numbers):
            for cell in nbformat.read(path, as_version=4).cells:
                tags = cell.metadata.get("tags", [])
                if "parameters" in tags:
                    cells.append((f"{path.name}: {cell['id']}", f"{cell.source}\n{SMALL[path.name[:2]]}"))
                elif "essential" in tags:
                    cells.append((f"{path.name}: {cell['id']}", cell.source))
        folder = tmp_path / "empty"
        folder.mkdir()
        command = [
            sys.executable,
            "-I",
            "-c",
            ALONE,
            json.dumps(cells),
        ]  # -I: no PYTHONPATH, and no folder of the course
        settings = os.environ | runner.practice_environment(hub.url, tmp_path / "home") | {"MPLBACKEND": "agg"}
        done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout, folder

    return run


@pytest.mark.timeout(400)
def test_training_and_merging_need_no_helper(run_alone):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    printed, folder = run_alone("03", "05")
    losses = json.loads(printed.split("LOSSES ")[1])
    assert losses[-1] < 0.9 * losses[0], losses
    adapter = folder / "artifacts" / "run" / "adapter"
    assert (adapter / "adapter_model.safetensors").stat().st_size > 100_000
    (merged,) = {path.parent for path in folder.rglob("config.json") if list(path.parent.glob("*.safetensors"))}
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(merged, trust_remote_code=False, use_safetensors=True)
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", ["01", "02"])
def test_the_lesson_runs_alone(run_alone, number):
    printed, folder = run_alone(number)
    if not printed:
        pytest.skip(f"notebook {number} has no essential cells yet")
    if number == "02":
        assert list(folder.rglob("*.parquet"))


def test_a_helper_that_is_imported_is_noticed(tmp_path):
    cells = json.dumps([("a cell", "import utils.environment")])
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, cells], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "an essential cell imports utils" in done.stderr
