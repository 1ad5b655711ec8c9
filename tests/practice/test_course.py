"""The runner: what it runs, how it fails, what it reports."""

import json
import sys

import nbformat
import pytest

from utils.practice import course


def write_notebook(path, *sources) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def series(tmp_path, monkeypatch, small_base):
    """A series of its own: one notebook that records a figure, one that fails, one that must then not run."""
    notebooks = tmp_path / "a folder" / "notebooks"
    record = "import sys; sys.path.insert(0, {!r}); from utils import environment; environment.record(answer=ANSWER)"
    bars = "from tqdm.auto import tqdm; from tqdm import std; bars = list(tqdm([1])), list(std.tqdm([1]))"
    widget = "import ipywidgets; ipywidgets.IntSlider(7)"
    begin = ("ARTIFACTS = ''\nANSWER = 42", record.format(str(course.ROOT)), bars, widget)
    write_notebook(notebooks / "00_begin.ipynb", *begin)
    write_notebook(notebooks / "01_break.ipynb", "ARTIFACTS = ''", "nothing = 1\nnothing / 0")
    write_notebook(notebooks / "02_never.ipynb", "ARTIFACTS = ''")
    monkeypatch.setattr(course, "ROOT", notebooks.parent)
    return notebooks.parent


@pytest.mark.timeout(60)
def test_a_failing_cell_ends_the_run_with_its_source_and_error(series, monkeypatch, capfd):
    monkeypatch.setattr(course, "OUTPUT", series / "out")
    monkeypatch.setattr(sys, "argv", ["course"])
    assert course.main() == 1
    printed = capfd.readouterr()
    assert "eavesdropping" not in printed.err  # a kernel over TCP warns of it
    assert "nothing / 0" in printed.err and "ZeroDivisionError: division by zero" in printed.err
    assert "00_begin" in printed.out and "answer 42" in printed.out and "FAIL" in printed.out
    report = json.loads((series / "out" / "report.json").read_text())
    assert [(entry["name"], entry["ok"]) for entry in report["notebooks"]] == [("00_begin", True), ("01_break", False)]
    assert report["notebooks"][0]["metrics"] == {"answer": 42}
    assert (series / "out" / "01_break.ipynb").exists()
    executed = nbformat.read(series / "out" / "00_begin.ipynb", as_version=4)
    (state,) = executed.metadata.widgets.values()
    assert {model["model_name"] for model in state["state"].values()} >= {"IntSliderModel"}
    assert "FloatProgressModel" not in str(state)
    assert [len(cell.outputs) for cell in executed.cells[-2:]] == [0, 1]


def test_one_notebook_brings_what_it_needs():
    assert [path.name[:2] for path in course.select("05")] == ["02", "03", "05"]
    assert [path.name[:2] for path in course.select("02")] == ["02"]
    with pytest.raises(ValueError, match="no notebook '99'"):
        course.select("99")


def test_the_tables_name_only_notebooks_and_parameters_that_exist():
    import papermill

    numbers = {path.name[:2]: path for path in course.select()}
    assert set(course.PARAMETERS) | set(course.NEEDS) | set(course.ARTEFACTS) <= set(numbers)
    for number, parameters in course.PARAMETERS.items():
        assert set(parameters) <= set(papermill.inspect_notebook(str(numbers[number])))


def test_the_environment_is_put_back(series, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    settings = course.practice_environment("http://127.0.0.1:1", series / "home")
    notebook = series / "notebooks" / "02_never.ipynb"
    course.run_notebook(notebook, series / "out.ipynb", {}, settings)
    assert course.os.environ["HF_TOKEN"] == "mine" and "HF_HUB_DISABLE_TELEMETRY" not in course.os.environ
