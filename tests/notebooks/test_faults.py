"""One run of a notebook for each family of faults: through the real client, each ends in one sentence, and early.

What a fault does inside one helper is tested with that helper.
"""

import json
import shutil

import pytest
from huggingface_hub import HfApi

from utils.practice import course as runner
from utils.practice import stand_ins

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def stopped(run, hub):
    """Run a notebook that must stop before any weights move, and return the last line of its error."""

    def stop(number: str, kind: str, **parameters) -> str:
        seen = len(hub.requests)
        with pytest.raises(runner.NotebookFailed) as error:
            run(number, **parameters)
        assert not [path for method, path, _ in hub.requests[seen:] if ".safetensors" in path and method == "GET"]
        name, _, message = str(error.value).split("\n\n")[-1].partition(": ")
        assert name == kind, str(error.value)
        return message

    return stop


# What Python runs when it starts: in a kernel, passes of more than two pairs find no memory.
SHORT_OF_MEMORY = """
import sys
if any("ipykernel" in word for word in sys.orig_argv):
    import torch
    from trl.experimental.orpo import ORPOTrainer
    stock = ORPOTrainer.get_batch_loss_metrics
    def short_of_memory(trainer, model, batch, train_eval="train"):
        if len(batch["prompt"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return stock(trainer, model, batch, train_eval)
    ORPOTrainer.get_batch_loss_metrics = short_of_memory
"""


def test_out_of_memory_halves_the_pass_and_keeps_the_step(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    run("03", environment={"PYTHONPATH": str(tmp_path)}, NUM_PAIRS=32, NUM_EVAL_PAIRS=8)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["micro_batch"], record["accumulation"], record["steps"]) == (2, 4, 4)


def test_a_broken_row_is_named_with_its_number_and_column(stopped, hub, write_pairs, tmp_path):
    data = stand_ins.preference_pairs(60, seed=21)
    data[17]["chosen"] = None
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.move(write_pairs(data), folder / "train.jsonl")
    hub.add_repo("learner/notes", "dataset", exist_ok=True)
    hub.commit_folder("learner/notes", folder, repo_type="dataset")
    message = stopped("03", "ValueError", DATASET="learner/notes", NUM_PAIRS=40, NUM_EVAL_PAIRS=10)
    assert "17" in message and "column chosen is None" in message


def test_a_source_that_cannot_be_reached_stops_the_mix(stopped):
    message = stopped("02", "FileNotFoundError", SOURCES=["capybara", "some-lab/never-made"])
    assert "some-lab/never-made" in message and "has no dataset" in message


def test_a_token_that_may_only_read_stops_a_push_before_anything_is_loaded(stopped, hub):
    seen = len(hub.requests)
    message = stopped("02", "NotReady", PUSH_TO_HUB=True, environment={"HF_TOKEN": "practice-read"})
    assert "role write" in message
    assert not [path for method, path, _ in hub.requests[seen:] if ".parquet" in path and method == "GET"]


def test_a_bit_flipped_on_the_way_up_is_found(course, run, hub, tmp_path):
    shutil.copytree(course[1] / "run", tmp_path / "run")
    commit = HfApi().model_info(stand_ins.BASE_MODEL).sha  # as if it had been trained on what this hub has
    for path in (tmp_path / "run" / "run.json", tmp_path / "run" / "adapter" / "run.json"):
        record = json.loads(path.read_text())
        record["revisions"]["base_model"] = commit
        path.write_text(json.dumps(record))
    hub.inject("learner/Llama-3-8B-ORPO.git/info/lfs", flip=True, method="PUT")
    with pytest.raises(runner.NotebookFailed, match="upload_folder"):
        run("05")
