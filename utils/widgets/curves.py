"""A widget that draws the curves of the runs you choose, smoothed as you like, over the steps that you like."""

from types import SimpleNamespace

from utils.curves.figures import PANELS, plot_runs
from utils.figures import as_image, scrolling


def explore_curves(runs):
    """Make a widget that draws what is chosen with `curves.plot_runs`, and says where each curve begins and ends.

    Its attribute `controls` holds `runs`, `panels`, `smoothing`, `steps`, and `page` (HTML).
    """
    import ipywidgets as widgets

    runs = {run.name: run for run in runs}
    last = max(int(run.history["step"].max()) for run in runs.values())
    controls = SimpleNamespace(
        runs=widgets.SelectMultiple(
            options=list(runs), value=[next(iter(runs))], rows=min(max(len(runs), 2), 8), description="Runs:"
        ),
        panels=widgets.SelectMultiple(options=list(PANELS), value=list(PANELS)[:3], rows=7, description="Panels:"),
        smoothing=widgets.IntSlider(10, 1, 50, description="Smoothing (points):", continuous_update=False),
        steps=widgets.IntRangeSlider(
            value=(0, max(last, 1)), min=0, max=max(last, 1), description="Steps:", continuous_update=False
        ),
        page=widgets.HTML(layout={"display": "block"}),  # as a flex box, a picture would make it wider than the page
    )
    choices = [controls.runs, controls.panels, controls.smoothing, controls.steps]
    for control in choices:
        control.style, control.layout = {"description_width": "initial"}, {"width": "26em", "max_width": "100%"}

    def draw(_=None):
        chosen, panels = [runs[name] for name in controls.runs.value], controls.panels.value
        if not chosen or not panels:
            controls.page.value = "<p>Nothing to draw: choose at least one run and one panel.</p>"
            return
        figure, alt = plot_runs(chosen, panels, controls.smoothing.value, controls.steps.value)
        picture = f'<div style="min-width:48em">{as_image(figure, alt).data}</div>'
        controls.page.value = scrolling("curves", picture) + _last_evaluations(chosen, panels, controls.steps.value)

    for control in choices:
        control.observe(draw, "value")
    draw()
    wrap = widgets.Layout(flex_flow="row wrap")
    panel = widgets.VBox(
        [widgets.HBox(choices[:2], layout=wrap), widgets.HBox(choices[2:], layout=wrap), controls.page]
    )
    panel.controls = controls
    return panel


def _last_evaluations(runs, panels, steps) -> str:
    """List the last evaluation of each metric in these steps as an HTML table, one column for each run."""
    import pandas as pd

    table = {}
    for metric in [metric for panel in panels for metric in PANELS[panel]]:
        seen = [run.series(metric, "eval").loc[steps[0] : steps[1]].dropna() for run in runs]
        if any(len(values) for values in seen):
            table[metric] = [f"{values.iloc[-1]:.3g}" if len(values) else "none" for values in seen]
    frame = pd.DataFrame.from_dict(table, orient="index", columns=[run.name for run in runs])
    return scrolling("last evaluations", frame.rename_axis("last evaluation").to_html(border=0))
