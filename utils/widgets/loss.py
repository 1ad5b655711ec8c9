"""A widget that moves a point on the surface of ORPO's odds term: beta times -log sigmoid(log odds ratio)."""

import math
from types import SimpleNamespace

from utils.figures import as_image, new_figure, scrolling
from utils.orpo import math as orpo_math

SIDES = ("chosen", "rejected")
TABLE = "border-collapse:separate;border-spacing:0.8em 0.1em;text-align:left"
WINDOW = -4.0  # the surface begins here, or further out if a point is there


def odds_term(beta: float, chosen: float, rejected: float) -> SimpleNamespace:
    """Compute the odds term at one point, in double precision, with its slope for each nat of either log-probability.

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
    """Draw the odds term over both log-probabilities, with a point and the way downhill; return (figure, alt text)."""
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


def explore_loss(beta: float = 0.1, chosen: float = -1.0, rejected: float = -1.5):
    """Make a widget with three sliders, whose numbers can be typed too, that moves a point on the surface.

    Its attribute `controls` holds `beta`, `chosen`, `rejected`, and `page` (HTML).
    """
    import ipywidgets as widgets

    page = widgets.HTML(layout={"display": "block"})  # a flex box would grow with what should scroll
    look = {
        "continuous_update": False,
        "style": {"description_width": "initial"},
        "layout": {"width": "26em", "max_width": "100%"},
    }
    sliders = {"beta": widgets.FloatLogSlider(beta, min=-3, max=2, step=0.05, description="beta:", **look)}
    for side, value in zip(SIDES, (chosen, rejected), strict=True):
        text = f"log P of {side}:"
        sliders[side] = widgets.FloatSlider(value, min=-12, max=-0.01, step=0.01, description=text, **look)

    def draw(_=None):
        values = {name: slider.value for name, slider in sliders.items()}
        picture = as_image(*plot_loss_surface(**values)).data
        wide = f'<div style="min-width:30em">{picture}</div>'  # legible on a phone, where it scrolls
        page.value = scrolling("surface", wide) + _in_words(**values)

    for slider in sliders.values():
        slider.observe(draw, "value")
    draw()
    panel = widgets.VBox([*sliders.values(), page])
    panel.controls = SimpleNamespace(**sliders, page=page)
    return panel


def _in_words(beta: float, chosen: float, rejected: float) -> str:
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
