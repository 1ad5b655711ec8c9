"""The benchmarks run: on little data, so what they print says nothing here about speed."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_mixing_prints_time_memory_and_a_complete_account():
    script = str(ROOT / "benchmarks" / "mixing.py")
    run = subprocess.run([sys.executable, script, "300"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^300 rows: [\d.]+ s, [\d.]+ ms a row, [\d.]+ GB at the peak$", run.stdout, re.MULTILINE)
    counts = {what: int(number.replace(",", "")) for what, number in re.findall(r"([a-z][a-z ]+) ([\d,]+)", run.stdout)}
    dropped = ["kept", "score too low", "prompt too long", "answer too long", "same prompt", "near duplicate"]
    assert counts["read"] == sum(counts.get(reason, 0) for reason in [*dropped, "in a benchmark"]) > counts["examined"]
