"""Builds the course as a static site out of the notebooks that `make course` left behind, for `make site`.

`python site/build.py [--course artifacts/course] [--output artifacts/site]`, in the environment of
`constraints/site.txt`. The pages are README, CONTRIBUTING, the pictures, every notebook with its outputs, the solutions
and every other Markdown file of `notebooks/`: they are found by looking. Sphinx, MyST-NB and its book theme do the
work; this file writes what they read. The site asks no other host for anything, works in any folder, and from the disk.
Left out: running notebooks, which is `make course`, and publishing.
"""

import argparse
import html
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import badges
from utils import environment

WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
RAN = (
    "The outputs of this page are those of `make course`: the values of the next cell took the place of those above,"
    " and small stand-ins that of models and data. They show that the path works, not what a large model does."
)
NOT_RUN = "This page has no outputs: `make course` has not run this notebook."
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", flags=re.DOTALL)
BADGE = re.compile(r"\[!\[([^]]*)\]\(https?://[^)]*\)\](?=\()")  # a picture of another host, as a link


def find_pages(root: Path) -> list[str]:
    """List the files that become pages, in the order of the contents, as paths from the repository's root."""
    notebooks = root / "notebooks"
    found = [*sorted(notebooks.glob("[0-9][0-9]_*.ipynb")), *sorted(notebooks.glob("solutions/*.ipynb"))]
    found += [*sorted(notebooks.glob("*.md")), root / "images" / "README.md", root / "CONTRIBUTING.md"]
    return [path.relative_to(root).as_posix() for path in found]


def rewrite_links(markdown: str, page: str, pages: list[str], repository: str) -> str:
    """Point every link of a page to where it leads on the site: a page, a copied picture, or the repository.

    Args:
        markdown: text of the page; code in it stays as it is.
        page: the file that holds the text, as a path from the root.
        pages: the files that become pages.
        repository: address of a file in the repository, less its path.

    Returns:
        The text; README is the site's `index`, and a picture of another host becomes its alt text.
    """

    def lead(match: re.Match) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = os.path.normpath(Path(page).parent / target).replace(os.sep, "/")
        if path in pages or path.startswith("images/"):
            return match[0]
        if path == "README.md":
            home = os.path.relpath("index.md", Path(page).parent).replace(os.sep, "/")
            return f"]({home}{'#' * bool(anchor)}{anchor})"
        return f"]({repository}/{path})"

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lead, BADGE.sub(r"[\1]", part)) for part in parts[::2]]
    return "".join(parts)


def setting_of(values: dict) -> str:
    """Return what stands in a control of a widget, such as `Steps: 0 to 124`; nothing if it has no label or value."""
    label, chosen = values.get("description", "").rstrip(" :="), values.get("value", "")
    if "_options_labels" in values and (places := values.get("index")) is not None:
        chosen = ", ".join(
            values["_options_labels"][place] for place in ([places] if isinstance(places, int) else places)
        )
    elif isinstance(chosen, list):
        chosen = " to ".join(map(str, chosen))
    return html.escape(f"{label}: {chosen}") if label and chosen != "" else ""


def still_picture(view: dict, state: dict) -> str:
    """Return what a widget showed when the notebook ended, as HTML.

    Args:
        view: the output's reference to the widget.
        state: the notebook's widgets by their ids.
    """
    settings, shown, queue = [], [], [view["model_id"]]
    while queue:
        model = state.get(queue.pop(0), {"model_name": "", "state": {}})
        values = model["state"]
        settings.append(setting_of(values))
        shown += [values["value"]] if model["model_name"] == "HTMLModel" else []
        queue += [child.removeprefix("IPY_MODEL_") for child in values.get("children", [])]
    if not shown:
        return ""
    stood = "; ".join(filter(None, dict.fromkeys(settings)))  # a slider may have a field beside it
    return f'<p class="controls">In a running notebook, controls stand here. {stood}</p>' + "\n".join(shown)


def still_output(output: dict, state: dict, others: list[str]) -> dict | None:
    """Return an output as a page without a kernel can show it, or `None` if nothing of it is left.

    Args:
        output: one output of a cell.
        state: the notebook's widgets by their ids.
        others: HTML of the cell's other outputs, which is not shown twice.
    """
    data = output.get("data", {})
    if WIDGET in data:
        picture = still_picture(data[WIDGET], state)
        for other in others:
            picture = picture.replace(other, "")
        output["data"] = {"text/html": picture}
        return output if picture else None
    if "<iframe" in (page := data.get("text/html", "")):
        address = re.search(r'src="([^"]*)"', page)[1]
        text = f"In a running notebook, the page {html.escape(address)} stands here."
        output["data"] = {"text/html": f'<p class="controls">{text}</p>'}
    elif page.startswith("<style>pre"):  # IPython's coloured code: the site has colours of its own, also for the dark
        output["data"] = {"text/markdown": f"```python\n{data['text/plain'].strip()}\n```"}
    elif "text/markdown" in data:  # a card; what it links lies beside it in its own repository
        data["text/markdown"] = re.sub(r"!?\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"*\1*", data["text/markdown"])
    data = output.get("data", {})
    data.pop(environment.METRICS_TYPE, None)  # beside it stands the same as text
    if "text/html" in data:
        data["text/html"] = f'<div class="wide" tabindex="0">{data["text/html"]}</div>'
    return output


def prepare_notebook(notebook: nbformat.NotebookNode, executed: bool) -> nbformat.NotebookNode:
    """Fold the setup cell, say what the outputs are of, and put still pictures where widgets were."""
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    cells = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            others = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
            stills = [still_output(output, state, others) for output in cell.outputs]
            cell.outputs = [output for output in stills if output is not None]
            if "COURSE_REPO =" in cell.source:
                cell.metadata["tags"] = [*tags, "hide-input"]
        if "injected-parameters" in tags:
            cells.append(nbformat.v4.new_markdown_cell(RAN, id="site-ran"))
        cells.append(cell)
    if not executed:
        cells.insert(1, nbformat.v4.new_markdown_cell(NOT_RUN, id="site-not-run"))
    notebook.cells = cells
    return notebook


def title_of(markdown: str) -> str:
    """Return the first heading of a page."""
    return re.search(r"^# (.+)$", markdown, flags=re.MULTILINE)[1]


def contents(titles: dict[str, str]) -> str:
    """Return the site's table of contents as MyST directives, in three parts; numbers stand before titles."""
    parts = {"Notebooks": [], "Solutions": [], "Reference": []}
    for page, title in titles.items():
        path = Path(page)
        part = (
            "Solutions" if path.parent.name == "solutions" else "Notebooks" if path.suffix == ".ipynb" else "Reference"
        )
        number = f"{path.stem[:2]} " if path.stem[:2].isdigit() else ""
        parts[part].append(
            f"{number}{title.removeprefix(number).removesuffix(': solutions')} <{path.with_suffix('').as_posix()}>"
        )
    trees = [
        "```{toctree}\n:hidden:\n:caption: " + part + "\n\n" + "\n".join(lines) + "\n```"
        for part, lines in parts.items()
        if lines
    ]
    return "\n\n" + "\n\n".join(trees) + "\n"


def write_sources(root: Path, course: Path, folder: Path) -> list[str]:
    """Write what Sphinx reads: all pages with their links, the pictures, the settings and MathJax.

    Returns:
        Sentences on pages that are older than their notebook, or have no outputs.
    """
    remarks, titles, pages = [], {}, find_pages(root)
    slug, ref = badges.current_repository(root)
    repository = f"https://github.com/{slug}/blob/{ref}"
    for page in pages:
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if not page.endswith(".ipynb"):
            text = (root / page).read_text(encoding="utf-8")
            titles[page] = title_of(text)
            target.write_text(rewrite_links(text, page, pages, repository), encoding="utf-8")
            continue
        source, ran = root / page, course / Path(page).name
        is_course, executed = Path(page).parent.name == "notebooks", ran.exists()
        if is_course and not executed:
            remarks.append(f"{page} has no outputs: make course has not run it.")
        elif is_course and sources_of(source) != sources_of(ran):
            remarks.append(f"{page} changed since make course ran it: the site shows it as it was.")
        text = (ran if executed else source).read_text(encoding="utf-8")
        for private, public in ((course, "artifacts/course"), (root, "orpo-course")):
            text = text.replace(json.dumps(str(private))[1:-1], public)  # whose machine it was is nobody's business
        notebook = prepare_notebook(nbformat.reads(text, as_version=4), executed or not is_course)
        titles[page] = title_of(notebook.cells[0].source)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = rewrite_links(cell.source, page, pages, repository)
        nbformat.write(notebook, target)
    readme = rewrite_links((root / "README.md").read_text(encoding="utf-8"), "README.md", pages, repository)
    (folder / "index.md").write_text(readme + contents(titles), encoding="utf-8")
    no_pictures = shutil.ignore_patterns("*.py", "__pycache__", "*.md")
    shutil.copytree(root / "images", folder / "images", ignore=no_pictures, dirs_exist_ok=True)
    here, static = Path(__file__).parent, folder / "_static"
    shutil.copy(here / "conf.py", folder)
    static.mkdir()
    for name in ("course.css", "favicon.svg"):
        shutil.copy(here / name, static)
    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    shutil.copytree(mathjax / fonts, static / "mathjax" / fonts)
    shutil.copy(mathjax / "tex-chtml-full.js", static / "mathjax")
    return remarks


def sources_of(path: Path) -> list[str]:
    """Return the sources of a notebook's cells, less those that papermill added."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def main() -> int:
    """Build the site from the command line."""
    parser = argparse.ArgumentParser(description="Build the course as a static site.")
    parser.add_argument("--course", type=Path, default=ROOT / "artifacts" / "course", help="what make course wrote")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "site", help="folder of the site, replaced")
    given = parser.parse_args()
    course, output = given.course.resolve(), given.output.resolve()
    report = course / "report.json"
    if not report.exists():
        print(f"{course} holds no executed notebooks: run `make course` first.", file=sys.stderr)
        return 1
    is_site = (output / ".nojekyll").exists() and not (output / ".git").exists()  # a clone would lose its history
    if output.exists() and any(output.iterdir()) and not is_site:
        print(f"{output} holds something else than a site: name an empty folder, or remove it.", file=sys.stderr)
        return 1
    for entry in json.loads(report.read_text(encoding="utf-8"))["notebooks"]:
        if not entry["ok"]:
            print(f"{entry['name']} failed when make course ran it: its page ends with the error.")
    age = (time.time() - report.stat().st_mtime) / 3600
    print(f"Outputs: {course}, made {age:.1f} hours ago; `make course` makes them again.")
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory(prefix="orpo-site-") as name:
        folder, built = Path(name, "pages"), Path(name, "site")
        folder.mkdir()
        for remark in write_sources(ROOT, course, folder):
            print(remark)
        failed = build_main(["-q", "-b", "html", "-d", str(Path(name, "doctrees")), str(folder), str(built)])
        if failed:
            return failed
        for left in (built / ".buildinfo", built / "objects.inv", *built.glob("_static/*.html")):
            left.unlink(missing_ok=True)  # what only Sphinx and the theme's makers need
        (built / ".nojekyll").touch()  # GitHub Pages would leave out _static
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(built, output)
    number = len(list(output.rglob("*.html")))
    print(f"{number} pages. Open {(output / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
