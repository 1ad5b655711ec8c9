"""What the notebooks ask of the Hub before anything large moves, through the real client."""

import pytest

from utils import hub as hub_access
from utils.practice import stand_ins

# --- tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["write", "read"])
def test_a_token_has_a_name_and_a_role(hub, role):
    identity = hub_access.hub_identity(f"practice-{role}")
    assert identity == {"name": "learner", "role": role, "namespaces": ["learner"]}


def test_organisations_are_namespaces_too(monkeypatch):
    me = {"name": "ada", "orgs": [{"name": "lab"}, {"name": "club"}]}
    me["auth"] = {"accessToken": {"role": "fineGrained"}}
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: me)
    identity = hub_access.hub_identity("any")
    assert identity == {"name": "ada", "role": "fineGrained", "namespaces": ["ada", "lab", "club"]}


@pytest.mark.parametrize("token", [None, "hf_nobody_knows_this"], ids=["none", "unknown"])
def test_without_a_valid_token_there_is_nobody(hub, token):
    assert hub_access.hub_identity(token) is None


def test_an_unreachable_hub_is_a_connection_error(unreachable):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9"):
        hub_access.hub_identity("practice-write")


def test_a_hub_that_fails_is_a_connection_error(hub):
    hub.inject("whoami", status=500)
    with pytest.raises(ConnectionError, match=hub.url):
        hub_access.hub_identity("practice-write")


def test_the_hubs_address(hub):
    assert hub_access.hub_url() == hub.url


# --- names and revisions ---------------------------------------------------------------------------------------


def test_a_tag_resolves_to_its_commit(hub):
    commit, note = hub_access.resolve_revision(stand_ins.ORPO_MIX, "v1.0", "dataset")
    assert len(commit) == 40 and int(commit, 16)
    assert note == "stand-in at 127.0.0.1"
    assert hub_access.resolve_revision(stand_ins.ORPO_MIX, commit, "dataset")[0] == commit


def test_a_revision_is_not_what_came_after_it(hub, tmp_path):
    hub.add_repo("learner/moves")
    (tmp_path / "config.json").write_text("{}")
    first = hub.commit_folder("learner/moves", tmp_path, tag="v1")
    (tmp_path / "config.json").write_text("[]")
    second = hub.commit_folder("learner/moves", tmp_path)
    assert hub_access.resolve_revision("learner/moves", "v1") == (first, "127.0.0.1")  # no stand-in
    assert hub_access.resolve_revision("learner/moves")[0] == second != first


def test_a_folder_or_file_is_local(tmp_path, unreachable):
    file = tmp_path / "pairs.jsonl"
    file.touch()
    assert hub_access.resolve_revision(str(tmp_path)) == (None, "local")
    assert hub_access.resolve_revision(str(file), "v1.0", "dataset") == (None, "local")


def test_a_private_repository_needs_the_token(hub, tmp_path):
    hub.add_repo("learner/private-model", private=True)
    (tmp_path / "config.json").write_text("{}")
    commit = hub.commit_folder("learner/private-model", tmp_path)
    assert hub_access.resolve_revision("learner/private-model", token="practice-read")[0] == commit
    with pytest.raises(
        FileNotFoundError, match="no model 'learner/private-model' that you may read.*HF_TOKEN"
    ) as error:
        hub_access.resolve_revision("learner/private-model")
    assert type(error.value.__cause__).__name__ == "RepositoryNotFoundError"  # the traceback stays reachable


@pytest.mark.parametrize(
    "name, revision, kind, message",
    [
        (
            "nobody/nothing",
            None,
            FileNotFoundError,
            "has no dataset 'nobody/nothing' that you may read: look for a slip",
        ),
        (stand_ins.ORPO_MIX, "v9", FileNotFoundError, "orpo-dpo-mix-40k has no revision 'v9': choose one"),
        ("./my data.jsonl", None, FileNotFoundError, "'./my data.jsonl' is neither a folder or file here nor"),
    ],
)
def test_a_wrong_name_is_told_in_one_sentence(hub, name, revision, kind, message):
    with pytest.raises(kind, match=message) as error:
        hub_access.resolve_revision(name, revision, "dataset")
    assert error.value.__cause__ is not None


def test_a_hub_out_of_reach_is_told_in_one_sentence(unreachable):
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 failed for some/base .*run this cell again"):
        hub_access.resolve_revision("some/base")


@pytest.mark.parametrize(
    "status, kind, told",
    [
        (403, PermissionError, "Your HF_TOKEN may not do this with lab/x403: make one with the role write"),
        (404, FileNotFoundError, "has no model 'lab/x404' that"),
        (503, ConnectionError, "failed for lab/x503 .*run this cell again"),
    ],
)
def test_each_refusal_of_the_hub_has_its_sentence(hub, status, kind, told):
    hub.inject(f"api/models/lab/x{status}", status=status, times=20)
    with pytest.raises(kind, match=told) as error:
        hub_access.resolve_revision(f"lab/x{status}", token="practice-write")
    assert error.value.__cause__ is not None


def test_an_unknown_token_is_told(hub):
    with pytest.raises(PermissionError, match="does not know your HF_TOKEN.*make one with the role write"):
        hub_access.resolve_revision(stand_ins.BASE_MODEL, token="hf_nobody")


def test_fault_gated_data_names_its_page(hub, tmp_path):
    hub.add_repo("lab/gated-data", "dataset", gated=True)
    (tmp_path / "data.jsonl").write_text("{}")
    hub.commit_folder("lab/gated-data", tmp_path, repo_type="dataset")
    with pytest.raises(PermissionError, match=f"accept its licence at {hub.url}/datasets/lab/gated-data"):
        hub_access.resolve_revision("lab/gated-data", repo_type="dataset", token="practice-read")


# --- writing and comparing -------------------------------------------------------------------------------------


def test_a_public_repository_is_not_taken_for_a_private_one(hub):
    hub_access.create_repository("learner/open", "practice-write", private=False)
    hub_access.create_repository("learner/open", "practice-write", private=False)
    with pytest.raises(PermissionError, match="learner/open is there already, and public: make it private at"):
        hub_access.create_repository("learner/open", "practice-write")
    hub_access.create_repository("learner/closed", "practice-write")
    assert hub.repos["model", "learner/closed"]["private"]


def test_a_repository_that_may_not_be_made_is_told(hub):
    with pytest.raises(PermissionError, match="Your HF_TOKEN may not do this with learner/never-made"):
        hub_access.create_repository("learner/never-made", "practice-read")


def test_files_go_up_in_one_commit_and_replace_what_they_match(hub, tmp_path):
    hub.add_repo("learner/files", exist_ok=True)
    for name in ("model-1.safetensors", "model-2.safetensors", "secret.bin", "notes/model-1.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    weights = ["model*.safetensors"]
    hub_access.commit_files(tmp_path, "learner/files", weights, "practice-write")
    assert set(hub.files("learner/files")) >= {"model-1.safetensors", "model-2.safetensors"}
    (tmp_path / "model-2.safetensors").unlink()
    (tmp_path / "model-1.safetensors").write_bytes(b"other")
    hub_access.commit_files(tmp_path, "learner/files", weights, "practice-write", replaces=weights)
    assert set(hub.files("learner/files")) - {".gitattributes"} == {"model-1.safetensors"}
    with pytest.raises(FileNotFoundError, match="nothing to upload"):
        hub_access.commit_files(tmp_path, "learner/files", ["*.gguf"], "practice-write")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_is_compared_with_the_listing_large_or_small(hub, small_base, name):
    from huggingface_hub import HfApi

    entries = HfApi().model_info(stand_ins.BASE_MODEL, files_metadata=True).siblings
    (entry,) = [entry for entry in entries if entry.rfilename == name]
    assert bool(entry.lfs) == (name == "model.safetensors")
    assert hub_access.is_as_listed(small_base / name, entry)
    assert not hub_access.is_as_listed(small_base / "tokenizer.json", entry)
    assert not hub_access.is_as_listed(small_base / "missing", entry)


# --- data sets -------------------------------------------------------------------------------------------------


def test_a_data_set_is_made_private_and_no_model_beside_it(hub):
    hub_access.create_repository("learner/new-data", "practice-write", repo_type="dataset")
    hub_access.create_repository("learner/new-data", "practice-write", repo_type="dataset")  # it is there
    assert hub.repos["dataset", "learner/new-data"]["private"] and ("model", "learner/new-data") not in hub.repos
    hub_access.create_repository("learner/open-data", "practice-write", False, "dataset")
    assert not hub.repos["dataset", "learner/open-data"]["private"]
    page = f"{hub.url}/datasets/learner/open-data/settings"
    with pytest.raises(
        PermissionError, match=f"learner/open-data is there already, and public: make it private at {page}"
    ):
        hub_access.create_repository("learner/open-data", "practice-write", repo_type="dataset")


def test_a_data_set_that_may_not_be_made_is_told(hub):
    with pytest.raises(PermissionError, match="Your HF_TOKEN may not do this with learner/never-data"):
        hub_access.create_repository("learner/never-data", "practice-read", repo_type="dataset")
    assert ("dataset", "learner/never-data") not in hub.repos


def test_files_of_a_data_set_go_up_in_one_commit(hub, tmp_path):
    """To the data set, not to the model of the same name."""
    from huggingface_hub import HfApi

    for repo_type in ("model", "dataset"):
        hub.add_repo("learner/both", repo_type)
    for name in ("train.parquet", "report.json", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    patterns = ["*.parquet", "report.json"]
    commit = hub_access.commit_files(tmp_path, "learner/both", patterns, "practice-write", repo_type="dataset")
    history = [entry.commit_id for entry in HfApi().list_repo_commits("learner/both", repo_type="dataset")]
    assert history[0] == commit and len(history) == 2
    assert set(hub.files("learner/both", "dataset")) - {".gitattributes"} == {"train.parquet", "report.json"}
    assert set(hub.files("learner/both")) == {".gitattributes"}
    (tmp_path / "train.parquet").rename(tmp_path / "test.parquet")
    hub_access.commit_files(
        tmp_path, "learner/both", patterns, "practice-write", replaces=["*.parquet"], repo_type="dataset"
    )
    assert set(hub.files("learner/both", "dataset")) - {".gitattributes"} == {"test.parquet", "report.json"}


def test_a_data_set_that_is_not_there_is_told_as_one(hub, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no dataset 'learner/not-made'"):
        hub_access.commit_files(tmp_path, "learner/not-made", ["*"], "practice-write", repo_type="dataset")


def test_a_space_is_made_private_and_its_files_go_up(hub, tmp_path):
    """The Hub refuses a Space without an SDK."""
    space = "learner/a-chat"
    hub_access.create_repository(space, "practice-write", repo_type="space")
    hub_access.create_repository(space, "practice-write", repo_type="space")  # it is there
    assert hub.repos["space", space]["private"] and ("model", space) not in hub.repos
    (tmp_path / "app.py").write_text("print(1)\n")
    (tmp_path / "token.env").write_text("secret\n")
    hub_access.commit_files(tmp_path, space, ["app.py"], "practice-write", repo_type="space")
    assert set(hub.files(space, repo_type="space")) - {".gitattributes", "README.md"} == {"app.py"}
    assert hub_access.page(space, "space") == f"{hub.url}/spaces/{space}"
    assert hub_access.page("a/b") == f"{hub.url}/a/b" and hub_access.page("a/b", "dataset") == f"{hub.url}/datasets/a/b"


def test_a_repository_states_its_licence(hub):
    assert hub_access.stated_licence(stand_ins.ORPO_MIX, "main", "dataset") == "apache-2.0"
    assert hub_access.stated_licence("pairs.jsonl", None, "dataset") is None
    hub.add_repo("learner/unlicensed", "dataset", exist_ok=True)
    assert hub_access.stated_licence("learner/unlicensed", "main", "dataset") == "not stated"
    with pytest.raises(FileNotFoundError, match="no dataset 'learner/missing'"):
        hub_access.stated_licence("learner/missing", "main", "dataset")
