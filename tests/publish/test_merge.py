"""Merge, push and read-back with the real Hub client on the practice hub."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file

from utils import hub as hub_access
from utils.practice import stand_ins
from utils.publish import merge
from utils.train import model_loading

PROMPTS = [pair["prompt"] for pair in stand_ins.preference_pairs(6, seed=5)]
WRITE = "practice-write"


def push(folder, repo_id: str, patterns: list[str]) -> str:
    hub_access.create_repository(repo_id, WRITE)
    return hub_access.commit_files(folder, repo_id, patterns, WRITE, replaces=patterns)


def log_probabilities(model, tokenizer):
    """As the cell of notebook 05 computes them."""
    rows = []
    for talk in PROMPTS:
        inputs = tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs).logits[0].float().log_softmax(-1))
    return torch.cat(rows)


@pytest.fixture
def adapted(small_base):
    """The small base in bf16 with a LoRA that changes its predictions."""
    torch.manual_seed(0)
    model = model_loading.load_base(str(small_base), torch.bfloat16, four_bit=False)
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config)


def test_a_sound_merge_passes_and_a_broken_one_does_not(adapted, tokenizer):
    before = log_probabilities(adapted, tokenizer)
    with adapted.disable_adapter():
        without = log_probabilities(adapted, tokenizer)
    merged = log_probabilities(adapted.merge_and_unload(safe_merge=True), tokenizer)
    limit = 0.01  # the notebook's MAX_KL
    assert merge.compare_predictions(before, merged)["kl"] <= limit
    assert merge.compare_predictions(before, without)["kl"] > limit  # what an adapter left out would look like


def test_compare_measures_the_divergence():
    reference = torch.tensor([[0.75, 0.25], [0.9, 0.1]]).log()
    candidate = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    measured = merge.compare_predictions(reference, candidate)
    expected = 0.75 * math.log(3) - 0.25 * math.log(3)
    assert measured["max_kl"] == pytest.approx(expected, abs=1e-6)
    assert measured["kl"] == pytest.approx(expected / 2, abs=1e-6)
    assert measured["top1"] == 0.5
    assert merge.compare_predictions(reference, reference) == {"kl": 0.0, "max_kl": 0.0, "top1": 1.0}
    assert merge.compare_predictions(reference, reference.flip(-1))["top1"] == 0.0


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
    (folder / "README.md").write_text("# x\n")
    (folder / "run.json").write_text(json.dumps({"seed": 42}))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "secrets.env", "pytorch_model.bin"):
        (folder / name).write_bytes(b"not for the Hub")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"nor this")
    return folder


def test_only_what_is_on_the_list_is_pushed_and_it_comes_back_the_same(hub, adapter_folder, tmp_path):
    commit = push(adapter_folder, "learner/listed", merge.ADAPTER_FILES)
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "run.json"}
    expected |= {"tokenizer.json", "tokenizer_config.json"}
    assert set(hub.files("learner/listed")) == expected | {".gitattributes"}
    assert hub.repos["model", "learner/listed"]["private"]
    fresh = tmp_path / "fresh"
    merge.verify_push(adapter_folder, "learner/listed", commit, merge.ADAPTER_FILES, WRITE, fresh)
    assert {path.name for path in fresh.iterdir() if path.is_file()} == expected
    for name in expected:
        assert (fresh / name).read_bytes() == (adapter_folder / name).read_bytes()


def test_a_second_push_leaves_nothing_of_the_first_on_the_list(hub, tmp_path):
    """Other shards than before: the old ones would be loaded beside them, and never verified."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"first" + name.encode())
    first = push(tmp_path, "learner/sharded", merge.MERGED_FILES)
    for path in tmp_path.glob("model-*"):
        path.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"second")
    commit = push(tmp_path, "learner/sharded", merge.MERGED_FILES)
    assert set(hub.files("learner/sharded")) - {".gitattributes"} == {"model.safetensors", "config.json"}
    merge.verify_push(tmp_path, "learner/sharded", commit, merge.MERGED_FILES, WRITE, tmp_path / "fresh")
    with pytest.raises(ValueError, match="model-00001-of-00002.safetensors.*model.safetensors"):
        merge.verify_push(tmp_path, "learner/sharded", first, merge.MERGED_FILES, WRITE)  # on one side alone


def test_a_bit_flipped_on_the_way_is_found(hub, adapter_folder, tmp_path):
    commit = push(adapter_folder, "learner/flipped", merge.ADAPTER_FILES)
    for name in ["adapter_model.safetensors", "adapter_config.json"]:
        hub.inject(f"learner/flipped/resolve/.*{name}", flip=True)
        given = "learner/flipped", commit, merge.ADAPTER_FILES, WRITE, tmp_path / f"fresh {name}"
        with pytest.raises(ValueError, match=name):
            merge.verify_push(adapter_folder, *given)
    save_file({"weight": torch.rand(64, 64)}, tmp_path / "adapter_model.safetensors")  # bytes the hub never had
    hub.inject("learner/upload.git/info/lfs", flip=True, method="PUT")
    with pytest.raises(ConnectionError, match="failed for learner/upload"):
        push(tmp_path, "learner/upload", merge.ADAPTER_FILES)
    assert set(hub.files("learner/upload")) == {".gitattributes"}
    push(tmp_path, "learner/upload", merge.ADAPTER_FILES)
    assert "adapter_model.safetensors" in hub.files("learner/upload")


def test_the_licence_of_the_base_is_copied(hub, tmp_path):
    (tmp_path / "again").mkdir()
    merge.copy_licence(stand_ins.BASE_MODEL, None, tmp_path)
    merge.copy_licence(str(tmp_path), None, tmp_path / "again")  # of a base in a folder
    assert (tmp_path / "again" / "LICENSE").read_text() == (tmp_path / "LICENSE").read_text() != ""


def test_the_saved_adapter_holds_lora_alone(adapter_folder, small_base):
    with safe_open(adapter_folder / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())
    base = model_loading.load_base(str(small_base), torch.bfloat16, four_bit=False)
    assert PeftModel.from_pretrained(base, adapter_folder).get_input_embeddings().num_embeddings == base.vocab_size
