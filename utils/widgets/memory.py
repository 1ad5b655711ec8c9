"""A widget that predicts the memory of a training run that you describe, and says what to change if it does not fit.

Left out: the prediction itself, see `memory`, and what this machine has free, see `preflight`.
"""

import html
from bisect import bisect_left
from types import SimpleNamespace

from utils import preflight
from utils.figures import as_image, scrolling
from utils.train import base as bases
from utils.train import memory, profiles, recipes

# Bases whose shape is known without a download: type and values of their configuration. What is not given is the
# default of transformers, whose documentation names meta-llama/Llama-2-7b-hf and mistralai/Mistral-7B-v0.1.
KNOWN = {
    "Llama 3 8B": ("llama", memory.LLAMA_3_8B),
    "Llama 2 7B": ("llama", {}),
    "Mistral 7B": ("mistral", {}),
}
TABLE = "border-collapse:separate;border-spacing:0.8em 0.1em;text-align:left;white-space:nowrap"
MOST = {"pairs": 1024, "max_length": 100_000}


def calculate(skeleton, recipe, profile: str = "l4", trainer: str = "trl"):
    """Make a widget that draws the predicted parts against a card's memory, and says whether they fit.

    Args:
        skeleton: of the learner's base, see `utils.train.base.skeleton`.
        recipe: a `utils.train.recipes.Recipe`, for the rank of LoRA and the lengths to begin with.
        profile: name of the profile to begin with; one without a card, such as "cpu", begins with the L4.
        trainer: "trl", "fused" or "fast", to begin with.

    Returns:
        `ipywidgets.VBox`; its attribute `controls` holds `base`, `card` and `trainer` (dropdowns), `pairs` and
        `max_length` (text fields), and `page` (HTML).
    """
    import ipywidgets as widgets

    cards = {name: it for name, it in profiles.PROFILES.items() if it.memory_gb}
    begin = cards.get(profile, cards["l4"])
    weights = f"{skeleton.num_parameters() / 1e6:,.1f} million weights"
    style = {"style": {"description_width": "initial"}}
    controls = SimpleNamespace(
        base=widgets.Dropdown(
            options=[(f"yours, {weights}", "yours"), *((name, name) for name in KNOWN)], description="Base:", **style
        ),
        card=widgets.Dropdown(
            options=[(f"{name.upper()}, {it.memory_gb:g} GB", name) for name, it in cards.items()],
            value=begin.name,
            description="GPU:",
            **style,
        ),
        trainer=widgets.Dropdown(
            options=["trl", "fused"], value=profiles.COMPUTES[trainer], description="Trainer:", **style
        ),
        pairs=widgets.Text(
            value=str(begin.pairs_in_a_pass(trainer, recipe.effective_batch)),
            description="Pairs in a pass:",
            continuous_update=False,
            layout=widgets.Layout(width="12em"),
            **style,
        ),
        max_length=widgets.Text(
            value=str(recipe.max_length),
            description="max_length (tokens):",
            continuous_update=False,
            layout=widgets.Layout(width="16em"),
            **style,
        ),
        page=widgets.HTML(layout={"display": "block"}),  # not a flex box, which grows with what should scroll
    )
    skeletons = {"yours": skeleton}

    def draw(_=None):
        try:
            pairs = read_count("pairs", controls.pairs.value)
            max_length = read_count("max_length", controls.max_length.value)
            if controls.base.value == "yours":
                check_context(skeleton, max_length)
        except ValueError as error:
            controls.page.value = f'<p role="alert"><b>Nothing is predicted:</b> {html.escape(str(error))}</p>'
            return
        base, card = controls.base.value, profiles.PROFILES[controls.card.value]
        if base not in skeletons:
            skeletons[base] = known_skeleton(base)
        plan = skeletons[base], recipe, card, pairs, max_length, controls.trainer.value
        parts = predict(*plan)
        answer, _, why = html.escape(verdict(*plan)).partition(":")
        said = f'<p role="status"><b>{answer}</b>:{why}</p>'
        picture = as_image(*plot_parts(parts, card)).data
        wide = f'<div style="min-width:48em">{picture}</div>'  # legible on a phone, where it scrolls
        controls.page.value = scrolling("memory", wide) + said + _table(parts)

    choices = [controls.base, controls.card, controls.trainer, controls.pairs, controls.max_length]
    for control in choices:
        control.layout.max_width = "100%"
        control.observe(draw, "value")
    draw()
    wrap = widgets.Layout(flex_flow="row wrap")
    panel = widgets.VBox(
        [widgets.HBox(choices[:3], layout=wrap), widgets.HBox(choices[3:], layout=wrap), controls.page]
    )
    panel.controls = controls
    return panel


def known_skeleton(name: str):
    """Build a base of `KNOWN` without its weights, and without a download."""
    from transformers import AutoConfig

    kind, values = KNOWN[name]
    return bases.skeleton(AutoConfig.for_model(kind, **values))


def read_count(name: str, text: str) -> int:
    """Read a number of pairs or of tokens as it was typed.

    Args:
        name: "pairs" or "max_length".
        text: as typed; commas between thousands are no fault.

    Raises:
        ValueError: saying what is wrong with the text, and what would do.

    Example:
        >>> read_count("max_length", " 1,024 ")
        1024
    """
    what, unit = {"pairs": ("Pairs in a pass", "pairs"), "max_length": ("max_length", "tokens")}[name]
    wanted = f"type a whole number from 1 to {MOST[name]:,}, such as {1024 if name == 'max_length' else 2}."
    try:
        count = int(text.replace(",", ""))
    except ValueError:
        given = f"is {text.strip()[:40]!r}, which is no whole number" if text.strip() else "is empty"
        raise ValueError(f"{what} {given}: {wanted}") from None
    if count < 1:
        raise ValueError(f"{what} is {count}, which leaves nothing to train on: {wanted}")
    if count > MOST[name]:
        raise ValueError(f"{what} is {str(count)[:40]} {unit}, far more than any of these cards holds: {wanted}")
    return count


def check_context(skeleton, max_length: int) -> None:
    """Raise `ValueError` if a base reads fewer tokens than `max_length`."""
    context, _ = bases.limits(skeleton)
    if context is not None and max_length > context:
        raise ValueError(
            f"max_length is {max_length:,} tokens, and your base reads {context:,}: type {context} or less."
        )


def predict(skeleton, recipe, card, pairs: int, max_length: int, trainer: str) -> dict[str, float]:
    """Predict the parts of the peak with `memory.predict`, in GB.

    Args:
        skeleton: of `utils.train.base.skeleton`.
        recipe: a `utils.train.recipes.Recipe`; LoRA goes on all linear layers if the base lacks one that it names.
        card: a `utils.train.profiles.Profile`, which decides dtype and recomputation.
        pairs: in a pass, all of `max_length` tokens with nothing in common: the worst case.
        max_length: tokens of prompt and answer.
        trainer: "trl" or "fused".
    """
    recipe, _ = recipes.fit_to_base(recipe, {}, None, bases.linear_layers(skeleton))
    hardware = card.dtype, card.recompute, recipe.lora_r, trainer
    return memory.predict(skeleton, recipe.target_modules, pairs, max_length, *hardware)


def plot_parts(parts: dict[str, float], card):
    """Draw one prediction as a bar, against the memory of its card.

    Args:
        parts: of `memory.predict`, in GB.
        card: a `utils.train.profiles.Profile`; one without a fixed memory, such as "cpu", draws no line.

    Returns:
        (figure, alt text).
    """
    figure, alt = memory.plot_budgets({card.name: parts}, profiles.PROFILES)
    figure.set_figheight(2.1)
    return figure, alt


def verdict(skeleton, recipe, card, pairs: int, max_length: int, trainer: str) -> str:
    """Say in words whether a plan fits, with what to spare, or what alone would make it fit.

    Args:
        skeleton, recipe, card, pairs, max_length, trainer: see `predict`.
    """
    plan = {"card": card, "pairs": pairs, "max_length": max_length, "trainer": trainer}

    def needed(**changes) -> float:
        return sum(predict(skeleton, recipe, **(plan | changes)).values())

    def fits(**changes) -> bool:
        return needed(**changes) <= usable((plan | changes)["card"])

    total, room = needed(), usable(card)
    share = f"of {card.memory_gb:g} GB, {preflight.ROOM['cuda']:.0%} are usable"
    if total <= room:
        return f"Fits: {size(total)} of {size(room)}, {size(room - total)} to spare ({share})."
    changes = []
    if fewer := _largest(pairs, lambda count: fits(pairs=count)):
        fewer = 1 << (fewer.bit_length() - 1)  # a power of two, so that passes add up to a step
        changes.append(f"{fewer} {'pair' if fewer == 1 else 'pairs'} in a pass, and more passes to a step")
    if shorter := _largest(max_length, lambda count: fits(max_length=count)):
        changes.append(f"max_length = {shorter}, which drops longer pairs")
    if trainer == "trl" and fits(trainer="fused"):
        changes.append(f'TRAINER = "fused" ({size(needed(trainer="fused"))})')
    larger = [it for it in profiles.PROFILES.values() if it.memory_gb > card.memory_gb and fits(card=it)]
    changes += [f"the GPU of profile {it.name}" for it in larger[:1]]
    lead = "Any one of these would do" if changes[1:] else "This would do"
    mend = f"{lead}: {'; '.join(changes)}."
    if not changes:
        mend = "The weights alone are too much for this GPU: take a smaller base, or a larger GPU and fewer pairs."
    return f"Does not fit: {size(total)} of {size(room)}, {size(total - room)} too much ({share}). {mend}"


def usable(card) -> float:
    """Return what a run may take of a card, in GB."""
    return preflight.ROOM["cuda"] * card.memory_gb


def size(gb: float) -> str:
    """Write a size in the unit that suits it.

    Example:
        >>> size(14.53), size(0.0042)
        ('14.5 GB', '4.2 MB')
    """
    return f"{gb:.1f} GB" if gb >= 0.1 else f"{gb * 1000:.1f} MB"


def _largest(most: int, fits) -> int:
    """Return the largest count below `most` that fits, or 0; what fits, fits with less."""
    return bisect_left(range(1, most), True, key=lambda count: not fits(count))


def _table(parts: dict[str, float]) -> str:
    """List the parts as HTML, for who cannot see the bar."""
    whole = sum(parts.values())
    rows = "".join(
        f'<tr><th scope="row">{html.escape(part)}</th><td>{size(gb)}</td><td>{gb / whole:.0%}</td></tr>'
        for part, gb in parts.items()
    )
    head = "".join(f'<th scope="col">{text}</th>' for text in ("part", "size", "share"))
    return scrolling("parts", f'<table style="{TABLE}"><tr>{head}</tr>{rows}</table>')
