"""The figures of a run's curves: values, intervals, what is far away, missing or not finite, live and whole."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.made_runs import LOG, made_run
from support.notebook_output import attributes, page_of

from utils.curves import figures as curve_figures
from utils.curves import run as curves

pytestmark = pytest.mark.usefixtures("no_open_figures")


# --- history and live curves --------------------------------------------------------------------------------


def test_a_history_is_drawn_as_a_run():
    figure, alt = curve_figures.plot_history(curves.read_history(LOG), ("loss", "margins"), "A run")
    assert list(panels_of(figure)) == ["loss", "rewards/margins"] and alt.startswith("Curves of A run;")


def test_live_curves_redraw_one_display_in_place(shell):
    live, state = curve_figures.live_curves(seconds=0), SimpleNamespace(log_history=[], global_step=0, max_steps=2)
    pages = []
    for entry in LOG[:-1]:
        state.log_history.append(entry)
        state.global_step = entry["step"]
        live.on_log(None, state, None)
        pages.append(page_of(shell))
    live.on_train_end(None, state, None)
    pages.append(page_of(shell))
    images = []
    for page in pages:
        assert len(page) == 1
        images.append(attributes(page[0]["text/html"]))
    assert len({image["src"] for image in images[:-1]}) == len(LOG) - 1  # every entry changes the picture
    assert "step 0 of 2" in images[0]["alt"] and "step 2 of 2" in images[-1]["alt"]
    assert not plt.get_fignums()


# --- a run that is made up -------------------------------------------------------------------------------------------

NAN = float("nan")


def panels_of(figure) -> dict:
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


# --- running means and intervals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "expected"),
    [(1, [1, 2, 6, 3, 8]), (3, [1.5, 3, 11 / 3, 17 / 3, 5.5]), (50, [4] * 5)],
)
def test_a_running_mean_is_centred_and_cut_off_at_the_ends(window, expected):
    series = pd.Series([1.0, 2, 6, 3, 8], index=[10, 20, 30, 40, 50])
    smooth = curve_figures.running_mean(series, window)
    assert smooth.tolist() == pytest.approx(expected) and smooth.index.equals(series.index)


@pytest.mark.parametrize(("share", "rows"), [(0.6, 30), (0.95, 50), (0.5, 200)])
def test_the_band_of_accuracies_holds_the_true_share_as_often_as_it_says(share, rows):
    seen = np.random.default_rng(1).binomial(rows, share, 2000) / rows
    log = [{"step": step, "eval_rewards/accuracies": value} for step, value in enumerate(seen)]
    run = curves.Run("run", curves.read_history(log), {"pairs": {"test": rows}})
    low, high = curve_figures.confidence_band(run, "rewards/accuracies")
    assert 0.92 < ((low <= share) & (share <= high)).mean() < 0.98 and low.index.tolist() == list(range(2000))


@pytest.mark.parametrize(
    ("steps", "every", "change"),
    [
        (124, 1, None),
        (1000, 10, None),  # a point then averages ten steps
        (124, 1, lambda metric, step, value: value - 0.5 * np.exp(-step / 30)),  # a curve is no scatter
        (124, 1, lambda metric, step, value: NAN if step % 10 == 5 else value),
    ],
)
def test_the_band_of_a_mean_is_as_wide_as_the_scatter_of_rows_makes_it(steps, every, change):
    halves = []
    for seed in range(12):
        run = made_run(levels={"loss": 1.5}, steps=steps, every=every, evaluations=(0, steps), change=change, seed=seed)
        low, high = curve_figures.confidence_band(run, "loss")
        halves += ((high - low) / 2).tolist()
        assert ((low + high) / 2).tolist() == pytest.approx(run.series("loss", "eval").tolist())
    assert np.mean(halves) == pytest.approx(1.96 * 0.1 / 50**0.5, rel=0.1)
    assert max(halves) < 1.4 * min(halves) * 1.2


def test_there_is_no_band_where_the_run_tells_too_little():
    for metric, options in (
        ("loss", {"settings": {"effective_batch": 8}}),  # rows of an evaluation unknown
        ("loss", {"settings": {"pairs": {"test": 50}}}),  # rows of a step unknown
        ("loss", {"steps": 19}),
        ("loss", {"evaluations": ()}),
        ("rewards/accuracies", {"settings": {}}),
        ("learning_rate", {}),
    ):
        assert curve_figures.confidence_band(made_run(**options), metric) is None, (metric, options)


# --- one run ---------------------------------------------------------------------------------------------------------


def test_the_lines_of_a_panel_are_the_runs_values():
    run = made_run()
    figure, alt = curve_figures.plot_runs([run], ("margins",), smoothing=5)
    reference, points, mean, evaluation, *_ = panels_of(figure)["rewards/margins"].lines
    train, held_out = run.series("rewards/margins"), run.series("rewards/margins", "eval")
    assert set(reference.get_ydata()) == {0}
    assert mean.get_ydata().tolist() == curve_figures.running_mean(train, 5).tolist()
    assert points.get_xdata().tolist() == train.index.tolist() and points.get_ydata().tolist() == train.tolist()
    assert evaluation.get_xdata().tolist() == [0, 30, 60] and evaluation.get_ydata().tolist() == held_out.tolist()
    assert f"{held_out[0]:.3g} to {held_out[60]:.3g}" in alt
    (band,) = [part for part in panels_of(figure)["rewards/margins"].collections if len(part.get_paths()) == 1]
    low, high = curve_figures.confidence_band(run, "rewards/margins")
    edges = band.get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((low.min(), high.max()))


def crosses(axis) -> list:
    return [int(step) for line in axis.lines if line.get_marker() == "x" for step in line.get_xdata()]


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_what_is_not_finite_is_marked_where_it_is(bad):
    run = made_run(change=lambda metric, step, value: bad if step > 40 and metric == "loss" else value)
    figure, alt = curve_figures.plot_runs([run], ("loss", "margins"))
    panels = panels_of(figure)
    assert crosses(panels["loss"]) == list(range(41, 61)) and not crosses(panels["rewards/margins"])
    assert alt.count("not finite from 41") == 1
    assert np.isfinite(panels["loss"].get_ylim()).all()
    figure.draw_without_rendering()
