"""What the notebooks ask of the machine they run on: device and dtype, tokens, disk, W&B, versions, parameters.

The only module that reads environment variables. It never prompts: without a token the run goes on without.
"""

import ast
import difflib
import importlib
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "wandb", "huggingface_hub"
)  # fmt: skip
METRICS_TYPE = "application/x-course-metrics+json"
ABSENT = "not installed"


def set_up(root: Path) -> None:
    """Install what requirements.txt asks for and this Python lacks, and print one line; `SystemExit` if pip fails."""
    import subprocess

    git = ["git", "-C", str(root), "log", "-1", "--format=%h of %cs"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy without git
        commit = "without a commit"
    missing = _missing(root / "requirements.txt")
    done = "nothing to install"
    if missing:
        print(f"Installing {', '.join(missing)}: about 2 minutes ...", end=" ", flush=True)
        before = versions(missing)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "-r", str(root / "requirements.txt")]
        result = subprocess.run(pip, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"pip failed: {result.stderr.strip().splitlines()[-1]}")
        importlib.invalidate_caches()
        loaded = [name for name in missing if name in sys.modules and before[name] != ABSENT]
        done = f"now restart, since {', '.join(loaded)} was loaded" if loaded else "installed; no restart needed"
    print(f"Course {commit}; {done}.")
    quiet_known_warnings()


def _missing(requirements: Path) -> list[str]:
    """Name the packages of a requirements file that are not installed, or in a version that it does not allow."""
    from packaging.requirements import Requirement

    lines = [line.partition("#")[0].strip() for line in requirements.read_text().splitlines()]
    wanted = {requirement.name: requirement.specifier for requirement in map(Requirement, filter(None, lines))}
    return [
        name
        for name, version in versions(wanted).items()
        if name in wanted and (version == ABSENT or not wanted[name].contains(version, prereleases=True))
    ]


@dataclass(frozen=True)
class Device:
    """The device that trains: `kind` is "cuda" or "cpu", memory in GB (10^9 bytes), `dtype` a name with its reason."""

    kind: str
    name: str
    memory_gb: float
    dtype: str
    dtype_reason: str


def find_device() -> Device:
    """Find the GPU, or else the CPU, and choose the dtype that it computes fastest without losing the run."""
    import psutil
    import torch

    if not torch.cuda.is_available():
        reason = "a CPU has no fast half precision that is also exact enough to compare runs"
        ram_gb = psutil.virtual_memory().total / 1e9
        return Device("cpu", f"{os.cpu_count()} CPU cores", ram_gb, "float32", reason)
    gpu = torch.cuda.get_device_properties(0)
    capability = f"compute capability {gpu.major}.{gpu.minor}"
    dtype, reason = "bfloat16", f"{capability} multiplies bf16, which has the range of fp32: no loss scaling"
    if gpu.major < 8:
        reason = f"{capability} is below 8.0: bf16 is emulated there, and slow; fp16 is fast, with loss scaling"
        dtype = "float16"
    return Device("cuda", gpu.name, gpu.total_memory / 1e9, dtype, reason)


def find_token(name: str) -> str | None:
    """Look for a secret in the environment, then in Colab's secrets; `None` if it is in neither."""
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
    known = re.compile("remove_unused_columns|Failed to load CPU gemm_4bit|tokenizer has new PAD/BOS/EOS")
    for chatty in ("trl.experimental.orpo.orpo_trainer", "bitsandbytes.backends.cpu.ops", "transformers.trainer_utils"):
        logging.getLogger(chatty).addFilter(lambda record: not known.search(record.getMessage()))
    for message in [
        ".*trl.experimental.*",  # ORPO lives there; the version is pinned, and a test notices when it moves
        ".*gradient_checkpointing.*deprecated.*",  # the new name does not exist yet in the oldest supported version
        ".*Paged optimizers are not supported on CPU.*",  # only a GPU needs the paging
        ".*Merge lora module to 4-bit.*",  # notebook 05 does it on purpose, to show what it costs
        ".*create_app.*get_current_user.* was never awaited",  # in gradio 6.24's own server, and of no consequence
    ]:
        warnings.filterwarnings("ignore", message=message)


def find_disk(folder) -> tuple[int, float]:
    """Return (number that tells disks apart, free GB) of the disk that a folder is on, or will be on."""
    import shutil

    here = Path(folder).resolve()
    while not here.exists():
        here = here.parent
    return here.stat().st_dev, shutil.disk_usage(here).free / 1e9


def start_wandb(project: str, name: str, config: dict, folder: str, group: str | None = None):
    """Start a W&B run: online with a key that works, else offline; `wandb sync` uploads it from `folder` later."""
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
    """Make the folder for what a notebook makes, below `root` unless it is absolute; refuse a Drive not mounted."""
    folder = Path(root) / artifacts
    if folder.is_relative_to("/content/drive") and not os.path.ismount("/content/drive"):
        told = f"Drive is not mounted, so {folder} would be deleted with this machine."
        raise FileNotFoundError(f"{told} Mount it in Colab's Files panel, then run this cell again.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def versions(packages=PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages, unless told otherwise those that decide a run's numbers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ABSENT
    return found


def describe_machine() -> str:
    """Name the processor, its cores and the installed versions in one line, as a measurement needs it."""
    import torch

    info = Path("/proc/cpuinfo")  # of Linux
    models = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else [*models, "CPU"][0]
    found = [f"{package} {version}" for package, version in versions().items() if version != ABSENT]
    return f"{name}, {os.cpu_count()} cores; {', '.join(found)}"


def record(**metrics) -> None:
    """Show a notebook's key figures, and leave them in its outputs for the course's runner and its tests."""
    from IPython.display import display

    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in metrics.items()}
    text = "\n".join(f"{name:<24} {value}" for name, value in shown.items())
    display({METRICS_TYPE: metrics, "text/plain": text}, raw=True)


class BadParameter(ValueError):
    """A parameter that cannot be used; a notebook shows its one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def check_parameters(cells: list[str], values: dict | None = None) -> None:
    """Raise `BadParameter` at a parameter that cannot be right, before anything is downloaded.

    `cells` is `In`: the cells with `# @param` marks tell the types, and papermill's cell the names that were given. A
    number is finite and above 0, unless its mark says `min:0`; a seed and warm-up steps may be 0. A learning rate is
    below 0.1. Keys that `MORE` lacks are filled in, in place, from the notebook's own.

    Example:
        >>> check_parameters(['BETA = 0.1  # @param {type:"number"}'], {"BETA": "8e-6"})
        Traceback (most recent call last):
        utils.environment.BadParameter: BETA is '8e-6': give a number, without quotes (YAML reads 8e-6 as text: 8.0e-6).
    """
    values = sys._getframe(1).f_globals if values is None else values
    parameters, given = {}, []
    for cell in cells:
        if cell.startswith("# Parameters\n"):  # as papermill writes it
            given += _assignments(cell)
        elif "# @param" in cell:
            parameters |= _assignments(cell)
    _refuse_unknown(given, parameters)
    for name, (default, mark) in parameters.items():
        if name in values and name != "MORE":
            _refuse_value(name, values[name], *_read_mark(mark, default))
    if "MORE" not in parameters:
        return
    more, (known, _) = values["MORE"], parameters["MORE"]
    if not isinstance(more, dict):
        raise BadParameter(f"MORE is {more!r}: give a dict, such as {{'{next(iter(known))}': ...}}.")
    _refuse_unknown(more, known, " in MORE")
    for key, default in known.items():
        more.setdefault(key, default)
        kind = _kind(default)
        may_be_zero = kind in ("integer", "number") and default <= 0
        _refuse_value(f"MORE[{key!r}]", more[key], kind, least=default if may_be_zero else None)


def _assignments(source: str) -> dict[str, tuple]:
    """Return name -> (value, or `None` if it is computed; its `# @param` mark) of a cell's UPPER_CASE names."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with magics holds no parameters
        return {}
    found = {}
    for statement in statements:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id.isupper():
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                value = None
            last_line = source.splitlines()[statement.end_lineno - 1]
            found[target.id] = value, last_line.partition("# @param")[2]
    return found


def _kind(value) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return kinds.get(type(value), "raw")


def _read_mark(mark: str, default) -> tuple[str, list, float | None]:
    """Return (kind, choices, least) of a mark of Colab's forms, such as `["a", "b"]` or `{type:"number", min:0}`."""
    listed, kind, least = re.match(r'\s*(\[.*?\])?\s*(?:\{type: *"(\w+)"(?:, *min: *(-?[\d.]+))?)?', mark).groups()
    choices = ast.literal_eval(listed) if listed else []
    if kind == "raw" and isinstance(default, list) and default:
        kind = f"list of {_kind(default[0])}"
    return kind or ("string" if listed else "raw"), choices, float(least) if least else None


def _refuse_unknown(given, known, where: str = "") -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise BadParameter(f"This notebook has no parameter {name}{where}.{meant} It has: {', '.join(known)}.")


def _refuse_value(name: str, value, kind: str, choices=(), least: float | None = None) -> None:
    if kind.startswith("list of ") and isinstance(value, list | tuple):
        for item in value:
            _refuse_value(f"An item of {name}", item, kind.removeprefix("list of "), least=least)
        return
    wanted = _wanted(name.upper(), value, kind, choices, least)
    if wanted:
        raise BadParameter(f"{name} is {value!r}: give {wanted}.")


def _wanted(name: str, value, kind: str, choices, least: float | None) -> str:
    """Say what a parameter must be, if its value is not that."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if choices and value not in choices:
        return f"one of {', '.join(map(repr, choices))}"
    if kind == "string" and not isinstance(value, str | os.PathLike | list):
        return "text, in quotes"
    if kind == "boolean" and not isinstance(value, bool):
        return "True or False"
    if kind == "integer" and not (is_number and isinstance(value, int)):
        return "a whole number, without quotes"
    if kind == "number" and not is_number:
        return "a number, without quotes (YAML reads 8e-6 as text: 8.0e-6)"
    if not is_number:
        return ""
    if not math.isfinite(value):
        return "a finite number"
    if least is None and re.search("SEED|WARMUP", name):
        least = 0
    if least is None and value <= 0:
        return "a number above 0"
    if least is not None and value < least:
        return f"{least:g} or more"
    if "LEARNING_RATE" in name and value >= 0.1:
        return "a learning rate below 0.1, such as 8e-5"
    return ""
