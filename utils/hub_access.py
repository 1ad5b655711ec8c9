"""What the notebooks ask of the Hub before anything large moves: who a token is, what it may write, what a name means.

Left out: the transfers themselves, which are `huggingface_hub`'s, and where a token comes from: see `environment`.
"""

import os
from pathlib import Path


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


def check_can_push(identity: dict | None, *repo_ids: str) -> None:
    """Stop, before hours of work, if a token cannot write to these repositories.

    Args:
        identity: of `hub_identity`.
        repo_ids: the repositories to be written.

    Raises:
        PermissionError: in one sentence, with what to do.
    """
    if identity is None:
        raise PermissionError(
            "There is no Hub token that works: create one with the role 'write' at "
            "https://huggingface.co/settings/tokens, store it as HF_TOKEN in Colab's secrets "
            "or in the environment, or set PUSH_TO_HUB = False."
        )
    if identity["role"] == "read":
        raise PermissionError(
            f"The Hub token of {identity['name']} may only read: create one with the role 'write' at "
            "https://huggingface.co/settings/tokens."
        )
    for repo_id in repo_ids:
        if repo_id.split("/")[0] not in identity["namespaces"]:
            raise PermissionError(
                f"{identity['name']} cannot write to {repo_id}: choose a repository under "
                f"{' or '.join(identity['namespaces'])}/."
            )


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
    """
    from huggingface_hub import HfApi

    if os.path.exists(repo_id):
        return None, "local"
    info = HfApi(token=token).repo_info(repo_id, revision=revision, repo_type=repo_type)
    host = hub_url().split("//")[-1].split(":")[0]
    return info.sha, f"stand-in at {host}" if "stand-in" in (info.tags or []) else host


def describe_base(base_model: str, token: str | None = None) -> dict:
    """Look up what the Hub says of a base before anything large is downloaded.

    Args:
        base_model: Hub id or local folder.
        token: Hub token, for gated repositories.

    Returns:
        `commit`, `host`, `licence`, `gate` (a sentence), `may_download`, and `download_gb` of its safetensors and
        small files.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    commit, host = resolve_revision(base_model, token=token)
    if commit is None:
        size = sum(path.stat().st_size for path in Path(base_model).iterdir())
        return {
            "commit": None,
            "host": host,
            "licence": "see the folder",
            "gate": "local",
            "may_download": True,
            "download_gb": size / 1e9,
        }
    api = HfApi(token=token)
    info = api.model_info(base_model, revision=commit, files_metadata=True)
    size = sum(
        file.size or 0 for file in info.siblings if not file.rfilename.endswith((".bin", ".pth", ".pt", ".gguf"))
    )
    gate, may_download = "not gated", True
    if info.gated:
        try:
            api.auth_check(base_model)
            gate = "gated, and you have access"
        except GatedRepoError:
            gate, may_download = "gated, and you have no access yet", False
    licence = next((tag.split(":", 1)[1] for tag in info.tags or [] if tag.startswith("license:")), "not stated")
    facts = {"commit": commit, "host": host, "licence": licence, "gate": gate}
    return facts | {"may_download": may_download, "download_gb": size / 1e9}
