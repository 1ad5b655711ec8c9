"""What the notebooks ask of their machine: device, secrets, W&B, versions, parameters; and never a prompt."""

import json
import os
import shutil
import subprocess
import sys
import types
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils import environment
from utils.curves import wandb_runs

ROOT = Path(__file__).parents[2]
NAME = "COURSE_TEST_SECRET"


def test_the_device_decides_the_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = environment.find_device()
    assert (device.kind, device.dtype, device.name) == ("cpu", "float32", f"{os.cpu_count()} CPU cores")
    assert 0.5 < device.memory_gb < 100_000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, major, minor, dtype in [("Tesla T4", 7, 5, "float16"), ("NVIDIA L4", 8, 9, "bfloat16")]:
        properties = types.SimpleNamespace(name=name, total_memory=15_640_000_000, major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, found=properties: found)
        device = environment.find_device()
        assert (device.kind, device.name, device.memory_gb, device.dtype) == ("cuda", name, 15.64, dtype)
        assert f"{major}.{minor}" in device.dtype_reason


@pytest.fixture
def colab(monkeypatch):
    """Colab's secrets, as a function that sets what asking for one does; the list it returns holds what was asked."""
    monkeypatch.delenv(NAME, raising=False)

    def install(result):
        asked = []

        def get(name):
            asked.append(name)
            if isinstance(result, BaseException):
                raise result
            return result

        module = types.ModuleType("google.colab")
        module.userdata = types.SimpleNamespace(get=get)
        monkeypatch.setitem(sys.modules, "google.colab", module)
        return asked

    return install


def test_the_environment_comes_first_then_colabs_secrets(colab, monkeypatch):
    asked = colab("from colab\n")  # a pasted line end, which no header can carry
    monkeypatch.setenv(NAME, " from the environment\r\n")
    assert environment.find_token(NAME) == "from the environment" and asked == []
    monkeypatch.setenv(NAME, "")
    assert environment.find_token(NAME) == "from colab" and asked == [NAME]


def test_then_nothing_whatever_colab_does_but_be_interrupted(colab, monkeypatch):
    for answer in (
        Exception("access not granted"),
        TimeoutError("nobody clicked"),
        KeyError(NAME),
        RuntimeError(),
        None,
        "",
    ):
        colab(answer)
        assert environment.find_token(NAME) is None
    colab(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        environment.find_token(NAME)
    monkeypatch.setitem(sys.modules, "google.colab", None)  # away from Colab, where importing it raises
    assert environment.find_token(NAME) is None


KEY = "0123456789abcdef0123456789abcdef01234567"
START = """
import json, sys, wandb
from utils.environment import start_wandb
real = wandb.Settings
wandb.Settings = lambda **settings: real(**settings | {"init_timeout": 4})  # where a learner waits for 30 s
run = start_wandb("course", "a-run", {"learning_rate": 8e-5}, sys.argv[1])
run.log({"loss": 1.5})
found = {"mode": run.settings.mode, "terminal": sys.stdin.isatty() and sys.stdout.isatty()}
run.finish()
open(sys.argv[1] + "/found.json", "w").write(json.dumps(found))
"""


@pytest.mark.parametrize("key", ["too-short", KEY], ids=["no key", "unreachable"])
def test_wandb_goes_on_offline_and_asks_nothing(tmp_path, key):
    """In a terminal, where a question could be asked, and would never be answered."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    settings |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(ROOT)}
    settings |= {"WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    terminal, end = os.openpty()
    command = [sys.executable, "-c", START, str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, cwd=ROOT, env=settings)
    os.close(end)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    printed = os.read(terminal, 65536).decode(errors="replace")
    os.close(terminal)
    assert json.loads((tmp_path / "runs" / "found.json").read_text()) == {"mode": "offline", "terminal": True}
    (run,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    assert [row["loss"] for row in wandb_runs.read_offline(run).rows] == [1.5]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(key.encode() in text for text in kept) and key not in printed
    assert "goes on offline" in printed


def test_mode_and_key_decide_where_a_run_goes(monkeypatch, tmp_path):
    import wandb

    calls = []
    monkeypatch.setattr(wandb, "init", lambda **keywords: calls.append(keywords))
    monkeypatch.setattr(wandb, "setup", lambda *arguments, **keywords: None)
    folder = str(tmp_path / "new" / "folder")
    for mode, key, wanted in [
        (None, None, "offline"),
        (None, KEY, "online"),
        ("online", None, "offline"),
        ("offline", KEY, "offline"),
        ("disabled", KEY, "disabled"),
    ]:
        for name, value in {"WANDB_MODE": mode, "WANDB_API_KEY": key, "WANDB_DATA_DIR": None}.items():
            monkeypatch.setenv(name, value or "")  # so that it is put back as it was
            if value is None:
                monkeypatch.delenv(name)
        environment.start_wandb("course", "a-run", {"beta": 0.1}, folder, group="article")
        call = calls.pop()
        given = {"project": "course", "name": "a-run", "group": "article", "config": {"beta": 0.1}, "dir": folder}
        assert call | given | {"mode": wanted} == call and Path(folder).is_dir() and not calls
        assert call["settings"].finish_timeout == 600  # or a network that is gone would hold the notebook for ever
        assert os.environ["WANDB_DATA_DIR"] == f"{folder}/wandb"


def test_versions_are_the_installed_ones():
    found = environment.versions()
    assert list(found) == ["python", *environment.PACKAGES]
    assert all(found[package] == version(package) for package in environment.PACKAGES)
    assert environment.versions(["no-such-package-here"])["no-such-package-here"] == "not installed"
    line = environment.describe_machine()
    assert f"{os.cpu_count()} cores; python " in line and f"trl {version('trl')}" in line


def test_recorded_figures_are_in_the_outputs(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: shown.append((data, raw)))
    environment.record(eval_margin=0.123456, stopped=5, note="stand-in")
    ((data, raw),) = shown
    assert raw and data[environment.METRICS_TYPE] == {"eval_margin": 0.123456, "stopped": 5, "note": "stand-in"}
    assert json.loads(json.dumps(data)) == data
    assert data["text/plain"].split() == ["eval_margin", "0.1235", "stopped", "5", "note", "stand-in"]


def test_the_disk_of_a_folder_is_found_before_the_folder_is_made(tmp_path):
    disk, free_gb = environment.find_disk(tmp_path / "not" / "yet")
    assert disk == tmp_path.stat().st_dev
    assert free_gb == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.05)


def test_only_the_known_warnings_are_silenced():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        environment.quiet_known_warnings()
        for message in (
            "You are importing from 'trl.experimental'. APIs here are unstable",
            "`gradient_checkpointing` is deprecated and will be removed in v6.",
            "Paged optimizers are not supported on CPU. Falling back",
            "Merge lora module to 4-bit linear may get different generations",
            "the loss is not finite",
        ):
            warnings.warn(message, UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["the loss is not finite"]


CELL = """# @title Parameters
# @markdown The run.
RECIPE = "course"  # @param ["course", "article"]
BASE_MODEL = "me/model"  # @param {type:"string"}
LEARNING_RATE = 8e-5  # @param {type:"number"}
BETA = 0.1  # @param {type:"number"} the paper's ["lambda"]
NUM_PAIRS = 1000  # @param {type:"integer"}
SKIPPED = 1  # @param {type:"integer", min:0}
PUSH = False  # @param {type:"boolean"}
BETAS = [0.1, 0.5]  # @param {type:"raw"}
SEED = 42  # @param {type:"integer"}
MORE = {
    "seed": 42,
    "warmup_steps": 10,
    "limit": 0,
    "dropout": 0.1,
    "modules": "all",
}  # @param {type:"raw"}"""


def check(**changed) -> dict:
    """Run the parameters cell with some values changed, as a learner or papermill does, and then the check."""
    values = {}
    exec(CELL, values)
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in changed.items())
    values |= changed
    environment.check_parameters(["", "%pip list", "ROOT = 1", CELL, injected, "run()"], values)
    return values


def refusal(**changed) -> str:
    with pytest.raises(environment.BadParameter) as caught:
        check(**changed)
    text = str(caught.value)
    assert "\n" not in text and caught.value._render_traceback_() == [f"BadParameter: {text}"]
    return text


def test_values_that_fit_pass():
    check()
    check(RECIPE="article", BASE_MODEL="", LEARNING_RATE=1e-3, BETA=1, SKIPPED=0, PUSH=True)
    check(BASE_MODEL=Path("here"), SEED=0, BETAS=[2], MORE={"seed": 0, "warmup_steps": 0, "modules": ["q", "k"]})


WRONG = {
    "RECIPE": ["corse", None, 1],
    "BASE_MODEL": [None, 3, True],
    "LEARNING_RATE": ["8e-6", None, 0, -8e-5, 0.1, 1.0, float("nan"), float("inf"), True],
    "BETA": ["0.1", 0, -0.1, float("nan")],
    "NUM_PAIRS": [0, -1, 2.5, "10", None, True],
    "SKIPPED": [-1],
    "PUSH": ["yes", 1, None],
    "BETAS": [[0.1, "0.5"], [0.0], [float("inf")]],
    "SEED": [-1, "42"],
}


def test_a_bad_value_is_refused_by_name():
    for name, wrong in WRONG.items():
        for value in wrong:
            text = refusal(**{name: value})
            shown = value[-1] if isinstance(value, list) else value
            assert name in text and repr(shown) in text


def test_an_unknown_name_is_refused_with_the_nearest():
    assert "BETTA" in refusal(BETTA=0.2) and "Did you mean BETA?" in refusal(BETTA=0.2)
    assert "ROOT" in refusal(BETA=0.2, ROOT=2)  # a variable, and no parameter
    assert "sed" in refusal(MORE={"sed": 1}) and "Did you mean seed?" in refusal(MORE={"sed": 1})


def test_what_more_lacks_comes_from_the_notebook():
    assert check(MORE={"seed": 7})["MORE"] == {
        "seed": 7, "warmup_steps": 10, "limit": 0, "dropout": 0.1, "modules": "all",
    }  # fmt: skip
    for more in ({"seed": "7"}, {"dropout": 0}, {"limit": -1}, {"dropout": float("nan")}, {"modules": 3}):
        (key,) = more
        assert key in refusal(MORE=more)
    assert "MORE" in refusal(MORE=["seed"])


@given(st.floats() | st.integers() | st.text(max_size=5) | st.booleans() | st.none())
def test_a_rate_passes_only_if_training_can_use_it(value):
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 0.1
    if usable:
        check(LEARNING_RATE=value)
    else:
        refusal(LEARNING_RATE=value)


def test_a_live_kernel_stops_in_one_line(tmp_path):
    """As a learner sees it: the notebook's own globals are read, and no traceback of the helper is shown."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell(CELL, store_history=True)
    check = "from utils import environment\nenvironment.check_parameters(In)"
    assert shell.run_cell(check, store_history=True).success
    shell.run_cell(CELL.replace('0.1  # @param {type:"number"} the', '-1  # @param {type:"number"} the'), True)
    error = shell.run_cell(check, store_history=True).error_in_exec
    assert isinstance(error, ValueError) and "BETA is -1" in str(error)


def test_a_notebook_takes_its_own_parameters_and_no_others():
    """With papermill's own injection, into the course's own notebooks."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    def run(path: Path, **parameters) -> None:
        notebook = parameterize_notebook(load_notebook_node(str(path)), parameters)
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        upto = next(i for i, source in enumerate(sources) if "check_parameters(In)" in source)
        values = {"ROOT": ROOT}
        for source in sources[1:upto]:
            exec(source, values)
        environment.check_parameters(sources[: upto + 1], values)

    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        run(path)
        with pytest.raises(environment.BadParameter, match="ARTEFACTS.*mean ARTIFACTS"):
            run(path, ARTEFACTS="here")


def test_artefacts_go_where_they_are_asked_to_but_not_on_a_drive_that_is_not_mounted(tmp_path):
    assert environment.artifacts_folder(tmp_path, "mine") == tmp_path / "mine" and (tmp_path / "mine").is_dir()
    assert environment.artifacts_folder(tmp_path, str(tmp_path / "absolute")) == tmp_path / "absolute"
    with pytest.raises(FileNotFoundError, match="Drive is not mounted"):
        environment.artifacts_folder(tmp_path, "/content/drive/MyDrive/orpo-course")
