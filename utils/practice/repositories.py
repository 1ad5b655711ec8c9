"""What the practice hub keeps: repositories with commits, branches and tags in a folder, and who may see them.

Contents lie in `objects/` under their sha256, each repository in one JSON file below `repos/`: a restart loses nothing.
It leaves out HTTP, which `practice_hub` speaks, and git itself.
"""

import base64
import hashlib
import json
import os
import re
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
REFS = {"branch": "branches", "tag": "tags"}
CARD_TAGS = {"license": "license:", "datasets": "dataset:", "base_model": "base_model:", "tags": ""}
LFS_SUFFIXES = tuple(
    ".7z .arrow .bin .bmp .bz2 .ckpt .gguf .gif .gz .h5 .jpeg .jpg .model .mp3 .mp4 .msgpack .npy .npz .onnx"
    " .parquet .pickle .pkl .png .pt .pth .safetensors .tar .tiff .wav .webp .xz .zip .zst".split()
)
CHUNK = 1 << 20


class HubError(Exception):
    """An answer other than success: status, message, the Hub's `X-Error-Code`, more headers, more JSON."""

    def __init__(self, status, message, code=None, headers=(), **more):
        super().__init__(message)
        text = " ".join(message.encode("ascii", "replace").decode().split())
        self.headers = {"X-Error-Message": text, **({"X-Error-Code": code} if code else {}), **dict(headers)}
        self.status, self.body = status, {"error": message, **more}


class Repositories:
    """Repositories in a folder: contents by sha256 below `objects/`, one JSON file each below `repos/`."""

    url = ""  # where they are served, for the addresses that clients get

    def __init__(self, folder):
        self.folder, self.lock, self.repos = Path(folder), threading.RLock(), {}
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("repos/*/*/*.json"):
            repo = json.loads(file.read_text(encoding="utf-8"))
            self.repos[repo["type"], repo["id"]] = repo

    def add_repo(self, repo_id, repo_type="model", private=False, gated=False, exist_ok=False):
        """Create a repository in any namespace, with the first commit that the Hub makes (`.gitattributes`).

        Args:
            gated: False, "auto" or "manual"; True means "auto". `accept` lets a user in.
            exist_ok: Leave a repository that exists as it is, instead of raising.

        Raises:
            HubError: If it exists, or the Hub would not take its name or type.
        """
        valid = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id, re.ASCII) and not re.search(r"\.\.|--", repo_id)
        if repo_type not in KINDS.values() or not valid or len(repo_id) > 96:
            raise HubError(400, f"No repository: {repo_type!r} {repo_id!r}; give a type and 'owner/name'.")
        with self.lock:
            if (repo_type, repo_id) not in self.repos:
                gated = "auto" if gated is True else gated
                repo = {"id": repo_id, "type": repo_type, "private": private, "gated": gated, "accepted": []}
                repo |= {"createdAt": _now(), "branches": {}, "tags": {}, "commits": {}}
                rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
                files = {".gitattributes": self.store_regular(rules.encode())}
                self.commit(repo, "main", files, "initial commit")
            elif not exist_ok:
                url = self.page(repo_id, repo_type)
                raise HubError(409, f"You already created this {repo_type} repo", url=url)

    def accept(self, repo_id, user, repo_type="model"):
        """Let a user download the files of a gated repository."""
        with self.lock:
            repo = self.find(repo_id, repo_type)
            repo["accepted"] = sorted({*repo["accepted"], user})
            self.save(repo)

    def commit_folder(self, repo_id, folder, repo_type="model", tag=None, message="Upload folder"):
        """Commit every file of a local folder to `main`, beside what is there, and return the commit's id.

        A folder that changes nothing makes no new commit, so that the same seeding can run twice.

        Raises:
            HubError: If there is no such repository, a file name is refused, or the tag is on another commit.
            ValueError: If the folder holds no file.
        """
        added = {}
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            name = _checked_path(path.relative_to(folder).as_posix())
            lfs = _is_lfs(name, path.stat().st_size, b"".join(read_chunks(path, 0, 512)))
            added[name] = _entry(*self.store(read_chunks(path))) if lfs else self.store_regular(path.read_bytes())
        if not added:
            raise ValueError(f"{folder} holds no file to commit to {repo_id}.")
        with self.lock:
            repo = self.find(repo_id, repo_type)
            head, files = repo["branches"]["main"], self.tree(repo, "main")
            if files != files | added:
                head = self.commit(repo, "main", files | added, message)
            if tag is not None and repo["tags"].get(tag) != head:
                self.add_ref(self.find(repo_id, repo_type), "tag", tag, head)
            return head

    def files(self, repo_id, repo_type="model", revision="main"):
        """Return `{path: {"sha256", "size", "oid", "etag", "lfs"}}` of a revision; `oid` is git's own."""
        with self.lock:
            files = self.tree(self.find(repo_id, repo_type), revision)
            return {path: dict(files[path]) for path in sorted(files)}

    def object_path(self, sha256):
        """Return where the bytes with this sha256 lie, or would lie."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise HubError(400, f"Not a sha256 in hexadecimal: {sha256!r}")
        return self.folder / "objects" / sha256

    def store(self, chunks, expected=None):
        """Write chunks to disk and return `(sha256, size)`; refuse them if another sha256 was expected."""
        digest, size = hashlib.sha256(), 0
        handle, partial = tempfile.mkstemp(dir=self.folder / "objects", prefix="partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += file.write(chunk)
            found = digest.hexdigest()
            if expected not in (None, found):
                raise HubError(400, f"The bytes have sha256 {found}, not {expected}: send the file again.")
            os.replace(partial, self.object_path(found))
            return found, size
        finally:
            Path(partial).unlink(missing_ok=True)

    def store_regular(self, data):
        """Store a file that git itself would keep, and return its entry."""
        return _entry(*self.store([data]), data)

    def find(self, repo_id, repo_type, account=None, need="read"):
        """Return a repository, or refuse it as the Hub does.

        Args:
            account: `(user, role)` who asks, `(None, None)` without a token; None may do everything.
            need: "read", "files" (a gated repository shows itself, but not its files) or "write".
        """
        repo, owner = self.repos.get((repo_type, repo_id)), repo_id.split("/")[0]
        user, what = (account or (owner, "write"))[0], f"{repo_type} {repo_id}"
        if repo is None or (repo["private"] and user != owner):
            raise HubError(404 if user else 401, f"Repository not found: {what}", "RepoNotFound")
        if need == "files" and repo["gated"] and user not in (owner, *repo["accepted"]):
            ask = f"Visit {self.page(repo_id, repo_type)} to ask for access."
            message = f"Access to {what} is restricted and you are not in the authorized list. {ask}"
            raise HubError(403 if user else 401, message, "GatedRepo")
        if need == "write":
            check_writer(account, owner)
        return repo

    def resolve(self, repo, revision):
        """Return the commit that a branch, a tag, `refs/...` or a commit id (7 letters or more) names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = [refs[name] for refs in (repo["branches"], repo["tags"]) if name in refs]
        found += [oid for oid in repo["commits"] if len(revision) >= 7 and oid.startswith(revision)]
        if not found:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def tree(self, repo, revision):
        """Return the files of a revision, each path with its entry."""
        return repo["commits"][self.resolve(repo, revision)]["files"]

    def commit(self, repo, branch, files, title, message="", user="practice-hub"):
        """Add a commit that holds exactly these files to a branch, save it, and return its id."""
        readme, parent = files.get("README.md"), repo["branches"].get(branch)
        card = parse_card(self.object_path(readme["sha256"]).read_text("utf-8", "replace")) if readme else {}
        commit = {"parents": [parent] if parent else [], "title": title, "message": message, "user": user}
        commit |= {"date": _now(), "card": card, "files": files}
        oid = hashlib.sha1(json.dumps([len(repo["commits"]), commit], default=str).encode()).hexdigest()
        commits, branches = repo["commits"] | {oid: commit}, repo["branches"] | {branch: oid}
        self.save(repo | {"commits": commits, "branches": branches})
        return oid

    def apply_commit(self, repo, branch, lines, user):
        """Apply all lines of a client's commit to a branch, or none, and return the new commit's id."""
        head, header = repo["branches"].get(branch), {}
        if head is None:
            raise HubError(404, f"Invalid rev id: {branch} is not a branch", "RevisionNotFound")
        files = dict(self.tree(repo, head))
        for key, value in ((line["key"], line["value"]) for line in lines):
            path = _checked_path(value["path"].rstrip("/")) if key != "header" else None
            match key:
                case "header":
                    header = value
                    if not head.startswith(value.get("parentCommit") or head):
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[path] = self.store_regular(base64.b64decode(value["content"]))
                case "lfsFile":
                    stored = self.object_path(value["oid"])
                    if not stored.is_file():
                        reason = "an LFS pointer pointed to a file that does not exist"
                        raise HubError(400, f"Your push was rejected because {reason}: upload {path} first.")
                    files[path] = _entry(value["oid"], stored.stat().st_size)
                case "copyFile":
                    source = self.tree(repo, value.get("srcRevision") or head)
                    if value["srcPath"] not in source:
                        raise HubError(404, f"No file to copy: {value['srcPath']}", "EntryNotFound")
                    files[path] = source[value["srcPath"]]
                case "deletedFile" | "deletedFolder":
                    inside = {name for name in files if name.startswith(f"{path}/")}
                    gone = inside if key == "deletedFolder" else {path} & set(files)
                    if not gone:
                        raise HubError(404, f"Nothing to delete at {path}", "EntryNotFound")
                    files = {name: entry for name, entry in files.items() if name not in gone}
                case _:
                    raise HubError(400, f"Not a commit operation: {key!r}")
        title, message = header.get("summary") or "Upload files", header.get("description", "")
        return self.commit(repo, branch, files, title, message, user)

    def add_ref(self, repo, kind, name, oid):
        """Add a branch or a tag (the kind) that is not there yet."""
        refs = repo[REFS[kind]]
        if name in refs:
            raise HubError(409, f"The {kind} {name} already exists in {repo['id']}, on {refs[name]}")
        refs[name] = oid
        self.save(repo)

    def save(self, repo, delete=False):
        """Write a repository's JSON file in one step, or delete the repository."""
        path = self.folder / "repos" / f"{repo['type']}s" / f"{repo['id']}.json"
        if delete:
            del self.repos[repo["type"], repo["id"]]
            return path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(repo, indent=1, default=str), encoding="utf-8")
        os.replace(partial, path)
        self.repos[repo["type"], repo["id"]] = repo

    def page(self, repo_id, repo_type):
        """Return the address of a repository's page."""
        return f"{self.url}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"


def check_writer(account, owner):
    """Refuse an account that may not write under an owner: 401 without a token, 403 with another one."""
    if account not in (None, (owner, "write")):
        message = f"You don't have the rights to write to {owner}: use a token of {owner} with role write."
        raise HubError(403 if account[0] else 401, message)


def _now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _checked_path(path):
    """Return a file's path in a repository, unless it could lead out of a folder."""
    if {"", ".", "..", ".git"} & set(path.split("/")) or re.search(r"[\\\x00-\x1f]", path):
        raise HubError(400, f"Not a path in a repository: {path!r}")
    return path


def _is_lfs(path, size, sample):
    return path.lower().endswith(LFS_SUFFIXES) or size > 10_000_000 or b"\0" in sample


def upload_mode(asked, entry):
    """Tell the client where a file goes, and what lies at its path already."""
    lfs = _is_lfs(asked["path"], asked["size"], base64.b64decode(asked.get("sample", "")))
    answer = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
    return answer | {"oid": entry["etag"] if entry else None}


def _entry(sha256, size, data=None):
    """Return how a repository records a file: as git keeps it if its data is given, else as an LFS object."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    blob = pointer if data is None else data
    oid = hashlib.sha1(b"blob %d\0%b" % (len(blob), blob)).hexdigest()
    lfs = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
    kept = {"etag": sha256, "lfs": lfs} if data is None else {"etag": oid, "lfs": None}
    return {"sha256": sha256, "size": size, "oid": oid, **kept}


def tree_rows(files, xet_hashes=()):
    """Return every file and folder of a revision as the Hub lists it, by path; Xet hashes are given by sha256."""
    rows = {}
    for path, entry in sorted(files.items()):
        rows[path] = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        rows[path] |= {"lfs": entry["lfs"]} if entry["lfs"] else {}
        rows[path] |= {"xetHash": xet_hashes[entry["sha256"]]} if entry["lfs"] and entry["sha256"] in xet_hashes else {}
        for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
            row = rows.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": ""})
            row["oid"] = hashlib.sha1(f"{row['oid']} {path} {entry['oid']}".encode()).hexdigest()
    return rows


def commit_history(repo, oid):
    """Yield the commits that led to one, newest first, as the Hub lists them."""
    while oid:
        commit = repo["commits"][oid]
        about = {key: commit[key] for key in ("title", "message", "date")}
        yield {"id": oid, "authors": [{"user": commit["user"]}], **about}
        oid = next(iter(commit["parents"]), None)


def repo_info(repo, oid, blobs):
    """Return what the Hub tells about a repository at a commit."""
    commit, siblings, tags = repo["commits"][oid], [], []
    card = commit["card"]
    for path, row in tree_rows(commit["files"]).items():
        if row["type"] == "file":
            siblings.append({"rfilename": path, **({"blobId": row["oid"], **row} if blobs else {})})
    for key, prefix in CARD_TAGS.items():
        values = card.get(key) or []
        tags += [f"{prefix}{value}" for value in (values if isinstance(values, list) else [values])]
    info = {"author": repo["id"].split("/")[0], "sha": oid, "lastModified": commit["date"], "disabled": False}
    info |= {key: repo[key] for key in ("id", "private", "gated", "createdAt")}
    info |= {key: card.get(key) for key in ("library_name", "pipeline_tag", "sdk")}
    return info | {"tags": tags, "cardData": card or None, "siblings": siblings, "downloads": 0, "likes": 0}


def parse_card(readme):
    """Return the metadata at the top of a README, or {} without any (or without PyYAML)."""
    block = re.match(r"\s*---\s*?\n(.*?)\n---\s*?(\n|$)", readme, re.DOTALL)
    try:
        import yaml

        card = yaml.safe_load(block[1]) if block else {}
    except ImportError:
        card = {}
    except yaml.YAMLError as error:
        message = f"Invalid metadata in README.md: {error}"
        raise HubError(400, message, errors=[{"message": message}]) from error
    return card if isinstance(card, dict) else {}


def read_chunks(path, first=0, length=None):
    """Yield a file's bytes in chunks, from an offset on."""
    with open(path, "rb") as file:
        file.seek(first)
        left = path.stat().st_size - first if length is None else length
        while left > 0 and (data := file.read(min(left, CHUNK))):
            left -= len(data)
            yield data
