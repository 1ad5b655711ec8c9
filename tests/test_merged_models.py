"""Finding the merged model and its base, and what both weigh."""

import json

import pytest
from transformers import LlamaConfig

from utils import bases, hub_access, merged_models, stand_ins

CARD = """---
base_model: {name}
---

# M

| | |
|---|---|
| Base | {name} at `{commit}` (huggingface.co) |
"""
COMMIT = "0123456789" * 4


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "merged"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def test_it_is_found_in_the_artifacts_or_where_it_is_named(folder, tmp_path):
    assert merged_models.find_merged(None, tmp_path) == str(folder)
    assert merged_models.find_merged(str(folder), tmp_path / "none") == str(folder)
    assert merged_models.find_merged("you/Llama-3-8B-ORPO", tmp_path) == "you/Llama-3-8B-ORPO"


@pytest.mark.parametrize("given", [None, "."])
def test_a_folder_without_it_names_notebook_05(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match="no merged model in .*Run 05_merge_and_push first.*as MERGED, set MODEL.*ARTIFACTS.*MODEL",
    ):
        merged_models.find_merged(given, tmp_path)


def test_the_card_names_base_and_commit(folder, tmp_path):
    (folder / "README.md").write_text(CARD.format(name="a/base", commit=COMMIT))
    assert merged_models.base_of(str(folder), None, tmp_path) == ("a/base", COMMIT)
    (folder / "README.md").write_text(CARD.format(name="a/base", commit="unknown"))
    assert merged_models.base_of(str(folder), None, tmp_path) == ("a/base", None)


def test_the_card_on_the_hub_is_read_at_its_commit(hub, tmp_path):
    (tmp_path / "README.md").write_text(CARD.format(name=stand_ins.BASE_MODEL, commit=COMMIT))
    hub.add_repo("learner/carded", exist_ok=True)
    hub.commit_folder("learner/carded", tmp_path)
    commit, _ = hub_access.resolve_revision("learner/carded")
    found = merged_models.base_of("learner/carded", commit, tmp_path / "none")
    assert found == (stand_ins.BASE_MODEL, COMMIT)


def test_the_record_of_the_run_knows_a_base_that_is_a_folder(folder, tmp_path):
    record = {"recipe": {"base_model": "/bases/mine"}, "revisions": {"base_model": None}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert merged_models.base_of(str(folder), None, tmp_path) == ("/bases/mine", None)
    with pytest.raises(ValueError, match="names its base: set BASE_MODEL"):
        merged_models.base_of(str(folder), None, tmp_path / "none")


def test_the_repository_it_is_published_in(folder):
    published = merged_models.published_as
    assert published("a/b", "x/Meta-Llama-3-8B", "you") == "a/b"
    assert published(str(folder), "x/Meta-Llama-3-8B", "you") == "you/Llama-3-8B-ORPO"
    (folder / "merge.json").write_text(json.dumps({"merged": "ada/mine"}))
    assert published(str(folder), "x/Meta-Llama-3-8B", "you") == "ada/mine"


def test_llama_3_8b_takes_16_gb_whole_and_less_than_6_in_4_bits():
    """Derived in the QLoRA paper's way: 6.98e9 linear weights, and 1.05e9 of embeddings and head."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    skeleton = bases.skeleton(config)
    assert merged_models.memory_gb(skeleton, False) == pytest.approx(16.06, abs=0.01)
    assert merged_models.memory_gb(skeleton, False, 4) == pytest.approx(32.12, abs=0.02)
    assert merged_models.memory_gb(skeleton, True) == pytest.approx(5.70, abs=0.02)
