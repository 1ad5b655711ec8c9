"""The exercises: untried they say so and stop nothing, a wrong answer fails with what to look at, the solution passes.

A solution stands in `notebooks/solutions/`, in a cell with the id of the exercise's cell. Untried is what every run of
the course is.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.timeout(600)  # the first of these tests waits for the whole course

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
WRONG = {  # of each exercise: a wrong answer, and what the message must say
    "which-run": ('answer = {letter: "healthy" for letter in "ABCDEFG"}', "Not yet right: .* is not 'healthy'"),
    "how-many-rows": ("held_out = 200", r"200 rows know it within 6\.\d points"),
}


def cells(path: Path) -> dict[str, str]:
    return {cell["id"]: cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"}


def exercise_of(solution: Path) -> Path:
    return ROOT / "notebooks" / solution.name.replace("_solutions", "")


@pytest.fixture
def replaced(run, course, tmp_path):
    """Run a notebook, on what the course made, with other code in some cells; all of it, whatever fails."""

    def run_replaced(path: Path, code: dict[str, str]) -> dict[str, list]:
        import nbclient

        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = code.get(cell["id"], cell.source)
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += f"\nARTIFACTS = {str(course[1])!r}"
        nbclient.NotebookClient(
            notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(ROOT)}}
        ).execute()
        return {cell["id"]: cell.get("outputs", []) for cell in notebook.cells if cell.cell_type == "code"}

    return run_replaced


def error_in(outputs: list) -> str | None:
    return next((f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"), None)


def test_there_are_solutions():
    assert SOLUTIONS and {name for path in SOLUTIONS for name in cells(path)} == set(WRONG)


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)
def test_every_exercise_begins_untried(solution, course):
    """In the executed course each exercise says that it was not tried, and the notebook went on to its end."""
    executed = nbformat.read(course[1] / exercise_of(solution).name, as_version=4)
    outputs = {cell["id"]: cell.get("outputs", []) for cell in executed.cells}
    for name in cells(solution):
        source = cells(exercise_of(solution))[name]
        assert re.match(r"\w+ = None", source), f"{name} does not begin with an answer that is None"
        assert "ot tried yet" in json.dumps(outputs[name]), name


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)
def test_a_solution_passes_and_a_wrong_answer_teaches(solution, replaced):
    right = replaced(exercise_of(solution), cells(solution))
    assert [error_in(outputs) for outputs in right.values()] == [None] * len(right)

    asked = cells(exercise_of(solution))
    names = list(cells(solution))
    wrong = replaced(
        exercise_of(solution), {name: re.sub(r"^.*\n", WRONG[name][0] + "\n", asked[name], count=1) for name in names}
    )
    for name in names:
        message = error_in(wrong[name])
        assert message and message.startswith("AssertionError") and re.search(WRONG[name][1], message, re.DOTALL), (
            message
        )
    assert [name for name, outputs in wrong.items() if error_in(outputs)] == names
