"""The series run for real: every notebook through the course's own runner, and what must be true afterwards."""

import json
import re
import shutil

import nbformat
import pytest

from utils import course as runner
from utils import stand_ins, wandb_offline

NUMBERS = [path.name[:2] for path in runner.select()]


def entry(report: dict, number: str) -> dict:
    return next(item for item in report["notebooks"] if item["name"].startswith(number))


@pytest.mark.timeout(600)
def test_the_series_runs_and_reports(course):
    report, output = course
    assert [item["name"][:2] for item in report["notebooks"]] == NUMBERS
    for item in report["notebooks"]:
        assert item["ok"], item.get("error")
        assert item["metrics"], f"{item['name']} records no key figure"
    assert json.loads((output / "report.json").read_text()) == report
    assert report["versions"]["trl"] == "1.16.0" and report["machine"]["cores"] >= 1


@pytest.mark.parametrize("number", NUMBERS)
def test_each_notebook_keeps_its_time(course, number):
    assert entry(course[0], number)["seconds"] <= 60


@pytest.mark.parametrize("number", NUMBERS)
def test_no_cell_warns_or_errs(course, number):
    """A learner takes every red block for a failure, so none may stand in a notebook that went well."""
    (path,) = course[1].glob(f"{number}_*.ipynb")
    red = [
        text
        for cell in nbformat.read(path, as_version=4).cells
        for result in cell.get("outputs", [])
        if result.get("name") == "stderr"
        for text in result["text"].splitlines()
        if re.search(r"(?i)warning|error", text)
    ]
    assert not red


def test_training_teaches(course):
    """The margin, the NLL and the end token are learnt on held-out pairs, by more than noise."""
    figures = entry(course[0], "03")["metrics"]
    assert figures["eval_nll_after"] < 0.8 * figures["eval_nll_before"]
    assert figures["eval_margin_after"] > figures["eval_margin_before"] + 0.02
    assert figures["eval_accuracy_after"] >= 0.7
    assert figures["stopped_before"] <= 1 and figures["stopped_after"] >= 4


def test_the_run_is_recorded(course):
    run_folder = course[1] / "run"
    run = json.loads((run_folder / "run.json").read_text())
    assert re.fullmatch("[0-9a-f]{40}", run["revisions"]["base_model"])
    assert re.fullmatch("[0-9a-f]{40}", run["revisions"]["dataset"])
    assert run["recipe"]["learning_rate"] == runner.PARAMETERS["03"]["LEARNING_RATE"]
    assert run["recipe"]["beta"] == 0.1 and run["micro_batch"] * run["accumulation"] == 8
    assert run["report"]["examined"] == sum(run["report"]["kept"].values()) + sum(run["report"]["dropped"].values())
    assert run["report"]["dropped"]["prompt too long"] > 0 and run["report"]["dropped"]["answer too long"] > 0
    assert run["seconds"] > 0 and run["pairs_per_second"] > 0 and run["peak_memory_gb"] > 0
    assert (run_folder / "adapter" / "adapter_model.safetensors").stat().st_size > 100_000
    kept = sorted(path.name for path in (run_folder / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-25", "checkpoint-40"]
    state = json.loads((run_folder / "trainer_state.json").read_text())
    assert state["global_step"] == run["steps"] == 40


def test_offline_wandb_holds_the_same_curves(course):
    run_folder = course[1] / "run"
    (offline,) = (run_folder / "wandb").glob("offline-run-*")
    on_disk = {}
    for row in wandb_offline.read_history(offline):
        on_disk |= {(row["train/global_step"], key): value for key, value in row.items() if "/" in key}
    compared = 0
    for logged in json.loads((run_folder / "trainer_state.json").read_text())["log_history"]:
        for key, value in logged.items():
            if key in ("step", "epoch") or key.startswith(("train_", "total_")):
                continue
            name = f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
            assert on_disk[logged["step"], name] == pytest.approx(value, rel=1e-12), name
            compared += 1
    assert compared > 500


def test_the_hub_holds_what_was_pushed_and_nothing_else(course):
    from utils.practice_hub import PracticeHub

    hub = PracticeHub(course[1] / "hub")  # not started: the contents outlive the server
    text = {".gitattributes", "LICENSE", "README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    adapter = set(hub.files("learner/Llama-3-8B-ORPO-adapter"))
    assert adapter == text | {"adapter_config.json", "adapter_model.safetensors", "run.json"}
    merged = set(hub.files("learner/Llama-3-8B-ORPO"))
    shards = {name for name in merged if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}
    assert merged == text | shards | {"config.json", "generation_config.json", "model.safetensors.index.json"}
    assert len(shards) >= 2
    for name in ("Llama-3-8B-ORPO-adapter", "Llama-3-8B-ORPO"):
        repo = hub.repos["model", f"learner/{name}"]
        assert repo["private"] and list(repo["branches"]) == ["main"]
    base, pushed = hub.files(stand_ins.BASE_MODEL), hub.files("learner/Llama-3-8B-ORPO")
    weights = sum(pushed[name]["size"] for name in shards)
    assert weights == pytest.approx(base["model.safetensors"]["size"], rel=0.01)


def test_the_merge_is_proven(course):
    figures = entry(course[0], "05")["metrics"]
    assert figures["kl_merge"] < 0.001 < 0.05 < figures["kl_training"]
    assert figures["kl_4_bit_rounding"] > 3 * figures["kl_bf16_rounding"]
    assert max(figures["kl_4_bit_merge"], figures["kl_bf16_merge"]) < 0.01
    assert figures["readback_difference"] == 0
    assert figures["repositories"] == ["learner/Llama-3-8B-ORPO-adapter", "learner/Llama-3-8B-ORPO"]


def test_no_secret_is_left_behind(course):
    for path in course[1].rglob("*"):
        if path.suffix in {".ipynb", ".json", ".md", ".log", ".txt", ".jsonl"}:
            assert runner.TOKEN not in path.read_text(errors="replace"), path


def run_03(hub, output, **parameters) -> dict:
    """Run notebook 03 alone on the session's hub, with small data."""
    (path,) = [path for path in runner.select() if path.name.startswith("03")]
    settings = runner.practice_environment(hub.url, output / "home")
    given = runner.PARAMETERS["03"] | {"ARTIFACTS": str(output)} | parameters
    return runner.run_notebook(path, output / path.name, given, settings)


def write_pairs(path, pairs) -> str:
    path.write_text("\n".join(json.dumps(pair) for pair in pairs))
    return str(path)


@pytest.mark.timeout(180)
def test_a_local_file_and_a_local_base_train_by_parameters_alone(hub, small_base, tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl", stand_ins.preference_pairs(60, seed=11))
    base = shutil.copytree(small_base, tmp_path / "my base")
    run_03(hub, tmp_path, DATASET=data, BASE_MODEL=str(base), NUM_PAIRS=32, NUM_EVAL_PAIRS=7, RESUME=True)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["pairs"] == {"train": 32, "test": 7} and run["revisions"] == {"base_model": None, "dataset": None}
    executed = (tmp_path / "03_train_with_orpo.ipynb").read_text()
    assert "There is no checkpoint" in executed and "starts afresh" in executed


@pytest.mark.timeout(180)
def test_the_articles_recipe_and_another_data_set_run(hub, tmp_path):
    run_03(hub, tmp_path, RECIPE="article-llama3", DATASET=stand_ins.DPO_MIX, NUM_PAIRS=16, LEARNING_RATE=None)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["recipe"]["learning_rate"] == 8e-6 and run["recipe"]["truncate_answers"]
    assert run["pairs"] == {"train": 16, "test": 60}  # the data set's own test split


@pytest.mark.timeout(120)
def test_nothing_left_stops_before_a_model_is_loaded(hub, tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl", stand_ins.preference_pairs(12, seed=11))
    seen = len(hub.requests)
    with pytest.raises(runner.NotebookFailed, match="(?s)No pair is left to train on.*prompt too long"):
        run_03(hub, tmp_path, DATASET=data, MAX_LENGTH=16)
    assert not [path for _, path, _ in hub.requests[seen:] if path.endswith(".safetensors")]


def test_a_parameter_that_does_not_exist_fails_in_the_runner(hub, tmp_path):
    with pytest.raises(NameError, match="no parameter NUM_PIARS"):
        run_03(hub, tmp_path, NUM_PIARS=3)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_parameter_that_does_not_exist_fails_in_plain_papermill(hub, tmp_path, monkeypatch, number):
    """Papermill alone only warns and runs the default, full size; the notebook itself refuses."""
    import papermill

    for name, value in runner.practice_environment(hub.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    (path,) = [path for path in runner.select() if path.name.startswith(number)]
    with pytest.raises(papermill.PapermillExecutionError, match="no parameter NUM_PIARS"):
        papermill.execute_notebook(
            str(path), str(tmp_path / "out.ipynb"), {"NUM_PIARS": 3}, cwd=str(runner.ROOT), progress_bar=False
        )


@pytest.mark.timeout(120)
def test_05_without_an_adapter_says_which_notebook_makes_it(hub, tmp_path):
    (path,) = [path for path in runner.select() if path.name.startswith("05")]
    settings = runner.practice_environment(hub.url, tmp_path / "home")
    with pytest.raises(runner.NotebookFailed, match="Run 03_train_with_orpo first"):
        runner.run_notebook(path, tmp_path / path.name, {"ARTIFACTS": str(tmp_path)}, settings)


@pytest.mark.timeout(120)
def test_05_with_a_token_that_may_only_read_stops_before_any_work(course_folder_copy, hub):
    (path,) = [path for path in runner.select() if path.name.startswith("05")]
    settings = runner.practice_environment(hub.url, course_folder_copy / "home") | {"HF_TOKEN": "practice-read"}
    seen = len(hub.requests)
    with pytest.raises(runner.NotebookFailed, match="may only read"):
        parameters = {"ARTIFACTS": str(course_folder_copy), "PUSH_TO_HUB": True}
        runner.run_notebook(path, course_folder_copy / path.name, parameters, settings)
    assert {name for _, name, _ in hub.requests[seen:]} == {"/api/whoami-v2"}


@pytest.fixture
def course_folder_copy(course, tmp_path):
    shutil.copytree(course[1] / "run" / "adapter", tmp_path / "run" / "adapter")
    return tmp_path
