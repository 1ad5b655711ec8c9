"""Draws runs' curves: live while one trains, whole when it is done, and several over one another."""

import time
from types import SimpleNamespace

from utils.curves.run import Run, read_history
from utils.figures import COLOURS, as_image, line_style, new_figure
from utils.intervals import wilson

# log_odds_chosen is the difference of the two answers' log odds, log_odds_ratio is log sigmoid of it: always negative.
# Log-probabilities are ORPO's means per token, but DPO's sums over the answer.
PANELS = {
    "loss": ("loss", "nll_loss"),
    "margins": ("rewards/margins",),
    "accuracies": ("rewards/accuracies",),
    "log-probabilities": ("logps/chosen", "logps/rejected"),
    "log-odds": ("log_odds_ratio", "log_odds_chosen"),
    "gradient": ("grad_norm",),
    "rate": ("learning_rate",),
}
SIX, SHORT = tuple(PANELS)[:6], ("loss", "margins", "accuracies")
UNITS = {"margins": "beta x nats", "accuracies": "share of pairs", "gradient": "", "rate": ""}  # of the others: nats
METRIC_COLOURS = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "eval"}  # the others are grey
METRIC_COLOURS |= {"logps/chosen": "chosen", "logps/rejected": "rejected", "log_odds_chosen": "margin"}
REFERENCES = {"rewards/accuracies": 0.5, "rewards/margins": 0, "log_odds_chosen": 0}  # a line to compare with
FAINT = {"alpha": 0.35, "markersize": 4, "markeredgewidth": 0}  # of single training points
MOST_BANDS = 3  # runs in one figure that get intervals
WINDOW = 9  # points of the running mean around which the training points scatter
FEWEST_POINTS = 20  # from which a scatter is estimated
# How far values of runs usually are apart, 0.5 if not named; what is FAR_APART times as far would flatten the others.
USUAL, FAR_APART = {"rewards/margins": 0.05, "learning_rate": 1e-6}, 10
FAR_OFF = 5  # times half of a metric's scatter: a single training point that does not stretch the axis


def running_mean(series, window: int):
    """Smooth a series with the mean of `window` points around each point; what is not finite is left out, and has none.

    At both ends the window is cut off, so a steep beginning looks flatter than it is.
    """
    import numpy as np

    finite = series.where(np.isfinite(series))
    return finite.rolling(window, center=True, min_periods=1).mean().where(finite.notna())


def confidence_band(run, metric: str):
    """Return both ends of a 95 % interval of each evaluation, or `None` if the run does not tell enough.

    Accuracies: Wilson's interval. Of the others only means are logged, so the spread of single rows is taken from the
    scatter of the training points, each of them the mean of some rows, around their running mean. The interval covers
    the chance of which rows were held out. All evaluations see the same rows, so that changes along a curve are known
    better than its level.
    """
    import numpy as np
    import pandas as pd

    values, points = (part[np.isfinite(part)] for part in (run.series(metric, "eval"), run.series(metric)))
    if values.empty or not run.eval_rows:
        return None
    if metric == "rewards/accuracies":
        ends = zip(*(wilson(value, run.eval_rows) for value in values), strict=True)
        return tuple(pd.Series(end, values.index) for end in ends)
    if not run.batch_rows or len(points) < FEWEST_POINTS:
        return None
    scatter = points - points.rolling(WINDOW, center=True).mean()  # none at the ends, where the window is cut off
    # A point averages all batches since the one before it, and is itself a part of the mean that it is compared with
    rows = run.batch_rows * np.median(np.diff(points.index))
    spread = np.sqrt((scatter**2).mean() * WINDOW / (WINDOW - 1) * rows)
    half = 1.96 * spread / np.sqrt(run.eval_rows)
    return values - half, values + half


def take_curve(run, metric: str, smoothing: int = 10, steps=None) -> SimpleNamespace:
    """Take what is drawn of one metric of a run.

    `train`, `mean` and `evaluation` are finite series; `spikes` are training points so far from the mean that they
    would flatten the rest; `lost` are the steps that are not finite.
    """
    import numpy as np

    first, last = steps or (None, None)
    train, evaluation, band = run.series(metric), run.series(metric, "eval"), confidence_band(run, metric)
    logged = bool(len(train) or len(evaluation))
    mean = train if metric == "learning_rate" else running_mean(train, smoothing)  # a rate is not noisy
    train, mean, evaluation = (part.loc[first:last] for part in (train, mean, evaluation))
    lost = sorted({step for part in (train, evaluation) for step in part.index[~np.isfinite(part)]})
    train, mean, evaluation = (part[np.isfinite(part)] for part in (train, mean, evaluation))
    noise = train - mean
    far = noise.abs() > FAR_OFF * (noise.quantile(0.75) - noise.quantile(0.25))
    far &= metric != "rewards/accuracies"  # which has an axis of its own
    band = band and [end.loc[first:last] for end in band]
    return SimpleNamespace(
        train=train[~far], spikes=train[far], mean=mean, evaluation=evaluation, lost=lost, band=band, logged=logged
    )


def draw_curve(axis, curve, alone: bool = True, band: bool = True, **style) -> None:
    """Draw training as its running mean, evaluations as markers with their band, and what is not finite as crosses.

    `alone` also draws each training point, and joins the evaluations: too much where several runs meet.
    """
    colour, line = style["color"], style.pop("linestyle", "-")
    if alone:
        axis.plot(curve.train, ".", color=colour, **FAINT)
    breaks = curve.mean.reindex(sorted([*curve.mean.index, *curve.lost]))  # no line where nothing was finite
    axis.plot(breaks, line, color=colour, linewidth=1.8 if alone else 1.1)
    if band and curve.band:
        low, high = curve.band
        axis.fill_between(low.index, low, high, color=colour, alpha=0.13, linewidth=0)
        axis.vlines(low.index, low, high, color=colour, alpha=0.6, linewidth=1)  # a single one is no area
    marks = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "linewidth": 1} | style
    axis.plot(curve.evaluation, linestyle=":" if alone else "none", **marks)
    bottom = axis.get_xaxis_transform()  # steps across, the axis' height upwards
    axis.plot(curve.lost, [0.04] * len(curve.lost), "x", color=colour, markersize=4, transform=bottom)


def set_scale(axes, curves: list, metric: str) -> None:
    """Give axes one scale on which each curve can be read, a logarithmic one if one run would flatten the others."""
    import numpy as np
    from matplotlib.ticker import StrMethodFormatter, SymmetricalLogLocator

    values = [np.concatenate([curve.mean, curve.evaluation]) for curve in curves]
    values = [part for part in values if len(part)]
    if metric == "rewards/accuracies":
        for axis in axes:
            axis.set_ylim(-0.04, 1.04)
    elif len(values) > 1:
        centre = np.median(min(values, key=lambda part: max(abs(part))))  # what goes astray grows
        reach = np.maximum(sorted(max(abs(part - centre)) for part in values), USUAL.get(metric, 0.5))
        gaps = np.flatnonzero(reach[1:] > FAR_APART * reach[:-1])
        for axis in axes if len(gaps) else []:
            linear = 10 ** np.floor(np.log10(reach[gaps[0]]))  # linear up to there, logarithmic further out
            axis.set_yscale("symlog", linthresh=linear)
            axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=(1, 3)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.annotate("log scale", (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)


def in_words(curve) -> str:
    """Say where the evaluations of a curve begin and end, or else training."""
    part, what = (curve.evaluation, "") if len(curve.evaluation) else (curve.mean, "training ")
    words = f"{what}{part.iloc[0]:.3g} to {part.iloc[-1]:.3g}" if len(part) else "no value"
    return words + (f", not finite from {curve.lost[0]}" if curve.lost else "")


def plot_history(history, panels=SHORT, title: str = "training"):
    """Draw a trainer's history as `plot_runs` draws a run; return the figure and its alt text."""
    return plot_runs([Run(title, history)], panels)


def live_curves(seconds: float = 10.0):
    """Make a trainer callback that redraws loss, margin and accuracy in place, at most once in so many seconds."""
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


def plot_runs(runs, panels=SIX, smoothing: int = 10, steps=None):
    """Draw one run, or several over one another; return the figure and an alt text with both ends of each curve.

    One run also shows each training point, and has a panel's metrics in one axis. `smoothing` is the points of the
    running mean, `steps` the first and last step to draw.
    """
    several = len(runs) > 1
    plots = []  # panel, and the metrics in one axis
    for panel in panels:
        plots += [(panel, [metric]) for metric in PANELS[panel]] if several else [(panel, PANELS[panel])]
    columns = {1: 1, 2: 2, 4: 2}.get(len(plots), 3)
    figure, axes = new_figure(columns, -(-len(plots) // columns), width=9.4 / columns, height=2.5)
    for axis in axes[len(plots) :]:
        axis.remove()
    sentences = []
    for axis, (panel, metrics) in zip(axes, plots, strict=False):
        if several:
            lines = [(run, metrics[0], run.name, line_style(place)) for place, run in enumerate(runs)]
        else:
            lines = [(runs[0], metric, metric, _metric_style(metric, place)) for place, metric in enumerate(metrics)]
        words = _fill_axis(axis, lines, several, len(runs) <= MOST_BANDS, smoothing, steps)
        sentences.append(f"{metrics[0]}: {words}" if several else words)
        axis.set_title(metrics[0] if len(metrics) == 1 else panel, loc="left", fontsize=9, fontweight="bold")
        axis.set_ylabel(UNITS.get(panel, "nats"), fontsize=8)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
    _add_legend(figure, runs, smoothing)
    names = ", ".join(run.name for run in runs)
    return figure, f"Curves of {names}; first and last evaluation of each metric. {'. '.join(sentences)}."


def ends_table(runs, panels):
    """Return a table of where each run's evaluations begin and end, one column for each run."""
    import pandas as pd

    metrics = [metric for panel in panels for metric in PANELS[panel]]
    ends = {run.name: {metric: run.ends(metric) for metric in metrics} for run in runs}
    return pd.DataFrame(ends).map(lambda pair: f"{pair[0]:.3f} to {pair[1]:.3f}")


def _metric_style(metric: str, place: int) -> dict:
    colour = COLOURS[METRIC_COLOURS.get(metric, "neutral")]
    return {"color": colour, "marker": "os"[place], "linestyle": ["-", "--"][place]}  # no panel has more than two


def _fill_axis(axis, lines, several: bool, band: bool, smoothing: int, steps) -> str:
    """Draw lines, each a run, a metric, a name and a style, and return in words what is seen."""
    curves = [take_curve(run, metric, smoothing, steps) for run, metric, _, _ in lines]
    first, last = lines[0][1], lines[-1][1]
    if not any(len(curve.mean) + len(curve.evaluation) + len(curve.lost) for curve in curves):
        words = "no value in these steps" if any(curve.logged for curve in curves) else "not logged"
        axis.text(0.5, 0.5, words, ha="center", va="center", fontsize=9, transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return f"{first if first == last else f'{first}, {last}'}: {words}"
    axis.locator_params(nbins=5)
    if last in REFERENCES:
        axis.axhline(REFERENCES[last], color="black", linestyle="--", linewidth=0.8, zorder=1)
    sentences = []
    for curve, (_, _, name, style) in zip(curves, lines, strict=True):
        missing = "" if curve.logged else ", not logged"
        draw_curve(axis, curve, not several, band, **style)
        if missing or (not several and len(lines) > 1):
            axis.plot([], [], **style, label=_short(name) + missing)
        spikes = "" if several or curve.spikes.empty else f", single points up to {max(curve.spikes, key=abs):.3g}"
        sentences.append(f"{name}, {in_words(curve)}{spikes}{missing}")
    set_scale([axis], curves if several else curves[:1], first)
    if not several:
        low, high = axis.get_ylim()
        edge = 0.02 * (high - low)
        for curve, (*_, style) in zip(curves, lines, strict=True):
            beyond = curve.spikes[~curve.spikes.between(low, high)]
            axis.plot(curve.spikes, ".", color=style["color"], **FAINT)
            axis.plot(beyond.clip(low + edge, high - edge), "d", color=style["color"], markersize=4)
        axis.set_ylim(low, high)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, handlelength=1.4)
    return "; ".join(sentences)


def _add_legend(figure, runs, smoothing: int) -> None:
    """Explain lines and markers above all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mean = f"mean of {smoothing} points" if smoothing > 1 else "every point"
    band = any(axis.collections for axis in figure.axes)
    if len(runs) == 1:
        rows = f", {runs[0].eval_rows} rows" if runs[0].eval_rows else ""
        entries = [
            Line2D([], [], color="grey", marker=".", linestyle="", alpha=0.5, label="training"),
            Line2D([], [], color="grey", label=f"training, {mean}"),
            Line2D([], [], color="grey", marker="o", linestyle=":", label=f"evaluation{rows}"),
        ]
        if band:
            entries.append(Patch(alpha=0.3, color="grey", label="95 % interval"))
        title, columns = _describe(runs[0]), 4
    else:
        entries = [Line2D([], [], **line_style(place), label=_describe(run)) for place, run in enumerate(runs)]
        title = f"line: training, {mean}; markers: evaluation{' with 95 % interval' if band else ''}"
        columns = max(1, 125 // (6 + max(len(entry.get_label()) for entry in entries)))
    legend = {"loc": "outside upper center", "ncols": columns, "frameon": False, "fontsize": 9, "title_fontsize": 9}
    figure.legend(handles=entries, title=title, **legend)


def _describe(run) -> str:
    """Name a run, with what is missing in it."""
    import numpy as np

    lost = run.history["step"][~np.isfinite(run.history["value"])]
    remarks = [] if (run.history["split"] == "eval").any() else ["no evaluation"]
    if len(lost):
        remarks.append(f"not finite from {lost.min()}")
    return f"{_short(run.name)} ({', '.join(remarks)})" if remarks else _short(run.name)


def _short(name: str) -> str:
    name = name if len(name) <= 40 else name[:39] + "\N{HORIZONTAL ELLIPSIS}"
    return name.replace("$", r"\$")  # else matplotlib would typeset what is between two
