"""The series run for real: every notebook through the course's own runner, and what must be true afterwards."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from support import stand_ins

from utils import curves, intervals
from utils.curves import wandb_runs
from utils.practice import course as runner

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
    assert entry(course[0], number)["seconds"] <= (120 if number == "01" else 60)  # 01 trains four times


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


def test_training_teaches(recorded):
    """The margin, the NLL and the end token are learnt on held-out pairs, by more than noise."""
    figures = recorded["03"]
    assert figures["eval_nll_after"] < 0.8 * figures["eval_nll_before"]
    assert figures["eval_margin_after"] > figures["eval_margin_before"] + 0.02
    assert figures["eval_accuracy_after"] >= 0.7
    assert figures["stopped_before"] <= 1 and figures["stopped_after"] >= 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trainer", ["fused", "fast"])
def test_the_packed_trainer_learns_the_same(trainer, course, recorded, run, tmp_path):
    """One parameter changes, on the pairs of the course's own run, and eight pairs go into one row."""
    shutil.copytree(course[1] / "mix", tmp_path / "mix")
    figures, stock = run("03", TRAINER=trainer), recorded["03"]
    for name in ("eval_nll_before", "eval_nll_after", "eval_margin_before", "eval_margin_after"):
        assert figures[name] == pytest.approx(stock[name], abs=2e-3), name
    assert figures["eval_nll_after"] < figures["eval_nll_before"] - 0.1 and figures["stopped_after"] >= 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["trainer"], record["micro_batch"], record["accumulation"]) == (trainer, 8, 1)


def test_both_trainers_give_the_first_pairs_the_same_loss(course):
    text = (course[1] / "03_train_with_orpo.ipynb").read_text()
    ((by_trl, by_fused),) = re.findall(r"loss of 2 pairs: ([\d.]+) by TRL, ([\d.]+) packed", text)
    assert float(by_trl) == pytest.approx(float(by_fused), abs=2e-6) and float(by_trl) > 0.1


def test_the_run_is_recorded(course):
    run_folder = course[1] / "run"
    run = json.loads((run_folder / "run.json").read_text())
    assert re.fullmatch("[0-9a-f]{40}", run["revisions"]["base_model"])
    assert run["revisions"]["dataset"] is None  # notebook 02's folder: its report names the commits
    assert run["recipe"]["learning_rate"] == runner.PARAMETERS["03"]["LEARNING_RATE"]
    assert run["recipe"]["beta"] == 0.1 and run["micro_batch"] * run["accumulation"] == 8
    assert run["report"]["examined"] == sum(run["report"]["kept"].values()) + sum(run["report"]["dropped"].values())
    assert run["seconds"] > 0 and run["pairs_per_second"] > 0 and run["peak_memory_gb"] > 0
    assert (run_folder / "adapter" / "adapter_model.safetensors").stat().st_size > 100_000
    kept = sorted(path.name for path in (run_folder / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-25", "checkpoint-40"]
    state = json.loads((run_folder / "trainer_state.json").read_text())
    assert state["global_step"] == run["steps"] == 40


def test_the_mix_accounts_for_every_row_and_is_what_03_trains_on(course, recorded):
    figures, mix = recorded["02"], course[1] / "mix"
    report = json.loads((mix / "report.json").read_text())
    assert report["totals"] == {
        "rows": figures["rows_in"],
        "train": figures["train_pairs"],
        "test": figures["test_pairs"],
    }
    for source in report["sources"].values():
        assert source["rows"] == source["train"] + source["test"] + sum(source["dropped"].values())
        assert source["taken"] == source["expected"] < source["rows"] or source["rule"] == "all rows"
        assert re.fullmatch("[0-9a-f]{40}", source["revision"]) and source["licence"] != "not stated"
    assert sum(source["rows"] for source in report["sources"].values()) == figures["rows_in"]
    assert "toxic" not in report["sources"] and len(report["sources"]) == 6 and len(report["benchmarks"]) == 6
    dropped = {reason for source in report["sources"].values() for reason in source["dropped"]}
    assert dropped >= set("same prompt|near duplicate|in a benchmark|prompt too long|answer too long".split("|"))
    sides = [pq.read_table(mix / f"{split}.parquet").to_pylist() for split in ("train", "test")]
    assert [len(side) for side in sides] == [figures["train_pairs"], figures["test_pairs"]]
    prompts = [{json.dumps(row["prompt"]) for row in side} for side in sides]
    assert not prompts[0] & prompts[1]

    run = json.loads((course[1] / "run" / "run.json").read_text())
    assert run["recipe"]["dataset"] == str(mix) and run["mix"] == report
    card = (course[1] / "merged" / "README.md").read_text()
    for source in report["sources"].values():
        assert f"- {source['repository']}" in card and f"| {source['licence']} | {source['rule']} |" in card
    assert str(course[1]) not in card


@pytest.mark.timeout(180)
def test_a_mix_that_was_pushed_is_trained_on_elsewhere(run, hub, tmp_path):
    """On the second machine there is only the Hub: the data set's report goes into the run and the model card."""
    report = {"PUSH_TO_HUB": True, "CAPS": {"truthy": 20, "ultrafeedback": 0.5}, "INCLUDE_TOXIC": True}
    figures = run("02", output=tmp_path / "first", BENCHMARKS=["arc"], **report)
    repository = hub.repos["dataset", "learner/orpo-mix"]
    assert repository["private"]
    report = json.loads((tmp_path / "first" / "mix" / "report.json").read_text())
    assert report["sources"]["truthy"]["train"] + report["sources"]["truthy"]["test"] == 20
    assert report["sources"]["truthy"]["dropped"]["over the cap"] > 100 and report["sources"]["toxic"]["train"] > 0
    assert list(report["benchmarks"]) == ["arc"] and report["parameters"]["CAPS"]["truthy"] == 20

    run("03", output=tmp_path / "second", DATASET="learner/orpo-mix", NUM_PAIRS=32, NUM_EVAL_PAIRS=8)
    trained = json.loads((tmp_path / "second" / "run" / "run.json").read_text())
    assert trained["mix"] == report and trained["pairs"] == {"train": 32, "test": 8}
    assert re.fullmatch("[0-9a-f]{40}", trained["revisions"]["dataset"])
    assert figures["train_pairs"] >= 32


@pytest.mark.timeout(120)
def test_ones_own_file_and_an_eighth_source_are_mixed_by_parameters_alone(run, write_pairs, tmp_path):
    data = write_pairs(stand_ins.preference_pairs(60, seed=11))
    run("02", SOURCES=[data, "capybara-preferences", "dpo-mix-7k"], BENCHMARKS=[], TEST_SHARE=0.3)
    report = json.loads((tmp_path / "mix" / "report.json").read_text())
    own = report["sources"][Path(data).stem]
    assert own["rows"] == 60 and own["revision"] is None and own["repository"] == Path(data).name
    assert report["sources"]["capybara-preferences"]["dropped"]["score too low"] > 0
    assert all(source["train"] > 0 for source in report["sources"].values()) and not report["benchmarks"]
    assert str(tmp_path) not in (tmp_path / "mix" / "README.md").read_text()


def test_offline_wandb_holds_the_same_curves(course):
    run_folder = course[1] / "run"
    (offline,) = (run_folder / "wandb").glob("offline-run-*")
    on_disk = {}
    for row in wandb_runs.read_offline(offline).rows:
        if "train/global_step" in row:  # not the first panels, nor the table of answers
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


def test_the_wandb_run_carries_answers_settings_data_and_adapter(course):
    (offline,) = (course[1] / "run" / "wandb").glob("offline-run-*")
    logged = wandb_runs.read_offline(offline)
    config, rows = logged.config, logged.rows
    assert logged.group == "course-llama3" and logged.name.startswith("course-llama3-")
    assert logged.state == "finished" and config["pairs"] == {"train": 320, "test": 64}
    (table,) = [row["answers/before_and_after"] for row in rows if "answers/before_and_after" in row]
    answers = json.loads((offline / "files" / table["path"]).read_text())
    assert answers["columns"] == ["prompt", "base", "after ORPO"] and len(answers["data"]) == 5
    first = [row for row in rows if "Accuracies_and_margins/eval_accuracies" in row]
    assert len(first) == 5 and all(key in {"_step", "_runtime", "_timestamp"} or "Acc" in key for key in first[0])
    kinds = {folder.name.split("-")[0]: folder for folder in offline.iterdir() if folder.is_dir()}
    assert {"config", "data", "adapter"} <= set(kinds)
    assert (kinds["adapter"] / "adapter_model.safetensors").stat().st_size > 100_000


def test_the_curves_are_read_from_disk_and_from_wandb_and_judged(course, recorded):
    figures = recorded["04"]
    assert figures["trainer"] == "ORPO" and figures["eval_rows"] == 64 and figures["sick_runs"] == 9
    assert figures["numbers_read"] > 500
    run_folder = course[1] / "run"
    (offline,) = (run_folder / "wandb").glob("offline-run-*")
    on_disk, at_wandb = (curves.read_run(str(folder)).history for folder in (run_folder, offline))
    both = on_disk.merge(at_wandb, on=["step", "split", "metric"])
    assert len(both) == len(on_disk) == figures["numbers_read"] and (both.value_x == both.value_y).all()
    # The base was trained on this machine: which note on its taste the first evaluation deserves, that evaluation says.
    start = json.loads((course[1] / "run" / "trainer_state.json").read_text())["log_history"][0]
    low, high = intervals.wilson(start["eval_rewards/accuracies"], 64)
    notes = {"accuracy above one half from the start": low > 0.5, "accuracy below one half at the start": high < 0.5}
    assert {note: note in figures["findings"] for note in notes} == notes
    assert not {"not finite", "stuck", "learning rate too high", "plateau from step one"} & set(figures["findings"])
    text = (course[1] / "04_read_the_curves.ipynb").read_text()
    assert len(re.findall(r"<img [^>]*alt=", text)) >= 6


def test_a_second_run_is_drawn_over_the_first(run, course, tmp_path):
    """Notebook 04 alone, on another machine: the run, and a sick one beside it, both named by parameters."""
    sick = Path(__file__).parents[2] / "data" / "runs" / "rate_x_100"
    figures = run("04", RUN=str(course[1] / "run"), COMPARE=[str(sick)])
    assert figures["numbers_read"] > 500
    assert "rate_x_100" in (tmp_path / "04_read_the_curves.ipynb").read_text()


def test_a_run_at_wandb_is_read_through_its_address(run, course, recorded, tmp_path):
    """The real client in the notebook's kernel, on a stand-in of W&B's server that holds the course's own run."""
    from support.wandb_api import KEY, WandbAPI

    (offline,) = (course[1] / "run" / "wandb").glob("offline-run-*")
    server = WandbAPI().start()
    config, rows = wandb_runs.read_offline(offline).config, wandb_runs.read_offline(offline).rows
    server.add_run("you", "orpo-course", "abcd1234", "my run", "finished", config, rows)
    at_wandb = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "TMPDIR": str(tmp_path)}
    address = "https://wandb.ai/you/orpo-course/runs/abcd1234?nw=nwuseryou"
    figures = run("04", environment=at_wandb, RUN=address)
    server.stop()
    there, here = recorded["04"], figures
    assert {key: here[key] for key in ("numbers_read", "findings", "eval_rows")} == {
        key: there[key] for key in ("numbers_read", "findings", "eval_rows")
    }
    assert KEY not in (tmp_path / "04_read_the_curves.ipynb").read_text()


def test_the_hub_holds_what_was_pushed_and_nothing_else(course):
    from utils.practice.hub import PracticeHub

    hub = PracticeHub(course[1] / "hub")  # not started: the contents outlive the server
    text = {".gitattributes", "LICENSE", "README.md", "curves.png"}
    text |= {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    adapter = set(hub.files("learner/Llama-3-8B-ORPO-adapter"))
    assert adapter == text | {"adapter_config.json", "adapter_model.safetensors", "run.json"}
    merged = set(hub.files("learner/Llama-3-8B-ORPO"))
    shards = {name for name in merged if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}
    configs = {"config.json", "generation_config.json", "merge.json", "model.safetensors.index.json"}
    assert merged == text | shards | configs
    assert len(shards) >= 2
    for name in ("Llama-3-8B-ORPO-adapter", "Llama-3-8B-ORPO"):
        repo = hub.repos["model", f"learner/{name}"]
        assert repo["private"] and list(repo["refs"]) == ["main"]
    base, pushed = hub.files(stand_ins.BASE_MODEL), hub.files("learner/Llama-3-8B-ORPO")
    weights = sum(pushed[name]["size"] for name in shards)
    assert weights == pytest.approx(base["model.safetensors"]["size"], rel=0.01)


def test_the_merge_is_proven(recorded):
    figures = recorded["05"]
    assert figures["kl_merge"] < 0.001 < 0.05 < figures["kl_training"]
    assert figures["kl_4_bit_rounding"] > 3 * figures["kl_bf16_rounding"]
    assert max(figures["kl_4_bit_merge"], figures["kl_bf16_merge"]) < 0.01
    assert figures["readback_difference"] == 0
    assert figures["repositories"] == ["learner/Llama-3-8B-ORPO-adapter", "learner/Llama-3-8B-ORPO"]


def test_no_secret_is_left_behind(course):
    for path in course[1].rglob("*"):
        if path.suffix in {".ipynb", ".json", ".md", ".log", ".txt", ".jsonl"}:
            assert runner.TOKEN not in path.read_text(errors="replace"), path


@pytest.mark.timeout(180)
def test_a_local_file_and_a_local_base_train_by_parameters_alone(run, write_pairs, small_base, tmp_path):
    data = write_pairs(stand_ins.preference_pairs(60, seed=11))
    base = shutil.copytree(small_base, tmp_path / "my base")
    run("03", DATASET=data, BASE_MODEL=str(base), NUM_PAIRS=32, NUM_EVAL_PAIRS=7, RESUME=True)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["pairs"] == {"train": 32, "test": 7} and run["revisions"] == {"base_model": None, "dataset": None}
    executed = (tmp_path / "03_train_with_orpo.ipynb").read_text()
    assert "There is no checkpoint" in executed and "starts afresh" in executed


@pytest.mark.timeout(180)
def test_the_articles_recipe_and_another_data_set_run(run, tmp_path):
    run("03", RECIPE="article-llama3", DATASET=stand_ins.DPO_MIX, NUM_PAIRS=16, LEARNING_RATE=None)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["recipe"]["learning_rate"] == 8e-6 and run["recipe"]["truncate_answers"]
    assert run["pairs"] == {"train": 16, "test": 60}  # the data set's own test split


def test_a_parameter_that_does_not_exist_fails_in_the_runner(run):
    with pytest.raises(NameError, match="no parameter NUM_PIARS"):
        run("03", NUM_PIARS=3)


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


# --- other bases, other data -----------------------------------------------------------------------------------

LAZYORPO = {"BASE_MODEL": stand_ins.PHI, "DATASET": stand_ins.DPO_MIX, "NUM_EPOCHS": 1, "WARMUP_STEPS": 100}
# The four pair formats: message lists with a prompt column are the course's own run, the other three are here.
OTHERS = {
    "phi, message lists without a prompt": (LAZYORPO | {"LEARNING_RATE": 2e-3, "WARMUP_STEPS": 10}, "phi-2-ORPO"),
    "qwen2, transcripts": ({"BASE_MODEL": stand_ins.QWEN, "DATASET": stand_ins.HH_RLHF}, "Qwen2.5-0.5B-ORPO"),
    "llama2, plain text": ({"DATASET": stand_ins.TRUTHY_DPO, "NUM_EPOCHS": 2}, "my-base-ORPO"),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", OTHERS)
def test_architecture_and_format_train_and_merge_by_parameters_alone(name, run, hub, tmp_path):
    """Each is trained on all of its data, learns to stop, and is merged, pushed and read back."""
    parameters, published = OTHERS[name]
    stand_ins.publish(hub, names=[stand_ins.PHI, stand_ins.QWEN, stand_ins.HH_RLHF, stand_ins.TRUTHY_DPO])
    if "BASE_MODEL" not in parameters:  # a folder, and one with a space in its name
        base = shutil.copytree(stand_ins.small_llama2(), tmp_path / "my base")
        parameters = parameters | {"BASE_MODEL": str(base)}
    trained = run("03", **({"NUM_PAIRS": None} | parameters))
    assert trained["stopped_before"] <= 1 and trained["stopped_after"] >= 4
    assert trained["eval_nll_after"] < 0.8 * trained["eval_nll_before"]
    assert trained["eval_margin_after"] > trained["eval_margin_before"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    loaded = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    projections = {key.split(".")[-3] for key in loaded}
    assert projections == set(record["recipe"]["target_modules"])
    assert sum(record["pairs"].values()) + sum(record["report"]["dropped"].values()) == record["report"]["examined"]

    merged = run("05")
    assert merged["kl_merge"] < 0.001 < 0.05 < merged["kl_training"] and merged["readback_difference"] == 0
    assert merged["repositories"] == [f"learner/{published}-adapter", f"learner/{published}"]
    weights = {}
    for path in (tmp_path / "merged").glob("*.safetensors"):
        weights |= load_file(path)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    card = (tmp_path / "merged" / "README.md").read_text()
    for repository in merged["repositories"]:  # nothing that is published names a path of this machine
        pulled = snapshot_download(repository, token=runner.TOKEN)
        assert not [path for path in Path(pulled).iterdir() if str(tmp_path).encode() in path.read_bytes()]
    if name.startswith("phi"):
        assert projections == {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}
        assert "lm_head.bias" in weights and len(weights["lm_head.weight"]) == config["vocab_size"]
        assert record["pairs"]["test"] == 60 and record["report"]["examined"] == 300  # its own test split, all rows
        assert "license: mit" in card and "Llama" not in card
    if name.startswith("qwen2"):
        assert config["tie_word_embeddings"] and "lm_head.weight" not in weights
    if name.startswith("llama2"):
        assert record["recipe"]["max_length"] == config["max_position_embeddings"] == 512
        executed = (tmp_path / "03_train_with_orpo.ipynb").read_text()
        assert "this base reads no more; 1024 were asked for" in executed


MACHINE = """
import json, sys
from utils.practice import course
path, output, settings, parameters = json.loads(sys.argv[1])
course.run_notebook(course.Path(path), course.Path(output) / "03.ipynb", parameters, settings)
"""


def kept_checkpoint(hub) -> str | None:
    files = hub.files("learner/orpo-run")
    return next((path.split("/")[1] for path in files if path.startswith("checkpoints/")), None)


@pytest.mark.timeout(300)
def test_a_run_that_was_kept_goes_on_and_is_found_on_another_machine(course, recorded, run, hub, tmp_path):
    """The first machine is killed after its first checkpoint; the second has only the Hub, and ends the same."""
    kept, first = {"KEEP_REPO": "learner/orpo-run", "SAVE_STEPS": 10}, tmp_path / "first"
    for machine in ("first", "second"):
        shutil.copytree(course[1] / "mix", tmp_path / machine / "mix")
    (path,) = [path for path in runner.select() if path.name.startswith("03")]
    parameters = runner.PARAMETERS["03"] | kept | {"ARTIFACTS": str(first)}
    task = json.dumps([str(path), str(first), runner.practice_environment(hub.url, first / "home"), parameters])
    hub.add_repo("learner/orpo-run", private=True)
    with subprocess.Popen([sys.executable, "-c", MACHINE, task], cwd=runner.ROOT, stderr=subprocess.DEVNULL) as machine:
        deadline = time.monotonic() + 120
        while not kept_checkpoint(hub) and machine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        machine.kill()  # and its kernel follows, which watches its parent
    assert not (first / "run" / "adapter").exists()  # it was killed in time
    name = kept_checkpoint(hub)

    resumed = run("03", output=tmp_path / "second", RESUME=True, **kept)
    executed = (tmp_path / "second" / "03_train_with_orpo.ipynb").read_text()
    assert f"Fetched {name} from learner/orpo-run" in executed and f"checkpoints/{name}." in executed
    assert "ADAPTER = 'learner/orpo-run'" in executed
    whole = recorded["03"]
    same = [key for key in whole if key.startswith(("eval_", "stopped_"))]
    assert {key: resumed[key] for key in same} == pytest.approx({key: whole[key] for key in same}, rel=1e-9)
    files = set(hub.files("learner/orpo-run"))
    assert {"run.json", "trainer_state.json", "held_out.json", "adapter/adapter_model.safetensors"} <= files
    assert not [path for path in files if path.endswith(".bin") or "wandb" in path]

    with pytest.raises(runner.NotebookFailed, match="was trained with beta = 0.1 and not 0.2: ask for the same"):
        run("03", output=tmp_path / "second", RESUME=True, BETA=0.2)

    merged = run("05", output=tmp_path / "third", ADAPTER="learner/orpo-run", PUSH_TO_HUB=False)
    assert merged["kl_merge"] < 0.001 < 0.05 < merged["kl_training"]
