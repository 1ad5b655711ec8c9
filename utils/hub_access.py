"""What the notebooks ask of the Hub: who a token is, what a name means, what a base is; and uploads in one piece.

Left out: downloads, which are `huggingface_hub`'s, and where a token comes from: see `environment`.
"""

import contextlib
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

WEIGHTS = "*.safetensors"
MIRRORS = {"meta-llama/Meta-Llama-3-8B": "NousResearch/Meta-Llama-3-8B"}


def hub_url() -> str:
    """Return the Hub's address: huggingface.co, or what `HF_ENDPOINT` says."""
    from huggingface_hub import constants

    return constants.ENDPOINT


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
            f"The Hub at {hub_url()} did not say whose token this is ({type(error).__name__})."
        ) from error
    role = me.get("auth", {}).get("accessToken", {}).get("role", "read")
    return {"name": me["name"], "role": role, "namespaces": [me["name"], *(org["name"] for org in me.get("orgs", []))]}


@contextlib.contextmanager
def in_one_sentence(repo_id: str, repo_type: str = "model", revision: str | None = None):
    """Turn what the Hub's client raises about a repository into one sentence with what to do; the cause stays attached.

    Raises:
        PermissionError: if the repository is gated, and its licence not accepted, or the token unknown.
        FileNotFoundError: if there is no such repository or revision, or the token may not see it.
        ConnectionError: if the Hub cannot be reached, or fails.
    """
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(f"{repo_id} is gated, and you have no access yet: {_way_in(repo_id)}.") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"The Hub at {hub_url()} has no {repo_type} {repo_id!r} that you may read: look for a slip in its name; "
            "if it is private, set HF_TOKEN to a token of its owner."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: choose a branch, tag or commit from {hub_url()}/{repo_id}."
        ) from error
    except errors.HFValidationError as error:
        raise FileNotFoundError(
            f"{repo_id!r} is neither a folder or file here nor a name that the Hub could have: check the path."
        ) from error
    except (httpx.HTTPError, errors.HfHubHTTPError) as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            raise PermissionError(
                f"The Hub at {hub_url()} does not know your HF_TOKEN, and answers nothing while it is set: make a new "
                "one at https://huggingface.co/settings/tokens, or remove it."
            ) from error
        raise ConnectionError(
            f"The Hub at {hub_url()} did not answer for {repo_id} ({type(error).__name__}): run this cell again when "
            "the network is back."
        ) from error


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
    host = hub_url().split("//")[-1].split(":")[0]
    return info.sha, f"stand-in at {host}" if "stand-in" in (info.tags or []) else host


@dataclass(frozen=True)
class Base:
    """What is known of a base before anything large is downloaded."""

    name: str
    commit: str | None  # `None` for a local folder
    host: str
    licence: str
    gate: str  # a sentence
    may_download: bool
    download_gb: float  # what is not on this machine yet, in GB (10^9 bytes)
    size_gb: float  # its safetensors
    config: object | None  # `transformers` configuration, if it can be read
    trouble: str | None  # why it cannot; for a gated one, the way in


def model_name(base_model: str) -> str:
    """Name the model that is trained from a base, as the licence of Llama 3 wants it.

    Example:
        >>> model_name("NousResearch/Meta-Llama-3-8B"), model_name("microsoft/phi-2")
        ('Llama-3-8B-ORPO', 'phi-2-ORPO')
    """
    return f"{Path(base_model).name.removeprefix('Meta-').replace(' ', '-')}-ORPO"


def describe_base(base_model: str, revision: str | None = None, token: str | None = None) -> Base:
    """Look up what the Hub says of a base before anything large is downloaded.

    Args:
        base_model: Hub id or local folder.
        revision: branch, tag or commit; `None` for `main`.
        token: Hub token, for gated repositories.

    Raises:
        FileNotFoundError, ConnectionError: see `in_one_sentence`.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError

    commit, host = resolve_revision(base_model, revision, token=token)
    if commit is None:
        size = sum(path.stat().st_size for path in Path(base_model).glob(WEIGHTS)) / 1e9
        config, trouble = _read_config(base_model, None, None)
        return Base(base_model, None, host, "see the folder", "local", True, 0.0, size, config, trouble)
    api = HfApi(token=token)
    with in_one_sentence(base_model, revision=commit):
        info = api.model_info(base_model, revision=commit, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings if file.rfilename.endswith(".safetensors")}
    size = sum(sizes.values()) / 1e9
    licence = next((tag.split(":", 1)[1] for tag in info.tags or [] if tag.startswith("license:")), "not stated")
    gate = "gated, and you have access" if info.gated else "not gated"
    try:
        if info.gated:
            api.auth_check(base_model)
    except GatedRepoError:
        gate = "gated, and you have no access yet"
        return Base(base_model, commit, host, licence, gate, False, size, size, None, _way_in(base_model))
    cached = {name for name in sizes if isinstance(try_to_load_from_cache(base_model, name, revision=commit), str)}
    missing = sum(size for name, size in sizes.items() if name not in cached) / 1e9
    return Base(base_model, commit, host, licence, gate, True, missing, size, *_read_config(base_model, commit, token))


def commit_files(folder, repo_id: str, patterns: list[str], token: str | None, below="", replaces="") -> str:
    """Upload the files of a folder that are on a list as one commit, so that a branch never holds half of them.

    Not `upload_folder`: with hf_xet it commits what takes longer than five minutes in several parts.

    Args:
        folder: local folder.
        repo_id: "namespace/name", which is there.
        patterns: of paths relative to the folder.
        token: Hub token that may write.
        below: folder of the repository that they go to, with a slash at its end.
        replaces: beginning of the paths whose other files are deleted.

    Returns:
        The commit, 40 hex digits.

    Raises:
        FileNotFoundError: if no file of the folder is on the list.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, folder = HfApi(token=token), Path(folder)
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    names = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        raise FileNotFoundError(f"There is nothing to upload in {folder}: no {', '.join(patterns)}.")
    operations = [CommitOperationAdd(f"{below}{name}", folder / name) for name in names]
    old = {path for path in api.list_repo_files(repo_id) if path.startswith(replaces)} if replaces else set()
    operations += [CommitOperationDelete(path) for path in sorted(old - {f"{below}{name}" for name in names})]
    return api.create_commit(repo_id, operations, commit_message=f"Upload {folder.name}").oid


def _read_config(base_model: str, commit: str | None, token: str | None):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base_model, revision=commit, token=token, trust_remote_code=False), None
    except ValueError as error:
        if "custom code" in str(error) or "trust_remote_code" in str(error):
            return None, "it brings code of its own, and the course never runs a repository's code"
        return None, f"no config.json names an architecture that transformers knows ({str(error).split('. ')[0]})"
    except OSError as error:
        return None, f"its config.json cannot be read ({str(error).splitlines()[0]})"


def _way_in(base_model: str) -> str:
    mirror = f"use its ungated mirror {MIRRORS[base_model]}" if base_model in MIRRORS else "choose another base"
    return f"accept its licence at {hub_url()}/{base_model} with the account of your HF_TOKEN, or {mirror}"
