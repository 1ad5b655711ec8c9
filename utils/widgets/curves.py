"""A widget that draws chosen curves of chosen runs, smoothed as you like, over the steps that you like.

Left out: reading the runs, see `curves`, and drawing, see `curve_figures`.
"""

import html
from dataclasses import replace
from types import SimpleNamespace

from utils.curves.figures import PANELS, plot_runs
from utils.curves.lines import cut_curve
from utils.figures import as_image, scrolling

MOST_RUNS_IN_TABLE = 3


def explore(runs):
    """Make a widget that draws what is chosen with `curve_figures.plot_runs`, and lists the last evaluations.

    Args:
        runs: dictionary of name -> `curves.Run`, or list of `curves.Run`, whose own names are then shown.

    Returns:
        `ipywidgets.VBox`; its attribute `controls` holds `runs`, `panels`, `smoothing`, `steps`, and `page` (HTML).

    Raises:
        ValueError: if there is no run, or two have the same name.
    """
    import ipywidgets as widgets

    runs = runs if isinstance(runs, dict) else _by_name(runs)
    if not runs:
        raise ValueError("There is no run to explore: pass at least one, such as curves.read_run(None, RUN_FOLDER).")
    last = max(int(run.history["step"].max()) for run in runs.values())
    style, wide = {"description_width": "initial"}, {"width": "26em", "max_width": "100%"}
    controls = SimpleNamespace(
        runs=widgets.SelectMultiple(
            options=list(runs), value=[next(iter(runs))], rows=min(max(len(runs), 2), 8), description="Runs:"
        ),
        panels=widgets.SelectMultiple(options=list(PANELS), value=list(PANELS)[:3], rows=6, description="Panels:"),
        smoothing=widgets.IntSlider(10, 1, 50, description="Smoothing (points):", continuous_update=False),
        steps=widgets.IntRangeSlider(
            value=(0, max(last, 1)), min=0, max=max(last, 1), description="Steps:", continuous_update=False
        ),
        page=widgets.HTML(layout={"display": "block"}),  # as a flex box, a table would make it wider than the page
    )
    choices = [controls.runs, controls.panels, controls.smoothing, controls.steps]
    for control in choices:
        control.style, control.layout = style, wide

    def draw(_=None):
        chosen, panels = [replace(runs[name], name=name) for name in controls.runs.value], controls.panels.value
        if not chosen or not panels:
            controls.page.value = "<p>Nothing to draw: choose at least one run and one panel.</p>"
            return
        steps = controls.steps.value
        figure, alt = plot_runs(chosen, panels, controls.smoothing.value, steps)
        picture = f'<div style="min-width:48em">{as_image(figure, alt).data}</div>'
        controls.page.value = scrolling("curves", picture) + _table(chosen, panels, steps)

    for control in choices:
        control.observe(draw, "value")
    draw()
    wrap = widgets.Layout(flex_flow="row wrap")
    panel = widgets.VBox(
        [widgets.HBox(choices[:2], layout=wrap), widgets.HBox(choices[2:], layout=wrap), controls.page]
    )
    panel.controls = controls
    return panel


def _by_name(runs) -> dict:
    named = {run.name: run for run in runs}
    if len(named) < len(runs):
        raise ValueError(
            "Two runs have the same name: name them yourself, as in explore({'first': ..., 'second': ...})."
        )
    return named


def _table(runs, panels, steps) -> str:
    """List the last evaluation of each metric that has one, with its interval, as HTML; nothing for many runs."""
    if len(runs) > MOST_RUNS_IN_TABLE:
        return ""
    metrics, rows = [metric for panel in panels for metric in PANELS[panel]], []
    for metric in metrics:
        cells = [_last(cut_curve(run, metric, steps=steps)) for run in runs]
        if any(cells):
            rows.append([metric, *(cell or "none" for cell in cells)])
    if not rows:
        return "<p>No evaluation in these steps.</p>"
    # Not every kind of notebook keeps columns apart itself
    cell = 'style="padding:0.1em 0.8em 0.1em 0;text-align:left;white-space:nowrap"'
    names = ["last evaluation", *(run.name for run in runs)]
    head = "".join(f'<th scope="col" {cell}>{html.escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row" {cell}>{metric}</th>{"".join(f"<td {cell}>{value}</td>" for value in values)}</tr>'
        for metric, *values in rows
    )
    return scrolling("last evaluations", f"<table><tr>{head}</tr>{body}</table>")


def _last(curve) -> str:
    if curve.evaluation.empty:
        return ""
    step, value = curve.evaluation.index[-1], curve.evaluation.iloc[-1]
    interval = f" ({curve.band[0][step]:.3g} to {curve.band[1][step]:.3g})" if curve.band else ""
    return f"{value:.3g}{interval} at step {step}"
