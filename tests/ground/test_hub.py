"""What the notebooks ask of the Hub before anything large moves, through the real client."""

import pytest
from huggingface_hub import HfApi

from utils import hub as hub_access
from utils.practice import stand_ins

WRITE, READ = "practice-write", "practice-read"

# --- tokens ----------------------------------------------------------------------------------------------------


def test_a_token_has_a_name_and_a_role(hub, monkeypatch):
    for role in ("write", "read"):
        identity = hub_access.hub_identity(f"practice-{role}")
        assert identity == {"name": "learner", "role": role, "namespaces": ["learner"]}
    assert hub_access.hub_identity(None) is None and hub_access.hub_identity("hf_nobody_knows_this") is None
    me = {"name": "ada", "orgs": [{"name": "lab"}, {"name": "club"}]}
    me["auth"] = {"accessToken": {"role": "fineGrained"}}
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: me)
    identity = hub_access.hub_identity("any")
    assert identity == {"name": "ada", "role": "fineGrained", "namespaces": ["ada", "lab", "club"]}


def test_a_hub_out_of_reach_is_told_in_one_sentence(unreachable):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9"):
        hub_access.hub_identity(WRITE)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 failed for some/base .*run this cell again"):
        hub_access.describe_repository("some/base")


# --- a repository's facts --------------------------------------------------------------------------------------


def test_one_question_gives_all_facts(hub):
    found = hub_access.describe_repository(stand_ins.ORPO_MIX, "dataset", "v1.0")
    assert len(found.commit) == 40 and int(found.commit, 16)
    assert (found.host, found.licence) == ("practice hub at 127.0.0.1", "apache-2.0")
    assert (found.gated, found.private, found.may_read) == (False, False, True)
    assert sum(file.size for file in found.files) > 0
    assert hub_access.describe_repository(stand_ins.ORPO_MIX, "dataset", found.commit) == found
    assert hub_access.hub_url() == hub.url
    assert hub_access.page("a/b") == f"{hub.url}/a/b" and hub_access.page("a/b", "dataset") == f"{hub.url}/datasets/a/b"


def test_a_revision_is_not_what_came_after_it(hub, tmp_path):
    hub.add_repo("learner/moves")
    (tmp_path / "config.json").write_text("{}")
    first = hub.commit_folder("learner/moves", tmp_path, tag="v1")
    (tmp_path / "config.json").write_text("[]")
    second = hub.commit_folder("learner/moves", tmp_path)
    found = hub_access.describe_repository("learner/moves", revision="v1")
    assert (found.commit, found.host, found.licence) == (first, "127.0.0.1", "not stated")  # no stand-in
    assert hub_access.describe_repository("learner/moves").commit == second != first


def test_a_folder_or_file_is_local(tmp_path, unreachable):
    file = tmp_path / "pairs.jsonl"
    file.touch()
    for path in (tmp_path, file):
        found = hub_access.describe_repository(str(path), "dataset", "v1.0")
        assert (found.commit, found.host, found.licence) == (None, "local", None)


def test_a_private_repository_needs_the_token(hub, tmp_path):
    hub.add_repo("learner/private-model", private=True)
    (tmp_path / "config.json").write_text("{}")
    commit = hub.commit_folder("learner/private-model", tmp_path)
    found = hub_access.describe_repository("learner/private-model", token=READ)
    assert found.commit == commit and found.private
    told = "no model 'learner/private-model' that you may read.*HF_TOKEN"
    with pytest.raises(FileNotFoundError, match=told) as error:
        hub_access.describe_repository("learner/private-model")
    assert type(error.value.__cause__).__name__ == "RepositoryNotFoundError"  # the traceback stays reachable


def test_what_is_gated_names_its_page(hub, tmp_path):
    (tmp_path / "data.jsonl").write_text("{}")
    for repo_type in ("dataset", "model"):
        hub.add_repo(f"lab/gated-{repo_type}", repo_type, gated=True)
        hub.commit_folder(f"lab/gated-{repo_type}", tmp_path, repo_type=repo_type)
    with pytest.raises(PermissionError, match=f"accept its licence at {hub.url}/datasets/lab/gated-dataset"):
        hub_access.describe_repository("lab/gated-dataset", "dataset", token=READ)
    found = hub_access.describe_repository("lab/gated-model", token=READ)
    assert found.gated and not found.may_read and found.commit


def test_a_wrong_name_is_told_in_one_sentence(hub):
    for name, revision, message in (
        ("nobody/nothing", None, "has no dataset 'nobody/nothing' that you may read: look for a slip"),
        (stand_ins.ORPO_MIX, "v9", "orpo-dpo-mix-40k has no revision 'v9': choose"),
        ("./my data.jsonl", None, "'./my data.jsonl' is neither a folder or file here nor"),
    ):
        with pytest.raises(FileNotFoundError, match=message) as error:
            hub_access.describe_repository(name, "dataset", revision)
        assert error.value.__cause__ is not None


@pytest.mark.parametrize(
    "status, kind, told",
    [
        (403, PermissionError, "Your HF_TOKEN may not do this with lab/x403: make one with the role write"),
        (404, FileNotFoundError, "has no model 'lab/x404'"),
        (503, ConnectionError, "failed for lab/x503 .*run this cell again"),
    ],
)
def test_each_refusal_of_the_hub_has_its_sentence(hub, status, kind, told):
    hub.inject(f"api/models/lab/x{status}", status=status, times=20)
    with pytest.raises(kind, match=told):
        hub_access.describe_repository(f"lab/x{status}", token=WRITE)


def test_an_unknown_token_is_told(hub):
    with pytest.raises(PermissionError, match="does not know your HF_TOKEN.*make one with the role write"):
        hub_access.describe_repository(stand_ins.BASE_MODEL, token="hf_nobody")


# --- writing and comparing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_a_repository_is_made_private_and_no_other_beside_it(hub, repo_type):
    """The Hub refuses a Space without an SDK."""
    name = f"learner/a-{repo_type}"
    for _ in range(2):  # the second time it is there
        hub_access.create_repository(name, WRITE, repo_type=repo_type)
    assert hub.repos[repo_type, name]["private"] and [kind for kind, it in hub.repos if it == name] == [repo_type]
    hub_access.create_repository(f"{name}-open", WRITE, False, repo_type)
    told = f"{name}-open is there already, and public: make it private at {hub_access.page(name, repo_type)}-open/set"
    with pytest.raises(PermissionError, match=told):
        hub_access.create_repository(f"{name}-open", WRITE, repo_type=repo_type)
    with pytest.raises(PermissionError, match=f"Your HF_TOKEN may not do this with {name}-never"):
        hub_access.create_repository(f"{name}-never", READ, repo_type=repo_type)
    assert (repo_type, f"{name}-never") not in hub.repos


def test_files_go_up_in_one_commit_and_replace_what_they_match(hub, tmp_path):
    """To the data set, not to the model of the same name."""
    for repo_type in ("model", "dataset"):
        hub.add_repo("learner/both", repo_type)
    for name in ("train-1.parquet", "train-2.parquet", "secret.bin", "notes/train-1.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def commit(patterns, **options) -> str:
        return hub_access.commit_files(tmp_path, "learner/both", patterns, WRITE, repo_type="dataset", **options)

    def files(repo_type: str = "dataset") -> set[str]:
        return set(hub.files("learner/both", repo_type)) - {".gitattributes"}

    oid = commit(["train*.parquet"])
    history = [entry.commit_id for entry in HfApi().list_repo_commits("learner/both", repo_type="dataset")]
    assert history[0] == oid and len(history) == 2
    assert files() == {"train-1.parquet", "train-2.parquet"} and files("model") == set()
    (tmp_path / "train-2.parquet").unlink()
    (tmp_path / "train-1.parquet").write_bytes(b"other")
    commit(["train*.parquet"], replaces=["train*.parquet"])
    commit(["secret.*"], below="kept/")
    assert files() == {"train-1.parquet", "kept/secret.bin"}
    with pytest.raises(FileNotFoundError, match="nothing to upload"):
        commit(["*.gguf"])
    with pytest.raises(FileNotFoundError, match="has no dataset 'learner/not-made'"):
        hub_access.commit_files(tmp_path, "learner/not-made", ["*"], WRITE, repo_type="dataset")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_is_compared_with_the_listing_large_or_small(hub, small_base, name):
    files = hub_access.describe_repository(stand_ins.BASE_MODEL).files
    (entry,) = [entry for entry in files if entry.rfilename == name]
    assert bool(entry.lfs) == (name == "model.safetensors")
    assert hub_access.is_as_listed(small_base / name, entry)
    assert not hub_access.is_as_listed(small_base / "tokenizer.json", entry)
    assert not hub_access.is_as_listed(small_base / "missing", entry)
