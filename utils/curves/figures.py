"""Draws a run's curves: live while it trains, whole when it is done, and several runs over one another.

A run is a `curves.Run`. Left out: reading it, the intervals, see `curve_lines`, and judging it, see `diagnosis`.
"""

import time

from utils.curves.lines import FAINT, cut_curve, draw_curve, far_curves, in_words, off_axis
from utils.curves.run import Run, read_history
from utils.figures import COLOURS, SEQUENCE, as_image, new_figure

# log_odds_chosen is the difference of the two answers' log odds, log_odds_ratio is log sigmoid of it: always negative.
# Log-probabilities are ORPO's means per token, but DPO's sums over the answer.
PANELS = {
    "loss": ("loss", "nll_loss"),
    "margins": ("rewards/margins",),
    "accuracies": ("rewards/accuracies",),
    "log-probabilities": ("logps/chosen", "logps/rejected"),
    "log-odds": ("log_odds_ratio", "log_odds_chosen"),
    "rate and gradient": ("learning_rate", "grad_norm"),
}
# A panel that has a unit may hold all its metrics in one axis.
UNITS = {"loss": "nats", "margins": "beta x nats", "accuracies": "share of pairs"}
UNITS |= {"log-probabilities": "nats", "log-odds": "nats"}
POSITIVE = ("loss", "nll_loss", "grad_norm")
METRIC_COLOURS = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "eval"}  # the others are grey
METRIC_COLOURS |= {"logps/chosen": "chosen", "logps/rejected": "rejected", "log_odds_chosen": "margin"}
REFERENCES = {"rewards/accuracies": 0.5, "rewards/margins": 0, "log_odds_chosen": 0}  # a line to compare with
RUN_COLOURS, MARKERS = [*SEQUENCE, "black"], "osD^vP*X"
SHORT = ("loss", "margins", "accuracies")
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
MOST_BANDS = 3  # runs in one figure that get intervals


def plot_history(history, panels=SHORT, title: str = "training"):
    """Draw a trainer's history as `plot_runs` draws a run; return the figure and its alt text."""
    return plot_runs([Run(title, history)], panels)


def live_curves(seconds: float = 10.0):
    """Make a trainer callback that redraws loss, margin and accuracy in place while the model trains.

    Args:
        seconds: least time between two drawings; a drawing costs about a fifth of a second.
    """
    from IPython.display import display
    from transformers import TrainerCallback

    class LiveCurves(TrainerCallback):
        handle, drawn = None, 0.0

        def on_log(self, args, state, control, **kwargs):
            if time.monotonic() - self.drawn >= seconds:
                self.draw(state)

        def on_train_end(self, args, state, control, **kwargs):
            self.draw(state)

        def draw(self, state):
            title = f"step {state.global_step} of {state.max_steps}"
            figure, alt = plot_history(read_history(state.log_history), title=title)
            if self.handle is None:
                self.handle = display(display_id=True)
            image = as_image(figure, alt)
            if self.handle is not None:  # there is none outside a notebook
                self.handle.update(image)
            self.drawn = time.monotonic()

    return LiveCurves()


def plot_runs(runs, panels=tuple(PANELS), smoothing: int = 10, steps=None):
    """Draw one run, or several over one another: training as running means, evaluations as markers.

    One run also shows each training point. Intervals are drawn for at most three runs. What is so far from the rest
    that this would look flat leaves the axis, and an arrow says how far it goes; losses, gradients and rates of several
    runs, which are positive, get a logarithmic scale instead.

    Args:
        runs: list of `curves.Run`.
        panels: names from `PANELS`. Its metrics share an axis, unless their units differ or runs are many.
        smoothing: points of the running mean.
        steps: first and last step to draw, `None` for all.

    Returns:
        (figure, alt text with the first and the last evaluation of each curve).
    """
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(columns, 2 * rows, width=9.4 / columns, height=1.35 if len(runs) == 1 else 1.6)
    grid, sentences = axes[0].get_gridspec(), []
    halves = axes.reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)  # an upper and a lower axis for each panel
    for axis in halves[len(panels) :].flat:
        axis.remove()
    for place, (panel, (upper, lower)) in enumerate(zip(panels, halves, strict=False)):
        metrics, (row, column) = PANELS[panel], divmod(place, columns)
        whole = len(metrics) == 1 or (len(runs) == 1 and panel in UNITS)
        if whole:
            lower.remove()
            upper.set_subplotspec(grid[2 * row : 2 * row + 2, column])
        for axis, names in [(upper, metrics)] if whole else [(upper, metrics[:1]), (lower, metrics[1:])]:
            sentences.append(_fill_axis(axis, runs, names, smoothing, steps))
            axis.set_title(names[0] if len(names) == 1 else panel, loc="left", fontsize=9, fontweight="bold")
            axis.set_ylabel(UNITS.get(panel, ""), fontsize=8)
            axis.tick_params(labelsize=8)
        axis.set_xlabel("step", fontsize=8)
    _add_legend(figure, runs, smoothing)
    names = ", ".join(run.name for run in runs)
    return figure, f"Curves of {names}; first and last evaluation of each metric. {'. '.join(sentences)}."


def _fill_axis(axis, runs, metrics, smoothing: int, steps) -> str:
    """Draw one metric of several runs, or metrics of one run, and say in words what is seen."""
    from matplotlib.lines import Line2D

    several = len(runs) > 1
    if several:
        lines = [(run, metrics[0], run.name, _style(place)) for place, run in enumerate(runs)]
    else:
        colours = [COLOURS[METRIC_COLOURS.get(metric, "neutral")] for metric in metrics]
        ways = [{"marker": "o"}, {"marker": "s", "linestyle": "--"}][: len(metrics)]  # no panel has more than two
        styles = [{"color": colour} | way for colour, way in zip(colours, ways, strict=True)]
        lines = [(runs[0], metric, metric, style) for metric, style in zip(metrics, styles, strict=True)]
    curves = [cut_curve(run, metric, smoothing, steps) for run, metric, _, _ in lines]
    if not any(len(curve.mean) + len(curve.evaluation) + len(curve.lost) for curve in curves):
        trainer = "these trainers" if several else "this trainer"
        words = "no value in these steps" if any(curve.logged for curve in curves) else f"not logged by {trainer}"
        axis.text(0.5, 0.5, words, ha="center", va="center", fontsize=9, transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return f"{', '.join(metrics)}: {words}"
    axis.locator_params(nbins=5)
    if metrics[-1] in REFERENCES:
        axis.axhline(REFERENCES[metrics[-1]], color="black", linestyle="--", linewidth=0.8, zorder=1)
    far = far_curves(curves, metrics[0]) if several else set()
    if several and (metrics[0] == "learning_rate" or far and metrics[0] in POSITIVE):
        far = set()
        _log_scale(axis, curves)
    for place, curve in enumerate(curves):
        curve.band = None if place in far or len(runs) > MOST_BANDS else curve.band
        if place not in far:
            draw_curve(axis, curve, not several, **lines[place][-1])
    limits = (-0.04, 1.04) if metrics[0] == "rewards/accuracies" else axis.get_ylim()
    notes, sentences = [], []
    for place, ((_, _, name, style), curve) in enumerate(zip(lines, curves, strict=True)):
        if place in far:
            draw_curve(axis, curve, False, **style)
        off = off_axis(curve, limits, not several)
        if not several:
            axis.plot(curve.spikes, ".", **FAINT, color=style["color"])
            edges = 0.02 + 0.96 * (off > limits[1])
            axis.plot(edges, "d", color=style["color"], markersize=4, transform=axis.get_xaxis_transform())
        remarks = [] if curve.logged else ["not logged"]
        if len(off):
            remarks.append(f"{UP if off.iloc[-1] > limits[1] else DOWN} {off.iloc[-1]:.3g}")
        lost = [f"not finite from {curve.lost[0]}"] if curve.lost else []
        words = ", ".join([name, in_words(curve), *remarks, *lost])
        sentences.append(words.replace(UP, "off the axis up to").replace(DOWN, "off the axis down to"))
        remarks += [] if several else lost  # of several, the legend says it
        if remarks or len(metrics) > 1:
            notes.append((Line2D([], [], **style), ", ".join([name] * (len(metrics) > 1) + remarks)))
    axis.set_ylim(limits)
    absent = sum(not curve.logged for curve in curves)
    if absent > 2:
        nobody = (Line2D([], [], linestyle=""), f"not logged by {absent} runs")
        notes = [note for note in notes if note[1] != "not logged"] + [nobody]
    if notes:
        axis.legend(*zip(*notes, strict=True), loc="best", fontsize=8, handlelength=1.4)
    return (f"{metrics[0]}: " if several else "") + "; ".join(sentences)


def _log_scale(axis, curves) -> None:
    """Give an axis a logarithmic scale, with plain numbers, and leave out of the curves what it has no place for."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for curve in curves:
        curve.mean, curve.evaluation = (part[part > 0] for part in (curve.mean, curve.evaluation))


def _add_legend(figure, runs, smoothing: int) -> None:
    """Explain lines and markers above all panels."""
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mean = f"mean of {smoothing} points" if smoothing > 1 else "every point"
    band = any(axis.collections for axis in figure.axes)
    if len(runs) == 1:
        rows = f", {runs[0].eval_rows} rows" if runs[0].eval_rows else ""
        evaluated = (runs[0].history["split"] == "eval").any()
        styles = {
            "training": {"marker": ".", "linestyle": "", "alpha": 0.5},
            f"training, {mean}": {},
            f"evaluation{rows}" if evaluated else "no evaluation": {"marker": "o", "linestyle": ":"}
            if evaluated
            else {"linestyle": ""},
        }
        entries = [(Line2D([], [], color="grey", **style), label) for label, style in styles.items()]
        entries += [(Patch(alpha=0.3, color="grey"), "95 % interval")] if band else []
        title, columns = _short(runs[0].name), 4
    else:
        entries = []
        for place, run in enumerate(runs):
            lost = run.history["step"][~np.isfinite(run.history["value"])]
            remarks = [] if (run.history["split"] == "eval").any() else ["no evaluation"]
            remarks += [f"not finite from {lost.min()}"] if len(lost) else []
            name = _short(run.name) + (f" ({', '.join(remarks)})" if remarks else "")
            entries.append((Line2D([], [], **_style(place)), name))
        title = f"line: training, {mean}; markers: evaluation{' with 95 % interval' if band else ''}"
        columns = max(1, 125 // (6 + max(len(label) for _, label in entries)))
    legend = {"loc": "outside upper center", "ncols": columns, "frameon": False, "fontsize": 9, "title_fontsize": 9}
    figure.legend(*zip(*entries, strict=True), title=title, **legend)


def _style(place: int) -> dict:
    """Give a run its colour and its marker: eight can be told apart."""
    return {"color": RUN_COLOURS[place % 8], "marker": MARKERS[place % 8]}


def _short(name: str) -> str:
    name = name if len(name) <= 40 else name[:39] + "\N{HORIZONTAL ELLIPSIS}"
    return name.replace("$", r"\$")  # else matplotlib would typeset what stands between two
