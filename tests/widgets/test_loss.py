"""The odds term at a point, the surface that is drawn, and the widget that moves the point."""

import itertools
from decimal import Decimal, localcontext

import matplotlib.pyplot as plt
import numpy as np
import pytest
from support.notebook_output import picture, words

from utils.widgets import loss as loss_explorer

pytestmark = pytest.mark.usefixtures("no_open_figures")
SIDES = loss_explorer.SIDES


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


def test_the_corners_of_the_sliders_are_drawn():
    for point in itertools.product((0.001, 100.0), (-100.0, -2e-16), (-100.0, -2e-16)):
        figure, alt = loss_explorer.plot_loss_surface(*point)
        begin, end = arrow_of(figure)
        assert np.isfinite(end).all() and (begin != end).any() and "nan" not in alt
        plt.close(figure)


def test_the_page_shows_and_says_all_and_follows_the_sliders():
    controls = loss_explorer.explore_loss().controls
    page = controls.page.value
    assert picture(page) and 'alt="Odds term of the loss' in page and not plt.get_fignums()
    said = words(page)
    for number in ("0.3679", "0.2231", "0.582", "0.2872", "-0.5413", "-1.248", "0.7062", "0.4011", "0.04011", "2.026"):
        assert number in said
    assert "-0.05227" in said and "+0.04253" in said and "chosen, is pushed harder" in said
    for name, value in (("beta", 1.0), ("chosen", -3.0), ("rejected", -3.0)):
        before = controls.page.value
        getattr(controls, name).value = value
        assert picture(controls.page.value) != picture(before) and words(controls.page.value) != words(before)
    assert "the odds are equal" in words(controls.page.value) and "pushed alike" in words(controls.page.value)
