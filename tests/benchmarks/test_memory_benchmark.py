"""The prediction of memory against what a training step holds, in processes of their own, for both trainers."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^(trl|fused) +(recomputed|kept) +(\d+) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)", re.MULTILINE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a tiny model says nothing about a GPU")
def test_a_steps_memory_is_as_predicted_for_both_trainers():
    """Within 25 %, recomputed or kept; the fused trainer takes less, and so does recomputing."""
    command = [sys.executable, "benchmarks/memory.py", "--shape", "tiny", "--pairs", "4"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert f"torch {version('torch')}" in run.stdout.splitlines()[0]
    measured = {}
    for trainer, layers, pairs, longest, packed, predicted, found, ratio in LINE.findall(run.stdout):
        assert 0.75 < float(found) / float(predicted) < 1.25, run.stdout
        assert float(ratio) == pytest.approx(float(found) / float(predicted), abs=0.05)  # of rounded ones
        assert pairs == "4" and int(longest) <= 1024 and int(packed) < 8 * int(longest)
        measured[trainer, layers] = float(found)
    assert len(measured) == 4, run.stdout
    for layers in ("recomputed", "kept"):
        assert measured["fused", layers] < measured["trl", layers] / 2
    for trainer in ("trl", "fused"):
        assert measured[trainer, "recomputed"] < measured[trainer, "kept"]
