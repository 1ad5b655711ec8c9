"""The series, run once the way `make course` runs it, with every exercise tried: what must be true afterwards."""

import json
import py_compile
import re
import sys
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard, SpaceCard
from support import tried

from utils import intervals
from utils.curves import wandb_runs
from utils.orpo import figures as orpo_figures
from utils.practice import course as runner
from utils.practice import stand_ins
from utils.practice.hub import PracticeHub
from utils.publish import chat_app
from utils.publish import gguf as gguf_files

NUMBERS = [path.name[:2] for path in runner.select()]
METHODS = ("SFT", "SFT then DPO", "DPO", "ORPO")


@pytest.fixture(scope="module")
def output(course) -> Path:
    return course[1]


@pytest.fixture(scope="module")
def record(output) -> dict:
    """What notebook 03 wrote of its run."""
    return load(output / "run" / "run.json")


def load(path: Path):
    return json.loads(path.read_text())


def outputs_of(output: Path, number: str) -> dict[str, list]:
    (path,) = output.glob(f"{number}_*.ipynb")
    return {cell["id"]: cell.get("outputs", []) for cell in nbformat.read(path, as_version=4).cells}


# --- all notebooks -------------------------------------------------------------------------------------------------


def test_the_series_runs_and_reports(course):
    report, output = course
    for item in report["notebooks"]:
        assert item["ok"], item.get("error")
        assert item["seconds"] <= 120, item["name"]
    assert [item["name"][:2] for item in report["notebooks"]] == NUMBERS
    assert load(output / "report.json") == report
    assert report["versions"]["trl"] == "1.16.0" and report["machine"]["cores"] >= 1


@pytest.mark.parametrize("number", NUMBERS)
def test_every_exercise_begins_untried_refuses_a_wrong_answer_and_takes_the_solution(number, output):
    (path,) = [path for path in runner.select() if path.name[:2] == number]
    names, outputs = tried.exercises_of(path), outputs_of(output, number)
    assert names and list(tried.solutions_of(path)) == list(names)
    for name in names:
        assert "ot tried yet" in json.dumps(outputs[name]), name
        assert "Refused:" in json.dumps(outputs[f"{name}-wrong"]), name
        told = json.dumps(outputs[f"{name}-right"])
        assert "ight" in told or "Preferred" in told, name  # a taste is counted, and not right or wrong


def test_no_cell_warns_or_errs_and_no_secret_is_left_behind(output):
    """A learner takes every red block for a failure, so none may stand in a notebook that went well."""
    for number in NUMBERS:
        streams = [it for cell in outputs_of(output, number).values() for it in cell if it.get("name") == "stderr"]
        red = [line for it in streams for line in it["text"].splitlines() if re.search("(?i)warning|error", line)]
        assert not red, (number, red)
    for path in output.rglob("*"):
        if path.suffix in {".ipynb", ".json", ".md", ".log", ".txt", ".jsonl"}:
            assert runner.TOKEN not in path.read_text(errors="replace"), path


# --- 01: the loss --------------------------------------------------------------------------------------------------


def test_the_loss_by_hand_is_the_trainers(recorded):
    figures = recorded["01"]
    assert figures["loss_by_hand"] == pytest.approx(figures["loss_by_trainer"], abs=1e-5)
    assert figures["loss_on_batch"] == pytest.approx(figures["batch_by_trainer"], abs=1e-5)
    assert figures["loss_by_trainer"] > 0.2


def test_the_odds_let_rejected_answers_fall_the_further_the_larger_beta_is(recorded, output):
    figures, curves = recorded["01"], load(output / "orpo" / "curves.json")
    runs = curves["runs"]
    assert list(runs) == ["SFT", "ORPO 0.1", "ORPO 0.5", "ORPO 1.0"]
    for name, run in runs.items():
        for side in ("chosen", "rejected"):
            assert len(run[side]) == len(curves["steps"]) >= 8 and run[side][0] == runs["SFT"][side][0], name
        assert run["chosen"][-1] > run["chosen"][0] + 0.1, "the likelihood is in every loss"
    last = [run["rejected"][-1] for run in runs.values()]
    assert all(smaller < larger - 0.02 for larger, smaller in zip(last, last[1:], strict=False)), last
    start = runs["SFT"]["rejected"][0]
    assert last[0] > start + 0.1, "likelihood alone lifts the rejected answers too"
    assert last[-1] < start - 0.05 and last[0] - last[-1] > 0.3
    assert orpo_figures.paper_rows(runs) == curves["paper"]
    assert figures["statements_that_hold"] == sum(row["agrees"] == "yes" for row in curves["paper"])


# --- 02 and 03: the mix and the run --------------------------------------------------------------------------------


def test_the_mix_accounts_for_every_row_and_is_what_03_trains_on(output, recorded, record):
    figures, mix = recorded["02"], output / "mix"
    report = load(mix / "report.json")
    totals = {"rows": figures["rows_in"], "train": figures["train_pairs"], "test": figures["test_pairs"]}
    assert report["totals"] == totals
    for source in report["sources"].values():
        assert source["rows"] == source["train"] + source["test"] + sum(source["dropped"].values())
        assert source["taken"] == source["expected"] < source["rows"] or source["rule"] == "all rows"
        assert re.fullmatch("[0-9a-f]{40}", source["revision"]) and source["licence"] != "not stated"
    assert sum(source["rows"] for source in report["sources"].values()) == figures["rows_in"]
    assert "toxic" not in report["sources"] and len(report["sources"]) == 6 and len(report["benchmarks"]) == 6
    dropped = {reason for source in report["sources"].values() for reason in source["dropped"]}
    assert dropped >= {"same prompt", "near duplicate", "in a benchmark", "prompt too long", "answer too long"}
    sides = [pq.read_table(mix / f"{split}.parquet").to_pylist() for split in ("train", "test")]
    assert [len(side) for side in sides] == [figures["train_pairs"], figures["test_pairs"]]
    prompts = [{json.dumps(row["prompt"]) for row in side} for side in sides]
    assert not prompts[0] & prompts[1]
    assert record["recipe"]["dataset"] == str(mix) and record["mix"] == report
    card = (output / "merged" / "README.md").read_text()
    for source in report["sources"].values():
        assert f"- {source['repository']}" in card and f"| {source['licence']} | {source['rule']} |" in card
    assert str(output) not in card


def test_training_teaches(record):
    """The margin, the NLL and the end token are learnt on held-out pairs, by more than noise."""
    before, after = record["eval"]["before"], record["eval"]["after"]
    assert after["nll_loss"] < 0.8 * before["nll_loss"]
    assert after["rewards/margins"] > before["rewards/margins"] + 0.02
    assert after["rewards/accuracies"] >= 0.7


def test_the_run_is_recorded(output, record):
    assert re.fullmatch("[0-9a-f]{40}", record["revisions"]["base_model"])
    assert record["revisions"]["dataset"] is None  # notebook 02's folder: its report names the commits
    assert record["recipe"]["learning_rate"] == runner.PARAMETERS["03"]["LEARNING_RATE"]
    assert record["recipe"]["beta"] == 0.1 and record["micro_batch"] * record["accumulation"] == 8
    report = record["report"]
    assert report["examined"] == sum(report["kept"].values()) + sum(report["dropped"].values())
    assert record["seconds"] > 0 and record["pairs_per_second"] > 0 and record["peak_memory_gb"] > 0
    assert (output / "run" / "adapter" / "adapter_model.safetensors").stat().st_size > 100_000
    kept = sorted(path.name for path in (output / "run" / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-25", "checkpoint-40"]
    assert load(output / "run" / "trainer_state.json")["global_step"] == record["steps"] == 40


def test_offline_wandb_holds_the_same_curves_and_answers_settings_data_and_adapter(output):
    (offline,) = (output / "run" / "wandb").glob("offline-run-*")
    run, on_disk = wandb_runs.read_offline(offline), {}
    for row in run.rows:
        if "train/global_step" in row:  # not the first panels, nor the table of answers
            on_disk |= {(row["train/global_step"], key): value for key, value in row.items() if "/" in key}
    compared = 0
    for logged in load(output / "run" / "trainer_state.json")["log_history"]:
        for key, value in logged.items():
            if key in ("step", "epoch") or key.startswith(("train_", "total_")):
                continue
            name = f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
            assert on_disk[logged["step"], name] == pytest.approx(value, rel=1e-12), name
            compared += 1
    assert compared > 500
    (table,) = [row["answers/before_and_after"] for row in run.rows if "answers/before_and_after" in row]
    assert len(load(offline / "files" / table["path"])["data"]) == 5
    kinds = {folder.name.split("-")[0]: folder for folder in offline.iterdir() if folder.is_dir()}
    assert {"config", "data", "adapter"} <= set(kinds)
    assert (kinds["adapter"] / "adapter_model.safetensors").stat().st_size > 100_000


# --- 04 to 07: curves, merge, evaluation, chat ---------------------------------------------------------------------


def test_the_curves_are_read_from_disk_and_judged(output, recorded):
    figures = recorded["04"]
    assert figures["trainer"] == "ORPO" and figures["eval_rows"] == 64 and figures["sick_runs"] == 9
    # The base was trained on this machine: which note on its taste the first evaluation deserves, that evaluation says.
    start = load(output / "run" / "trainer_state.json")["log_history"][0]
    low, high = intervals.wilson(start["eval_rewards/accuracies"], 64)
    notes = {"accuracy above one half from the start": low > 0.5, "accuracy below one half at the start": high < 0.5}
    assert {note: note in figures["findings"] for note in notes} == notes
    assert not {"not finite", "stuck", "learning rate too high", "plateau from step one"} & set(figures["findings"])


def test_the_merge_is_proven(recorded):
    figures = recorded["05"]
    assert figures["kl_merge"] < 0.001 < 0.05 < figures["kl_training"]
    assert figures["lost_in_4_bits"] > 0.2 > 0.02 > figures["lost_in_bf16"]
    assert figures["readback_difference"] == 0
    assert figures["repositories"] == ["learner/Llama-3-8B-ORPO-adapter", "learner/Llama-3-8B-ORPO"]


def test_the_hub_holds_what_was_pushed_and_nothing_else(output):
    hub = PracticeHub(output / "hub")  # not started: the contents outlive the server
    text = {".gitattributes", "LICENSE", "README.md", "curves.png"}
    text |= {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    adapter = set(hub.files("learner/Llama-3-8B-ORPO-adapter"))
    assert adapter == text | {"adapter_config.json", "adapter_model.safetensors", "run.json"}
    merged = hub.files("learner/Llama-3-8B-ORPO")
    shards = {name for name in merged if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}
    configs = {"config.json", "generation_config.json", "merge.json", "model.safetensors.index.json"}
    assert set(merged) == text | shards | configs and len(shards) >= 2
    for name in ("Llama-3-8B-ORPO-adapter", "Llama-3-8B-ORPO"):
        repo = hub.repos["model", f"learner/{name}"]
        assert repo["private"] and list(repo["refs"]) == ["main"]
    weights = sum(merged[name]["size"] for name in shards)
    assert weights == pytest.approx(hub.files(stand_ins.BASE_MODEL)["model.safetensors"]["size"], rel=0.01)


def test_all_models_are_asked_the_same_and_training_shows_beyond_the_interval(output, recorded, record):
    figures, results = recorded["06"], load(output / "evaluation" / "results.json")
    held_out = load(output / "run" / "held_out.json")
    sources = {"all", *(pair["source"] for pair in held_out)}
    rows = {(row["model"], row["source"]): row for row in results["preference"]}
    assert set(rows) == {(model, source) for model in ("base", "adapter", "merged") for source in sources}
    for (model, source), row in rows.items():
        assert row["pairs"] == (len(held_out) if source == "all" else sum(it["source"] == source for it in held_out))
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1, (model, source)
        assert row["margin_low"] <= row["margin"] <= row["margin_high"], (model, source)
    gained = {(row["model"], row["reference"]): row for row in results["differences"] if row["source"] == "all"}
    assert gained["adapter", "base"]["margin_low"] > 0 and gained["merged", "base"]["margin_low"] > 0
    assert gained["adapter", "base"]["accuracy_low"] > 0
    assert abs(gained["merged", "adapter"]["margin"]) < 0.01
    assert figures["ended_base"] <= 2 and figures["ended_adapter"] >= 8
    assert figures["decided_otherwise"] == 0 and figures["largest_sum_difference"] < 1e-2  # against lm-eval
    assert results["revisions"]["base_model"] == record["revisions"]["base_model"]


def test_the_cards_hold_the_results(output, recorded):
    figures = recorded["06"]
    for folder, model in (("run/adapter", "adapter"), ("merged", "merged")):
        card = ModelCard.load(output / folder / "README.md")
        found = {entry.metric_type: entry.metric_value for entry in card.data.eval_results}
        assert found["accuracy"] == figures[f"accuracy_{model}"] and found["margin"] == figures[f"margin_{model}"]
    assert "| merged | TruthfulQA | truthfulqa_mc2 | acc |" in card.text and "the first 5 |" in card.text
    assert {entry.dataset_name for entry in card.data.eval_results} == {"held-out preference pairs"}
    assert len(figures["pushed"]) == 2


def test_the_chat_answers_its_space_is_complete_and_the_gguf_file_is_the_model(output, recorded):
    figures, space = recorded["07"], output / "space"
    assert figures["tuned_stopped"] is True and figures["answer"].strip() and figures["same_answer"] is True
    assert figures["stop_seconds"] < 2 and figures["threads_after_stop"] == 0
    assert figures["space"] == "learner/Llama-3-8B-ORPO-chat" and len(figures["space_commit"]) == 40
    assert sorted(path.name for path in space.iterdir()) == ["README.md", "app.py", "models.json", "requirements.txt"]
    assert (space / "app.py").read_bytes() == Path(chat_app.__file__).read_bytes()
    py_compile.compile(str(space / "app.py"), cfile=str(output / "app.pyc"), doraise=True)
    given, card = load(space / "models.json"), (space / "README.md").read_text()
    assert all(len(model["revision"]) == 40 and model["name"] in card for model in given["models"])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # without it, Spaces take one too old
    assert SpaceCard(card).data.python_version == python
    assert "Built with Meta Llama 3" in card and str(output) not in card + json.dumps(given)
    proof = gguf_files.read_gguf(output / "merged", output / "Llama-3-8B-ORPO.gguf")
    assert proof["tensors"] == figures["gguf_tensors"] > 0


# --- 08 and 09: methods and speed ----------------------------------------------------------------------------------


def test_sft_lifts_both_answers_and_a_preference_term_parts_them(output):
    results, moved = load(output / "comparison" / "results.json"), {}
    for name in METHODS:
        first, *_, last = results["methods"][name]["points"]
        moved[name] = {key: last[key] - first[key] for key in ("chosen", "rejected", "margin")}
    assert moved["SFT"]["chosen"] > 0.1 and moved["SFT"]["rejected"] > 0.05
    for name in ("ORPO", "DPO"):
        assert moved[name]["margin"] > moved["SFT"]["margin"] + 0.05, name
    assert moved["ORPO"]["rejected"] < moved["SFT"]["rejected"] and moved["ORPO"]["chosen"] > 0.1
    start, _, after_sft, _, end = results["methods"]["SFT then DPO"]["points"]
    assert after_sft["rejected"] > start["rejected"] + 0.05 and after_sft["chosen"] > start["chosen"] + 0.1
    assert end["margin"] > after_sft["margin"] + 0.05 and end["rejected"] < after_sft["rejected"]


def test_the_comparison_is_fair(output, recorded):
    figures, results = recorded["08"], load(output / "comparison" / "results.json")
    assert figures["reference_margin_at_start"] == pytest.approx(0, abs=1e-6)
    assert figures["reference_off"] < 1e-4 and figures["reference_moved"] < 1e-4
    assert figures["same_tokens"] is True
    assert (
        figures["dpo_margin"] == pytest.approx(figures["dpo_margin_by_trl"], rel=1e-3) and figures["dpo_margin"] > 0.1
    )
    assert results["budget_tokens"] == figures["budget_tokens"] > 1000 and list(results["methods"]) == list(METHODS)
    start = results["methods"]["SFT"]["points"][0]
    spent = {name: track["points"][-1]["tokens"] for name, track in results["methods"].items()}
    for name in METHODS:
        track = results["methods"][name]
        assert track["points"][0] == start and start["tokens"] == 0 and len(track["points"]) == 5
        assert spent[name] == pytest.approx(figures["budget_tokens"], rel=0.15), name
        assert track["seconds"] > 0 and track["peak_gb"] > 0
    read = {name: method["reference_tokens"] for name, method in results["methods"].items()}
    assert read["SFT"] == read["ORPO"] == 0 and read["DPO"] == spent["DPO"]
    assert 0.3 < read["SFT then DPO"] / spent["DPO"] < 0.7


def test_settings_for_other_tools_lie_beside_the_results(output):
    tools = {"axolotl", "llama-factory", "autotrain", "trl-cli"}
    assert {path.stem for path in (output / "comparison").glob("*/*.yaml")} == tools
    for tool in tools:
        pairs = (output / "comparison" / tool / "pairs" / "train.jsonl").read_text().splitlines()
        assert len(pairs) == 96 and set(json.loads(pairs[0])) == {"prompt", "chosen", "rejected"}


def test_the_fused_trainer_is_trls_and_faster(output, recorded):
    """The speed loosely, because others may use the machine: undisturbed it is 3 times as fast."""
    figures, ladder = recorded["09"], load(output / "speed" / "ladder.json")
    assert figures["loss_difference"] < 1e-5 and figures["gradient_difference"] < 1e-4
    assert figures["training_loss_difference"] < 1e-5
    assert figures["group_gradient_difference"] < 1e-4 < 1e-2 < figures["ungrouped_gradient_difference"]
    assert figures["branches_off"] < 1e-5 < 0.1 < figures["reset_positions_off"]
    assert figures["spoilt_gradient"] > 0.01
    assert figures["tokens_ratio"] > 1.5
    assert figures["tokens_ratio"] == pytest.approx(sum(ladder["tokens"].values()) / ladder["tokens"]["distinct"])
    for rung in ladder["rungs"]:
        assert rung["predicted_seconds"] > 0 and rung["seconds"] > ladder["floor_seconds"] > 0
        assert rung["peak_gb"] > 0 and len(rung["losses"]) == len(ladder["rungs"][0]["losses"]) >= 2
    assert figures["speedup"] > 1.2 and figures["peak_ratio"] > 1.5
    assert figures["stock_reads"] >= 11 and figures["fused_reads"] == 0
