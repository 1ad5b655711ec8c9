"""The odds term at a point, the surface that is drawn, and the widget that moves the point."""

from decimal import Decimal, localcontext

import matplotlib.pyplot as plt
import numpy as np
import pytest
from support.notebook_output import picture, words

from utils.widgets import loss as loss_explorer

pytestmark = pytest.mark.usefixtures("no_open_figures")
SIDES = loss_explorer.SIDES


@pytest.fixture
def controls():
    return loss_explorer.explore().controls


# --- the numbers -----------------------------------------------------------------------------------------------------


def exact(beta: float, chosen: float, rejected: float) -> tuple[Decimal, Decimal, Decimal]:
    """Log odds ratio, loss and slope on the chosen side, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        chances = [Decimal(point).exp() for point in (chosen, rejected)]
        odds = [chance / (1 - chance) for chance in chances]
        ratio = (odds[0] / odds[1]).ln()
        loss = Decimal(beta) * (1 + odds[1] / odds[0]).ln()
        slope = -Decimal(beta) / (1 + odds[0] / odds[1]) / (1 - chances[0])
        return ratio, loss, slope


@pytest.mark.parametrize(
    "point",
    [(0.1, -1.0, -1.5), (1.0, -0.3, -2.7), (2.0, -4.0, -0.05), (0.5, -1e-12, -3.0), (0.1, -20.0, -1e-9), (1, -99, -99)],
)
def test_the_numbers_hold_to_the_last_digits_also_near_certainty(point):
    term = loss_explorer.odds_term(*point)
    for found, right in zip((term.ratio, term.loss, term.slope["chosen"]), exact(*point), strict=True):
        assert found == pytest.approx(float(right), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("point", [(0.1, -1.0, -1.5), (1.0, -2.5, -0.4), (0.7, -0.2, -0.2)])
def test_the_slopes_are_those_of_the_loss(point):
    beta, *place = point
    for number, side in enumerate(SIDES):
        sides = []
        for step in (1e-6, -1e-6):
            moved = list(place)
            moved[number] += step
            sides.append(loss_explorer.odds_term(beta, *moved).loss)
        assert loss_explorer.odds_term(*point).slope[side] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


# --- the surface -----------------------------------------------------------------------------------------------------


def arrow_of(figure) -> tuple[np.ndarray, np.ndarray]:
    (arrow,) = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) is not None]
    return np.array(arrow.xyann), np.array(arrow.xy)


@pytest.mark.parametrize("point", [(0.1, -1.0, -1.5), (2.0, -3.5, -0.1), (0.5, -0.01, -0.01), (0.1, -30.0, -12.0)])
def test_the_point_is_marked_and_the_arrow_goes_straight_downhill(point):
    figure, alt = loss_explorer.plot_loss_surface(*point)
    axis = figure.axes[0]
    (marker,) = [line for line in axis.lines if line.get_marker() == "o"]
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == point[1:]
    begin, end = arrow_of(figure)
    assert tuple(begin) == point[1:]
    slope = np.array(list(loss_explorer.odds_term(*point).slope.values()))
    cosine = (begin - end) @ slope / np.linalg.norm(begin - end) / np.linalg.norm(slope)
    assert cosine == pytest.approx(1, abs=1e-9)
    (low, high), bottom = axis.get_xlim(), axis.get_ylim()[0]
    assert low <= begin[0] and end[0] <= high + 1e-9 and bottom <= end[1] and high > 0
    assert f"beta {point[0]:g}" in alt and f"{loss_explorer.odds_term(*point).loss:.4g}" in alt
    plt.close(figure)


def test_the_surface_is_the_loss():
    figure, _ = loss_explorer.plot_loss_surface(0.1, -1.0, -1.5)
    (surface,) = [it for it in figure.axes[0].collections if it.get_cmap().name == "cividis_r" and it.filled]
    levels = surface.levels
    assert levels[6] == pytest.approx(0.1 * np.log(2)) and (np.diff(levels) > 0).all()
    for chosen, rejected in ((-0.5, -3.0), (-2.0, -2.3), (-3.0, -0.2)):  # each lies between the levels of its colour
        place = np.searchsorted(levels, loss_explorer.odds_term(0.1, chosen, rejected).loss)
        inside = [path.contains_point((chosen, rejected)) for path in surface.get_paths()]
        assert inside.index(True) == place
    plt.close(figure)


@pytest.mark.parametrize("beta", [loss_explorer.LEAST_BETA, loss_explorer.MOST_BETA])
@pytest.mark.parametrize("chosen", [loss_explorer.LEAST_LOGP, -2e-16])
@pytest.mark.parametrize("rejected", [loss_explorer.LEAST_LOGP, -2e-16])
def test_the_corners_of_what_may_be_typed_are_drawn(beta, chosen, rejected):
    for name, value in (("beta", beta), ("chosen", chosen), ("rejected", rejected)):
        assert loss_explorer.read_number(name, repr(value)) == value
    figure, alt = loss_explorer.plot_loss_surface(beta, chosen, rejected)
    figure.draw_without_rendering()
    begin, end = arrow_of(figure)
    assert np.isfinite(end).all() and (begin != end).any() and "nan" not in alt
    plt.close(figure)
    assert "nan" not in loss_explorer.in_words(beta, chosen, rejected)


# --- the widget ------------------------------------------------------------------------------------------------------


def test_the_first_page_shows_and_says_all(controls):
    page = controls.page.value
    assert picture(page) and 'alt="Odds term of the loss' in page and not plt.get_fignums()
    said = words(page)
    for number in ("0.3679", "0.2231", "0.582", "0.2872", "-0.5413", "-1.248", "0.7062", "0.4011", "0.04011", "2.026"):
        assert number in said
    assert "-0.05227" in said and "+0.04253" in said and "chosen, is pushed harder" in said


@pytest.mark.parametrize("name, value", [("beta", 1.0), ("chosen", -3.0), ("rejected", -0.2)])
def test_a_slider_redraws_and_its_field_follows(controls, name, value):
    before = controls.page.value
    getattr(controls, name).value = value
    assert getattr(controls, f"{name}_text").value == f"{value:g}"
    assert picture(controls.page.value) != picture(before) and words(controls.page.value) != words(before)
    getattr(controls, name).value = {"beta": 0.1, "chosen": -1.0, "rejected": -1.5}[name]
    assert words(controls.page.value) == words(before)


def test_what_is_typed_is_drawn_also_beyond_the_slider(controls):
    controls.beta_text.value = "0.25"
    assert controls.beta.value == 0.25 and "beta 0.25" in controls.page.value
    controls.beta_text.value = "7"
    assert controls.beta.value == controls.beta.max and controls.beta_text.value == "7"
    assert "times beta 7" in words(controls.page.value)
    controls.chosen_text.value = "-12.5"
    assert "chosen -12.5" in controls.page.value and controls.chosen.value == controls.chosen.min
    controls.rejected.value = -2.0  # another control leaves what was typed
    assert "chosen -12.5" in controls.page.value and "rejected -2" in controls.page.value


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("beta", "", "beta is empty"),
        ("beta", "  ", "beta is empty"),
        ("beta", "-0.1", "would reward the rejected answer"),
        ("beta", "0", "at 0 the term is gone"),
        ("beta", "1e6", "type 0.001 to 100"),
        ("beta", "1e-300", "type 0.001 to 100"),
        ("beta", "0,1", "'0,1', which is no number"),
        ("beta", "nan", "not finite"),
        ("chosen", "0", "the odds 1 / (1 - 1) are infinite"),
        ("chosen", "-1e-30", "as good as 0"),
        ("chosen", "0.3", "a probability is at most 1"),
        ("rejected", "inf", "not finite"),
        ("rejected", "-1e5", "type -100 or more"),
        ("rejected", "<img src=x>", "'<img src=x>', which is no number"),
    ],
)
def test_nonsense_is_told_in_place_and_can_be_mended(controls, name, text, told):
    before, field = words(controls.page.value), getattr(controls, f"{name}_text")
    right = field.value
    field.value = text
    page = controls.page.value
    assert told in words(page) and 'role="alert"' in page and "<img" not in page
    field.value = right
    assert words(controls.page.value) == before
    field.value = text
    slider = getattr(controls, name)
    slider.value = slider.value + slider.step  # a slider mends it too
    assert picture(controls.page.value) and field.value == f"{slider.value:g}"


def test_numbers_may_be_written_as_a_text_writes_them(controls):
    controls.chosen_text.value = " \N{MINUS SIGN}2.5 "
    assert controls.chosen.value == -2.5 and picture(controls.page.value)


def test_a_beginning_that_cannot_be_is_told_too():
    controls = loss_explorer.explore(chosen=0.5).controls
    assert "a probability is at most 1" in words(controls.page.value)


def test_equal_answers_are_pushed_alike(controls):
    controls.rejected.value = -1.0
    said = words(controls.page.value)
    assert "the odds are equal" in said and "pushed alike" in said and f"{0.1 * np.log(2):.4g}" in said


def test_every_control_has_a_label_and_fits_a_narrow_page():
    panel = loss_explorer.explore()
    chosen = [it for name, it in vars(panel.controls).items() if name != "page"]
    assert len({control.description for control in chosen} - {""}) == 6
    for control in chosen:
        assert control.style.description_width == "initial" and control.layout.max_width == "100%"
        assert not control.continuous_update
    assert panel.controls.page.layout.display == "block"  # so that what is wide scrolls, and the page does not
    assert [row.layout.flex_flow for row in panel.children[:3]] == ["row wrap"] * 3
    shown = [panel.children[-1], *(child for row in panel.children[:3] for child in row.children)]
    assert all(any(control is one for one in shown) for control in vars(panel.controls).values())
