"""What the notebooks ask of the machine they run on: device and dtype, tokens, disk, W&B, versions, parameters.

The only module that reads environment variables. It never prompts: a token is found or it is not, and the run goes on
without. Left out: the settings that follow from the device, which `profiles` holds.
"""

import ast
import json
import os
import re
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


def quiet_known_warnings() -> None:
    """Silence warnings that every run prints and that call for no action, each named; all others stay."""
    import logging
    import warnings

    for chatty in ("torchao", "torch.utils._pytree"):  # torchao speaks of its own internals when it is imported
        logging.getLogger(chatty).setLevel(logging.ERROR)
    for message in [
        ".*trl.experimental.*",  # ORPO lives there; the version is pinned, and a test notices when it moves
        ".*gradient_checkpointing.*deprecated.*",  # the new name does not exist yet in the oldest supported version
        ".*Paged optimizers are not supported on CPU.*",  # only a GPU needs the paging
        ".*Merge lora module to 4-bit.*",  # notebook 05 does it on purpose, to show what it costs
        ".*create_app.*get_current_user.* was never awaited",  # in gradio 6.24's own server, and of no consequence
    ]:
        warnings.filterwarnings("ignore", message=message)


def find_disk(folder) -> tuple[int, float]:
    """Find the disk that a folder lies on, or will lie on.

    Returns:
        (number that tells disks apart, free space in GB).
    """
    import shutil

    here = Path(folder).resolve()
    while not here.exists():
        here = here.parent
    return here.stat().st_dev, shutil.disk_usage(here).free / 1e9


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
    # What a learner needs to know, the notebook prints; what is not uploaded after ten minutes stays for `wandb sync`.
    settings = wandb.Settings(init_timeout=30, finish_timeout=600, silent=True)
    os.environ.setdefault("WANDB_DATA_DIR", os.path.abspath(f"{folder}/wandb"))  # where an offline run's tables wait
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


def course_prompts() -> list[str]:
    """Return the five prompts that the course asks before and after training."""
    return json.loads((Path(__file__).parents[1] / "data" / "course_prompts.json").read_text())


def artifacts_folder(root, artifacts: str) -> Path:
    """Return the folder for what a notebook makes, unless it only looks like a Drive folder.

    Args:
        root: of the course.
        artifacts: relative to it, or absolute.

    Raises:
        FileNotFoundError: if it lies on a Drive that is not mounted, and would vanish with the machine.
    """
    folder = Path(root) / artifacts
    if folder.is_relative_to("/content/drive") and not os.path.ismount("/content/drive"):
        raise FileNotFoundError(
            f"{folder} would lie on this machine and vanish with it, for Drive is not mounted. Mount it in Colab's "
            "Files panel, then run this cell again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def describe_machine() -> str:
    """Name the processor, its cores and the installed versions in one line, as a measurement needs it."""
    import torch

    info = Path("/proc/cpuinfo")  # of Linux
    models = re.findall(r"^model name\s*: (.+)", info.read_text() if info.exists() else "", re.MULTILINE)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else [*models, "CPU"][0]
    found = [f"{package} {number}" for package, number in versions().items() if number != "not installed"]
    return f"{name}, {os.cpu_count()} cores; {', '.join(found)}"


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
    import psutil

    return psutil.virtual_memory().total / 1e9
