"""One line of a figure of curves: its running mean, its intervals, its drawing, and whether it leaves the axis.

A run is a `curves.Run`. Left out: whole figures, see `curve_figures`.
"""

from types import SimpleNamespace

from utils.intervals import Z, wilson

FAINT = {"alpha": 0.35, "markersize": 4, "markeredgewidth": 0}  # of single training points
WINDOW = 9  # points of the running mean around which the training points scatter
FEWEST_POINTS = 20  # from which a scatter is estimated
# How far values of runs usually lie apart, 0.5 if not named; what is FAR times as far away would flatten the others.
USUAL, FAR = {"rewards/margins": 0.05, "learning_rate": 1e9}, 5


def running_mean(series, window: int):
    """Smooth a series with the mean of `window` points around each point, which does not shift the curve in time.

    At both ends the window is cut off: the first value is the mean of the first half window, so a steep beginning looks
    flatter than it is. A value that is not finite is left out of the means, and there is no mean in its place.
    """
    import numpy as np

    if window < 1:
        raise ValueError(f"Smoothing is a number of points, 1 for none, and not {window}.")
    finite = series.where(np.isfinite(series))
    return finite.rolling(window, center=True, min_periods=1).mean().where(finite.notna())


def confidence_band(run, metric: str):
    """Return the ends of a 95 % interval of each evaluation, or `None` if the run does not tell enough.

    Accuracies: Wilson's interval. Of the others only means are logged, so the spread of single rows is taken from the
    scatter of the training points, each of them the mean of some rows, around their running mean: it needs 20 points,
    and that the held-out rows differ among each other as the training rows do, which a run that goes astray breaks.

    The interval covers the chance of which rows were held out. All evaluations see the same rows, though, so that
    changes along a curve are known better than its level, and bands that overlap do not say that nothing changed.

    Returns:
        (low, high): pandas series over the steps of the evaluations that are finite.
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
    half = Z * spread / np.sqrt(run.eval_rows)
    return values - half, values + half


def cut_curve(run, metric: str, smoothing: int = 10, steps=None):
    """Take what is drawn of one metric of a run.

    Args:
        smoothing: points of the running mean; the learning rate is not noisy and stays as it is.
        steps: first and last step, `None` for all.

    Returns:
        Object with the pandas series `train`, `spikes` (of training, so far from its mean that they would flatten the
        rest), `mean` (of both) and `evaluation`, all without what is not finite; with `lost`, the steps of that; with
        `band`, the two ends of `confidence_band`, or `None`; with `logged`: whether there is anything, at any step.
    """
    import numpy as np

    def cut(series):
        return series.loc[steps[0] : steps[1]] if steps else series

    train, evaluation, band = run.series(metric), run.series(metric, "eval"), confidence_band(run, metric)
    logged = bool(len(train) or len(evaluation))
    mean = train if metric == "learning_rate" else running_mean(train, smoothing)
    train, mean, evaluation = cut(train), cut(mean), cut(evaluation)
    lost = sorted({step for part in (train, evaluation) for step in part.index[~np.isfinite(part)]})
    train, mean, evaluation = (part[np.isfinite(part)] for part in (train, mean, evaluation))
    noise = train - mean
    far = noise.abs() > FAR * (noise.quantile(0.75) - noise.quantile(0.25))
    curve = SimpleNamespace(train=train[~far], spikes=train[far], mean=mean, evaluation=evaluation, lost=lost)
    curve.band, curve.logged = band and [cut(end) for end in band], logged
    return curve


def draw_curve(axis, curve, alone: bool = True, **style) -> None:
    """Draw training as its running mean, evaluations as markers with their band, what is not finite as crosses.

    Args:
        curve: of `cut_curve`.
        alone: also draw each training point, faint, and join the evaluations: too much where several runs meet.
        style: of the markers; `color` is that of the line too, and `linestyle` of the line alone.
    """
    colour, line = style["color"], style.pop("linestyle", "-")
    if alone:
        axis.plot(curve.train, ".", color=colour, **FAINT)
    breaks = curve.mean.reindex(sorted([*curve.mean.index, *curve.lost]))  # no line where nothing was finite
    axis.plot(breaks, line, color=colour, linewidth=1.8 if alone else 1.1)
    if curve.band:
        low, high = curve.band
        axis.fill_between(low.index, low, high, color=colour, alpha=0.13, linewidth=0)
        axis.vlines(low.index, low, high, color=colour, alpha=0.6, linewidth=1)  # a single one is no area
    marks = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "linewidth": 1} | style
    axis.plot(curve.evaluation, linestyle=":" if alone else "none", **marks)
    bottom = axis.get_xaxis_transform()  # steps across, the axis' height upwards
    axis.plot(curve.lost, [0.04] * len(curve.lost), "x", color=colour, markersize=4, transform=bottom)


def far_curves(curves: list, metric: str) -> set[int]:
    """Find the places of the curves next to which the others would look flat on a common axis."""
    import numpy as np

    values = {place: np.concatenate([curve.mean, curve.evaluation]) for place, curve in enumerate(curves)}
    values = {place: part for place, part in values.items() if len(part)}
    if not values:
        return set()
    centre = np.median(min(values.values(), key=lambda part: max(abs(part))))  # what goes astray grows
    reach = {place: max(abs(part - centre)) for place, part in values.items()}
    near, far = max(USUAL.get(metric, 0.5), min(reach.values())), set()
    for place in sorted(reach, key=reach.get):
        if reach[place] > FAR * near:
            far.add(place)
        else:
            near = max(near, reach[place])
    return far


def off_axis(curve, limits, alone: bool):
    """Return those values of a curve that lie outside of an axis' limits, as a pandas series, the farthest last."""
    import pandas as pd

    shown = pd.concat([curve.mean, curve.evaluation, *([curve.train, curve.spikes] if alone else [])])
    beyond = pd.concat([limits[0] - shown, shown - limits[1]], axis="columns").max(axis="columns").to_numpy()
    order = beyond.argsort(kind="stable")
    return shown.iloc[order[beyond[order] > 0]]


def in_words(curve) -> str:
    """Say where the evaluations of `cut_curve` begin and end, or else training."""
    part, what = (curve.evaluation, "") if len(curve.evaluation) else (curve.mean, "training ")
    return f"{what}{part.iloc[0]:.3g} to {part.iloc[-1]:.3g}" if len(part) else "no value"
