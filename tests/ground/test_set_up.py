"""The setup cell for real: git clones, in an empty folder, a small course that stands in for GitHub's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils import environment

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def setup_cell(path: Path) -> dict:
    return next(cell for cell in json.loads(path.read_text())["cells"] if "COURSE_REPO" in "".join(cell["source"]))


CELL = "".join(setup_cell(NOTEBOOKS[0])["source"])
NAMED = CELL.replace("YOUR_NAME/orpo-course", "ada/course")


@pytest.fixture(scope="module")
def github(tmp_path_factory) -> Path:
    """A folder that git takes for https://github.com/, with the repository ada/course."""
    folder = tmp_path_factory.mktemp("github")
    course = folder / "ada" / "course"
    (course / "utils" / "practice").mkdir(parents=True)
    for name in ("utils/__init__.py", "utils/environment.py"):
        shutil.copy(ROOT / name, course / name)
    (course / "utils" / "practice" / "__init__.py").touch()
    (course / "requirements.txt").write_text("# needed\npackaging>=20  # everywhere\n")
    who = ["-c", "user.name=ada", "-c", "user.email=ada@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-qm", "First"]):
        subprocess.run(["git", "-C", str(course), *command], check=True)
    return folder


@pytest.fixture
def run(github, tmp_path):
    """Run the setup cell in an empty folder: `run(source, url)` returns whether it ended well, and what it printed."""

    def run_cell(source: str = NAMED, url: str = f"file://{github}/", **variables):
        settings = os.environ | {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{url}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
            "GIT_TERMINAL_PROMPT": "0",
        }
        folder = tmp_path / "a folder"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", source + "\nprint(ROOT)\n"]
        done = subprocess.run(command, cwd=folder, env=settings | variables, capture_output=True, text=True)
        return SimpleNamespace(
            ok=done.returncode == 0, lines=done.stdout.splitlines(), error=done.stderr, folder=folder
        )

    return run_cell


def test_it_is_the_same_and_folded_everywhere():
    for path in NOTEBOOKS:
        cell = setup_cell(path)
        assert "".join(cell["source"]) == CELL and cell["metadata"]["cellView"] == "form", path.name
    assert max(map(len, CELL.splitlines())) <= 80


def test_it_clones_once_and_says_which_commit(run, github):
    commit = subprocess.check_output(["git", "-C", github / "ada/course", "rev-parse", "--short", "HEAD"], text=True)
    first = run()
    assert first.ok, first.error
    line, root = first.lines
    assert line.startswith(f"Course {commit.strip()} of 20") and line.endswith("nothing to install.")
    assert root == str(first.folder / "orpo-course") and not (first.folder / "orpo-course.part").exists()
    again = run(url="https://127.0.0.1:9/")  # as on the next day, without a network
    assert again.ok and again.lines == first.lines


def test_an_interrupted_clone_recovers(run, tmp_path):
    half = tmp_path / "a folder" / "orpo-course.part" / ".git"
    half.mkdir(parents=True)
    (half / "config").touch()
    (tmp_path / "a folder" / "orpo-course" / ".git").mkdir(parents=True)  # of a clone into the folder itself
    found = run()
    assert found.ok, found.error
    assert (found.folder / "orpo-course.old" / ".git").is_dir()


def test_in_the_repository_nothing_is_cloned():
    command = [sys.executable, "-c", CELL + "\nprint(ROOT)\n"]
    done = subprocess.run(command, cwd=ROOT / "notebooks", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(ROOT)


@pytest.mark.parametrize(
    "source, changes, said",
    [
        (CELL, {"url": "https://127.0.0.1:9/"}, "YOUR_NAME/orpo-course. Is it yours, and public?"),
        (NAMED, {"PATH": "/nowhere"}, "git: not found"),
        (NAMED, {"url": "https://127.0.0.1:9/"}, "unable to access"),
        (NAMED.replace("ada/course", "ada/private"), {}, "ada/private. Is it yours, and public?"),
        (NAMED.replace('"main"', '"v9"'), {}, "v9"),
    ],
    ids=["placeholder", "no git", "no internet", "private", "no such branch"],
)
def test_a_failure_is_one_sentence(run, source, changes, said):
    if source == CELL and "YOUR_NAME" not in CELL:
        pytest.skip("the repository is named")
    found = run(source, **changes)
    (line,) = found.error.strip().splitlines()
    assert not found.ok and said in line


def test_only_what_is_missing_is_installed(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.txt").write_text("packaging>=20\nno-such-thing==1.0  # 05\ntorch>=99\n")
    commands = []

    def pip(command, **_):
        if command[0] == "git":
            raise OSError("no git")
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    environment.set_up(tmp_path)
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Installing no-such-thing, torch") and "restart" in line and "packaging" not in line


def test_a_failed_install_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("no-such-thing\n")
    failed = SimpleNamespace(returncode=1, stdout="abc", stderr="warning\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="^pip failed: ERROR: No matching distribution$"):
        environment.set_up(tmp_path)
