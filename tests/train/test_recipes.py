"""Every recipe is a set of parameters that notebook 03 takes, and the course's own is what 03 does by itself."""

import json
from pathlib import Path

import pytest
import yaml

from utils import environment

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("recipes/*.yaml"))
CELLS = json.loads((ROOT / "notebooks/03_train_with_orpo.ipynb").read_text())["cells"]
DEFAULTS = "".join(next(cell["source"] for cell in CELLS if "parameters" in cell["metadata"].get("tags", [])))


def defaults() -> dict:
    values = {}
    exec(DEFAULTS, values)
    return {name: value for name, value in values.items() if name.isupper()}


def test_the_recipes_are_those_of_the_readme():
    assert {path.stem for path in FILES} == {
        "course-llama3",
        "article-llama3",
        "lazyorpo-phi2",
        "paper-hh",
        "stack-llama2-dpo",
        "small",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_notebook_03_takes_every_value(path):
    values, known = yaml.safe_load(path.read_text()), defaults()
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    environment.check_parameters([DEFAULTS, injected, "environment.check_parameters(In)"], dict(known) | values)
    assert set(values) <= set(known) and set(values.get("MORE", {})) <= set(known["MORE"])
    for name, value in (values | values.get("MORE", {})).items():
        default = (known | known["MORE"])[name]
        same = isinstance(value, type(default)) or isinstance(value, int | float) and isinstance(default, int | float)
        assert same or name == "target_modules", f"{name}: {value!r}"
    for line in path.read_text().splitlines():  # each value with its source
        assert line.startswith(("#", "  #", "MORE:")) or "  # " in line, line


def test_the_courses_own_recipe_is_what_notebook_03_does():
    course = yaml.safe_load((ROOT / "recipes/course-llama3.yaml").read_text())
    known = defaults()
    assert course.items() <= (known | {"MORE": course["MORE"]}).items()
    assert course["MORE"].items() <= known["MORE"].items()
