"""The widget that explores curves, and the exercise that hides the names of the runs."""

import html.parser

import matplotlib.pyplot as plt
import numpy as np
import pytest

from utils.curves import figures as curve_figures
from utils.curves import run as curves
from utils.exercises import curve_quiz
from utils.widgets import curves as curve_explorer


def made_run(name: str = "run", level: float = 1.0, steps: int = 60, evaluations=(0, 30, 60)):
    draw, log = np.random.default_rng(int(10 * level)), []
    metrics = {metric for panel in curve_figures.PANELS.values() for metric in panel} - {"rewards/accuracies"}
    for step in range(steps + 1):
        values = {"rewards/accuracies": 0.8} | {key: level + float(draw.normal(0, 0.1)) for key in sorted(metrics)}
        log += [{"step": step, **values}] if step else []
        if step in evaluations:
            log.append({"step": step, **{f"eval_{key}": value for key, value in values.items()}})
    return curves.Run(name, curves.read_history(log), {"effective_batch": 8, "pairs": {"test": 50}})


RUNS = {
    "plain": made_run("plain", 1.0),
    "second <b>": made_run("second", 1.5),
    "longer": made_run("longer", 1.2, steps=90),
    "blind": made_run("blind", 1.1, evaluations=()),
}


pytestmark = pytest.mark.usefixtures("no_open_figures")


class Page(html.parser.HTMLParser):
    """What a reader gets: the alt text, the picture, and the words."""

    def __init__(self, page: str):
        super().__init__()
        self.alt, self.picture, self.words, self.tags = None, None, [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.alt, self.picture = dict(attributes)["alt"], dict(attributes)["src"]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def controls():
    return curve_explorer.explore(RUNS).controls


# --- the explorer ----------------------------------------------------------------------------------------------------


def test_the_first_run_is_drawn(controls):
    page = Page(controls.page.value)
    assert controls.runs.value == ("plain",) and page.alt.startswith("Curves of plain;")
    assert page.picture.startswith("data:image/png;base64,") and not plt.get_fignums()
    assert controls.runs.options == tuple(RUNS) and controls.panels.options == tuple(curve_figures.PANELS)
    assert (controls.smoothing.min, controls.smoothing.max) == (1, 50)
    assert (controls.steps.min, controls.steps.max, controls.steps.value) == (0, 90, (0, 90))


def test_every_choice_redraws(controls):
    pictures = [Page(controls.page.value).picture]
    for name, value in (
        ("panels", ("margins",)),
        ("smoothing", 3),
        ("steps", (10, 40)),
        ("runs", ("plain", "second <b>")),
        ("runs", ("blind",)),
    ):
        getattr(controls, name).value = value
        pictures.append(Page(controls.page.value).picture)
    assert len(set(pictures)) == len(pictures) and not plt.get_fignums()


def test_what_is_chosen_is_what_is_drawn(controls):
    controls.runs.value, controls.panels.value = ("second <b>", "longer"), ("margins", "loss")
    page = Page(controls.page.value)
    assert page.alt.startswith("Curves of second <b>, longer;") and "b" not in page.tags
    assert "rewards/margins: " in page.alt and "nll_loss: " in page.alt and "logps" not in page.alt
    controls.steps.value = (65, 90)
    assert "no value" in Page(controls.page.value).alt  # the other run is over by then


def test_the_last_evaluations_are_listed_with_their_intervals(controls):
    controls.panels.value = ("margins", "accuracies")
    words = Page(controls.page.value).words
    value = RUNS["plain"].series("rewards/margins", "eval")[60]
    assert words[:3] == ["last evaluation", "plain", "rewards/margins"] and words[3].startswith(f"{value:.3g} (")
    assert words[4:] == ["rewards/accuracies", "0.8 (0.67 to 0.888) at step 60"]
    controls.steps.value = (0, 40)
    assert Page(controls.page.value).words[-1].endswith("at step 30")
    controls.runs.value = ("plain", "blind")
    assert Page(controls.page.value).words[-1] == "none"
    controls.runs.value = ("blind",)
    assert Page(controls.page.value).words == ["No evaluation in these steps."]
    controls.runs.value = tuple(RUNS)
    assert Page(controls.page.value).words == []  # a table of four runs is not short


@pytest.mark.parametrize("name", ["runs", "panels"])
def test_nothing_chosen_is_a_sentence(controls, name):
    getattr(controls, name).value = ()
    page = Page(controls.page.value)
    assert page.picture is None and "choose at least one run and one panel" in "".join(page.words)
    getattr(controls, name).value = getattr(controls, name).options[:1]
    assert Page(controls.page.value).picture


def test_a_list_of_runs_goes_by_their_names():
    controls = curve_explorer.explore(list(RUNS.values())).controls
    assert controls.runs.options == ("plain", "second", "longer", "blind")
    with pytest.raises(ValueError, match="same name"):
        curve_explorer.explore([RUNS["plain"], RUNS["plain"]])
    with pytest.raises(ValueError, match="no run"):
        curve_explorer.explore([])


def test_every_control_has_a_label_and_fits_a_narrow_page(controls):
    chosen = [controls.runs, controls.panels, controls.smoothing, controls.steps]
    assert len({control.description for control in chosen} - {""}) == 4
    for control in chosen:
        assert control.style.description_width == "initial" and control.layout.max_width == "100%"
    assert not controls.smoothing.continuous_update and not controls.steps.continuous_update
    panel = curve_explorer.explore(RUNS)
    assert [row.layout.flex_flow for row in panel.children[:2]] == ["row wrap"] * 2
    shown = [*panel.children, *(child for row in panel.children[:2] for child in row.children)]
    assert all(any(control is one for one in shown) for control in vars(panel.controls).values())


def test_a_run_of_one_step():
    controls = curve_explorer.explore([made_run("short", steps=1, evaluations=(1,))]).controls
    assert controls.steps.value == (0, 1) and Page(controls.page.value).picture


# --- which run is this? ----------------------------------------------------------------------------------------------

HINTS = {name: f"Hint of {name}." for name in RUNS}


@pytest.fixture(scope="module")
def exercise():
    return curve_quiz.quiz(RUNS, HINTS, seed=5)


def solution_of(check) -> dict:
    """Find the solution by trying, as a patient learner would."""
    found = {}
    for letter in "ABCD":
        for name in RUNS:
            try:
                check({letter: name})
            except AssertionError as error:
                if "without a name so far" in str(error):
                    found[letter] = name
    return found


def test_curves_stand_under_letters_without_names():
    figure, alt, _ = curve_quiz.quiz(RUNS, HINTS, seed=5)
    figure.draw_without_rendering()
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == list("ABCD") and len(figure.axes) == 16
    said = [text.get_text() for axis in figure.axes for text in (*axis.texts, axis._left_title, axis.yaxis.label)]
    assert not any(name in text for name in RUNS for text in [*said, alt])
    assert all(f"{letter}: nll_loss" in alt for letter in "ABCD")


def test_the_rows_are_the_runs_of_the_solution(exercise):
    figure, alt, check = exercise
    solution = solution_of(check)
    assert sorted(solution.values()) == sorted(RUNS)
    for letter, first in zip("ABCD", figure.axes[::4], strict=True):
        points = first.lines[0].get_ydata()
        assert points[0] == RUNS[solution[letter]].series("nll_loss").iloc[0]


def test_the_order_is_the_seeds():
    orders = [tuple(solution_of(curve_quiz.quiz(RUNS, HINTS, seed=seed)[2]).values()) for seed in (5, 5, 6, 7)]
    assert orders[0] == orders[1] and len(set(orders)) > 1


def test_check_says_not_tried_and_right(exercise, capsys):
    check = exercise[2]
    check(None)
    assert "Not tried yet" in capsys.readouterr().out
    check(solution_of(check))
    assert capsys.readouterr().out == "All 4 runs are named rightly.\n"


def test_a_wrong_answer_is_told_where_to_look_and_not_what_is_right(exercise):
    check = exercise[2]
    answer = solution_of(check)
    answer["A"], answer["C"] = answer["C"], answer["A"]
    with pytest.raises(AssertionError) as error:
        check(answer)
    lines = str(error.value).splitlines()
    assert lines[0] == "Not yet right: A, C." and len(lines) == 3
    for letter, line in zip("AC", lines[1:], strict=True):
        assert line == f"{letter} is not {answer[letter]!r}. {HINTS[answer[letter]]}"
    only = {"B": answer["A"]}
    with pytest.raises(AssertionError) as error:
        check(only)
    assert sum(name in str(error.value) for name in RUNS) == 1  # the one that was given


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"E": "plain"}, "There is no run 'E': the letters are A, B, C, D."),
        ({"A": "last"}, "No run is called 'last': the names are plain, second <b>, longer, blind."),
        ({"A": ["plain"]}, r"No run is called \['plain'\]"),
        ({}, "without a name so far: A, B, C, D"),
        ("A", "dictionary"),
    ],
)
def test_an_answer_that_cannot_be_is_explained(exercise, answer, message):
    with pytest.raises(AssertionError, match=message):
        exercise[2](answer)


def test_a_run_far_from_the_others_has_its_own_scale():
    runs = {"a": made_run("a", 1.0), "b": made_run("b", 1.1), "astray": made_run("astray", 40.0)}
    figure, _, check = curve_quiz.quiz(runs, dict.fromkeys(runs, ""), seed=1)
    losses = figure.axes[::4]
    own = [axis for axis in losses if axis.get_title(loc="right") == "own scale"]
    assert len(own) == 1 and own[0].get_ylim()[0] > 30
    assert len({axis.get_ylim() for axis in losses if axis not in own}) == 1


@pytest.mark.parametrize("answer", [896, 897, 900, 896.4])
def test_the_rows_that_are_enough_pass(answer, capsys):
    curve_quiz.check_rows(answer, half_width=0.03, share=0.7)
    assert capsys.readouterr().out.startswith("Right: ")


def test_rows_that_were_not_tried_are_no_error(capsys):
    curve_quiz.check_rows(None, half_width=0.03, share=0.7)
    assert "Not tried yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer, told",
    [
        (200, "200 rows know it within 6.4 points"),
        (1068, "p is 0.7 here"),  # the rows for one half
        (0, "above 0"),
        (-5, "above 0"),
        ("900", "not '900'"),
        (True, "not True"),
        ({}, "not {}"),
    ],
)
def test_other_rows_are_told_how_far_they_reach(answer, told):
    with pytest.raises(AssertionError, match=told):
        curve_quiz.check_rows(answer, half_width=0.03, share=0.7)
