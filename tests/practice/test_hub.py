"""The practice hub under the real clients: what they send arrives, and what the Hub refuses, it refuses."""

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"  # read when huggingface_hub is imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

import huggingface_hub.utils._http as client_http  # noqa: E402
import pytest  # noqa: E402
from huggingface_hub import (  # noqa: E402
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (  # noqa: E402
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from utils.practice.hub import HubError, PracticeHub  # noqa: E402

REPO = "learner/tiny"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB, and every byte of it counts
TOKENS = {
    "practice-write": ("learner", "write"),
    "practice-read": ("learner", "read"),
    "other-write": ("other", "write"),
}


@pytest.fixture
def hub(tmp_path):
    with PracticeHub(tmp_path / "hub", tokens=TOKENS) as hub:
        yield hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="practice-write")


@pytest.fixture
def seeded(hub, tmp_path):
    """A repository with a card, a regular file in a folder, and a large file, as `v1.0`."""
    folder = tmp_path / "seed"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [orpo]\ndatasets: [a/b]\n---\n# Tiny\n")
    (folder / "data" / "deep" / "config.json").write_text("{}\n")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    hub.add_repo(REPO)
    hub.commit_folder(REPO, folder, tag="v1.0")
    return hub


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits 1, 2, 4 ... seconds between attempts; the tests do not."""
    monkeypatch.setattr(client_http.time, "sleep", lambda seconds: None)


def download(hub, path, cache, token=False, **options):
    return Path(hf_hub_download(REPO, path, endpoint=hub.url, token=token, cache_dir=cache, **options))


def status_of(error):
    return error.value.response.status_code


def ask(hub, path, method="GET", token=None, body=None, **headers):
    """One request without the client: (status, headers, body)."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(hub.url + path, method=method, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


# --- round trips -------------------------------------------------------------------------------------------


def test_what_is_uploaded_comes_back_bit_for_bit(hub, api, tmp_path):
    local = tmp_path / "local"
    (local / "sub").mkdir(parents=True)
    (local / "model.safetensors").write_bytes(WEIGHTS)
    (local / "sub" / "naïve name.json").write_text('{"a": 1}')
    (local / "empty.txt").touch()
    api.create_repo(REPO)
    commit = api.upload_folder(repo_id=REPO, folder_path=local, commit_message="first")

    held = hub.files(REPO)
    assert set(held) == {".gitattributes", "model.safetensors", "sub/naïve name.json", "empty.txt"}
    assert held["model.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert held["model.safetensors"]["lfs"] and not held["sub/naïve name.json"]["lfs"]
    copy = Path(snapshot_download(REPO, endpoint=hub.url, token=False, cache_dir=tmp_path / "cache"))
    assert copy.name == commit.oid
    for path in ("model.safetensors", "sub/naïve name.json", "empty.txt"):
        assert (copy / path).read_bytes() == (local / path).read_bytes()


def test_the_listing_carries_the_sums_that_git_and_sha256sum_give(seeded, api):
    rows = {row.path: row for row in api.list_repo_tree(REPO, recursive=True)}
    # git hash-object of "{}\n"
    assert rows["data/deep/config.json"].blob_id == "0967ef424bce6791893e9a57bb952f80fd536e93"
    assert rows["data/deep/config.json"].lfs is None
    weights = rows["model.safetensors"]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights.lfs.sha256}\nsize 1048576\n"
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (weights.size, weights.lfs.size, weights.lfs.pointer_size) == (1048576, 1048576, len(pointer))
    assert weights.blob_id == hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
    siblings = {file.rfilename: file for file in api.model_info(REPO, files_metadata=True).siblings}
    assert siblings["model.safetensors"].lfs.sha256 == weights.lfs.sha256
    assert siblings["data/deep/config.json"].blob_id == rows["data/deep/config.json"].blob_id
    assert set(siblings) == set(seeded.files(REPO)) and "data" not in siblings


def test_tree_lists_folders_and_paths_info_finds_them(seeded, api):
    top = {row.path: type(row).__name__ for row in api.list_repo_tree(REPO)}
    assert top == {
        ".gitattributes": "RepoFile",
        "README.md": "RepoFile",
        "data": "RepoFolder",
        "model.safetensors": "RepoFile",
    }
    assert [row.path for row in api.list_repo_tree(REPO, "data")] == ["data/deep"]
    assert [row.path for row in api.list_repo_tree(REPO, "data/deep")] == ["data/deep/config.json"]
    everything = {row.path for row in api.list_repo_tree(REPO, recursive=True)}
    assert everything == {*top, "data/deep", "data/deep/config.json"}
    found = api.get_paths_info(REPO, ["data", "README.md", "nothing"])
    assert {row.path: type(row).__name__ for row in found} == {"data": "RepoFolder", "README.md": "RepoFile"}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nothing"))


def test_info_reads_the_card(seeded, api):
    info = api.model_info(REPO)
    assert info.sha == seeded.find(REPO, "model")["branches"]["main"]
    assert {"license:mit", "orpo", "dataset:a/b"} <= set(info.tags)
    assert info.card_data.license == "mit"
    assert (info.private, info.gated, info.author) == (False, False, "learner")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")


@pytest.mark.parametrize("repo_type", ["dataset", "space"])
def test_each_kind_has_a_namespace_of_its_own(hub, api, tmp_path, repo_type):
    api.create_repo(REPO)
    kind = {"space_sdk": "gradio"} if repo_type == "space" else {}
    url = api.create_repo(REPO, repo_type=repo_type, **kind)
    assert url.repo_type == repo_type and url.repo_id == REPO
    api.upload_file(repo_id=REPO, repo_type=repo_type, path_in_repo="a.parquet", path_or_fileobj=WEIGHTS)
    assert "a.parquet" in hub.files(REPO, repo_type) and "a.parquet" not in hub.files(REPO)
    assert download(hub, "a.parquet", tmp_path, repo_type=repo_type).read_bytes() == WEIGHTS
    assert api.repo_info(REPO, repo_type=repo_type).id == REPO


def test_delete_copy_and_empty_commits(seeded, api):
    before = seeded.files(REPO)
    copies = [
        CommitOperationCopy("model.safetensors", "copies/model.safetensors"),
        CommitOperationCopy("README.md", "data.md"),
    ]
    api.create_commit(REPO, [*copies, CommitOperationDelete("data/")], commit_message="move things")
    after = seeded.files(REPO)
    assert after["copies/model.safetensors"] == before["model.safetensors"]
    assert after["data.md"] == before["README.md"]
    assert "data/deep/config.json" not in after and "model.safetensors" in after
    api.delete_file("model.safetensors", REPO)
    assert "model.safetensors" not in seeded.files(REPO)
    header = b'{"key": "header", "value": {"summary": "nothing"}}\n'
    source = b'{"path": "x", "srcPath": "model.safetensors", "srcRevision": "v1.0"}'
    copy = b'{"key": "copyFile", "value": %s}\n' % source
    assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", header)[0] == 200
    assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", header + copy)[0] == 200
    assert seeded.files(REPO)["x"] == before["model.safetensors"]
    titles = [commit.title for commit in api.list_repo_commits(REPO)]
    assert titles[:2] == ["nothing", "nothing"] and titles[-1] == "initial commit" and len(titles) == 6
    for absent in ("model.safetensors", "copies"):  # a folder is not a file
        with pytest.raises(EntryNotFoundError):
            api.delete_file(absent, REPO)


@pytest.mark.parametrize(
    ("path", "size", "sample", "mode"),
    [
        ("model.safetensors", 10, b"text", "lfs"),
        ("data/train.PARQUET", 10, b"text", "lfs"),
        ("picture.png", 10, b"text", "lfs"),
        ("vocab.json", 10_000_001, b"text", "lfs"),
        ("odd.xyz", 10, b"a\0b", "lfs"),
        ("config.json", 10_000_000, b"text", "regular"),
    ],
)
def test_large_and_binary_files_go_to_large_file_storage(seeded, path, size, sample, mode):
    asked = {"files": [{"path": path, "size": size, "sample": base64.b64encode(sample).decode()}]}
    url, body, kind = f"/api/models/{REPO}/preupload/main", json.dumps(asked).encode(), "application/json"
    status, _, answer = ask(seeded, url, "POST", "practice-write", body, **{"Content-Type": kind})
    assert status == 200 and json.loads(answer)["files"][0]["uploadMode"] == mode


def test_the_same_push_again_makes_no_commit(seeded, api, tmp_path):
    head = api.model_info(REPO).sha
    assert api.upload_folder(repo_id=REPO, folder_path=tmp_path / "seed").oid == head
    assert len(api.list_repo_commits(REPO)) == 2
    assert not [request for request in seeded.requests if "/commit/" in request[1] or request[0] == "PUT"]


# --- revisions ---------------------------------------------------------------------------------------------


def test_tags_and_branches_name_commits(seeded, api, tmp_path):
    first = seeded.find(REPO, "model")["branches"]["main"]
    api.create_branch(REPO, branch="dev")
    second = api.upload_file(repo_id=REPO, path_in_repo="new.txt", path_or_fileobj=b"new", revision="dev").oid
    api.create_tag(REPO, tag="v2.0", revision="dev")
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "dev": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": first, "v2.0": second}
    assert [commit.commit_id for commit in api.list_repo_commits(REPO, revision="dev")][:2] == [second, first]
    for revision in ("dev", "v2.0", second, second[:8], "refs/heads/dev", "refs/tags/v2.0"):
        assert api.model_info(REPO, revision=revision).sha == second
        # the client keeps what it has under the same commit, so each gets a cache of its own
        cache = tmp_path / revision.replace("/", "-")
        assert download(seeded, "new.txt", cache, revision=revision).read_bytes() == b"new"
    for revision in ("main", "v1.0"):
        with pytest.raises(EntryNotFoundError):
            download(seeded, "new.txt", tmp_path / "none", revision=revision)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(REPO, tag="v2.0")
    assert status_of(error) == 409
    api.create_tag(REPO, tag="v2.0", exist_ok=True)
    api.delete_tag(REPO, tag="v2.0")
    api.delete_branch(REPO, branch="dev")
    for revision in ("dev", "v2.0", "refs/pr/1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision=revision)
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(REPO, branch="main")
    assert "main" in {ref.name for ref in api.list_repo_refs(REPO).branches}


def test_a_stale_parent_gets_412_and_main_stays(seeded, api):
    old = api.model_info(REPO).sha
    new = api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"1", parent_commit=old).oid
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"2", parent_commit=old)
    assert status_of(error) == 412
    assert api.model_info(REPO).sha == new
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"2", parent_commit=new)
    assert seeded.files(REPO)["a.txt"]["sha256"] == hashlib.sha256(b"2").hexdigest()


def test_two_writers_lose_nothing(hub, api):
    api.create_repo(REPO)

    def write(writer):
        for index in range(5):
            name = f"{writer}-{index}.txt"
            api.upload_file(repo_id=REPO, path_in_repo=name, path_or_fileobj=name.encode())

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(hub.files(REPO)) == 1 + 20
    assert len(api.list_repo_commits(REPO)) == 1 + 20


def test_pull_requests_are_refused_and_not_pushed_to_main(seeded, api):
    head = api.model_info(REPO).sha
    with pytest.raises(HfHubHTTPError):
        api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a", create_pr=True)
    assert api.model_info(REPO).sha == head


# --- who may do what ---------------------------------------------------------------------------------------


def test_whoami_tells_user_and_role(hub):
    who = HfApi(endpoint=hub.url, token="practice-read").whoami()
    assert (who["type"], who["name"], who["orgs"]) == ("user", "learner", [])
    assert who["auth"]["type"] == "access_token" and who["auth"]["accessToken"]["role"] == "read"
    assert who["auth"]["accessToken"]["displayName"]
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.url, token="nonsense").whoami()
    assert status_of(error) == 401
    assert ask(hub, "/api/whoami-v2")[0] == 401


def test_a_bad_token_is_refused_even_where_none_is_needed(seeded):
    HfApi(endpoint=seeded.url, token=False).model_info(REPO)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        HfApi(endpoint=seeded.url, token="nonsense").model_info(REPO)
    assert status_of(error) == 401


def test_default_tokens(tmp_path):
    with PracticeHub(tmp_path) as hub:
        accounts = {token: HfApi(endpoint=hub.url, token=token).whoami() for token in hub.tokens}
    roles = {token: who["auth"]["accessToken"]["role"] for token, who in accounts.items()}
    assert roles == {"practice-write": "write", "practice-read": "read"}


@pytest.mark.parametrize(
    ("token", "repo", "status"),
    [
        (False, "learner/new", 401),
        ("nonsense", "learner/new", 401),
        ("practice-read", "learner/new", 403),
        ("practice-write", "other/new", 403),
        ("practice-write", REPO, 409),
    ],
)
def test_create_refuses(seeded, token, repo, status):
    api = HfApi(endpoint=seeded.url, token=token)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(repo)
    assert status_of(error) == status
    assert set(seeded.repos) == {("model", REPO)}


def test_exist_ok_gives_the_url(seeded, api):
    assert str(api.create_repo(REPO, exist_ok=True)) == f"{seeded.url}/{REPO}"


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("practice-read", 403), ("other-write", 403)])
def test_only_the_owners_write_token_writes(seeded, token, status):
    api = HfApi(endpoint=seeded.url, token=token)
    head = api.model_info(REPO).sha
    attempts = [
        lambda: api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a"),
        lambda: api.create_tag(REPO, tag="mine"),
        lambda: api.update_repo_settings(REPO, private=True),
        lambda: api.delete_repo(REPO),
    ]
    for attempt in attempts:
        with pytest.raises(HfHubHTTPError) as error:
            attempt()
        assert status_of(error) == status
    assert ask(seeded, f"/api/models/{REPO}/auth-check/write", token=token or None)[0] == status
    lines = b'{"key": "header", "value": {"summary": "no"}}'
    assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", token or None, lines)[0] == status
    batch = b'{"objects": []}'
    assert ask(seeded, f"/{REPO}.git/info/lfs/objects/batch", "POST", token or None, batch)[0] == status
    assert api.model_info(REPO).sha == head


def test_a_private_repository_looks_missing(hub, api, tmp_path):
    api.create_repo(REPO, private=True)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    for token, status in ((False, 401), ("other-write", 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            HfApi(endpoint=hub.url, token=token).model_info(REPO)
        assert status_of(error) == status
        with pytest.raises(RepositoryNotFoundError) as error:
            HfApi(endpoint=hub.url, token=token).model_info("learner/nothing")
        assert status_of(error) == status
        with pytest.raises(RepositoryNotFoundError):
            download(hub, "a.txt", tmp_path, token=token)
    assert download(hub, "a.txt", tmp_path, token="practice-read").read_bytes() == b"a"
    assert HfApi(endpoint=hub.url, token="practice-read").model_info(REPO).private is True
    api.update_repo_settings(REPO, private=False)
    assert HfApi(endpoint=hub.url, token=False).model_info(REPO).private is False


def test_a_gated_repository_shows_its_info_and_keeps_its_files(seeded, api, tmp_path):
    api.update_repo_settings(REPO, gated="manual")
    for token, status in ((False, 401), ("other-write", 403)):
        other = HfApi(endpoint=seeded.url, token=token)
        assert other.model_info(REPO).gated == "manual"
        with pytest.raises(GatedRepoError) as error:
            download(seeded, "README.md", tmp_path / "no", token=token)
        assert f"{seeded.url}/{REPO}" in str(error.value)
        with pytest.raises(GatedRepoError) as error:
            other.auth_check(REPO)
        assert status_of(error) == status
        got, headers, _ = ask(seeded, f"/{REPO}/resolve/main/README.md", token=token or None)
        assert (got, headers["X-Error-Code"]) == (status, "GatedRepo")
    assert download(seeded, "README.md", tmp_path / "own", token="practice-read").exists()
    seeded.accept(REPO, "other")
    HfApi(endpoint=seeded.url, token="other-write").auth_check(REPO)
    assert download(seeded, "README.md", tmp_path / "accepted", token="other-write").exists()
    api.update_repo_settings(REPO, gated=False)
    assert download(seeded, "README.md", tmp_path / "open").exists()


def test_delete_repo(seeded, api):
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    assert PracticeHub(seeded.folder).repos == {}


# --- what the hub refuses ----------------------------------------------------------------------------------


def test_a_commit_of_bytes_that_never_arrived_is_refused(seeded, api):
    head = api.model_info(REPO).sha
    ghost = {"path": "ghost.bin", "algo": "sha256", "size": 3, "oid": "0" * 64}
    lines = [{"key": "header", "value": {"summary": "ghost"}}, {"key": "lfsFile", "value": ghost}]
    body = "\n".join(map(json.dumps, lines)).encode()
    status, headers, _ = ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", body)
    assert status == 400 and "ghost.bin" in headers["X-Error-Message"]
    assert api.model_info(REPO).sha == head and "ghost.bin" not in seeded.files(REPO)


def test_bytes_that_are_not_what_was_announced_are_refused(seeded):
    oid = hashlib.sha256(b"announced").hexdigest()
    path = f"/{REPO}.git/info/lfs/objects/{oid}"
    assert ask(seeded, path, "PUT", body=b"something else")[0] == 400
    assert not seeded.object_path(oid).exists()
    assert not list(seeded.folder.glob("objects/partial-*"))
    assert ask(seeded, path, "PUT", body=b"announced")[0] == 200
    assert seeded.object_path(oid).read_bytes() == b"announced"


@pytest.mark.parametrize("path", ["../up.txt", "a/../../up.txt", "/abs.txt", ".git/config", "a//b", "a\\b"])
def test_paths_that_lead_out_are_refused(seeded, path):
    add = {"key": "file", "value": {"path": path, "content": "", "encoding": "base64"}}
    body = b'{"key": "header", "value": {}}\n' + json.dumps(add).encode()
    assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", body)[0] == 400


NO_NAMES = ["../evil", "a/../b", "a", "a/b/c", "a/..", "a/b\n", "ü/x", "a/b--c", "a/b..c", "a/" + "b" * 96]


@pytest.mark.parametrize("repo_id", NO_NAMES)
def test_names_that_are_none_are_refused(hub, repo_id):
    with pytest.raises(HubError):
        hub.add_repo(repo_id)
    assert hub.repos == {}


def test_objects_cannot_be_named_outside_the_folder(seeded, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for path in ("/resolve/main/%2e%2e/%2e%2e/secret", "/resolve/main/..%2f..%2fsecret"):
        assert ask(seeded, f"/{REPO}{path}")[0] == 404
    assert ask(seeded, f"/{REPO}.git/info/lfs/objects/..%2f..%2fevil", "PUT", body=b"x")[0] == 400
    assert not (tmp_path / "evil").exists()
    pointer = {"key": "lfsFile", "value": {"path": "stolen.txt", "oid": "../../secret"}}
    lines = b'{"key": "header", "value": {}}\n' + json.dumps(pointer).encode()
    assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", lines)[0] == 400


def test_unknown_addresses_are_answered(hub):
    for path in ("/", "/api", "/api/nothing", "/api/models/a/b/nothing", "/a/b/c"):
        assert ask(hub, path)[0] in (401, 404)


# --- restart -----------------------------------------------------------------------------------------------


def test_a_restart_loses_nothing(seeded, api, tmp_path):
    api.update_repo_settings(REPO, gated="auto")
    seeded.accept(REPO, "other")
    before, files = api.list_repo_commits(REPO), seeded.files(REPO, revision="v1.0")
    kept_open = http.client.HTTPConnection("127.0.0.1", seeded.port, timeout=10)
    kept_open.request("GET", "/api/nothing")
    kept_open.getresponse().read()
    seeded.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        kept_open.request("GET", "/api/nothing")
        kept_open.getresponse()
    with pytest.raises(Exception, match="refused|disconnected|reset"):
        ask(seeded, "/api/whoami-v2")
    with PracticeHub(seeded.folder, port=seeded.port, tokens=TOKENS) as again:
        assert again.url == seeded.url and again.repos == seeded.repos
        assert again.files(REPO, revision="v1.0") == files
        assert api.list_repo_commits(REPO) == before
        got = download(again, "model.safetensors", tmp_path, token="other-write")
        assert got.read_bytes() == WEIGHTS


def test_seeding_twice_changes_nothing(seeded, tmp_path):
    head = seeded.find(REPO, "model")["branches"]["main"]
    assert seeded.commit_folder(REPO, tmp_path / "seed", tag="v1.0") == head
    seeded.add_repo(REPO, exist_ok=True)
    with pytest.raises(HubError, match="already"):
        seeded.add_repo(REPO)
    (tmp_path / "seed" / "more.txt").write_text("more")
    with pytest.raises(HubError, match="already exists"):
        seeded.commit_folder(REPO, tmp_path / "seed", tag="v1.0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no file"):
        seeded.commit_folder(REPO, tmp_path / "empty")


# --- what downloads say ------------------------------------------------------------------------------------


def test_head_says_what_get_sends(seeded):
    sums = seeded.files(REPO)
    head = seeded.find(REPO, "model")["branches"]["main"]
    for path, etag in (
        ("model.safetensors", hashlib.sha256(WEIGHTS).hexdigest()),
        ("data/deep/config.json", "0967ef424bce6791893e9a57bb952f80fd536e93"),
    ):
        for method in ("HEAD", "GET"):
            status, headers, body = ask(seeded, f"/{REPO}/resolve/v1.0/{path}", method)
            assert status == 200 and headers["X-Repo-Commit"] == head
            assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{etag}"'
            assert int(headers["Content-Length"]) == int(headers["X-Linked-Size"]) == sums[path]["size"]
            assert len(body) == (0 if method == "HEAD" else sums[path]["size"])
    status, headers, _ = ask(seeded, f"/{REPO}/resolve/main/nothing", "HEAD")
    assert (status, headers["X-Error-Code"]) == (404, "EntryNotFound")
    status, headers, _ = ask(seeded, f"/{REPO}/resolve/none/README.md", "HEAD")
    assert (status, headers["X-Error-Code"]) == (404, "RevisionNotFound")


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1000-", 1000, 1048575), ("bytes=1048570-2000000", 1048570, 1048575)],
)
def test_ranges(seeded, wanted, first, last):
    status, headers, body = ask(seeded, f"/{REPO}/resolve/main/model.safetensors", Range=wanted)
    assert status == 206 and body == WEIGHTS[first : last + 1]
    assert headers["Content-Range"] == f"bytes {first}-{last}/1048576"


def test_a_range_beyond_the_end(seeded):
    status, headers, _ = ask(seeded, f"/{REPO}/resolve/main/model.safetensors", Range="bytes=1048576-")
    assert (status, headers["Content-Range"]) == (416, "bytes */1048576")


def test_one_connection_serves_many_requests(seeded):
    connection = http.client.HTTPConnection("127.0.0.1", seeded.port, timeout=10)
    refused = f"/{REPO}.git/info/lfs/objects/{'0' * 64}"
    first = None
    for _ in range(3):  # a body that nobody needs must not be taken for the next request
        for method, path, body, status in (
            ("PUT", refused, WEIGHTS, 400),
            ("POST", "/nowhere/at/all", WEIGHTS, 404),
            ("POST", "/nowhere/at/all", iter([b"in", b"chunks"]), 404),
            ("HEAD", f"/{REPO}/resolve/main/README.md", None, 200),
            ("GET", f"/api/models/{REPO}", None, 200),
        ):
            connection.request(method, path, body=body)
            response = connection.getresponse()
            response.read()
            assert response.status == status
            first = first or connection.sock
            assert connection.sock is first


# --- faults ------------------------------------------------------------------------------------------------


def test_503_is_tried_again_and_counted(seeded, api, no_waiting):
    seeded.inject(r"/preupload/", status=503, times=2)
    api.upload_file(repo_id=REPO, path_in_repo="a.bin", path_or_fileobj=b"a")
    statuses = [status for _, path, status in seeded.requests if "/preupload/" in path]
    assert statuses == [503, 503, 200] and "a.bin" in seeded.files(REPO)


def test_503_for_good_leaves_main_where_it_was(seeded, api, no_waiting):
    head = api.model_info(REPO).sha
    seeded.inject(r"/lfs/objects/[0-9a-f]{64}$", status=503, times=1000, method="PUT")
    with pytest.raises(Exception, match="a.bin|503") as error:
        api.upload_file(repo_id=REPO, path_in_repo="a.bin", path_or_fileobj=b"new bytes")
    assert (error.value.__cause__ or error.value).response.status_code == 503
    assert api.model_info(REPO).sha == head and "a.bin" not in seeded.files(REPO)


def test_a_dropped_upload_is_sent_again(seeded, api, no_waiting):
    seeded.inject(r"/lfs/objects/", drop=True, method="PUT")
    api.upload_file(repo_id=REPO, path_in_repo="a.bin", path_or_fileobj=WEIGHTS + b"more")
    assert [status for method, _, status in seeded.requests if method == "PUT"] == [0, 200]
    assert seeded.files(REPO)["a.bin"]["sha256"] == hashlib.sha256(WEIGHTS + b"more").hexdigest()


def test_a_push_that_failed_sends_only_what_is_missing(seeded, api, tmp_path, no_waiting):
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    head = api.model_info(REPO).sha
    seeded.inject(r"/commit/main$", drop=True)
    push = {"repo_id": REPO, "folder_path": tmp_path, "allow_patterns": ["one.*", "two.*"]}
    with pytest.raises(Exception, match="disconnected"):
        api.upload_folder(**push)
    assert api.model_info(REPO).sha == head
    seeded.requests.clear()
    api.upload_folder(**push)
    assert not [path for method, path, _ in seeded.requests if method == "PUT"]
    assert {"one.safetensors", "two.safetensors"} <= set(seeded.files(REPO))


def test_a_dropped_download_goes_on_where_it_stopped(seeded, tmp_path, no_waiting, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # the client forgets an unfinished chunk
    seeded.inject(r"/resolve/main/model\.safetensors", drop=True, method="GET")
    assert download(seeded, "model.safetensors", tmp_path / "cache").read_bytes() == WEIGHTS
    assert [status for method, _, status in seeded.requests if method == "GET"] == [200, 206]
    seeded.inject(r"/resolve/main/model\.safetensors", drop=True)
    connection = http.client.HTTPConnection("127.0.0.1", seeded.port, timeout=5)
    connection.request("GET", f"/{REPO}/resolve/main/model.safetensors")
    with pytest.raises(http.client.IncompleteRead) as error:
        connection.getresponse().read()
    assert error.value.partial == WEIGHTS[: len(WEIGHTS) // 2]


def test_a_flipped_bit_on_the_way_up_is_refused(seeded, api):
    head = api.model_info(REPO).sha
    seeded.inject(r"/lfs/objects/", flip=True)
    with pytest.raises(Exception, match="a.bin|sha256") as error:
        api.upload_file(repo_id=REPO, path_in_repo="a.bin", path_or_fileobj=b"new bytes")
    assert (error.value.__cause__ or error.value).response.status_code == 400
    assert api.model_info(REPO).sha == head
    api.upload_file(repo_id=REPO, path_in_repo="a.bin", path_or_fileobj=b"new bytes")
    assert seeded.files(REPO)["a.bin"]["sha256"] == hashlib.sha256(b"new bytes").hexdigest()


def test_a_flipped_bit_on_the_way_down_shows_in_the_sha256(seeded, tmp_path):
    seeded.inject(r"resolve/main/model\.safetensors", flip=True)
    wrong = download(seeded, "model.safetensors", tmp_path / "one").read_bytes()
    different = [index for index, (a, b) in enumerate(zip(wrong, WEIGHTS, strict=True)) if a != b]
    assert different == [len(WEIGHTS) // 2]
    assert hashlib.sha256(wrong).hexdigest() != seeded.files(REPO)["model.safetensors"]["sha256"]
    assert download(seeded, "model.safetensors", tmp_path / "two").read_bytes() == WEIGHTS


def test_an_upload_that_is_killed_leaves_nothing(seeded):
    path = f"/{REPO}.git/info/lfs/objects/{hashlib.sha256(WEIGHTS).hexdigest()[::-1]}"
    held = set(seeded.folder.glob("objects/*"))
    with socket.create_connection(("127.0.0.1", seeded.port)) as killed:
        killed.sendall(f"PUT {path} HTTP/1.1\r\nContent-Length: {len(WEIGHTS)}\r\n\r\n".encode() + b"half")
    for _ in range(100):
        if seeded.requests and not list(seeded.folder.glob("objects/partial-*")):
            break
        time.sleep(0.02)
    assert seeded.requests == [("PUT", path, 0)]
    assert set(seeded.folder.glob("objects/*")) == held


def test_inject_wants_exactly_one_fault(hub):
    for wrong in ({}, {"status": 503, "drop": True}, {"drop": True, "flip": True}):
        with pytest.raises(ValueError, match="one of"):
            hub.inject("x", **wrong)


def test_nothing_is_printed(seeded, api, capfd):
    api.model_info(REPO)
    ask(seeded, "/nothing")
    seeded.inject("/api/", drop=True)
    with pytest.raises(Exception, match="disconnected|reset|closed"):
        ask(seeded, "/api/whoami-v2")
    with socket.create_connection(("127.0.0.1", seeded.port)) as gone:  # hangs up in the middle of a line
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(b"GET /api/mod")
        time.sleep(0.1)
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "utils.practice.hub", str(tmp_path), "--port", "0"]
    root = Path(__file__).resolve().parent.parent
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, **pipes) as process:
        try:
            words = dict(word.split("=", 1) for word in process.stdout.readline().split() if "=" in word)
            api = HfApi(endpoint=words["HF_ENDPOINT"], token=words["HF_TOKEN"])
            assert api.whoami()["name"] == "learner" and words["HF_HUB_DISABLE_XET"] == "1"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0 and process.stderr.read() == ""
        finally:
            process.kill()


# --- the libraries on top ----------------------------------------------------------------------------------

LIBRARIES = """
import sys, json
from pathlib import Path
import torch
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi, snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
model = LlamaForCausalLM(config)
model.push_to_hub("learner/base")
again = AutoModelForCausalLM.from_pretrained("learner/base")
for name, value in model.state_dict().items():
    assert torch.equal(value, again.state_dict()[name]), name

adapter = get_peft_model(again, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
expected = {name: value.clone() for name, value in adapter.state_dict().items() if "lora" in name}
adapter.push_to_hub("learner/adapter")
base = AutoModelForCausalLM.from_pretrained("learner/base")
loaded = PeftModel.from_pretrained(base, "learner/adapter").state_dict()
assert expected and all(torch.equal(value, loaded[name]) for name, value in expected.items())

rows = {"prompt": ["a", "b", "c"], "chosen": [[{"role": "assistant", "content": "x"}]] * 3}
mix = DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows).select([1]))
mix.push_to_hub("learner/mix")
HfApi().create_tag("learner/mix", tag="v1.0", repo_type="dataset")
Dataset.from_dict({"prompt": ["z"]}).push_to_hub("learner/mix", split="extra", config_name="more")
first = load_dataset("learner/mix", revision="v1.0")
assert {name: part.to_dict() for name, part in first.items()} == {k: v.to_dict() for k, v in mix.items()}
assert load_dataset("learner/mix", "more", split="extra")["prompt"] == ["z"]
assert next(iter(load_dataset("learner/mix", split="train", streaming=True)))["prompt"] == "a"

work = Path(sys.argv[1])
for name in ("model.safetensors", "training_args.bin", "README.md"):
    (work / name).write_bytes(name.encode())
HfApi().create_repo("learner/chosen")
HfApi().upload_folder(repo_id="learner/chosen", folder_path=work, allow_patterns=["*.safetensors", "*.md"])
copy = Path(snapshot_download("learner/chosen"))
print(json.dumps(sorted(path.name for path in copy.iterdir())))
"""


def test_transformers_peft_and_datasets_push_and_load(hub, tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "work").mkdir()
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "practice-write",
        "HF_HOME": str(tmp_path / "home"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    script = tmp_path / "libraries.py"
    script.write_text(LIBRARIES)
    command = [sys.executable, str(script), str(tmp_path / "work")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == '[".gitattributes", "README.md", "model.safetensors"]'
    assert set(hub.files("learner/chosen")) == {".gitattributes", "README.md", "model.safetensors"}
    assert {"config.json", "model.safetensors"} <= set(hub.files("learner/base"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.files("learner/adapter"))
    tagged = hub.files("learner/mix", "dataset", "v1.0")
    assert {"README.md", "data/train-00000-of-00001.parquet"} <= set(tagged)
    assert tagged["data/train-00000-of-00001.parquet"]["lfs"]
    assert not [request for request in hub.requests if request[2] >= 500]
