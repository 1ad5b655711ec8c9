"""Finding the merged model and its base, and what is recorded of the merge."""

import json
from types import SimpleNamespace

import pytest

from utils import hub as hub_access
from utils.practice import stand_ins
from utils.publish import merged_models

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


@pytest.fixture
def adapter(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    return made


def test_the_merge_is_recorded_and_names_base_and_commit(folder, adapter, tmp_path):
    base = SimpleNamespace(name="a/base", commit=COMMIT)
    merged_models.record_merge(folder, adapter, base, {"merged": "ada/mine", "kl": 1e-5})
    assert json.loads((folder / "merge.json").read_text())["kl"] == 1e-5
    assert merged_models.base_of(str(folder), None, tmp_path) == ("a/base", COMMIT)
    local = SimpleNamespace(name="/home/ada/base", commit=None)
    merged_models.record_merge(folder, adapter, local, {})
    assert "/home/ada" not in (folder / "merge.json").read_text()
    with pytest.raises(ValueError, match="set BASE_MODEL"):
        merged_models.base_of(str(folder), None, tmp_path)


def test_a_merged_model_of_another_adapter_is_told(folder, adapter):
    merged_models.check_merged_from(folder, adapter)  # without a merge.json nothing is known
    merged_models.record_merge(folder, adapter, SimpleNamespace(name="a/base", commit=COMMIT), {})
    merged_models.check_merged_from(folder, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="merged from another adapter.*run notebook 05 again"):
        merged_models.check_merged_from(folder, adapter)


def test_a_card_names_the_base_alone(folder, tmp_path):
    (folder / "README.md").write_text("---\nbase_model: a/base\n---\n\n# M\n")
    assert merged_models.base_of(str(folder), None, tmp_path) == ("a/base", None)


def test_what_lies_on_the_hub_is_read_at_its_commit(hub, folder, adapter, tmp_path):
    base = SimpleNamespace(name=stand_ins.BASE_MODEL, commit=COMMIT)
    merged_models.record_merge(folder, adapter, base, {})
    hub.add_repo("learner/recorded", exist_ok=True)
    hub.commit_folder("learner/recorded", folder)
    commit, _ = hub_access.resolve_revision("learner/recorded")
    found = merged_models.base_of("learner/recorded", commit, tmp_path / "none")
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
