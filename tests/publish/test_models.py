"""Finding what was merged, its base and its repository."""

import json
from types import SimpleNamespace

import pytest

from utils import hub as hub_access
from utils.practice import stand_ins
from utils.publish import models

COMMIT = "0123456789" * 4
BASE = SimpleNamespace(name=stand_ins.BASE_MODEL, commit=COMMIT)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "merged"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


@pytest.fixture
def adapter(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    return made


def test_it_is_found_in_the_artifacts_or_where_it_is_named(folder, tmp_path, monkeypatch):
    assert models.find_merged("", tmp_path) == models.find_merged(str(folder), tmp_path / "none") == str(folder)
    assert models.find_merged("you/Llama-3-8B-ORPO", tmp_path) == "you/Llama-3-8B-ORPO"
    monkeypatch.chdir(tmp_path)
    for given in ("", "."):
        with pytest.raises(FileNotFoundError, match="no merged model in .*05_merge_and_push.*MODEL.*ARTIFACTS"):
            models.find_merged(given, tmp_path / "none")


def test_the_base_is_told_by_the_proof_the_card_or_the_run(hub, folder, adapter, tmp_path):
    with pytest.raises(ValueError, match='set MORE."base_model"'):
        models.base_of(str(folder), None, tmp_path)
    record = {"recipe": {"base_model": "/bases/mine"}, "revisions": {"base_model": None}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert models.base_of(str(folder), None, tmp_path) == ("/bases/mine", None)
    (folder / "README.md").write_text("---\nbase_model: a/base\n---\n\n# M\n")
    assert models.base_of(str(folder), None, tmp_path) == ("a/base", None)
    models.write_proof(folder, adapter, BASE, {"merged": "ada/mine", "kl": 1e-5})
    assert models.read_proof(folder)["kl"] == 1e-5
    assert models.base_of(str(folder), None, tmp_path) == (BASE.name, COMMIT)
    hub.add_repo("learner/recorded", exist_ok=True)
    hub.commit_folder("learner/recorded", folder)
    commit = hub_access.describe_repository("learner/recorded").commit
    assert models.base_of("learner/recorded", commit, tmp_path / "none") == (BASE.name, COMMIT)


def test_the_path_of_a_base_on_this_machine_is_written_nowhere(folder, adapter):
    models.write_proof(folder, adapter, SimpleNamespace(name="/home/ada/base", commit=None), {})
    assert "/home/ada" not in (folder / models.PROOF).read_text()


def test_a_merged_model_of_another_adapter_is_told(folder, adapter):
    models.check_merged_from(folder, adapter)  # without a merge.json nothing is known
    models.write_proof(folder, adapter, BASE, {})
    models.check_merged_from(folder, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="merged from another adapter.*run notebook 05 again"):
        models.check_merged_from(folder, adapter)


def test_the_repository_it_is_published_in(folder, adapter):
    assert models.published_as("a/b", "x/Meta-Llama-3-8B", "you") == "a/b"
    for found in (None, str(folder)):
        assert models.published_as(found, "x/Meta-Llama-3-8B", "you") == "you/Llama-3-8B-ORPO"
    models.write_proof(folder, adapter, BASE, {"kl": 0.0})  # merged, and not pushed
    assert models.published_as(str(folder), "x/Meta-Llama-3-8B", "you") == "you/Llama-3-8B-ORPO"
    models.write_proof(folder, adapter, BASE, {"merged": "ada/mine"})
    assert models.published_as(str(folder), "x/Meta-Llama-3-8B", "you") == "ada/mine"


def test_whole_is_chosen_if_it_fits_and_what_does_not_fit_is_red():
    for asked, needed, chosen, fine in (
        ("auto", {"whole": 0.01, "4-bit": 0.005}, "whole", True),
        ("auto", {"whole": 9e9, "4-bit": 0.005}, "4-bit", True),
        ("auto", {"whole": 9e9, "4-bit": 8e9}, "4-bit", False),
        ("whole", {"whole": 9e9, "4-bit": 0.005}, "whole", False),
    ):
        precision, check = models.choose_precision(asked, needed, "take another")
        assert (precision, check.fine) == (chosen, fine), (asked, needed)
