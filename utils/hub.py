"""What the course asks of the Hub: a repository's facts, a token's owner, uploads in one commit, files as listed."""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MIRRORS = {"meta-llama/Meta-Llama-3-8B": "NousResearch/Meta-Llama-3-8B"}
NEW_TOKEN = "make one with the role write at https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Repository:
    """What the Hub says of a repository now; of a folder or file on this machine, only that it is local."""

    name: str
    commit: str | None = None  # 40 hex digits; `None` if it is on this machine
    host: str = "local"  # or such as "huggingface.co"; "practice hub at 127.0.0.1" on the practice hub
    licence: str | None = None  # as its tag writes it, or "not stated"
    gated: bool = False
    private: bool = False
    may_read: bool = True  # False: gated, and the token has no access
    files: tuple = ()  # as the Hub lists them, each with `rfilename`, `size`, `lfs` and `blob_id`
    card: dict = field(default_factory=dict)  # the front matter of its README


def describe_repository(
    repo_id: str, repo_type: str = "model", revision: str | None = None, token: str | None = None
) -> Repository:
    """Ask the Hub once for all that it says of a repository, and which commit a branch or tag means now.

    Raises as `in_one_sentence`; but of a gated model whose licence you have not accepted, `may_read` is false.
    """
    from huggingface_hub import HfApi

    if os.path.exists(repo_id):
        return Repository(repo_id)
    api, may_read = HfApi(token=token), True
    with in_one_sentence(repo_id, repo_type, revision):
        info = api.repo_info(repo_id, revision=revision, repo_type=repo_type, files_metadata=True)
    try:
        with in_one_sentence(repo_id, repo_type):
            if info.gated:  # everybody may know its name, but not its files
                api.auth_check(repo_id, repo_type=repo_type)
    except PermissionError:
        if repo_type != "model":
            raise
        may_read = False
    tags, host = info.tags or [], hub_url().split("//")[-1].split(":")[0]
    licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    return Repository(
        name=repo_id,
        commit=info.sha,
        host=f"practice hub at {host}" if "stand-in" in tags else host,
        licence=licences[0] if licences else "not stated",
        gated=bool(info.gated),
        private=bool(info.private),
        may_read=may_read,
        files=tuple(info.siblings or ()),
        card=info.card_data.to_dict() if info.card_data else {},
    )


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


def llama_licence(base_model: str, licence: str | None = None) -> str | None:
    """Return the licence that a Llama 3 model, or one trained from it, comes under, or `None` for another base.

    Example:
        >>> llama_licence("NousResearch/Meta-Llama-3-8B"), llama_licence("a/Llama-3.2-1B"), llama_licence("a/phi-2")
        ('llama3', 'llama3.2', None)
    """
    found = re.search(r"llama-(3(\.\d)?)", Path(base_model).name.lower())
    if not found:
        return None
    return licence if licence and licence.startswith("llama3") else f"llama{found[1]}"


def way_in(repo_id: str, repo_type: str = "model") -> str:
    """Say how to get at a gated repository: its page, and an ungated mirror if one is known."""
    mirror = f"use its ungated mirror {MIRRORS[repo_id]}" if repo_id in MIRRORS else "choose another"
    return f"accept its licence at {page(repo_id, repo_type)} with the account of your HF_TOKEN, or {mirror}"


def hub_identity(token: str | None) -> dict | None:
    """Ask the Hub whose token this is; `None` without one that it knows, `ConnectionError` if it cannot be reached.

    Returns `{"name": str, "role": "read" | "write" | "fineGrained", "namespaces": [str]}`.
    """
    import httpx
    from huggingface_hub import HfApi

    if token is None:
        return None
    try:
        me = HfApi(token=token).whoami()
    except (httpx.HTTPError, OSError) as error:
        if _status(error) == 401:
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

    PermissionError: gated, or the token unknown or too weak. FileNotFoundError: no such repository or revision, or the
    token may not see it. ConnectionError: the Hub cannot be reached, or fails.
    """
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except (httpx.HTTPError, RuntimeError, errors.HFValidationError, errors.LocalEntryNotFoundError) as error:
        kind, told = _explain(error, repo_id, repo_type, revision)  # a RuntimeError is an upload that failed
        raise kind(f"{told}.") from error


def _explain(error: Exception, repo_id: str, repo_type: str, revision: str | None) -> tuple[type[Exception], str]:
    from huggingface_hub import errors

    hub, status = f"The Hub at {hub_url()}", _status(error)
    if isinstance(error, errors.GatedRepoError):
        return PermissionError, f"{repo_id} is gated, and you have no access yet: {way_in(repo_id, repo_type)}"
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError, f"{repo_id} has no revision {revision!r}: choose one from {page(repo_id, repo_type)}"
    if isinstance(error, errors.HFValidationError):
        told = f"{repo_id!r} is neither a folder or file here nor a name that the Hub could have: check the path"
        return FileNotFoundError, told
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        told = f"{hub} has no {repo_type} {repo_id!r} that you may read: look for a slip in its name"
        return FileNotFoundError, f"{told}, and if it is private, set HF_TOKEN to a token of its owner"
    if status == 401:
        told = f"{hub} does not know your HF_TOKEN, and answers nothing while it is set: {NEW_TOKEN}, or remove it"
        return PermissionError, told
    if status == 403:
        told = f"Your HF_TOKEN may not do this with {repo_id}: {NEW_TOKEN}, or choose another repository"
        return PermissionError, told
    told = f"{hub} failed for {repo_id} ({type(error).__name__}): run this cell again, when the network is back"
    return ConnectionError, told


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def create_repository(repo_id: str, token: str | None, private: bool = True, repo_type: str = "model") -> None:
    """Make a repository, if it is not there; refuse one that should be private, and is there and public.

    A Space is made for Gradio. Raises as `in_one_sentence`.
    """
    from huggingface_hub import HfApi

    sdk = "gradio" if repo_type == "space" else None
    with in_one_sentence(repo_id, repo_type):
        HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
    if private and not describe_repository(repo_id, repo_type, token=token).private:
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
    """Upload the files of a folder that match a list as one commit, so that a branch never holds half; return it.

    `upload_folder` with hf_xet makes several commits of what takes longer than five minutes. The files go into the
    folder `below`, such as "adapter/"; what else matches `replaces` there is deleted. Raises as `in_one_sentence`, and
    `FileNotFoundError` if no file matches.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, folder = HfApi(token=token), Path(folder)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
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
    return any(path.count("/") == it.count("/") and PurePosixPath(path).match(it) for it in patterns)


def is_as_listed(path: Path, entry) -> bool:
    """Say whether a file holds, bit for bit, what the Hub lists: by sha256, or for small files by git's own name."""
    if not path.exists():
        return False
    if entry.lfs:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest() == entry.blob_id
