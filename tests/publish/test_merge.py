"""Merge, push and read-back with the real Hub client on the practice hub, and finding what was merged."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from utils import hub as hub_access
from utils.practice import stand_ins
from utils.publish import merge
from utils.train import model_loading

PROMPTS = [pair["prompt"] for pair in stand_ins.preference_pairs(6, seed=5)]
WRITE = "practice-write"


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


def test_only_what_is_on_the_list_is_pushed(hub, adapter_folder, tmp_path):
    commit = merge.push_files(adapter_folder, "learner/listed", merge.ADAPTER_FILES, WRITE)
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
    fresh = merge.pull_and_verify(
        adapter_folder, "learner/listed", commit, merge.ADAPTER_FILES, WRITE, tmp_path / "fresh"
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
    push = ("learner/sharded", merge.MERGED_FILES, WRITE)
    merge.push_files(tmp_path, *push)
    for path in tmp_path.glob("model-*"):
        path.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"second")
    commit = merge.push_files(tmp_path, *push)
    assert set(hub.files("learner/sharded")) - {".gitattributes"} == {"model.safetensors", "config.json"}
    merge.pull_and_verify(tmp_path, push[0], commit, *push[1:], tmp_path / "fresh")


def test_a_bit_flipped_on_the_way_down_is_found(hub, adapter_folder, tmp_path):
    commit = merge.push_files(adapter_folder, "learner/flipped", merge.ADAPTER_FILES, WRITE)
    for name in ["adapter_model.safetensors", "adapter_config.json"]:
        hub.inject(f"learner/flipped/resolve/.*{name}", flip=True)
        given = "learner/flipped", commit, merge.ADAPTER_FILES, WRITE, tmp_path / f"fresh {name}"
        with pytest.raises(ValueError, match=name):
            merge.pull_and_verify(adapter_folder, *given)


def test_a_bit_flipped_on_the_way_up_is_refused(hub, tmp_path):
    save_file({"weight": torch.rand(64, 64)}, tmp_path / "adapter_model.safetensors")  # bytes the hub never had
    hub.inject("learner/upload.git/info/lfs", flip=True, method="PUT")
    with pytest.raises(ConnectionError, match="failed for learner/upload"):
        merge.push_files(tmp_path, "learner/upload", merge.ADAPTER_FILES, WRITE)
    assert set(hub.files("learner/upload")) == {".gitattributes"}
    merge.push_files(tmp_path, "learner/upload", merge.ADAPTER_FILES, WRITE)
    assert "adapter_model.safetensors" in hub.files("learner/upload")


def test_the_licence_of_the_base_is_copied(hub, tmp_path):
    assert merge.copy_licence(stand_ins.BASE_MODEL, None, tmp_path) == ["LICENSE"]
    assert (tmp_path / "LICENSE").read_text()


def test_the_saved_adapter_holds_lora_alone(adapter_folder, small_base):
    from safetensors import safe_open

    with safe_open(adapter_folder / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())
    base = model_loading.load_base(str(small_base), torch.bfloat16, four_bit=False)
    assert PeftModel.from_pretrained(base, adapter_folder).get_input_embeddings().num_embeddings == base.vocab_size


# --- finding it again ----------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "merged"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def test_it_is_found_in_the_artifacts_or_where_it_is_named(folder, tmp_path):
    assert merge.find_merged("", tmp_path) == str(folder)
    assert merge.find_merged(str(folder), tmp_path / "none") == str(folder)
    assert merge.find_merged("you/Llama-3-8B-ORPO", tmp_path) == "you/Llama-3-8B-ORPO"


@pytest.mark.parametrize("given", ["", "."])
def test_a_folder_without_it_names_notebook_05(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match="no merged model in .*Run 05_merge_and_push first.*merged_folder, set MODEL.*ARTIFACTS.*MODEL",
    ):
        merge.find_merged(given, tmp_path)


@pytest.fixture
def adapter(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    return made


def test_the_merge_is_recorded_and_names_base_and_commit(folder, adapter, tmp_path):
    base = SimpleNamespace(name="a/base", commit=COMMIT)
    merge.record_merge(folder, adapter, base, {"merged": "ada/mine", "kl": 1e-5})
    assert json.loads((folder / "merge.json").read_text())["kl"] == 1e-5
    assert merge.base_of(str(folder), None, tmp_path) == ("a/base", COMMIT)
    local = SimpleNamespace(name="/home/ada/base", commit=None)
    merge.record_merge(folder, adapter, local, {})
    assert "/home/ada" not in (folder / "merge.json").read_text()
    with pytest.raises(ValueError, match='set MORE."base_model"'):
        merge.base_of(str(folder), None, tmp_path)


def test_a_merged_model_of_another_adapter_is_told(folder, adapter):
    merge.check_merged_from(folder, adapter)  # without a merge.json nothing is known
    merge.record_merge(folder, adapter, SimpleNamespace(name="a/base", commit=COMMIT), {})
    merge.check_merged_from(folder, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="merged from another adapter.*run notebook 05 again"):
        merge.check_merged_from(folder, adapter)


def test_a_card_names_the_base_alone(folder, tmp_path):
    (folder / "README.md").write_text("---\nbase_model: a/base\n---\n\n# M\n")
    assert merge.base_of(str(folder), None, tmp_path) == ("a/base", None)


def test_what_lies_on_the_hub_is_read_at_its_commit(hub, folder, adapter, tmp_path):
    base = SimpleNamespace(name=stand_ins.BASE_MODEL, commit=COMMIT)
    merge.record_merge(folder, adapter, base, {})
    hub.add_repo("learner/recorded", exist_ok=True)
    hub.commit_folder("learner/recorded", folder)
    commit = hub_access.describe_repository("learner/recorded").commit
    found = merge.base_of("learner/recorded", commit, tmp_path / "none")
    assert found == (stand_ins.BASE_MODEL, COMMIT)


def test_the_record_of_the_run_knows_a_base_that_is_a_folder(folder, tmp_path):
    record = {"recipe": {"base_model": "/bases/mine"}, "revisions": {"base_model": None}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert merge.base_of(str(folder), None, tmp_path) == ("/bases/mine", None)
    with pytest.raises(ValueError, match="names its base: set MORE"):
        merge.base_of(str(folder), None, tmp_path / "none")


def test_the_repository_it_is_published_in(folder):
    published = merge.published_as
    assert published("a/b", "x/Meta-Llama-3-8B", "you") == "a/b"
    assert published(str(folder), "x/Meta-Llama-3-8B", "you") == "you/Llama-3-8B-ORPO"
    (folder / "merge.json").write_text(json.dumps({"kl": 0.0}))  # merged, and not pushed
    assert published(str(folder), "x/Meta-Llama-3-8B", "you") == "you/Llama-3-8B-ORPO"
    (folder / "merge.json").write_text(json.dumps({"merged": "ada/mine"}))
    assert published(str(folder), "x/Meta-Llama-3-8B", "you") == "ada/mine"
