"""Notebook 06, run for real: base, adapter and merged model on the same questions, and what is kept of the answers."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from utils.practice.course import TOKEN, NotebookFailed

SOURCE = ("model", "source")
MORE = {"base_model": "", "pairs": "", "adapter_repo": "", "merged_repo": ""}


@pytest.fixture(scope="module")
def evaluated(course, recorded) -> tuple[dict, dict, Path]:
    """What notebook 06 recorded in the course's own run, the results it wrote, and the folder of all artefacts."""
    _, output = course
    return recorded["06"], json.loads((output / "evaluation" / "results.json").read_text()), output


@pytest.fixture
def only_a_run(course, small_base, tmp_path):
    """The course's run in a folder of its own, without a merged model."""
    shutil.copytree(course[1] / "run", tmp_path / "run")
    more = MORE | {"base_model": str(small_base)}
    return {"MORE": more, "MAX_NEW_TOKENS": 8, "BATCH_SIZE": 16, "TASKS": [], "PUSH_TO_HUB": False}


def test_all_models_are_asked_the_same(evaluated):
    figures, results, output = evaluated
    held_out = json.loads((output / "run" / "held_out.json").read_text())
    sources = {"all", *(pair["source"] for pair in held_out)}
    rows = {tuple(row[key] for key in SOURCE): row for row in results["preference"]}
    assert set(rows) == {(model, source) for model in ("base", "adapter", "merged") for source in sources}
    for (model, source), row in rows.items():
        assert row["pairs"] == (len(held_out) if source == "all" else sum(it["source"] == source for it in held_out))
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1, (model, source)
        assert row["margin_low"] <= row["margin"] <= row["margin_high"], (model, source)
    for model in ("base", "adapter", "merged"):
        assert figures[f"accuracy_{model}"] == rows[model, "all"]["accuracy"]
        assert figures[f"margin_{model}"] == rows[model, "all"]["margin"]
    prompts = [row["prompt"] for row in results["answers"]]
    assert len(prompts) == 10 and len(set(prompts)) == 5
    assert all(row[model] for row in results["answers"] for model in ("base", "adapter", "merged"))


def test_training_shows_beyond_the_interval_and_the_merge_does_not(evaluated):
    figures, results, _ = evaluated
    rows = {(row["model"], row["reference"]): row for row in results["differences"] if row["source"] == "all"}
    assert rows["adapter", "base"]["margin_low"] > 0 and rows["merged", "base"]["margin_low"] > 0
    assert rows["adapter", "base"]["accuracy_low"] > 0
    assert abs(rows["merged", "adapter"]["margin"]) < 0.01
    assert figures["ended_base"] <= 2 and figures["ended_adapter"] >= 8


def test_lm_eval_decides_every_pair_alike(evaluated):
    figures, results, _ = evaluated
    assert figures["decided_otherwise"] == 0 and figures["largest_sum_difference"] < 1e-2
    for model, row in results["agreement"].items():
        assert row["lm_eval"] == pytest.approx(row["here"]) == pytest.approx(results["length"]["by_sum"][model])


def test_the_results_say_what_they_were_made_with(evaluated):
    _, results, output = evaluated
    run = json.loads((output / "run" / "run.json").read_text())
    assert results["versions"]["lm_eval"] == "0.4.13" and results["seed"] == 42
    assert results["revisions"]["base_model"] == run["revisions"]["base_model"]
    assert results["precision"] == "all in float32"


def test_the_cards_hold_the_results(evaluated):
    figures, results, output = evaluated
    for folder, model in (("run/adapter", "adapter"), ("merged", "merged")):
        card = ModelCard.load(output / folder / "README.md")
        found = {entry.metric_type: entry.metric_value for entry in card.data.eval_results}
        assert found["accuracy"] == figures[f"accuracy_{model}"] and found["margin"] == figures[f"margin_{model}"]
    assert len(figures["pushed"]) == 2


def test_a_quick_look_at_a_benchmark_is_told_as_one(evaluated):
    """Real lm-eval on the stand-in of TruthfulQA: five items, which are no score."""
    figures, results, output = evaluated
    found = {(row["model"], row["suite"], row["task"], row["metric"], row["limit"]) for row in results["benchmarks"]}
    task = "TruthfulQA", "truthfulqa_mc2", "acc", 5
    assert found == {(model, *task) for model in ("base", "adapter", "merged")} and figures["benchmarks"] == 3
    assert all(0 <= row["value"] <= 1 for row in results["benchmarks"])
    card = ModelCard.load(output / "merged" / "README.md")
    assert "| merged | TruthfulQA | truthfulqa_mc2 | acc |" in card.text and "the first 5 |" in card.text
    assert {entry.dataset_name for entry in card.data.eval_results} == {"held-out preference pairs"}


@pytest.mark.timeout(300)
def test_in_4_bits_the_numbers_are_the_trainers(only_a_run, run, tmp_path):
    """And without a merged model, the notebook goes on with base and adapter."""
    figures = run("06", PRECISION="4-bit", **only_a_run)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for model, when in (("base", "before"), ("adapter", "after")):
        logged, beta = record["eval"][when], record["recipe"]["beta"]
        assert beta * figures[f"margin_{model}"] == pytest.approx(logged["rewards/margins"], abs=2e-5)
        assert figures[f"accuracy_{model}"] == pytest.approx(logged["rewards/accuracies"])
    assert "accuracy_merged" not in figures and not figures["pushed"]
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert (
        results["precision"] == "linear layers in 4-bit NF4, the rest in float32"
        and results["revisions"]["merged"] is None
    )
    assert ModelCard.load(tmp_path / "run" / "adapter" / "README.md").data.eval_results


@pytest.mark.timeout(300)
def test_a_model_on_the_hub_gets_its_card_and_nothing_else(course, only_a_run, run, hub):
    folders = {"learner/Evaluated-ORPO-adapter": "run/adapter", "learner/Evaluated-ORPO": "merged"}
    for name, folder in folders.items():
        hub.add_repo(name, exist_ok=True)
        hub.commit_folder(name, course[1] / folder)

    def files(name: str) -> dict[str, str]:
        info = HfApi(token=TOKEN).model_info(name, files_metadata=True)
        return {file.rfilename: file.blob_id for file in info.siblings}

    before = {name: files(name) for name in folders}
    adapter, merged = folders
    more = only_a_run["MORE"] | {"merged_repo": merged, "adapter_repo": adapter}
    names = {"MERGED": merged, "MORE": more, "PUSH_TO_HUB": True}
    figures = run("06", **only_a_run | names)
    assert figures["pushed"] == [adapter, merged] and "accuracy_merged" in figures
    for name in folders:
        changed = {path for path, blob in files(name).items() if before[name].get(path) != blob}
        assert changed == {"README.md"}, name
        card = ModelCard.load(name, token=TOKEN)
        assert {entry.metric_type for entry in card.data.eval_results} == {"accuracy", "margin"}


@pytest.mark.timeout(120)
def test_without_pairs_it_stops_before_any_download(only_a_run, run, tmp_path):
    (tmp_path / "run" / "held_out.json").unlink()
    with pytest.raises(NotebookFailed, match="came without held-out pairs.* Set MORE"):
        run("06", **only_a_run)
