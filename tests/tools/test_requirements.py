"""The requirement and constraint files: they agree, they name their notebooks, and Colab keeps its torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
COLAB_KEEPS = ("torch", "numpy", "pandas", "transformers", "peft")
CONSTRAINTS = ("constraints/ci.txt", "constraints/colab.txt")
# Of lm_eval's tables: newer ones do not take the python-dateutil 4 that the newest matplotlib needs.
HELD_BACK = {"dataproperty", "pytablewriter", "tabledata", "typepy"}


def requirement_lines(name):
    """The lines of a requirement file that require something, comments and all."""
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def requirements(name):
    return [Requirement(line.split("#")[0]) for line in requirement_lines(name)]


def pins(text):
    """`name==version` lines as {canonical name: version}; the last one of a name counts."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def image_pins():
    """What Colab's image has: its pins in the Colab set, and its own versions from the `# image:` lines."""
    text = (ROOT / "constraints/colab.txt").read_text()
    return pins(text) | pins("\n".join(re.findall(r"^# image: (\S+)$", text, flags=re.MULTILINE)))


def moved_on_colab(folder, extra=""):
    """What `pip install -r requirements.txt` moves on Colab's image, as {name: "old -> new"}.

    uv prefers the versions in an output file that exists, as pip prefers what is installed: both move a
    package only when a requirement forces them to. Only metadata is read, no package is downloaded.
    """
    image = image_pins()
    wanted, resolved = folder / "requirements.in", folder / "resolved.txt"
    wanted.write_text((ROOT / "requirements.txt").read_text() + extra + "\n")
    resolved.write_text("".join(f"{name}=={version}\n" for name, version in image.items()))
    command = "-m uv pip compile --quiet --no-header --python-version 3.13 --python-platform linux".split()
    run = subprocess.run(
        [sys.executable, *command, str(wanted), "--output-file", str(resolved)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, f"requirements.txt does not resolve on Colab's image:\n{run.stderr}"
    now = pins(resolved.read_text())
    return {name: f"{image[name]} -> {now[name]}" for name in now if now[name] != image.get(name, now[name])}


@pytest.mark.timeout(120)
def test_colab_keeps_its_own_packages(tmp_path):
    assert image_pins().keys() >= set(COLAB_KEEPS), "constraints/colab.txt misses a pin of the image"
    assert "# image: torch==" in (ROOT / "constraints/colab.txt").read_text(), "which torch does the image have?"
    moved = moved_on_colab(tmp_path)
    assert not set(moved) & set(COLAB_KEEPS), f"requirements.txt would move these on Colab: {moved}"
    # What has to move, and nothing else: every upgrade costs each learner time and may break the image.
    assert set(moved) == {"datasets", "pyarrow", "torchao"}, moved
    # And a requirement that would move one of those is found, also through a dependency
    assert "torch" in moved_on_colab(tmp_path, "torchvision>=0.27")


def test_every_requirement_names_its_notebooks():
    there = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    named = set()
    for line in requirement_lines("requirements.txt"):
        comment = re.search(r"# (\d\d(?:, \d\d)*): \S", line)
        assert comment, f"no notebooks named: {line!r} (expected `name  # 03, 05: why`)"
        numbers = set(comment[1].split(", "))
        assert numbers <= there, f"{line!r} names {sorted(numbers - there)}, notebooks/ has {sorted(there)}"
        named |= numbers
    assert named == there, f"no requirement names {sorted(there - named)}"


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_satisfy_the_requirements(name):
    text = (ROOT / name).read_text()
    pinned = pins(text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(pinned), f"{name}: a line that is not an exact pin, or a package twice"
    for requirement in requirements("requirements.txt") + requirements("requirements-dev.txt"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{name} does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{name} has {version}, required is {requirement}"
    # Both sets run on the same torch; without a local version, a CPU and a CUDA build satisfy it.
    assert pinned["torch"] == "2.13.0"


def test_ci_set_is_nowhere_older_than_colab():
    newest, colab = (pins((ROOT / name).read_text()) for name in CONSTRAINTS)
    both = (newest.keys() & colab.keys()) - HELD_BACK
    older = {n: (newest[n], colab[n]) for n in both if Version(newest[n]) < Version(colab[n])}
    assert not older, f"constraints/ci.txt is meant to be the newest set, and is older in {older}"
