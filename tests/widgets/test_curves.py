"""The widget that explores curves, and the exercise that hides the names of the runs."""

import matplotlib.pyplot as plt
import pytest
from support.made_runs import made_run
from support.notebook_output import picture, words

from utils import exercises
from utils.curves import figures as curve_figures
from utils.curves import run as curves
from utils.exercises import notebook_04
from utils.widgets import curves as curve_explorer

RUNS = [
    made_run("plain"),
    made_run("second <b>", seed=2),
    made_run("longer", steps=90),
    made_run("blind", evaluations=()),
]
pytestmark = pytest.mark.usefixtures("no_open_figures")


@pytest.fixture
def controls():
    return curve_explorer.explore_curves(RUNS).controls


def test_the_first_run_is_drawn(controls):
    assert picture(controls.page.value) and "Curves of plain;" in controls.page.value and not plt.get_fignums()
    assert controls.runs.options == ("plain", "second <b>", "longer", "blind")
    assert controls.panels.options == tuple(curve_figures.PANELS)
    assert (controls.steps.min, controls.steps.max, controls.steps.value) == (0, 90, (0, 90))


def test_every_choice_redraws(controls):
    pictures = [picture(controls.page.value)]
    for name, value in (
        ("panels", ("margins",)),
        ("smoothing", 3),
        ("steps", (10, 40)),
        ("runs", ("plain", "second <b>")),
        ("runs", ("blind",)),
    ):
        getattr(controls, name).value = value
        pictures.append(picture(controls.page.value))
    assert len(set(pictures)) == len(pictures) and not plt.get_fignums()


def test_what_is_chosen_is_what_is_drawn(controls):
    controls.runs.value, controls.panels.value = ("second <b>", "longer"), ("margins", "loss")
    page = controls.page.value
    assert "<b>" not in page and "rewards/margins: " in page and "nll_loss: " in page and "logps" not in page
    controls.steps.value = (65, 90)
    assert "no value" in controls.page.value  # the other run is over by then
    last = RUNS[2].series("rewards/margins", "eval")[60]
    controls.steps.value = (0, 90)
    assert f"{last:.3g}" in words(controls.page.value)


@pytest.mark.parametrize("name", ["runs", "panels"])
def test_nothing_chosen_is_a_sentence(controls, name):
    getattr(controls, name).value = ()
    assert "choose at least one run and one panel" in controls.page.value
    getattr(controls, name).value = getattr(controls, name).options[:1]
    assert picture(controls.page.value)


# --- the exercises ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiz():
    runs = {name: curves.read_run(f"data/runs/{name.replace(' ', '_')}", name=name) for name in notebook_04.HINTS}
    return exercises.draw_quiz(runs, seed=4)


def test_the_quiz_hides_names_and_tells_where_to_look(quiz, capsys):
    figure, alt, check = quiz
    solution = ["labels swapped", "beta 5", "prompt as answer", "beta 0.01", "healthy", "rate x 100", "rate x 0.01"]
    assert not any(name in alt for name in notebook_04.HINTS) and len(figure.axes) == 4 * len(notebook_04.HINTS)
    check(None)
    assert "Not tried yet" in capsys.readouterr().out
    answer = dict(zip("ABCDEFG", solution, strict=True))
    check(answer)
    assert "All 7" in capsys.readouterr().out
    for wrong, told in (
        (answer | {"A": "healthy"}, "A is not 'healthy'"),
        (answer | {"H": "healthy"}, "'H'"),
        ({"A": "sick"}, "'sick'"),
        ({"A": "labels swapped"}, "without a name so far: B"),
        ("A", "a dictionary"),
    ):
        with pytest.raises(AssertionError, match=told):
            check(wrong)


def test_rows_are_checked_within_two_percent(capsys):
    for right in (897, 900):
        exercises.check_rows(right, half_width=0.03, share=0.7)
        assert "Right" in capsys.readouterr().out
    for wrong in (1068, 224, 0, "897", True):
        with pytest.raises(AssertionError):
            exercises.check_rows(wrong, half_width=0.03, share=0.7)
