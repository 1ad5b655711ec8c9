"""The model card: what it says of a run, a merge and an evaluation, checked by the Hub's own client."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, HfApi, ModelCard
from peft import LoraConfig, get_peft_model

from utils.practice import course as runner
from utils.practice import stand_ins
from utils.publish import card as model_card
from utils.train import model_loading

ROOT = Path(__file__).parents[2]

RUN = {
    "recipe": {
        "base_model": stand_ins.BASE_MODEL,
        "dataset": stand_ins.ORPO_MIX,
        "beta": 0.1,
        "learning_rate": 8e-5,
        "num_epochs": 1.0,
        "effective_batch": 8,
        "max_length": 1024,
        "lora_r": 16,
        "lora_alpha": 32,
        "target_modules": ["q_proj", "v_proj"],
    },
    "revisions": {"base_model": "a" * 40, "dataset": "b" * 40},
    "hosts": {"base_model": "practice hub at 127.0.0.1", "dataset": "huggingface.co"},
    "pairs": {"train": 320, "test": 64},
    "device": "2 CPU cores",
    "seconds": 12.3,
    "peak_memory_gb": 0.25,
    "eval": {
        moment: {"nll_loss": 0.5, "rewards/margins": 0.01, "rewards/accuracies": 0.75} for moment in ("before", "after")
    },
}


def test_the_card_states_the_terms_of_llama_3():
    card = model_card.model_card("learner/Llama-3-8B-ORPO", RUN, {"kl": 1.2e-5, "max_kl": 1e-4, "top1": 0.998})
    assert "license: llama3" in card and "Built with Meta Llama 3." in card
    assert f"base_model: {stand_ins.BASE_MODEL}" in card and "library_name: transformers" in card
    assert "(practice hub at 127.0.0.1)" in card
    assert "1.2e-05 nats" in card and "320 pairs, 64 held out" in card
    other = model_card.model_card("learner/x", RUN | {"recipe": RUN["recipe"] | {"base_model": "microsoft/phi-2"}})
    assert "llama" not in other.lower().replace("orpo-dpo-mix", "") and "library_name: peft" in other


def test_the_card_has_the_bases_licence_and_names_that_of_the_data():
    for base, licence, shown, built in (
        ("lab/Meta-Llama-3-8B", "llama3", "license: llama3\n", "Built with Meta Llama 3."),
        ("lab/Llama-3.2-1B", "llama3.2", "license: llama3.2\n", "Built with Llama."),
        ("microsoft/phi-2", "mit", "license: mit\n", None),
        ("lab/unlicensed", "not stated", None, None),
    ):
        recipe = RUN["recipe"] | {"base_model": base}
        card = model_card.model_card("learner/x", RUN | {"recipe": recipe, "licence": licence})
        assert shown in card if shown else "license:" not in card
        assert built in card if built else "Built with" not in card
    card = model_card.model_card("learner/x", RUN | {"licence": "other", "data_licence": "apache-2.0"})
    base, data = (line for line in card.splitlines() if line.startswith(("| Base |", "| Data |")))
    assert base.endswith("licence llama3 |") and data.endswith("64 held out, licence apache-2.0 |")


def test_the_card_of_a_local_base_holds_no_path():
    recipe = RUN["recipe"] | {"base_model": "/home/ada/my base", "dataset": "/home/ada/pairs.jsonl"}
    card = model_card.model_card("learner/x", RUN | {"recipe": recipe, "revisions": dict.fromkeys(RUN["revisions"])})
    assert "/home/ada" not in card and "my base" in card and "pairs.jsonl" in card


# --- a mix of several sources ----------------------------------------------------------------------------------

MIX = {
    "totals": {"rows": 41_000, "train": 30_500, "test": 620},
    "sources": {
        "math": {
            **{"repository": "argilla/distilabel-math-preference-dpo", "revision": "d" * 40, "host": "huggingface.co"},
            **{"licence": "apache-2.0", "rule": "chosen_rating >= 9", "rows": 2418, "train": 2000, "test": 41},
            **{"dropped": {"score too low": 377}},
        },
        "mine": {
            **{"repository": "pairs.jsonl", "revision": None, "host": "local", "licence": "not stated"},
            **{"rule": "all rows", "rows": 60, "train": 50, "test": 2},
        },
        "toxic": {
            **{"repository": "unalignment/toxic-dpo-v0.2", "revision": "e" * 40, "host": "huggingface.co"},
            **{"licence": "cc-by-4.0", "rule": "all rows", "rows": 541, "train": 0, "test": 0},
        },
        "gone": {"repository": "lab/gone", "rule": "all rows", "left_out": "it could not be reached"},
    },
    "benchmarks": {"gsm8k": {"items": 1319, "rows": 3}, "mmlu": {"left_out": "no network"}},
}


@pytest.mark.parametrize("pushed", [False, True], ids=["a folder", "on the Hub"])
def test_the_card_names_the_sources_of_a_mix(pushed):
    name, revision = ("learner/orpo-mix", "b" * 40) if pushed else ("/home/ada/artifacts/mix", None)
    run = RUN | {"mix": MIX, "recipe": RUN["recipe"] | {"dataset": name}}
    run |= {"revisions": RUN["revisions"] | {"dataset": revision}}
    card = model_card.model_card("learner/x", run)
    head = card.split("---")[1]
    listed = head.split("datasets:\n")[1].split("\n")
    expected = ["- learner/orpo-mix"] * pushed + ["- argilla/distilabel-math-preference-dpo"]
    assert [line for line in listed if line.startswith("- ") and "/" in line] == expected  # what was trained on
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    math = "argilla/distilabel-math-preference-dpo | `dddddddddd`, huggingface.co | apache-2.0 | chosen_rating >= 9"
    assert f"| {math} | 2,418 | 2,000 | 41 | score too low 377 |" in rows
    assert "| pairs.jsonl | local | not stated | all rows | 60 | 50 | 2 | none |" in rows
    toxic = "unalignment/toxic-dpo-v0.2 | `eeeeeeeeee`, huggingface.co | cc-by-4.0 | all rows"
    assert f"| {toxic} | 541 | 0 | 0 | none |" in rows
    assert "A mix of 41,000 rows" in card and "30,500 pairs were left to train on and 620 to test on" in card
    assert "compared with benchmarks (gsm8k, mmlu: not checked)" in card and "/home/ada" not in card
    assert "Each source of the training data has its own licence, see above." in card


def test_the_card_of_other_data_names_no_sources():
    card = model_card.model_card("learner/x", RUN | {"mix": None})
    assert "A mix of" not in card and "| source |" not in card and f"- {stand_ins.ORPO_MIX}" in card
    unchecked = model_card.model_card("learner/x", RUN | {"mix": MIX | {"benchmarks": {}}})
    assert "compared with benchmarks" not in unchecked and "A mix of" in unchecked


# --- what was measured -----------------------------------------------------------------------------------------


def preference(model: str, source: str, accuracy: float) -> dict:
    ends = {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05, "margin_low": 0.1, "margin_high": 0.3}
    return {"model": model, "source": source, "pairs": 64, "accuracy": accuracy, "margin": 0.2} | ends


def benchmark(model: str, task: str, value: float, limit: int | None = None) -> dict:
    entry = {"model": model, "suite": "GPT4All", "task": task, "metric": "acc_norm", "value": value}
    return entry | {"stderr": 0.012, "limit": limit, "version": 1.0}


RESULTS = {
    "precision": "all in bfloat16",
    "versions": {"lm_eval": "0.4.13"},
    "preference": [
        *(preference("base", source, 0.55) for source in ("all", "capybara")),
        *(preference("adapter", source, 0.80) for source in ("all", "capybara")),
        *(preference("merged", source, 0.79) for source in ("all", "capybara")),
    ],
    "benchmarks": [
        benchmark("base", "piqa", 0.70),
        benchmark("adapter", "piqa", 0.72),
        benchmark("merged", "piqa", 0.71),
        benchmark("merged", "boolq", 0.9, limit=10),
    ],
}
PARITY = {"kl": 1.2e-5, "max_kl": 1e-4, "top1": 0.998}


@pytest.mark.parametrize("parity, accuracy, piqa", [(None, 0.80, 0.72), (PARITY, 0.79, 0.71)])
def test_results_are_read_back_by_the_hubs_client(hub, parity, accuracy, piqa):
    card = ModelCard(model_card.model_card("learner/x", RUN, parity, RESULTS))
    hub.add_repo("learner/card", exist_ok=True)
    upload = HfApi(token="practice-write").upload_file  # which asks the Hub to validate the front matter first
    upload(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="learner/card")
    assert ("POST", "/api/validate-yaml", 200) in hub.requests
    assert all(isinstance(entry, EvalResult) for entry in card.data.eval_results)
    found = {(entry.dataset_name, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    held_out = "held-out preference pairs"
    assert found == {(held_out, "accuracy"): accuracy, (held_out, "margin"): 0.2, ("piqa", "acc_norm"): piqa}
    elsewhere = model_card.eval_results(RUN, RESULTS | {"pairs": "other.json"}, "merged")
    assert [entry.dataset_name for entry in elsewhere] == ["piqa"]  # other pairs are not those that the run held out
    (first, *_) = card.data.eval_results
    assert (first.dataset_type, first.dataset_revision) == (stand_ins.ORPO_MIX, "b" * 40)


def test_the_card_shows_results_with_intervals_beside_the_base():
    card = model_card.model_card("learner/x", RUN, PARITY, RESULTS)
    assert "| base | all | 64 | 0.550 (0.500 to 0.600) | 0.200 (0.100 to 0.300) |" in card
    assert "| merged | capybara | 64 | 0.790 (0.740 to 0.840) | 0.200 (0.100 to 0.300) |" in card
    assert "| merged | GPT4All | boolq | acc_norm | 0.9000 | 0.0120 | the first 10 |" in card
    assert "| adapter |" not in card.split("## Evaluation")[1] and "all in bfloat16" in card
    assert "not been evaluated" not in card and "Benchmarks: not measured" not in card
    without = model_card.model_card("learner/x", RUN, PARITY)
    assert "not been evaluated" in without and "Benchmarks: not measured." in without and "model-index" not in without


def test_the_card_names_what_is_toxic_and_what_to_beware_of():
    toxic = json.loads(json.dumps(MIX))
    toxic["sources"]["toxic"]["train"] = 500
    card = model_card.model_card("learner/x", RUN | {"mix": toxic})
    assert "harmful requests: unalignment/toxic-dpo-v0.2 (500 pairs)" in card
    assert "harmful" not in model_card.model_card("learner/x", RUN | {"mix": MIX})  # none of it was trained on
    card = model_card.model_card("learner/x", RUN | {"mix": MIX, "sources": {"math": 300, "toxic": 20}})
    assert "harmful requests: unalignment/toxic-dpo-v0.2 (20 pairs)" in card  # of the mix, so many were trained on
    sources = {"Toxic-DPO-v0.2": 12, "Truthy_DPO": 30}  # as a row of the article's mix names them
    card = model_card.model_card("learner/x", RUN | {"sources": sources})
    assert "harmful requests: Toxic-DPO-v0.2 (12 pairs)" in card
    warned = RUN["recipe"] | {"warning": "Its card warns against training on it."}
    assert "- Its card warns against training on it.\n" in model_card.model_card("learner/x", RUN | {"recipe": warned})


def test_the_card_accounts_for_every_row():
    report = {"examined": 400, "dropped": {"answer too long": 15, "empty answer": 1}}
    card = model_card.model_card("learner/x", RUN | {"report": report})
    assert "400 rows were examined in a seeded order, and 15 dropped: answer too long; 1 dropped: empty answer." in card
    none = model_card.model_card("learner/x", RUN | {"report": report | {"dropped": {}}})
    assert "400 rows were examined in a seeded order, and none dropped." in none


def test_curves_are_drawn_from_what_the_run_left(tmp_path):
    model_card.draw_curves(tmp_path, tmp_path)  # no history
    model_card.write_card(tmp_path, "learner/x", RUN)
    assert model_card.CURVES not in (tmp_path / "README.md").read_text()
    shutil.copy(ROOT / "data" / "runs" / "healthy" / "trainer_state.json", tmp_path)
    model_card.draw_curves(tmp_path, tmp_path)
    model_card.write_card(tmp_path, "learner/x", RUN)
    assert (tmp_path / model_card.CURVES).read_bytes().startswith(b"\x89PNG")
    assert f"]({model_card.CURVES})" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_the_three_lines_of_the_card_load_what_was_pushed(hub, small_base, tokenizer, tmp_path, kind):
    """In a process of its own."""
    name, folder = f"learner/three-lines-{kind}", tmp_path / "pushed"
    if kind == "merged":
        shutil.copytree(small_base, folder)
    else:
        model = model_loading.load_base(str(small_base), torch.float32, four_bit=False)
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
        model.peft_config["default"].base_model_name_or_path = stand_ins.BASE_MODEL
        model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    card = model_card.model_card(name, RUN, PARITY if kind == "merged" else None)
    hub.add_repo(name, exist_ok=True)
    hub.commit_folder(name, folder)
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    code = code.replace(")[0][", ", max_new_tokens=8, do_sample=False)[0][")
    settings = runner.practice_environment(hub.url, tmp_path / "home") | {"PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() and "<|" not in run.stdout
