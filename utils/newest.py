"""Compares the exact versions that CI runs with the newest releases, and runs tests on those.

`python -m utils.newest [--constraints FILE] [--test FILE ...]`. A release is what pip finds for this Python on the
index that it is configured with: no pre-releases, but yanked ones too, of which pip warns when it installs them.

Left out: packages that no requirements file names (pip takes the newest that fit), and which release broke a test.
`.venv-newest` stays: put one package after the other back to its pin there, and run the tests again.
"""

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
STAYS = "torch"  # tested at its pin: its newest build may be one for CUDA, of several gigabytes
KEPT_OUT = "behind, and the range in requirements.txt keeps it out"


class Package(NamedTuple):
    """A row of the table: a package that a requirements file names, and its versions."""

    name: str
    pin: str
    colab: str
    newest: str
    allowed: str
    verdict: str


def pins(path: Path) -> dict[str, str]:
    """Read the `name==version` lines of a constraints file as {canonical name: version}."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def requirements(root: Path) -> dict[str, SpecifierSet]:
    """Read both requirements files as {canonical name: versions that are allowed}."""
    text = "\n".join((root / name).read_text("utf-8") for name in ("requirements.txt", "requirements-dev.txt"))
    found = [Requirement(line) for line in re.findall(r"^\w[^#\n]*", text, flags=re.MULTILINE)]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in found}


def newest_release(name: str) -> str:
    """Ask pip's index for the newest release of a package, without a local version such as `+cpu`.

    Raises:
        LookupError: pip finds none, or cannot reach the index.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    run = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"^\S+ \((\S+)\)$", run.stdout, flags=re.MULTILINE)
    if run.returncode or not found:
        raise LookupError(f"pip finds no release of {name}. `{' '.join(command)}` said:\n{run.stderr}")
    return Version(found[1]).public


def verdict(pin: str, newest: str, allowed: SpecifierSet) -> str:
    """Say whether a pin is the newest release, and if not, whether the range lets that in.

    Example:
        >>> verdict("1.10.0", "1.9.0", SpecifierSet())
        'newest'
        >>> verdict("5.0.1", "5.2.0", SpecifierSet(">=4.7,<5.1"))
        'behind, and the range in requirements.txt keeps it out'
    """
    if Version(newest) <= Version(pin):
        return "newest"
    return "behind" if newest in allowed else KEPT_OUT


def compare(root: Path, constraints: Path) -> list[Package]:
    """Compare every package that the requirements of a course name, in their order.

    Raises:
        LookupError: a requirement has no pin, or pip finds no release of it.
    """
    wanted, pinned, colab = requirements(root), pins(constraints), pins(root / "constraints/colab.txt")
    if missing := sorted(wanted.keys() - pinned.keys()):
        raise LookupError(f"{constraints} does not pin {', '.join(missing)}: add a line `name==version` for each.")
    with ThreadPoolExecutor() as pool:
        newest = dict(zip(wanted, pool.map(newest_release, wanted), strict=True))
    return [
        Package(
            name,
            pinned[name],
            colab.get(name, "none"),
            newest[name],
            str(allowed) or "any",
            verdict(pinned[name], newest[name], allowed),
        )
        for name, allowed in wanted.items()
    ]


def table(packages: list[Package], heading: str = "ci.txt") -> str:
    """Return the comparison as a table of text; the heading names the file that the pins are from."""
    rows = [Package("package", heading, "colab.txt", "newest", "allowed", "verdict"), *packages]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def run_tests(root: Path, packages: list[Package], tests: list[str]) -> bool:
    """Install the newest releases, those beyond the ranges too, into `.venv-newest`, run tests there, say how it went.

    Returns:
        Whether the tests pass; False also if the releases cannot be installed together.
    """
    behind = [package for package in packages if package.verdict != "newest" and package.name != STAYS]
    names = ", ".join(f"{package.name} {package.newest}" for package in behind) or "the pins: nothing newer is tested"
    print(f"\nInstalling {names} into .venv-newest; about 2.5 minutes", flush=True)
    python = root / ".venv-newest" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], check=True)
    versions = [f"{package.name}=={package.newest if package in behind else package.pin}" for package in packages]
    install = subprocess.run([python, "-m", "pip", "install", *versions], capture_output=True, text=True)
    if install.returncode:
        conflict = re.search(r"^The conflict is caused by:\n(?:    .+\n)+", install.stdout, flags=re.MULTILINE)
        print(conflict[0] if conflict else install.stderr)
        print(f"The tests fail on {names}: pip cannot install them, see above.")
        return False
    passed = subprocess.run([python, "-m", "pytest", *tests], cwd=root).returncode == 0
    print(f"The tests {'pass' if passed else 'fail'} on {names}.")
    return passed


def main() -> int:
    """Print the table, and with `--test` run tests on the newest releases."""
    parser = argparse.ArgumentParser(description="Compare the pins with the newest releases, and run tests on those.")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints/ci.txt", help="the file with the pins")
    parser.add_argument("--test", nargs="+", metavar="FILE", help="what pytest runs on the newest releases")
    arguments = parser.parse_args()
    try:
        packages = compare(ROOT, arguments.constraints)
    except LookupError as error:
        parser.error(str(error))
    print(table(packages, arguments.constraints.name))
    return 0 if not arguments.test or run_tests(ROOT, packages, arguments.test) else 1


if __name__ == "__main__":
    sys.exit(main())
