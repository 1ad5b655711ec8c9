"""What the notebooks ask of the Hub before anything large moves, through the real client."""

import json
import shutil

import pytest

from utils import hub_access, stand_ins


@pytest.fixture
def unreachable(monkeypatch):
    """A Hub at a port where nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def put(hub, small_base, tmp_path):
    """Put a copy of the small base under a name of its own, with changes: `put(name, change, **repository)`."""

    def put_one(name, change=lambda folder: None, **repository):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(small_base, folder)
        change(folder)
        hub.add_repo(name, exist_ok=True, **repository)
        return hub.commit_folder(name, folder)

    return put_one


def edit_config(**changes):
    """A change for `put`: other values in config.json."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


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
        (stand_ins.ORPO_MIX, "v9", FileNotFoundError, "orpo-dpo-mix-40k has no revision 'v9': choose"),
        ("./my data.jsonl", None, FileNotFoundError, "'./my data.jsonl' is neither a folder or file here nor"),
    ],
)
def test_a_wrong_name_is_told_in_one_sentence(hub, name, revision, kind, message):
    with pytest.raises(kind, match=message) as error:
        hub_access.resolve_revision(name, revision, "dataset")
    assert error.value.__cause__ is not None


def test_a_hub_out_of_reach_is_told_in_one_sentence(unreachable):
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 did not answer for some/base .*run this cell again"):
        hub_access.resolve_revision("some/base")


# --- bases -----------------------------------------------------------------------------------------------------


def test_a_base_is_described_before_it_is_downloaded(hub):
    before = len(hub.requests)
    base = hub_access.describe_base(stand_ins.BASE_MODEL)
    size = hub.files(stand_ins.BASE_MODEL)["model.safetensors"]["size"] / 1e9
    assert base.commit == hub_access.resolve_revision(stand_ins.BASE_MODEL)[0]
    assert (base.host, base.licence, base.gate) == ("stand-in at 127.0.0.1", "apache-2.0", "not gated")
    assert base.may_download and base.trouble is None and base.config.model_type == "llama"
    assert base.size_gb == pytest.approx(size)
    read = [path for method, path, _ in hub.requests[before:] if "/resolve/" in path and method == "GET"]
    assert all(path.endswith("config.json") for path in read)


def test_what_lies_in_the_cache_is_not_downloaded_again(put):
    from huggingface_hub import snapshot_download

    put("learner/cached")
    base = hub_access.describe_base("learner/cached")
    assert base.download_gb == base.size_gb > 0
    snapshot_download("learner/cached", revision=base.commit)
    base = hub_access.describe_base("learner/cached")
    assert base.download_gb == 0 < base.size_gb


def test_pickles_are_no_weights(put):
    def pickled(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    put("learner/pickled", pickled)
    base = hub_access.describe_base("learner/pickled")
    assert base.size_gb == base.download_gb == 0 and base.trouble is None


def test_fault_a_gated_base_names_the_page_and_the_mirror(hub, put):
    repo = "meta-llama/Meta-Llama-3-8B"
    put(repo, lambda folder: (folder / "README.md").write_text("---\nlicense: llama3\n---\n"), gated=True)
    for token in (None, "practice-read"):
        base = hub_access.describe_base(repo, token=token)
        assert not base.may_download and "no access" in base.gate and base.config is None
        assert f"{hub.url}/{repo}" in base.trouble and "NousResearch/Meta-Llama-3-8B" in base.trouble
    assert base.licence == "llama3" and len(base.commit) == 40
    hub.accept(repo, "learner")
    base = hub_access.describe_base(repo, token="practice-read")
    assert base.may_download and base.gate == "gated, and you have access" and base.config is not None
    assert not hub_access.describe_base(repo).may_download


def test_a_local_base_needs_no_hub(small_base, unreachable):
    base = hub_access.describe_base(str(small_base))
    assert (base.commit, base.host, base.may_download, base.download_gb) == (None, "local", True, 0)
    assert base.size_gb == (small_base / "model.safetensors").stat().st_size / 1e9
    assert base.config.model_type == "llama"


def test_fault_a_base_with_code_is_refused_and_nothing_runs(put, tmp_path):
    ran = tmp_path / "ran"

    def with_code(folder):
        code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"}
        edit_config(model_type="evil", auto_map=code)(folder)
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('it ran')\n")

    put("learner/with-code", with_code)
    base = hub_access.describe_base("learner/with-code")
    assert base.config is None and "brings code of its own" in base.trouble and not ran.exists()


@pytest.mark.parametrize(
    "name, change, trouble",
    [
        ("learner/unknown", edit_config(model_type="llama-17"), "an architecture that transformers knows"),
        (
            "learner/no-config",
            lambda folder: (folder / "config.json").unlink(),
            "an architecture that transformers knows",
        ),
        ("learner/torn", lambda folder: (folder / "config.json").write_text('{"model'), "config.json cannot be read"),
    ],
    ids=["unknown architecture", "no configuration", "no JSON"],
)
def test_a_base_that_cannot_be_read_says_why(put, name, change, trouble):
    put(name, change)
    base = hub_access.describe_base(name)
    assert base.config is None and trouble in base.trouble


@pytest.mark.parametrize(
    "base_model, name",
    [("meta-llama/Meta-Llama-3-8B", "Llama-3-8B-ORPO"), ("/content/my base", "my-base-ORPO"), ("gpt2", "gpt2-ORPO")],
)
def test_a_model_is_named_after_its_base(base_model, name):
    assert hub_access.model_name(base_model) == name
