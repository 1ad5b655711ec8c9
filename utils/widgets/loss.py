"""A widget that moves the surface of ORPO's odds term: beta, the two mean log-probabilities, and what follows.

The term is beta times -log sigmoid(log odds ratio), as `orpo_math` computes it. Left out: the likelihood term, and any
model.
"""

import html
import math
from types import SimpleNamespace

from utils.figures import as_image, new_figure, scrolling
from utils.orpo import math as orpo_math

SIDES = ("chosen", "rejected")
LEAST_LOGP, LEAST_BETA, MOST_BETA = -100.0, 0.001, 100.0
TABLE = "border-collapse:separate;border-spacing:0.8em 0.1em;text-align:left"
WINDOW = -4.0  # the surface begins here, or further out if a point lies there


def odds_term(beta: float, chosen: float, rejected: float) -> SimpleNamespace:
    """Compute the odds term at one point, with each step to it, in double precision.

    Args:
        beta: above 0; see `read_number` for what can be drawn.
        chosen, rejected: mean log-probability of a token in nats, below 0.

    Returns:
        `log_odds` and `slope` (of the term, for each nat of that log-probability) by side, `ratio` (the log odds ratio)
        and `loss` (the term itself).

    Example:
        >>> term = odds_term(0.1, -1.0, -1.5)
        >>> round(term.ratio, 3), round(term.loss, 4), round(term.slope["chosen"], 4)
        (0.706, 0.0401, -0.0523)
    """
    import torch

    points = [torch.tensor(point, dtype=torch.float64) for point in (chosen, rejected)]
    push = orpo_math.odds_ratio_push(*points)
    return SimpleNamespace(
        log_odds={side: orpo_math.log_odds(point).item() for side, point in zip(SIDES, points, strict=True)},
        ratio=orpo_math.log_odds_ratio(*points).item(),
        loss=beta * orpo_math.odds_ratio_loss(*points).item(),
        slope={side: -beta * it.item() for side, it in zip(SIDES, push, strict=True)},
    )


def plot_loss_surface(beta: float = 0.1, chosen: float = -1.0, rejected: float = -1.5):
    """Draw the odds term over both log-probabilities, with a point on it and the way downhill from there.

    Args:
        beta, chosen, rejected: see `odds_term`.

    Returns:
        (figure, alt text).
    """
    import torch
    from matplotlib.colors import BoundaryNorm

    term = odds_term(beta, chosen, rejected)
    low = min(WINDOW, 1.15 * min(chosen, rejected))
    line = torch.linspace(low, low / 250, 250, dtype=torch.float64)  # not up to 0, where the odds are infinite
    loss = beta * orpo_math.odds_ratio_loss(line[None, :], line[:, None])
    ratios = torch.linspace(-1.5 * low, 1.5 * low, 13, dtype=torch.float64)  # equal steps of log odds
    levels = (beta * torch.nn.functional.softplus(-ratios)).tolist()
    figure, (axis,) = new_figure(width=6.2, height=4.4)
    norm = BoundaryNorm(levels, 256, extend="both")
    surface = axis.contourf(line, line, loss, levels=levels, norm=norm, cmap="cividis_r", extend="both")
    axis.contour(surface, colors="white", linewidths=0.4)
    label = f"odds term of the loss, beta = {beta:g}"
    figure.colorbar(surface, label=label, ticks=levels[::2], format=lambda value, _: f"{value:.3g}")
    axis.plot([low, 0], [low, 0], color="black", linestyle="--", linewidth=1.2)
    text = {"rotation": 45, "rotation_mode": "anchor", "va": "bottom", "fontsize": 8}
    axis.text(0.9 * low, 0.88 * low, "equally likely", **text)
    edge = -0.09 * low  # beyond 0, room for the arrow
    steepness = math.hypot(*term.slope.values())
    right, down = -term.slope["chosen"] / steepness, term.slope["rejected"] / steepness
    length = min(-0.22 * low, (edge - chosen) / right, (rejected - low) / down)
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 2.2, "mutation_scale": 18, "shrinkA": 0, "shrinkB": 0}
    end = chosen + length * right, rejected - length * down
    axis.annotate("", end, (chosen, rejected), arrowprops=arrow, zorder=5)
    axis.plot(chosen, rejected, "o", color="white", markeredgecolor="black", markersize=11, clip_on=False, zorder=6)
    axis.set(xlim=(low, edge), ylim=(low, edge), aspect="equal")
    axis.set(xlabel="log P of chosen (nats a token)", ylabel="log P of rejected (nats a token)")
    alt = (
        f"Odds term of the loss over the log-probabilities of chosen and rejected answer, beta {beta:g}: low where the "
        f"chosen one is likelier, high where the rejected one is. At chosen {chosen:g} and rejected {rejected:g} it is "
        f"{term.loss:.4g}; downhill, chosen rises by {-term.slope['chosen']:.3g} for each {term.slope['rejected']:.3g} "
        "that rejected falls."
    )
    return figure, alt


def explore(beta: float = 0.1, chosen: float = -1.0, rejected: float = -1.5):
    """Make a widget with sliders, and fields to type into, that moves a point on the surface.

    Args:
        beta, chosen, rejected: where it begins; see `odds_term`.

    Returns:
        `ipywidgets.VBox`; its attribute `controls` holds the sliders `beta`, `chosen` and `rejected`, the text fields
        `beta_text`, `chosen_text` and `rejected_text`, and `page` (HTML).
    """
    import ipywidgets as widgets

    start = {"beta": beta, "chosen": chosen, "rejected": rejected}
    ranges = {"beta": (0.05, 2.0, 0.05), "chosen": (-4.0, -0.05, 0.05), "rejected": (-4.0, -0.05, 0.05)}
    labels = {"beta": "beta", "chosen": "log P of chosen", "rejected": "log P of rejected"}
    # A block, and not the flex box that it is by default, which grows with what should scroll
    style, controls, moving = (
        {"description_width": "initial"},
        SimpleNamespace(page=widgets.HTML(layout={"display": "block"})),
        [False],
    )
    for name, (low, high, step) in ranges.items():
        slider = widgets.FloatSlider(
            value=min(max(start[name], low), high),
            min=low,
            max=high,
            step=step,
            description=f"{labels[name]}:",
            readout=False,  # the field beside it says the value
            continuous_update=False,
            style=style,
            layout=widgets.Layout(width="22em", max_width="100%"),
        )
        field = widgets.Text(
            value=f"{start[name]:g}",
            description=f"{labels[name]} =",
            continuous_update=False,
            style=style,
            layout=widgets.Layout(width="15em", max_width="100%"),
        )
        setattr(controls, name, slider)
        setattr(controls, f"{name}_text", field)

    def draw():
        try:
            values = {name: read_number(name, getattr(controls, f"{name}_text").value) for name in ranges}
        except ValueError as error:
            controls.page.value = f'<p role="alert"><b>Nothing is drawn:</b> {html.escape(str(error))}</p>'
            return
        for name, value in values.items():
            slider = getattr(controls, name)
            slider.value = min(max(value, slider.min), slider.max)
        picture = as_image(*plot_loss_surface(**values)).data
        wide = f'<div style="min-width:30em">{picture}</div>'  # legible on a phone, where it scrolls
        controls.page.value = scrolling("surface", wide) + in_words(**values)

    def follow(change, name: str, typed: bool):
        if moving[0]:  # a slider that follows a field, or the other way round
            return
        moving[0] = True
        try:
            if not typed:
                getattr(controls, f"{name}_text").value = f"{change['new']:g}"
            draw()
        finally:
            moving[0] = False

    for name in ranges:
        for control, typed in ((getattr(controls, name), False), (getattr(controls, f"{name}_text"), True)):
            control.observe(lambda change, name=name, typed=typed: follow(change, name, typed), "value")
    moving[0] = True
    draw()
    moving[0] = False
    wrap = widgets.Layout(flex_flow="row wrap")
    rows = [widgets.HBox([getattr(controls, name), getattr(controls, f"{name}_text")], layout=wrap) for name in ranges]
    panel = widgets.VBox([*rows, controls.page])
    panel.controls = controls
    return panel


def read_number(name: str, text: str) -> float:
    """Read beta or a log-probability as it was typed.

    Args:
        name: "beta", "chosen" or "rejected".
        text: as typed.

    Raises:
        ValueError: saying what is wrong with the text, why, and what would do.

    Example:
        >>> read_number("chosen", " -1.5 ")
        -1.5
    """
    what = "beta" if name == "beta" else f"the log-probability of the {name} answer"
    good = "0.1" if name == "beta" else "-1.5"
    if not text.strip():
        raise ValueError(f"{what} is empty: type a number such as {good}.")
    try:
        value = float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        raise ValueError(f"{what} is {text.strip()[:40]!r}, which is no number: type one such as {good}.") from None
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}, which is not finite: type a number such as {good}.")
    if name == "beta":
        if value <= 0:
            why = "at 0 the term is gone" if value == 0 else "below 0 it would reward the rejected answer"
            raise ValueError(f"beta is {value:g}, and it must be above 0, for {why}: type a number such as {good}.")
        if not LEAST_BETA <= value <= MOST_BETA:
            raise ValueError(f"beta is {value:g}: type {LEAST_BETA:g} to {MOST_BETA:g}; the paper takes 0.1 to 1.")
        return value
    if value > 0:
        raise ValueError(f"{what} is {value:g}, but a probability is at most 1, and its logarithm at most 0.")
    if math.exp(value) == 1:
        near = "" if value == 0 else ", as good as 0"
        raise ValueError(f"{what} is {value:g}{near}: the probability is 1, and the odds 1 / (1 - 1) are infinite.")
    if value < LEAST_LOGP:
        raise ValueError(
            f"{what} is {value:g}: type {LEAST_LOGP:g} or more. Guessing blindly among Llama 3's 128,256 tokens "
            "gives -11.8 a token."
        )
    return value


def in_words(beta: float, chosen: float, rejected: float) -> str:
    """Write each step from the log-probabilities to the loss and its slopes, as HTML."""
    term, rows = odds_term(beta, chosen, rejected), ""
    for side, point in zip(SIDES, (chosen, rejected), strict=True):
        probability = f"{math.exp(point):.4g}" if point < -1e-4 else f"1 - {-math.expm1(point):.3g}"
        odds = f"{math.exp(term.log_odds[side]):.4g}"
        cells = [f"{point:.4g}", probability, odds, f"{term.log_odds[side]:.4g}", f"{term.slope[side]:+.4g}"]
        rows += f'<tr><th scope="row">{side}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    heads = ["", "log P", "P", "odds P / (1 - P)", "log odds", "slope of the term"]
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    likelier, other = SIDES if chosen > rejected else SIDES[::-1]
    times = f"the odds of {likelier} are {math.exp(abs(term.ratio)):.4g} times those of {other}"
    sentences = [
        f"Log odds ratio: {term.log_odds['chosen']:.4g} - ({term.log_odds['rejected']:.4g}) = <b>{term.ratio:.4g}</b>: "
        + ("the odds are equal." if chosen == rejected else f"{times}."),
        f"Odds term: -log sigmoid({term.ratio:.4g}) = {term.loss / beta:.4g}, times beta {beta:g} = "
        f"<b>{term.loss:.4g}</b>.",
        f"Of the arrow: a nat more of chosen changes the term by {term.slope['chosen']:+.3g}, and a nat more of "
        f"rejected by {term.slope['rejected']:+.3g}, if the slope stayed as it is here. "
        + ("Both are pushed alike." if chosen == rejected else f"The likelier one, {likelier}, is pushed harder."),
    ]
    table = scrolling("numbers", f'<table style="{TABLE}"><tr>{head}</tr>{rows}</table>')
    return f'<div role="status">{table}{"".join(f"<p>{sentence}</p>" for sentence in sentences)}</div>'
