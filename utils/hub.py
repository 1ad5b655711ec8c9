"""What the notebooks ask of the Hub: who a token is, what a name means, uploads in one piece, files as they are listed.

Left out: downloads, which are `huggingface_hub`'s, and where a token comes from: see `environment`.
"""

import contextlib
import hashlib
import os
from fnmatch import fnmatch
from pathlib import Path

MIRRORS = {"meta-llama/Meta-Llama-3-8B": "NousResearch/Meta-Llama-3-8B"}


def hub_url() -> str:
    """Return the Hub's address: huggingface.co, or what `HF_ENDPOINT` says."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def cache_folder() -> Path:
    """Return the folder that downloads go to, as `HF_HOME` and the like decide."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def page(repo_id: str, repo_type: str = "model") -> str:
    """Return the address of a repository's page."""
    return f"{hub_url()}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"


def way_in(repo_id: str, repo_type: str = "model") -> str:
    """Say how to get at a gated repository: its page, and an ungated mirror if one is known."""
    mirror = f"use its ungated mirror {MIRRORS[repo_id]}" if repo_id in MIRRORS else "choose another"
    return f"accept its licence at {page(repo_id, repo_type)} with the account of your HF_TOKEN, or {mirror}"


def stated_licence(repo_id: str, commit: str | None, repo_type: str = "model", token: str | None = None) -> str | None:
    """Return the licence that a repository states, as its tag writes it, or "not stated"; `None` without a commit."""
    from huggingface_hub import HfApi

    if commit is None:  # a folder or a file, of which nobody states one
        return None
    with in_one_sentence(repo_id, repo_type, commit):
        tags = HfApi(token=token).repo_info(repo_id, revision=commit, repo_type=repo_type).tags or []
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "not stated")


def hub_identity(token: str | None) -> dict | None:
    """Ask the Hub who a token belongs to.

    Returns:
        `{"name": str, "role": "read" | "write" | "fineGrained", "namespaces": [str]}`, or `None` without a token, or
        with one that the Hub does not know.

    Raises:
        ConnectionError: if the Hub cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi

    if token is None:
        return None
    try:
        me = HfApi(token=token).whoami()
    except (httpx.HTTPError, OSError) as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            return None
        raise ConnectionError(
            f"The Hub at {hub_url()} did not say whose token this is ({type(error).__name__}): run this cell again "
            "when the network is back."
        ) from error
    role = me.get("auth", {}).get("accessToken", {}).get("role", "read")
    return {"name": me["name"], "role": role, "namespaces": [me["name"], *(org["name"] for org in me.get("orgs", []))]}


@contextlib.contextmanager
def in_one_sentence(repo_id: str, repo_type: str = "model", revision: str | None = None):
    """Turn what the Hub's client raises about a repository into one sentence with what to do; the cause stays attached.

    Raises:
        PermissionError: if the repository is gated, and its licence not accepted, or the token unknown or too weak.
        FileNotFoundError: if there is no such repository or revision, or the token may not see it.
        ConnectionError: if the Hub cannot be reached, or fails.
    """
    import httpx
    from huggingface_hub import errors

    def told(kind: type, what: str, error: Exception) -> None:
        raise kind(what) from error

    try:
        yield
    except errors.GatedRepoError as error:
        told(PermissionError, f"{repo_id} is gated, and you have no access yet: {way_in(repo_id, repo_type)}.", error)
    except errors.RepositoryNotFoundError as error:
        what = f"The Hub at {hub_url()} has no {repo_type} {repo_id!r} that you may read: look for a slip in its name; "
        told(FileNotFoundError, what + "if it is private, set HF_TOKEN to a token of its owner.", error)
    except errors.RevisionNotFoundError as error:
        what = (
            f"{repo_id} has no revision {revision!r}: choose a branch, tag or commit from {page(repo_id, repo_type)}."
        )
        told(FileNotFoundError, what, error)
    except errors.HFValidationError as error:
        what = f"{repo_id!r} is neither a folder or file here nor a name that the Hub could have: check the path."
        told(FileNotFoundError, what, error)
    except (httpx.HTTPError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, RuntimeError) as error:
        # huggingface_hub raises a RuntimeError for an upload that failed
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            what = (
                f"The Hub at {hub_url()} does not know your HF_TOKEN, and answers nothing while it is set: make a new "
            )
            told(PermissionError, what + "one at https://huggingface.co/settings/tokens, or remove it.", error)
        if status == 403:
            what = f"Your HF_TOKEN may not do this with {repo_id}: make one with the role write at "
            told(PermissionError, what + "https://huggingface.co/settings/tokens, or choose another repository.", error)
        if status == 404:
            told(FileNotFoundError, f"The Hub at {hub_url()} has no {repo_type} {repo_id!r}: check the name.", error)
        what = f"The Hub at {hub_url()} failed for {repo_id} ({type(error).__name__}): run this cell again, when the "
        told(ConnectionError, what + "network is back.", error)


def resolve_revision(
    repo_id: str, revision: str | None = None, repo_type: str = "model", token: str | None = None
) -> tuple[str | None, str]:
    """Resolve a branch or tag to the commit it names now, so that a run can be repeated.

    Args:
        repo_id: Hub id; a local folder or file is returned as (`None`, "local").
        revision: branch, tag or commit; `None` for `main`.
        repo_type: "model" or "dataset".
        token: Hub token for private or gated repositories.

    Returns:
        (commit, note): 40 hex digits, and where the repository comes from, such as "huggingface.co" or "stand-in at
            127.0.0.1".

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `in_one_sentence`.
    """
    from huggingface_hub import HfApi

    if os.path.exists(repo_id):
        return None, "local"
    with in_one_sentence(repo_id, repo_type, revision):
        info = HfApi(token=token).repo_info(repo_id, revision=revision, repo_type=repo_type)
        if repo_type == "dataset" and info.gated:  # its name may be known to all, and its rows not
            HfApi(token=token).auth_check(repo_id, repo_type=repo_type)
    host = hub_url().split("//")[-1].split(":")[0]
    return info.sha, f"stand-in at {host}" if "stand-in" in (info.tags or []) else host


def create_repository(repo_id: str, token: str | None, private: bool = True, repo_type: str = "model") -> None:
    """Make a repository, if it is not there; a Space is made for Gradio.

    Raises:
        PermissionError: if it should be private, and is there and public; see `in_one_sentence` for the others.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    sdk = "gradio" if repo_type == "space" else None
    with in_one_sentence(repo_id, repo_type):
        api.create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
        public = private and not api.repo_info(repo_id, repo_type=repo_type).private
    if public:
        raise PermissionError(
            f"{repo_id} is there already, and public: make it private at {page(repo_id, repo_type)}/settings, or "
            "choose another name."
        )


def commit_files(
    folder,
    repo_id: str,
    patterns: list[str],
    token: str | None,
    below: str = "",
    replaces: list[str] | None = None,
    repo_type: str = "model",
) -> str:
    """Upload the files of a folder that are on a list as one commit, so that a branch never holds half of them.

    Not `upload_folder`: with hf_xet it commits what takes longer than five minutes in several parts.

    Args:
        folder: local folder.
        repo_id: "namespace/name", which is there.
        patterns: of paths relative to the folder.
        token: Hub token that may write.
        below: folder of the repository that they go to, with a slash at its end.
        replaces: patterns of paths in the repository; what is there, but not in this upload, is deleted.
        repo_type: "model", "dataset" or "space".

    Returns:
        The commit, 40 hex digits.

    Raises:
        FileNotFoundError: if no file of the folder is on the list; see `in_one_sentence` for the others.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, folder = HfApi(token=token), Path(folder)
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    names = [name for name in names if matches(name, patterns)]
    if not names:
        raise FileNotFoundError(f"There is nothing to upload in {folder}: no {', '.join(patterns)}.")
    operations = [CommitOperationAdd(f"{below}{name}", folder / name) for name in names]
    with in_one_sentence(repo_id, repo_type):
        old = {path for path in api.list_repo_files(repo_id, repo_type=repo_type) if matches(path, replaces or [])}
        operations += [CommitOperationDelete(path) for path in sorted(old - {f"{below}{name}" for name in names})]
        message = f"Upload {folder.name}"
        return api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).oid


def matches(path: str, patterns: list[str]) -> bool:
    """Say whether a path is on a list of patterns, in which `*` stops at a slash.

    Example:
        >>> matches("adapter/run.json", ["adapter/*.json"]), matches("adapter/old/run.json", ["adapter/*.json"])
        (True, False)
    """
    return any(
        pattern.count("/") == path.count("/")
        and all(fnmatch(*pair) for pair in zip(path.split("/"), pattern.split("/"), strict=True))
        for pattern in patterns
    )


def is_as_listed(path: Path, entry) -> bool:
    """Say whether a file holds, bit for bit, what the Hub lists: by sha256, or for small files by git's own name.

    Args:
        path: local file, which may be missing.
        entry: of the Hub's listing, such as `huggingface_hub.RepoFile`, with `lfs` or `blob_id`.
    """
    if not path.exists():
        return False
    if entry.lfs:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest() == entry.blob_id
