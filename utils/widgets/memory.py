"""A widget that predicts the memory of a training run that you describe, and says what to change if it does not fit.

Left out: the prediction itself, see `train.memory`, and what this machine has free, see `preflight`.
"""

import html
from bisect import bisect_left
from types import SimpleNamespace

from utils import figures, preflight
from utils.train import base as bases
from utils.train import memory, profiles

# Bases whose shape is known without a download: type and values of their configuration. What is not given is the
# default of transformers, whose documentation names meta-llama/Llama-2-7b-hf and mistralai/Mistral-7B-v0.1.
KNOWN = {
    "Llama 3 8B": ("llama", memory.LLAMA_3_8B),
    "Llama 2 7B": ("llama", {}),
    "Mistral 7B": ("mistral", {}),
}
CARDS = {name: profile for name, profile in profiles.PROFILES.items() if profile.memory_gb}


def known_skeleton(name: str):
    """Build a base of `KNOWN` without its weights, and without a download."""
    from transformers import AutoConfig

    kind, values = KNOWN[name]
    return bases.skeleton(AutoConfig.for_model(kind, **values))


def predict_memory(
    skeleton, run, card: str, pairs: int | None = None, max_length: int | None = None, trainer: str = "trl"
) -> dict[str, float]:
    """Predict the parts of a run's peak on a card, in GB: the worst case, in which every answer fills the window.

    `run` is the plan of `train.check_run`; `card` a name of `CARDS`, which decides dtype and recomputation, and `pairs`
    in a pass where they are not given.
    """
    profile = CARDS[card]
    pairs = pairs or profile.pairs_in_a_pass(trainer, run.effective_batch)
    modules = bases.fit_modules(skeleton, run.target_modules)
    hardware = profile.dtype, profile.recompute, run.lora_r, trainer
    return memory.predict(skeleton, modules, pairs, max_length or run.max_length, *hardware)


def plot_memory(skeleton, run, trainer: str = "trl"):
    """Draw the predicted parts for every card, against its memory; return (figure, alt text)."""
    return memory.plot_budgets({name: predict_memory(skeleton, run, name, trainer=trainer) for name in CARDS}, CARDS)


def usable(card: str) -> float:
    """Return what a run may take of a card, in GB."""
    return preflight.ROOM["cuda"] * CARDS[card].memory_gb


def judge_plan(skeleton, run, **plan) -> str:
    """Say whether a plan (`card`, `pairs`, `max_length`, `trainer`) fits, or what alone would make it fit."""

    def needed(**changes) -> float:
        return sum(predict_memory(skeleton, run, **(plan | changes)).values())

    def fits(**changes) -> bool:
        return needed(**changes) <= usable((plan | changes)["card"])

    def largest(name: str) -> int:
        return bisect_left(range(1, plan[name]), True, key=lambda count: not fits(**{name: count}))

    total, room = needed(), usable(plan["card"])
    share = f"of {CARDS[plan['card']].memory_gb:g} GB, {preflight.ROOM['cuda']:.0%} are usable"
    if total <= room:
        return f"Fits: {_size(total)} of {_size(room)}, {_size(room - total)} to spare ({share})."
    changes = []
    if fewer := largest("pairs"):
        fewer = 1 << (fewer.bit_length() - 1)  # a power of two, so that passes add up to a step
        changes.append(f"{fewer} {'pair' if fewer == 1 else 'pairs'} in a pass, and more passes to a step")
    if shorter := largest("max_length"):
        changes.append(f"max_length = {shorter}, which drops longer pairs")
    if plan["trainer"] == "trl" and fits(trainer="fused"):
        changes.append(f'TRAINER = "fused" ({_size(needed(trainer="fused"))})')
    larger = [name for name in CARDS if usable(name) > room and fits(card=name)]
    changes += [f"the GPU of profile {name}" for name in larger[:1]]
    mend = f"{'Any one of these' if changes[1:] else 'This'} would do: {'; '.join(changes)}."
    if not changes:
        mend = "The weights alone are too much for this GPU: take a smaller base, or a larger GPU and fewer pairs."
    return f"Does not fit: {_size(total)} of {_size(room)}, {_size(total - room)} too much ({share}). {mend}"


def explore_memory(skeleton, run):
    """Make a widget that draws a plan's memory on a card, and says whether it fits.

    It begins with `run`, the plan of `train.check_run`, and its base's `skeleton`. Its attribute `controls` holds
    `base`, `card`, `trainer`, `pairs`, `max_length` and `page` (HTML).
    """
    import ipywidgets as widgets

    begin = run.profile.name if run.profile.name in CARDS else "l4"
    trainer = profiles.COMPUTES[run.trainer]
    skeletons = {f"yours, {skeleton.num_parameters() / 1e6:,.1f} million weights": skeleton}
    look = {"style": {"description_width": "initial"}, "layout": widgets.Layout(max_width="100%")}
    pairs = CARDS[begin].pairs_in_a_pass(trainer, run.effective_batch)
    cards = [(f"{name.upper()}, {profile.memory_gb:g} GB", name) for name, profile in CARDS.items()]
    number = look | {"min": 1, "continuous_update": False}
    controls = SimpleNamespace(
        base=widgets.Dropdown(options=[*skeletons, *KNOWN], description="Base:", **look),
        card=widgets.Dropdown(options=cards, value=begin, description="GPU:", **look),
        trainer=widgets.Dropdown(options=["trl", "fused"], value=trainer, description="Trainer:", **look),
        pairs=widgets.BoundedIntText(value=pairs, max=1024, description="Pairs in a pass:", **number),
        max_length=widgets.BoundedIntText(
            value=run.max_length, max=100_000, description="max_length (tokens):", **number
        ),
        page=widgets.HTML(layout={"display": "block"}),  # not a flex box, which grows with what should scroll
    )
    choices = [controls.base, controls.card, controls.trainer, controls.pairs, controls.max_length]

    def draw(_=None):
        base = controls.base.value
        if base not in skeletons:
            skeletons[base] = known_skeleton(base)
        plan = {name: getattr(controls, name).value for name in ("card", "pairs", "max_length", "trainer")}
        parts = predict_memory(skeletons[base], run, **plan)
        figure, alt = memory.plot_budgets({plan["card"]: parts}, CARDS)
        figure.set_figheight(2.1)
        wide = f'<div style="min-width:48em">{figures.as_image(figure, alt).data}</div>'  # scrolls on a phone
        answer, _, why = html.escape(judge_plan(skeletons[base], run, **plan)).partition(":")
        said = f'<p role="status"><b>{answer}</b>:{why}</p>'
        context = bases.context_length(skeletons[base])
        if context and plan["max_length"] > context:
            said += f'<p role="alert">This base reads {context:,} tokens: notebook 03 takes no more.</p>'
        rows = [{"part": part, "size": _size(gb)} for part, gb in parts.items()]
        controls.page.value = figures.scrolling("memory", wide) + said + figures.as_table(rows).to_html()

    for control in choices:
        control.observe(draw, "value")
    draw()
    wrap = widgets.Layout(flex_flow="row wrap")
    panel = widgets.VBox([widgets.HBox(choices, layout=wrap), controls.page])
    panel.controls = controls
    return panel


def _size(gb: float) -> str:
    return f"{gb:.1f} GB" if gb >= 0.1 else f"{gb * 1000:.1f} MB"
