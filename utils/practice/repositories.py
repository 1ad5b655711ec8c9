"""What the practice hub keeps: repositories with commits and tags in a folder, and who may see them.

Contents are in `objects/` under their sha256, each repository is one JSON file below `repos/`: a restart loses nothing.
Left out: HTTP, which `hub` speaks, branches other than `main`, and git itself.
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
CARD_TAGS = {"license": "license:", "datasets": "dataset:", "base_model": "base_model:", "tags": ""}
LFS_SUFFIXES = tuple(
    ".7z .arrow .bin .bmp .bz2 .ckpt .gguf .gif .gz .h5 .jpeg .jpg .model .mp3 .mp4 .msgpack .npy .npz .onnx"
    " .parquet .pickle .pkl .png .pt .pth .safetensors .tar .tiff .wav .webp .xz .zip .zst".split()
)
ANYBODY = (None, None)


class HubError(Exception):
    """An answer other than success: status, message, the Hub's `X-Error-Code`, more headers, more JSON."""

    def __init__(self, status, message, code=None, headers=(), **more):
        super().__init__(message)
        text = " ".join(message.encode("ascii", "replace").decode().split())
        self.headers = {"X-Error-Message": text, **dict(headers)}
        if code:
            self.headers["X-Error-Code"] = code
        self.status, self.body = status, {"error": message, **more}


class Repositories:
    """Repositories in a folder; `repos` has them by `(type, id)`."""

    url = ""  # where they are served

    def __init__(self, folder):
        self.folder, self.lock, self.repos = Path(folder), threading.RLock(), {}
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("repos/*/*/*.json"):
            repo = json.loads(file.read_text(encoding="utf-8"))
            self.repos[repo["type"], repo["id"]] = repo

    def add_repo(self, repo_id, repo_type="model", private=False, gated=False, exist_ok=False):
        """Create a repository with the first commit that the Hub makes (`.gitattributes`).

        `gated=True` means that only those in its `accepted` may read its files. HubError: the Hub refuses it too.
        """
        valid = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id, re.ASCII) and not re.search(r"\.\.|--", repo_id)
        if repo_type not in KINDS.values() or not valid or len(repo_id) > 96:
            raise HubError(400, f"No repository: {repo_type!r} {repo_id!r}; give a type and 'owner/name'.")
        with self.lock:
            if (repo_type, repo_id) not in self.repos:
                gated = "auto" if gated is True else gated
                repo = {"id": repo_id, "type": repo_type, "private": private, "gated": gated, "accepted": []}
                repo |= {"createdAt": _now(), "refs": {}, "commits": {}}
                rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
                self.commit(repo, {".gitattributes": self.store_regular(rules.encode())}, "initial commit")
            elif not exist_ok:
                raise HubError(409, f"You already created this {repo_type} repo", url=self.page(repo_id, repo_type))

    def commit_folder(self, repo_id, folder, repo_type="model", tag=None, message="Upload folder"):
        """Commit every file of a local folder to `main`, in addition to what is there, and return the commit's id.

        A folder that changes nothing makes no new commit.
        """
        added = {}
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            name, data = _checked_path(path.relative_to(folder).as_posix()), path.read_bytes()
            lfs = _is_lfs(name, len(data), data[:512])
            added[name] = _entry(*self.store(data)) if lfs else self.store_regular(data)
        with self.lock:
            repo = self.find(repo_id, repo_type)
            files = self.tree(repo, "main")
            if files != files | added:
                self.commit(repo, files | added, message)
                repo = self.find(repo_id, repo_type)
            head = repo["refs"]["main"]
            if tag is not None:
                repo["refs"][tag] = head
                self.save(repo)
            return head

    def files(self, repo_id, repo_type="model", revision="main"):
        """Return `{path: {"sha256", "size", "oid", "etag", "lfs"}}` of a revision; `oid` is git's own."""
        with self.lock:
            files = self.tree(self.find(repo_id, repo_type), revision)
            return {path: dict(files[path]) for path in sorted(files)}

    def object_path(self, sha256):
        """Return where the bytes with this sha256 are, or would be; what is no sha256 could lead out of the folder."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise HubError(400, f"Not a sha256 in hexadecimal: {sha256!r}")
        return self.folder / "objects" / sha256

    def store(self, data, expected=None):
        """Keep bytes and return `(sha256, size)`; refuse them if another sha256 was expected."""
        found = hashlib.sha256(data).hexdigest()
        if expected not in (None, found):
            raise HubError(400, f"The bytes have sha256 {found}, not {expected}: send the file again.")
        handle, partial = tempfile.mkstemp(dir=self.folder / "objects", prefix="partial-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(partial, self.object_path(found))
        return found, len(data)

    def store_regular(self, data):
        """Keep a file that git itself would keep, and return its entry."""
        return _entry(*self.store(data), data)

    def find(self, repo_id, repo_type, account=None, need="read"):
        """Return a repository, or refuse it as the Hub does.

        `account` is the `(user, role)` who asks, `ANYBODY` without a token; None may do everything. `need` is "read",
        "files" (a gated repository shows itself, but not its files) or "write".
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
        """Return the commit that `main`, a tag or a commit id (7 letters or more) names."""
        found = [repo["refs"][revision]] if revision in repo["refs"] else []
        found += [oid for oid in repo["commits"] if len(revision) >= 7 and oid.startswith(revision)]
        if not found:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def tree(self, repo, revision):
        return repo["commits"][self.resolve(repo, revision)]["files"]

    def commit(self, repo, files, title, message="", user="practice-hub"):
        """Add a commit that holds exactly these files to `main`, save it, and return its id."""
        readme, parent = files.get("README.md"), repo["refs"].get("main")
        card = parse_card(self.object_path(readme["sha256"]).read_text("utf-8", "replace")) if readme else {}
        commit = {"parent": parent, "title": title, "message": message, "user": user}
        commit |= {"date": _now(), "card": card, "files": files}
        oid = hashlib.sha1(json.dumps([len(repo["commits"]), commit], default=str).encode()).hexdigest()
        self.save(repo | {"commits": repo["commits"] | {oid: commit}, "refs": repo["refs"] | {"main": oid}})
        return oid

    def apply_commit(self, repo, lines, user):
        """Apply all lines of a client's commit to `main`, or none, and return the new commit's id."""
        head, header = repo["refs"]["main"], {}
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
                case "deletedFile" | "deletedFolder":
                    inside = {name for name in files if name.startswith(f"{path}/")}
                    gone = inside if key == "deletedFolder" else {path} & set(files)
                    if not gone:
                        raise HubError(404, f"Nothing to delete at {path}", "EntryNotFound")
                    files = {name: entry for name, entry in files.items() if name not in gone}
                case _:
                    raise HubError(400, f"Not a commit operation: {key!r}")
        return self.commit(repo, files, header.get("summary") or "Upload files", header.get("description", ""), user)

    def save(self, repo):
        """Write a repository's JSON file in one step."""
        path = self.folder / "repos" / f"{repo['type']}s" / f"{repo['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(repo, indent=1, default=str), encoding="utf-8")
        os.replace(partial, path)
        self.repos[repo["type"], repo["id"]] = repo

    def page(self, repo_id, repo_type):
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
    """Tell the client where a file goes, and what is at its path already."""
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


def tree_rows(files):
    """Return every file and folder of a revision as the Hub lists it, by path."""
    rows = {}
    for path, entry in sorted(files.items()):
        rows[path] = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        if entry["lfs"]:
            rows[path]["lfs"] = entry["lfs"]
        for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
            row = rows.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": ""})
            row["oid"] = hashlib.sha1(f"{row['oid']} {path} {entry['oid']}".encode()).hexdigest()
    return rows


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
    """Return the metadata at the top of a README, or {} without any."""
    import yaml

    block = re.match(r"\s*---\s*?\n(.*?)\n---\s*?(\n|$)", readme, re.DOTALL)
    try:
        card = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError as error:
        message = f"Invalid metadata in README.md: {error}"
        raise HubError(400, message, errors=[{"message": message}]) from error
    return card if isinstance(card, dict) else {}
