"""Code and notebooks are formatted and linted; `make format` mends most of what this finds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("command", ["check", "format --check --diff"])
def test_ruff(command):
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "."], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, f"`make format` mends most of this:\n{run.stdout}\n{run.stderr}"
