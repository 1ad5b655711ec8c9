"""What the notebooks ask of the machine they run on: device and dtype, tokens, the Hub, W&B, versions, parameters.

The only module that reads environment variables. It never prompts: a token is found or it is not, and the run goes on
without. Left out: the settings that follow from the device, which `profiles` holds.
"""

import ast
import os
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "torch transformers trl peft bitsandbytes datasets accelerate wandb huggingface_hub".split()
METRICS_TYPE = "application/x-course-metrics+json"


@dataclass(frozen=True)
class Device:
    """The device that trains: `kind` is "cuda" or "cpu", memory in GB (10^9 bytes), `dtype` a name with its reason."""

    kind: str
    name: str
    memory_gb: float
    dtype: str
    dtype_reason: str


def find_device() -> Device:
    """Find the GPU, or else the CPU, and choose the dtype that it computes fastest without losing the run.

    Example:
        >>> find_device().kind in ("cuda", "cpu")
        True
    """
    import torch

    if not torch.cuda.is_available():
        reason = "a CPU has no fast half precision that is also exact enough to compare runs"
        return Device("cpu", f"{os.cpu_count()} CPU cores", _ram_gb(), "float32", reason)
    properties = torch.cuda.get_device_properties(0)
    memory_gb = properties.total_memory / 1e9
    capability = f"compute capability {properties.major}.{properties.minor}"
    if properties.major >= 8:
        reason = f"{capability} multiplies bf16, which has the range of fp32: no loss scaling"
        return Device("cuda", properties.name, memory_gb, "bfloat16", reason)
    reason = f"{capability} is below 8.0 and has no bf16 units; fp16 needs loss scaling"
    return Device("cuda", properties.name, memory_gb, "float16", reason)


def find_token(name: str) -> str | None:
    """Look for a secret in the environment, then in Colab's secrets, and return `None` if it is in neither.

    Args:
        name: such as "HF_TOKEN" or "WANDB_API_KEY".
    """
    if os.environ.get(name, "").strip():
        return os.environ[name].strip()  # a pasted line end is no part of a token
    try:
        from google.colab import userdata

        return (userdata.get(name) or "").strip() or None
    except Exception:  # not on Colab, no such secret, access not granted, or a time-out: all mean "not there"
        return None


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
        raise ConnectionError(f"The Hub at {hub_url()} did not say whose token this is: {error}") from error
    role = me.get("auth", {}).get("accessToken", {}).get("role", "read")
    return {"name": me["name"], "role": role, "namespaces": [me["name"], *(org["name"] for org in me.get("orgs", []))]}


def hub_url() -> str:
    """Return the Hub's address: huggingface.co, or what `HF_ENDPOINT` says."""
    from huggingface_hub import constants

    return constants.ENDPOINT


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


def quiet_known_warnings() -> None:
    """Silence warnings that every run prints and that call for no action, each named; all others stay."""
    import logging
    import warnings

    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers an Enum with it when imported
    for message in [
        ".*trl.experimental.*",  # ORPO lives there; the version is pinned, and a test notices when it moves
        ".*gradient_checkpointing.*deprecated.*",  # the new name does not exist yet in the oldest supported version
        ".*Paged optimizers are not supported on CPU.*",  # only a GPU needs the paging
        ".*Merge lora module to 4-bit.*",  # notebook 05 does it on purpose, to show what it costs
    ]:
        warnings.filterwarnings("ignore", message=message)


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


def free_disk_gb(folder) -> float:
    """Return the free space of the disk that a folder lies on, in GB."""
    import shutil

    return shutil.disk_usage(folder).free / 1e9


def start_wandb(project: str, name: str, config: dict, folder: str, group: str | None = None):
    """Start a W&B run: online with a key that works, offline otherwise, and never with a prompt.

    Args:
        project, name, group: as W&B shows them.
        config: settings of the run; no secrets.
        folder: where W&B keeps its files; an offline run is uploaded later with `wandb sync`.

    Returns:
        The `wandb` run. `run.settings.mode` says which of the two it became.
    """
    import wandb

    mode, key = os.environ.get("WANDB_MODE"), find_token("WANDB_API_KEY")
    settings = wandb.Settings(init_timeout=30, silent=True)  # what a learner needs to know, the notebook prints
    wandb.setup(settings)
    common = {"project": project, "name": name, "group": group, "config": config, "dir": folder, "settings": settings}
    os.makedirs(folder, exist_ok=True)
    if mode in (None, "online") and key:
        os.environ["WANDB_API_KEY"] = key
        try:
            return wandb.init(mode="online", **common)
        except Exception as error:  # a refused key, no network, a server error: none of them may cost the training
            print(f"W&B cannot be used online ({type(error).__name__}); the run goes on offline.")
            wandb.teardown()
            wandb.setup(settings)
    return wandb.init(mode="disabled" if mode == "disabled" else "offline", **common)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def record(**metrics) -> None:
    """Show a notebook's key figures, and leave them in its outputs where the course's runner and its tests find them.

    Args:
        metrics: names and plain values.
    """
    from IPython.display import display

    text = "\n".join(
        f"{name:<24} {value:.4g}" if isinstance(value, float) else f"{name:<24} {value}"
        for name, value in metrics.items()
    )
    display({METRICS_TYPE: metrics, "text/plain": text}, raw=True)


def refuse_unknown_parameters(cells: list[str]) -> None:
    """Stop if papermill injected a parameter that the notebook does not have; it only warns, and runs the default.

    Args:
        cells: the sources executed so far, oldest first: `In` in a notebook.

    Raises:
        NameError: naming the unknown parameters and the known ones.

    Example:
        >>> refuse_unknown_parameters(["RATE = 1  # @param", "# Parameters\\nRATE = 2"])
    """
    known: list[str] = []
    for cell in cells:
        if not cell.startswith("# Parameters\n"):
            known += _assigned(cell) if "# @param" in cell else []
            continue
        unknown = [name for name in _assigned(cell) if name not in known]
        if unknown:
            raise NameError(f"This notebook has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")


def _assigned(source: str) -> list[str]:
    names = []
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _ram_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else 0.0
