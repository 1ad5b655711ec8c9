"""Writes your repository into the course: Colab badges, clone lines, links, and the notebooks' setup cells.

`python -m tools.badges [owner/name] [--ref REF]`; without a name it is that of the git remote `origin`. Files are
edited as text, so that a notebook keeps its formatting and cell ids. Links to other repositories are left alone.
"""

import argparse
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = r"\w[\w.-]*"  # an owner, a repository, or a branch or tag
BADGE = re.compile(rf"colab\.research\.google\.com/github/({NAME}/{NAME})/blob/({NAME})/")


def course_files(root: Path) -> list[Path]:
    """Return the files that name the repository: README, CONTRIBUTING and every notebook."""
    notebooks = [path for path in (root / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    return [path for path in (root / "README.md", root / "CONTRIBUTING.md", *sorted(notebooks)) if path.exists()]


def current_repository(root: Path = ROOT) -> tuple[str, str]:
    """Return (owner/name, branch or tag) that README's first Colab badge opens."""
    badge = BADGE.search((root / "README.md").read_text(encoding="utf-8"))
    if badge is None:
        raise ValueError("README.md has no Colab badge, so the current repository is unknown: add one first.")
    return badge[1], badge[2]


def remote_repository(root: Path = ROOT) -> str:
    """Return the owner/name of git's remote `origin`, whose address may be that of https or of ssh."""
    try:
        git = ["git", "-C", str(root), "remote", "get-url", "origin"]
        url = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise ValueError("git knows no remote `origin` here: name the repository, as in REPO=ada/course.") from None
    found = re.search(rf"github\.com(?::\d+)?[:/]({NAME}/{NAME}?)(?:\.git)?/?$", url)
    if found is None:
        raise ValueError(f"{url} is not on GitHub: name the repository, as in REPO=ada/course.")
    return found[1]


def write_repository(root: Path, slug: str, ref: str | None = None) -> list[Path]:
    """Replace the current repository by another one wherever the course names it, and return the changed files.

    The badges open `ref`, a branch or tag; `None` keeps the current one.

    Raises:
        ValueError: slug or ref cannot be one, or README.md has no Colab badge.
    """
    old_slug, old_ref = current_repository(root)
    ref = ref or old_ref
    if not re.fullmatch(f"{NAME}/{NAME}", slug) or slug.endswith(".git"):
        raise ValueError(f"{slug!r} is not a repository: write it as owner/name, for example ada/orpo-course.")
    if not re.fullmatch(NAME, ref):
        raise ValueError(f"{ref!r} is not a branch or tag without a slash, for example main or v1.0.")

    # A name ends at a slash, a quote, `.git` or the end of a sentence; a longer name is another repository.
    link = re.compile(
        r'(github\.com/|githubusercontent\.com/|google\.com/github/|COURSE_REPO = \\?")'
        rf"{re.escape(old_slug)}(?![\w-]|\.(?!git\b)\w)"
        rf"(?:(/(?:blob/|tree/)?){re.escape(old_ref)}(?![\w-]|\.\w))?"
    )
    setup = re.compile(rf'(COURSE_REF = \\?"){re.escape(old_ref)}(?=\\?")')
    changed = []
    for path in course_files(root):
        text = path.read_bytes().decode("utf-8")  # bytes keep the file's line ends
        new = link.sub(lambda match: match[1] + slug + (match[2] + ref if match[2] else ""), text)
        new = setup.sub(rf"\g<1>{ref}", new)
        if new != text:
            path.write_bytes(new.encode("utf-8"))
            changed.append(path)
    return changed


def main():
    """Read the command line, write the repository, and name the files that changed."""
    parser = argparse.ArgumentParser(description="Write your repository into every badge, clone line and link.")
    parser.add_argument("slug", metavar="owner/name", nargs="?", help="on GitHub (default: of the remote `origin`)")
    parser.add_argument("--ref", help="branch or tag that the badges open (default: the current one)")
    arguments = parser.parse_args()
    try:
        slug = arguments.slug or remote_repository()
        changed = write_repository(ROOT, slug, arguments.ref)
    except ValueError as error:
        parser.error(str(error))
    print(*(path.relative_to(ROOT) for path in changed), f"{slug}: {len(changed)} files changed.", sep="\n")


if __name__ == "__main__":
    main()
