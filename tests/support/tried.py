"""Notebooks with their exercises tried: behind each one, a wrong answer and then the solution, as a learner would."""

import re
import textwrap
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
# How an exercise begins, with what to give; the cell then gives the answer to its check.
UNTRIED = re.compile(r"^([a-z]\w*) = None(?=  # \S.*check\w*\(\s*\1\b)", re.MULTILINE | re.DOTALL)
WRONG = {  # of each exercise: what a learner might give; "a guess" for all others
    # 00
    "size": '{"bf16": 128.5, "4 bits": 4}',
    "longest": "1024",
    # 01
    "own-mean": "-4.228",
    "own-beta": "10.0",
    "own-loss": "lambda chosen, rejected: rejected - chosen",
    # 02
    "words": "49",
    "filter": "lambda line: line.chosen_tokens < 2 * line.rejected_tokens",
    # 03
    "window": "5",
    # 04
    "which-run": '{letter: "healthy" for letter in "ABCDEFG"}',
    "how-many-rows": "200",
    # 05
    "lost": "0.0398",
    "merge-by-hand": "lambda weight, A, B, alpha, rank: weight + B @ A",
    "files": '["adapter_model.safetensors", "optimizer.pt"]',
    # 06
    "find-flaw": '{letter: "chance" for letter in "ABCDE"}',
    "flips": "(0, 0)",
    "own-accuracy": "lambda table, how: (table.margin > 0).mean()",
    # 07
    "system-cost": "3",
    "file-size": "0.1",
    # 08
    "predict-losses": '{"A": {"SFT", "DPO", "ORPO"}, "B": {"DPO", "ORPO"}, "C": {"DPO"}}',
    "share-budget": "[1, 1]",
    # 09
    "count-pass": '{"distinct": 720, "repeated": 400, "padding": 400}',
    "write-mask": "lambda *parts: [[False] * sum(parts)] * sum(parts)",
}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def solutions_of(path: Path) -> dict[str, str]:
    """The cells of a notebook's solutions by their id, which is that of the exercise's cell."""
    solved = path.parent / "solutions" / f"{path.stem}_solutions.ipynb"
    return {cell["id"]: cell.source for cell in read(solved).cells if cell.cell_type == "code"}


def exercises_of(path: Path) -> dict[str, str]:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    return {cell["id"]: cell.source for cell in cells if UNTRIED.search(cell.source)}


def with_tries(path: Path, folder: Path) -> Path:
    """Write a copy of a notebook in which every exercise is tried twice more, and return where it is."""
    notebook, solved, cells = read(path), solutions_of(path), []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type != "code" or not UNTRIED.search(cell.source):
            continue
        wrong = WRONG.get(cell["id"], repr("a guess"))
        attempt = textwrap.indent(UNTRIED.sub(rf"\1 = {wrong}", cell.source), "    ")
        attempt = f"try:\n{attempt}\nexcept AssertionError as error:\n    print('Refused:', error)"
        cells.append(nbformat.v4.new_code_cell(attempt, id=f"{cell['id']}-wrong"))
        cells.append(nbformat.v4.new_code_cell(solved[cell["id"]], id=f"{cell['id']}-right"))
    notebook.cells = cells
    nbformat.write(notebook, folder / path.name)
    return folder / path.name
