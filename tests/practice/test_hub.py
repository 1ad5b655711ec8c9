"""The practice hub under the real clients: what they send arrives, and what the Hub refuses, it refuses."""

import hashlib
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from support.failing_hub import FailingHub

from utils.practice import hub as hub_module
from utils.practice.hub import PracticeHub
from utils.practice.repositories import HubError

REPO = "learner/tiny"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB, and every byte of it counts
TOKENS = hub_module.TOKENS | {"other-write": ("other", "write")}


@pytest.fixture
def hub(tmp_path):
    with FailingHub(tmp_path / "hub", tokens=TOKENS) as hub:
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


def download(hub, path, cache, token=False, **options):
    return Path(hf_hub_download(REPO, path, endpoint=hub.url, token=token, cache_dir=cache, **options))


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


def refused(call, *given, **named) -> int:
    """The status of an answer that is an error."""
    with pytest.raises(HfHubHTTPError) as error:
        call(*given, **named)
    return error.value.response.status_code


def test_what_is_uploaded_comes_back_bit_for_bit(hub, api, tmp_path):
    local = tmp_path / "local"
    (local / "sub").mkdir(parents=True)
    (local / "model.safetensors").write_bytes(WEIGHTS)
    (local / "sub" / "naïve name.json").write_text('{"a": 1}')
    (local / "empty.txt").touch()
    for repo_type in ("model", "dataset", "space"):  # each kind has names of its own
        kind = {"space_sdk": "gradio"} if repo_type == "space" else {}
        assert api.create_repo(REPO, repo_type=repo_type, **kind).repo_id == REPO
        upload = {"repo_id": REPO, "repo_type": repo_type, "folder_path": local}
        commit = api.upload_folder(**upload).oid
        held = hub.files(REPO, repo_type)
        assert set(held) == {".gitattributes", "model.safetensors", "sub/naïve name.json", "empty.txt"}
        assert held["model.safetensors"]["lfs"] and not held["sub/naïve name.json"]["lfs"]
        cache = tmp_path / repo_type
        copy = Path(snapshot_download(REPO, repo_type=repo_type, endpoint=hub.url, token=False, cache_dir=cache))
        assert copy.name == commit == api.repo_info(REPO, repo_type=repo_type).sha
        for path in ("model.safetensors", "sub/naïve name.json", "empty.txt"):
            assert (copy / path).read_bytes() == (local / path).read_bytes()
        hub.requests.clear()
        assert api.upload_folder(**upload).oid == commit  # nothing new, no commit
        assert not [request for request in hub.requests if "/commit/" in request[1] or request[0] == "PUT"]
    api.delete_folder("sub", REPO)
    api.delete_file("empty.txt", REPO)
    assert set(hub.files(REPO)) == {".gitattributes", "model.safetensors"}
    assert refused(api.delete_file, "empty.txt", REPO) == 404


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
    info = api.model_info(REPO, files_metadata=True)
    siblings = {file.rfilename: file for file in info.siblings}
    assert siblings["model.safetensors"].lfs.sha256 == weights.lfs.sha256
    assert siblings["data/deep/config.json"].blob_id == rows["data/deep/config.json"].blob_id
    assert set(siblings) == set(seeded.files(REPO)) and "data" not in siblings
    assert {"license:mit", "orpo", "dataset:a/b"} <= set(info.tags) and info.card_data.license == "mit"
    assert [row.path for row in api.list_repo_tree(REPO, "data")] == ["data/deep"]
    assert [row.path for row in api.get_paths_info(REPO, ["data", "nothing"])] == ["data"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nothing"))


def test_main_tags_and_commits_name_revisions(seeded, api, tmp_path):
    first = api.model_info(REPO).sha
    second = api.upload_file(repo_id=REPO, path_in_repo="new.txt", path_or_fileobj=b"new", parent_commit=first).oid
    for revision in ("main", second, second[:8]):
        assert api.model_info(REPO, revision=revision).sha == second
    assert api.model_info(REPO, revision="v1.0").sha == first
    with pytest.raises(EntryNotFoundError):
        download(seeded, "new.txt", tmp_path, revision="v1.0")
    for revision in ("v2.0", "refs/pr/1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision=revision)
    stale = {"repo_id": REPO, "path_in_repo": "a.txt", "path_or_fileobj": b"a", "parent_commit": first}
    assert refused(api.upload_file, **stale) == 412
    assert refused(api.upload_file, **stale | {"parent_commit": None, "create_pr": True}) == 400
    assert refused(api.upload_file, **stale | {"parent_commit": None, "revision": "v1.0"}) == 404
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")
    assert api.model_info(REPO).sha == second


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
    assert len(hub.files(REPO)) == len(api.list_repo_commits(REPO)) == 1 + 20


def test_whoami_tells_user_and_role(seeded):
    who = HfApi(endpoint=seeded.url, token="practice-read").whoami()
    assert (who["type"], who["name"], who["orgs"]) == ("user", "learner", [])
    assert who["auth"]["accessToken"] == {"displayName": "learner-read", "role": "read"}
    nobody = HfApi(endpoint=seeded.url, token="nonsense")
    assert refused(nobody.whoami) == 401 and ask(seeded, "/api/whoami-v2")[0] == 401
    HfApi(endpoint=seeded.url, token=False).model_info(REPO)
    assert refused(nobody.model_info, REPO) == 401  # although nobody needs a token here


def test_create_refuses(seeded):
    for token, status in ((False, 401), ("nonsense", 401), ("practice-read", 403), ("other-write", 403)):
        assert refused(HfApi(endpoint=seeded.url, token=token).create_repo, "learner/new") == status
    assert refused(HfApi(endpoint=seeded.url, token="practice-write").create_repo, REPO) == 409
    assert set(seeded.repos) == {("model", REPO)}
    again = HfApi(endpoint=seeded.url, token="practice-write").create_repo(REPO, exist_ok=True)
    assert str(again) == f"{seeded.url}/{REPO}"


def test_only_the_owners_write_token_writes(seeded):
    head = seeded.repos["model", REPO]["refs"]["main"]
    for token, status in ((False, 401), ("practice-read", 403), ("other-write", 403)):
        api = HfApi(endpoint=seeded.url, token=token)
        assert refused(api.upload_file, repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a") == status
        lines = b'{"key": "header", "value": {"summary": "no"}}'
        assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", token or None, lines)[0] == status
        batch = b'{"objects": []}'
        assert ask(seeded, f"/{REPO}.git/info/lfs/objects/batch", "POST", token or None, batch)[0] == status
    assert seeded.repos["model", REPO]["refs"]["main"] == head


def test_a_private_repository_looks_missing(hub, api, tmp_path):
    api.create_repo(REPO, private=True)
    api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    for token, status in ((False, 401), ("other-write", 404)):
        for name in (REPO, "learner/nothing"):
            assert refused(HfApi(endpoint=hub.url, token=token).model_info, name) == status
        with pytest.raises(RepositoryNotFoundError):
            download(hub, "a.txt", tmp_path, token=token)
    assert download(hub, "a.txt", tmp_path, token="practice-read").read_bytes() == b"a"
    assert HfApi(endpoint=hub.url, token="practice-read").model_info(REPO).private is True


def test_a_gated_repository_shows_its_info_and_keeps_its_files(seeded, tmp_path):
    seeded.add_repo("learner/gated", gated="manual")
    for token, status in ((False, 401), ("other-write", 403)):
        other = HfApi(endpoint=seeded.url, token=token)
        assert other.model_info("learner/gated").gated == "manual"
        assert refused(other.auth_check, "learner/gated") == status
        with pytest.raises(GatedRepoError, match=f"{seeded.url}/learner/gated"):
            other.hf_hub_download("learner/gated", ".gitattributes", cache_dir=tmp_path)
    HfApi(endpoint=seeded.url, token="practice-read").auth_check("learner/gated")
    seeded.accept("learner/gated", "other")
    other.auth_check("learner/gated")
    assert other.hf_hub_download("learner/gated", ".gitattributes", cache_dir=tmp_path)


def test_bytes_that_are_not_what_was_announced_are_refused(seeded):
    oid = hashlib.sha256(b"announced").hexdigest()
    path = f"/{REPO}.git/info/lfs/objects/{oid}"
    assert ask(seeded, path, "PUT", body=b"something else")[0] == 400
    assert not seeded.object_path(oid).exists()
    assert ask(seeded, path, "PUT", body=b"announced")[0] == 200
    assert seeded.object_path(oid).read_bytes() == b"announced"


def test_commits_that_are_wrong_are_refused(seeded, tmp_path):
    """Bytes that never arrived, paths and objects outside the folder, and what is no operation."""
    (tmp_path / "secret").write_text("secret")
    head = seeded.repos["model", REPO]["refs"]["main"]
    wrong = [
        {"key": "lfsFile", "value": {"path": "ghost.bin", "oid": "0" * 64}},
        {"key": "lfsFile", "value": {"path": "stolen.txt", "oid": "../../secret"}},
        {"key": "copyFile", "value": {"path": "a", "srcPath": "README.md"}},
    ]
    for path in ["../up.txt", "a/../../up.txt", "/abs.txt", ".git/config", "a//b", "a\\b"]:
        wrong.append({"key": "file", "value": {"path": path, "content": ""}})
    for line in wrong:
        body = b'{"key": "header", "value": {}}\n' + json.dumps(line).encode()
        assert ask(seeded, f"/api/models/{REPO}/commit/main", "POST", "practice-write", body)[0] == 400
    assert seeded.repos["model", REPO]["refs"]["main"] == head
    for path in ("/resolve/main/%2e%2e/%2e%2e/secret", "/resolve/main/..%2f..%2fsecret"):
        assert ask(seeded, f"/{REPO}{path}")[0] == 404
    for repo_id in ["../evil", "a", "a/b/c", "a/..", "a/b\n", "ü/x", "a/b--c", "a/" + "b" * 96]:
        with pytest.raises(HubError):
            seeded.add_repo(repo_id)


def test_a_restart_loses_nothing(seeded, api, tmp_path):
    head, files = api.model_info(REPO).sha, seeded.files(REPO, revision="v1.0")
    seeded.stop()
    with pytest.raises(OSError, match="refused"):
        ask(seeded, "/api/whoami-v2")
    with PracticeHub(seeded.folder, port=seeded.port) as again:
        assert again.url == seeded.url and again.repos == seeded.repos
        assert again.files(REPO, revision="v1.0") == files and api.model_info(REPO).sha == head
        again.add_repo(REPO, exist_ok=True)
        assert again.commit_folder(REPO, tmp_path / "seed", tag="v1.0") == head  # seeding twice changes nothing
        assert ask(again, "/api/nothing")[0] == ask(again, "/a/b/c")[0] == 404


def test_head_and_ranges(seeded):
    head = seeded.repos["model", REPO]["refs"]["main"]
    for path, etag, size in (
        ("model.safetensors", hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS)),
        ("data/deep/config.json", "0967ef424bce6791893e9a57bb952f80fd536e93", 3),
    ):
        for method in ("HEAD", "GET"):
            status, headers, body = ask(seeded, f"/{REPO}/resolve/v1.0/{path}", method)
            assert status == 200 and headers["X-Repo-Commit"] == head
            assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{etag}"'
            assert int(headers["Content-Length"]) == int(headers["X-Linked-Size"]) == size
            assert len(body) == (0 if method == "HEAD" else size)
    for path, code in (("main/nothing", "EntryNotFound"), ("none/README.md", "RevisionNotFound")):
        status, headers, _ = ask(seeded, f"/{REPO}/resolve/{path}", "HEAD")
        assert (status, headers["X-Error-Code"]) == (404, code)
    weights = f"/{REPO}/resolve/main/model.safetensors"
    for wanted, first, last in (("0-9", 0, 9), ("1000-", 1000, 1048575), ("1048570-2000000", 1048570, 1048575)):
        status, headers, body = ask(seeded, weights, Range=f"bytes={wanted}")
        assert status == 206 and body == WEIGHTS[first : last + 1]
        assert headers["Content-Range"] == f"bytes {first}-{last}/1048576"
    assert ask(seeded, weights, Range="bytes=1048576-")[0] == 416


def test_faults_on_the_way_up(seeded, api, monkeypatch, capfd):
    """A passing error, lost bytes, a flipped bit, a commit that fails: what arrived is not sent again."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    upload = {"repo_id": REPO, "path_in_repo": "a.bin"}
    head = api.model_info(REPO).sha
    seeded.inject("/lfs/objects/", flip=True)
    with pytest.raises(Exception, match="a.bin|sha256") as error:
        api.upload_file(**upload, path_or_fileobj=WEIGHTS[1:])
    assert (error.value.__cause__ or error.value).response.status_code == 400
    seeded.inject("/commit/main$", drop=True)
    with pytest.raises(Exception, match="disconnected"):
        api.upload_file(**upload, path_or_fileobj=WEIGHTS[1:])
    assert api.model_info(REPO).sha == head
    seeded.requests.clear()
    seeded.inject("/preupload/", status=503, times=2)
    api.upload_file(**upload, path_or_fileobj=WEIGHTS[1:])
    assert [status for _, path, status in seeded.requests if "/preupload/" in path] == [503, 503, 200]
    assert not [path for method, path, _ in seeded.requests if method == "PUT"]
    assert seeded.files(REPO)["a.bin"]["sha256"] == hashlib.sha256(WEIGHTS[1:]).hexdigest()
    seeded.inject("/lfs/objects/", drop=True, method="PUT")
    api.upload_file(**upload, path_or_fileobj=WEIGHTS[2:])
    assert [status for method, _, status in seeded.requests if method == "PUT"] == [0, 200]
    assert capfd.readouterr().err.count("rror") == 0  # the server itself prints nothing


def test_faults_on_the_way_down(seeded, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # the client forgets an unfinished chunk
    seeded.inject(r"/resolve/main/model\.safetensors", drop=True, method="GET")
    assert download(seeded, "model.safetensors", tmp_path / "cache").read_bytes() == WEIGHTS
    assert [status for method, _, status in seeded.requests if method == "GET"] == [200, 206]
    seeded.inject(r"resolve/main/model\.safetensors", flip=True)
    wrong = download(seeded, "model.safetensors", tmp_path / "one").read_bytes()
    different = [index for index, (a, b) in enumerate(zip(wrong, WEIGHTS, strict=True)) if a != b]
    assert different == [len(WEIGHTS) // 2]
