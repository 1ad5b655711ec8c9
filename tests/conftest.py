"""What all tests share: a practice hub that the real clients talk to, started before any of them is imported.

`huggingface_hub` reads HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET when it is imported: they are set at the top.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

from support.failing_hub import FailingHub

_FOLDER = tempfile.TemporaryDirectory(prefix="orpo-course-tests-")
_HUB = FailingHub(Path(_FOLDER.name) / "hub")
_HUB.start()
for _secret in ("HF_TOKEN", "WANDB_API_KEY"):
    os.environ.pop(_secret, None)
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": str(Path(_FOLDER.name) / "home"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_OFFLINE": "0",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # two tests at once share the cores
}

import pytest  # noqa: E402

KERNELS = pytest.StashKey[int]()


def pytest_configure(config):
    """Count the kernels that a session starts, for they are what takes its time."""
    from jupyter_client.provisioning import LocalProvisioner

    config.stash[KERNELS] = 0
    launch = LocalProvisioner.launch_kernel

    async def counted(self, cmd, **kwargs):
        config.stash[KERNELS] += 1
        return await launch(self, cmd, **kwargs)

    LocalProvisioner.launch_kernel = counted


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """All that needs the series runs first, in one process; every other file stays in one process, too."""
    for item in items:
        if "course" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(900), append=False)  # whichever comes first waits for the whole series
            item.add_marker(pytest.mark.xdist_group("series"))
        else:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: ("course" not in item.fixturenames, "notebooks" not in item.path.parts))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["kernels"] = session.config.stash[KERNELS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[KERNELS] += getattr(node, "workeroutput", {}).get("kernels", 0)


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"{config.stash[KERNELS]} notebook kernels were started.")


@pytest.fixture(scope="session")
def small_base() -> Path:
    """The stand-in base, built once and cached."""
    from utils.practice import stand_ins

    return stand_ins.small_base()


@pytest.fixture(scope="session")
def hub(small_base) -> FailingHub:
    """A running practice hub that holds the stand-ins."""
    from utils.practice import stand_ins

    stand_ins.publish(_HUB)
    return _HUB


@pytest.fixture(scope="session")
def tokenizer(small_base):
    """The stand-in base's tokenizer with the course's template; tests leave it as it is."""
    from transformers import AutoTokenizer

    from utils.data import chat_format

    return chat_format.prepare_tokenizer(AutoTokenizer.from_pretrained(small_base, trust_remote_code=False))


@pytest.fixture(scope="session")
def course(tmp_path_factory) -> tuple[dict, Path]:
    """The whole series, run once the way `make course` runs it: its report, and the folder with all it made.

    Behind every exercise stand a wrong answer and the solution.
    """
    from support.tried import with_tries

    from utils.practice import course as runner

    output, copies = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("tried")
    paths = [with_tries(path, copies) for path in runner.select()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "select", lambda only=None: paths)
        return runner.run_course(output=output), output


@pytest.fixture(scope="session")
def recorded(course) -> dict[str, dict]:
    """What each notebook recorded in the course's own run, by its number."""
    return {item["name"][:2]: item["metrics"] for item in course[0]["notebooks"]}


@pytest.fixture
def run(hub, tmp_path):
    """Run a notebook alone on the session's hub: `run("03", BETA=0.2)`; what it makes goes into `tmp_path`.

    Beside parameters it takes `output`, a folder, and `environment`, variables for the kernel; it returns the figures
    that the notebook recorded, and 03 and 05 get the small values of `make course`.
    """
    from utils.practice import course as runner

    def run_one(number: str, output: Path = tmp_path, environment: dict | None = None, **parameters) -> dict:
        (path,) = [path for path in runner.select() if path.name.startswith(number)]
        output.mkdir(exist_ok=True)
        settings = runner.practice_environment(hub.url, output / "home") | (environment or {})
        given = runner.PARAMETERS.get(number, {}) | {"ARTIFACTS": str(output)} | parameters
        return runner.run_notebook(path, output / path.name, given, settings)

    return run_one


@pytest.fixture
def write_pairs(tmp_path):
    """Write rows into a file of JSON lines, and return its name."""

    def write(rows: list[dict]) -> str:
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return str(path)

    return write


@pytest.fixture
def put(hub, small_base, tmp_path):
    """Put a copy of the small base on the Hub, with changes to its folder: `put(name, change, **repository)`."""

    def put_one(name, change=lambda folder: None, **repository):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(small_base, folder)
        change(folder)
        hub.add_repo(name, exist_ok=True, **repository)
        hub.commit_folder(name, folder)
        return name

    return put_one


@pytest.fixture
def no_open_figures():
    """No figure is open before a test, and none that it left afterwards."""
    import matplotlib.pyplot as plt

    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def shell(monkeypatch):
    """What a notebook's front end is sent: here `display` publishes as it would in a kernel."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    fake = SimpleNamespace(display_formatter=DisplayFormatter(), display_pub=CapturingDisplayPublisher())
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls, *args, **kwargs: fake))
    return fake.display_pub.outputs


@pytest.fixture
def unreachable(monkeypatch):
    """A Hub at a port where nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
