"""Merge, card, push and read-back, with the real Hub client on the practice hub."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from utils import merging, model_loading, stand_ins

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
    "hosts": {"base_model": "stand-in at 127.0.0.1", "dataset": "huggingface.co"},
    "pairs": {"train": 320, "test": 64},
    "device": "2 CPU cores",
    "seconds": 12.3,
    "peak_memory_gb": 0.25,
    "eval": {
        moment: {"nll_loss": 0.5, "rewards/margins": 0.01, "rewards/accuracies": 0.75} for moment in ("before", "after")
    },
}
PROMPTS = [pair["prompt"] for pair in stand_ins.preference_pairs(6, seed=5)]


@pytest.fixture
def adapted(small_base):
    """The small base in bf16 with a LoRA that changes its predictions."""
    torch.manual_seed(0)
    model = model_loading.load_base(str(small_base), torch.bfloat16, four_bit=False)
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config)


def test_a_sound_merge_passes_and_a_broken_one_does_not(adapted, tokenizer):
    before = merging.log_probabilities(adapted, tokenizer, PROMPTS)
    with adapted.disable_adapter():
        without = merging.log_probabilities(adapted, tokenizer, PROMPTS)
    merged = merging.log_probabilities(adapted.merge_and_unload(safe_merge=True), tokenizer, PROMPTS)
    limit = 0.01  # the notebook's MAX_KL
    assert merging.compare(before, merged)["kl"] <= limit
    assert merging.compare(before, without)["kl"] > limit  # what an adapter left out would look like


def test_compare_measures_the_divergence():
    reference = torch.tensor([[0.75, 0.25], [0.9, 0.1]]).log()
    candidate = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    measured = merging.compare(reference, candidate)
    expected = 0.75 * math.log(3) - 0.25 * math.log(3)
    assert measured["max_kl"] == pytest.approx(expected, abs=1e-6)
    assert measured["kl"] == pytest.approx(expected / 2, abs=1e-6)
    assert measured["top1"] == 0.5
    assert merging.compare(reference, reference) == {"kl": 0.0, "max_kl": 0.0, "top1": 1.0}
    assert merging.compare(reference, reference.flip(-1))["top1"] == 0.0


def test_a_nan_in_the_adapter_stops_the_merge(adapted):
    next(weight for name, weight in adapted.named_parameters() if "lora_A" in name).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        adapted.merge_and_unload(safe_merge=True)


@pytest.fixture
def adapter_folder(adapted, tokenizer, tmp_path):
    """A saved adapter among files that must never be published."""
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(merging.model_card("learner/x", RUN))
    (folder / "run.json").write_text(json.dumps(RUN))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "secrets.env", "pytorch_model.bin"):
        (folder / name).write_bytes(b"not for the Hub")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"nor this")
    return folder


def test_only_what_is_on_the_list_is_pushed(hub, adapter_folder, tmp_path):
    commit = merging.push(adapter_folder, "learner/listed", merging.ADAPTER_FILES, "practice-write")
    assert set(hub.files("learner/listed")) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert hub.repos["model", "learner/listed"]["private"]
    fresh = merging.pull_and_verify(
        adapter_folder, "learner/listed", commit, merging.ADAPTER_FILES, "practice-write", tmp_path / "fresh"
    )
    assert {path.name for path in fresh.iterdir() if path.is_file()} == set(hub.files("learner/listed")) - {
        ".gitattributes"
    }
    for path in fresh.iterdir():
        assert path.is_dir() or path.read_bytes() == (adapter_folder / path.name).read_bytes()


def test_a_second_push_leaves_nothing_of_the_first_on_the_list(hub, tmp_path):
    """Other shards than before: the old ones would be loaded beside them, and never verified."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"first" + name.encode())
    push = ("learner/sharded", merging.MERGED_FILES, "practice-write")
    merging.push(tmp_path, *push)
    for path in tmp_path.glob("model-*"):
        path.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"second")
    commit = merging.push(tmp_path, *push)
    assert set(hub.files("learner/sharded")) - {".gitattributes"} == {"model.safetensors", "config.json"}
    merging.pull_and_verify(tmp_path, push[0], commit, *push[1:], tmp_path / "fresh")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_bit_flipped_on_the_way_down_is_found(hub, adapter_folder, tmp_path, name):
    repo_id = f"learner/flipped-{name.split('.')[-1]}"
    commit = merging.push(adapter_folder, repo_id, merging.ADAPTER_FILES, "practice-write")
    hub.inject(f"{repo_id}/resolve/.*{name}", flip=True)
    with pytest.raises(ValueError, match=name):
        merging.pull_and_verify(
            adapter_folder, repo_id, commit, merging.ADAPTER_FILES, "practice-write", tmp_path / "fresh"
        )


def test_a_bit_flipped_on_the_way_up_is_refused(hub, tmp_path):
    save_file({"weight": torch.rand(64, 64)}, tmp_path / "adapter_model.safetensors")  # bytes the hub never had
    hub.inject("learner/upload.git/info/lfs", flip=True, method="PUT")
    with pytest.raises(ConnectionError, match="failed for learner/upload"):
        merging.push(tmp_path, "learner/upload", merging.ADAPTER_FILES, "practice-write")
    assert set(hub.files("learner/upload")) == {".gitattributes"}
    merging.push(tmp_path, "learner/upload", merging.ADAPTER_FILES, "practice-write")
    assert "adapter_model.safetensors" in hub.files("learner/upload")


def test_the_card_states_the_terms_of_llama_3():
    card = merging.model_card("learner/Llama-3-8B-ORPO", RUN, {"kl": 1.2e-5, "max_kl": 1e-4, "top1": 0.998})
    assert "license: llama3" in card and "Built with Meta Llama 3." in card
    assert f"base_model: {stand_ins.BASE_MODEL}" in card and "library_name: transformers" in card
    assert "(stand-in at 127.0.0.1)" in card
    assert "1.2e-05 nats" in card and "320 pairs, 64 held out" in card
    other = merging.model_card("learner/x", RUN | {"recipe": RUN["recipe"] | {"base_model": "microsoft/phi-2"}})
    assert "llama" not in other.lower().replace("orpo-dpo-mix", "") and "library_name: peft" in other


def test_the_licence_of_the_base_is_copied(hub, tmp_path):
    assert merging.copy_licence(stand_ins.BASE_MODEL, None, tmp_path) == ["LICENSE"]
    assert (tmp_path / "LICENSE").read_text()


def test_the_saved_adapter_holds_lora_alone(adapter_folder, small_base):
    from safetensors import safe_open

    with safe_open(adapter_folder / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())
    base = model_loading.load_base(str(small_base), torch.bfloat16, four_bit=False)
    assert PeftModel.from_pretrained(base, adapter_folder).get_input_embeddings().num_embeddings == base.vocab_size


@pytest.mark.parametrize(
    "base, licence, shown, built",
    [
        ("lab/Meta-Llama-3-8B", "llama3", "license: llama3\n", "Built with Meta Llama 3."),
        ("lab/Llama-3.2-1B", "llama3.2", "license: llama3.2\n", "Built with Llama."),
        ("microsoft/phi-2", "mit", "license: mit\n", None),
        ("lab/unlicensed", "not stated", None, None),
    ],
)
def test_the_card_has_the_bases_licence(base, licence, shown, built):
    card = merging.model_card("learner/x", RUN | {"recipe": RUN["recipe"] | {"base_model": base}, "licence": licence})
    assert shown in card if shown else "license:" not in card
    assert built in card if built else "Built with" not in card


def test_the_card_of_a_local_base_holds_no_path():
    recipe = RUN["recipe"] | {"base_model": "/home/ada/my base", "dataset": "/home/ada/pairs.jsonl"}
    card = merging.model_card("learner/x", RUN | {"recipe": recipe, "revisions": dict.fromkeys(RUN["revisions"])})
    assert "/home/ada" not in card and "my base" in card and "pairs.jsonl" in card


# --- a mix of several sources ----------------------------------------------------------------------------------

MIX = {
    "totals": {"rows": 41_000, "train": 30_500, "test": 620},
    "sources": {
        "math": {
            **{"repository": "argilla/distilabel-math-preference-dpo", "revision": "d" * 40, "host": "huggingface.co"},
            **{"licence": "apache-2.0", "rule": "chosen_rating >= 9", "rows": 2418, "train": 2000, "test": 41},
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
    card = merging.model_card("learner/x", run)
    head = card.split("---")[1]
    listed = head.split("datasets:\n")[1].split("\n")
    expected = ["- learner/orpo-mix"] * pushed + ["- argilla/distilabel-math-preference-dpo"]
    assert [line for line in listed if line.startswith("- ") and "/" in line] == expected  # what was trained on
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    math = "argilla/distilabel-math-preference-dpo | `dddddddddd`, huggingface.co | apache-2.0 | chosen_rating >= 9"
    assert f"| {math} | 2,418 | 2,000 | 41 |" in rows
    assert "| pairs.jsonl | local | not stated | all rows | 60 | 50 | 2 |" in rows
    assert "| unalignment/toxic-dpo-v0.2 | `eeeeeeeeee`, huggingface.co | cc-by-4.0 | all rows | 541 | 0 | 0 |" in rows
    assert "A mix of 41,000 rows" in card and "30,500 pairs were left to train on and 620 to test on" in card
    assert "compared with benchmarks (gsm8k, mmlu: not checked)" in card and "/home/ada" not in card
    assert "Each source of the training data has its own licence, see above." in card
    table = card.splitlines()
    start = table.index("| source | at | licence | rule | rows | train | test |")
    assert all(line.startswith("|") for line in table[start : start + 5]) and not table[start - 1]


@pytest.mark.parametrize("mix", [{}, {"mix": None}])
def test_the_card_of_other_data_names_no_sources(mix):
    card = merging.model_card("learner/x", RUN | mix)
    assert "A mix of" not in card and "| source |" not in card and f"- {stand_ins.ORPO_MIX}" in card
    assert "The training data has licences of its own: see its card." in card
    unchecked = merging.model_card("learner/x", RUN | {"mix": MIX | {"benchmarks": {}}})
    assert "compared with benchmarks" not in unchecked and "A mix of" in unchecked
