"""Shows the tokens of both answers coloured by what two models think of each, and a widget to look through pairs.

A score is a token's log-probability in nats, given the prompt and the tokens before it. Left out: the pairs' means and
what they prove, see `evaluation`.
"""

import html
from types import SimpleNamespace
from typing import NamedTuple

from utils.evaluate import scores as evaluation
from utils.figures import scrolling

SIDES = ("chosen", "rejected")
VIEWS = ("before", "after", "change")
SURPRISE, CHANGE = 6.0, 3.0  # nats from which on a colour is full
# Okabe and Ito's orange and sky blue, from white on: told apart by colour-blind readers, legible under black text
WHITE, ORANGE, BLUE = (255, 255, 255), (230, 159, 0), (86, 180, 233)
TABLE = "border-collapse:separate;border-spacing:0.8em 0.1em;text-align:left"
MOST_WORDS = 60  # characters of a prompt in the list of pairs


class Token(NamedTuple):
    """A token as it reads in its answer, and its log-probability in nats."""

    text: str
    logp: float


def score_tokens(model, tokenizer, pairs: list[dict]) -> list[dict[str, list[Token]]]:
    """Compute the log-probability of every token of both answers, one answer at a time.

    Args:
        model: a causal language model.
        tokenizer: with the course's template.
        pairs: of `utils.data.pairs`; a handful, since every token is kept.

    Returns:
        For each pair its tokens by side; their mean is what `evaluation.score_pairs` computes.
    """
    import torch

    scored = []
    model.eval()
    for pair in pairs:
        scored.append({})
        for side in SIDES:
            whole, start = evaluation.answer_tokens(pair, side, tokenizer)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole], device=model.device)).logits[0]
            told = logits[start - 1 : -1].float().log_softmax(-1)  # each place predicts the next token
            logps = told[range(len(told)), whole[start:]].tolist()
            texts = split_text(tokenizer, whole[start:])
            scored[-1][side] = [Token(*it) for it in zip(texts, logps, strict=True)]
    return scored


def split_text(tokenizer, ids: list[int]) -> list[str]:
    """Write out tokens one by one, so that together they read as the whole text does.

    One character may be split over several tokens: it stands with the last of them, and those before are "".

    Args:
        tokenizer: that made the tokens.
        ids: the tokens.
    """
    texts, begin, done = [], 0, 0  # from `begin` to `done`: tokens before, for what a token is depends on them

    def decode(end: int) -> str:
        return tokenizer.decode(ids[begin:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    for end in range(1, len(ids) + 1):
        before, now = decode(done), decode(end)
        whole = not now.endswith("\N{REPLACEMENT CHARACTER}") or end == len(ids)
        texts.append(now[len(before) :] if whole else "")
        if whole:
            begin, done = done, end
    return texts


def show_pair(pair: dict, before: dict, after: dict, view: str = "change") -> str:
    """Draw both answers of a pair as HTML, each token coloured by its log-probability or by how that changed.

    Args:
        pair: of `utils.data.pairs`.
        before, after: the pair's tokens by side, of `score_tokens` with either model.
        view: one of `VIEWS`.

    Returns:
        HTML in which all text is escaped. The numbers stand in each token's title, and in a folded table.

    Raises:
        ValueError: for another view, or if the two did not score the same tokens.
    """
    if view not in VIEWS:
        raise ValueError(f"There is no view {view!r}. Choose one of {', '.join(VIEWS)}.")
    if any([it.text for it in before[side]] != [it.text for it in after[side]] for side in SIDES):
        raise ValueError("Before and after are not of the same tokens: score one list of pairs with one tokenizer.")
    asked = html.escape(pair["prompt"][-1]["content"]).replace("\n", "<br>")
    turns = len(pair["prompt"])
    prompt = f"<b>prompt</b>{f', the last of {turns} turns' if turns > 1 else ''}: {asked}"
    parts = [scrolling("prompt", prompt, "8em"), _legend(view)]
    for side in SIDES:
        rows = [(one.text, one.logp, two.logp) for one, two in zip(before[side], after[side], strict=True)]
        words = "<wbr>".join(_span(row, view) for row in rows)
        parts.append(f"<p><b>{side}</b>: {_means(rows)}</p>{scrolling(f'tokens of the {side} answer', words, '18em')}")
    tables = "".join(_table(side, before[side], after[side]) for side in SIDES)
    folded = f"<details><summary>The numbers as tables</summary>{tables}</details>"
    style = "line-height:1.7;max-width:60em"
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{style}">{"".join(parts)}{folded}</div>'


def explore(pairs: list[dict], before: list[dict], after: list[dict]):
    """Make a widget that shows the pairs one by one with `show_pair`; nothing is computed any more.

    Args:
        pairs: of `utils.data.pairs`.
        before, after: of `score_tokens`, for these pairs.

    Returns:
        `ipywidgets.VBox`; its attribute `controls` holds `pair` (dropdown), `view` (toggle buttons) and `page` (HTML).

    Raises:
        ValueError: if there is no pair, or not each pair was scored by both models.
    """
    import ipywidgets as widgets

    if not pairs or not len(pairs) == len(before) == len(after):
        raise ValueError(
            f"{len(pairs)} pairs, {len(before)} scored before and {len(after)} after: score the same pairs, at least "
            "one, with both models."
        )
    names = [f"{place}: {pair['prompt'][-1]['content'].strip()[:MOST_WORDS]}" for place, pair in enumerate(pairs, 1)]
    style, layout = {"description_width": "initial"}, {"width": "32em", "max_width": "100%"}
    controls = SimpleNamespace(
        pair=widgets.Dropdown(
            options=list(zip(names, range(len(pairs)), strict=True)), description="Pair:", style=style, layout=layout
        ),
        view=widgets.ToggleButtons(
            options=VIEWS, value="change", description="Show:", style=style | {"button_width": "6em"}
        ),
        page=widgets.HTML(layout={"display": "block"}),  # not a flex box, which grows with what should scroll
    )
    controls.view.tooltips = [
        "log-probability that the base gives each token",
        "log-probability that the tuned model gives each token",
        "after less before",
    ]

    def draw(_=None):
        place = controls.pair.value
        controls.page.value = show_pair(pairs[place], before[place], after[place], controls.view.value)

    for control in (controls.pair, controls.view):
        control.observe(draw, "value")
    draw()
    wrap = widgets.Layout(flex_flow="row wrap")
    panel = widgets.VBox([widgets.HBox([controls.pair, controls.view], layout=wrap), controls.page])
    panel.controls = controls
    return panel


def colour(value: float, view: str) -> str:
    """Return the colour of a log-probability, or of its change.

    White is certainty, and orange surprise; of changes, white is none, blue a rise, and orange a fall.

    Args:
        value: nats.
        view: one of `VIEWS`.

    Example:
        >>> colour(0.0, "after"), colour(-9.0, "after"), colour(3.0, "change")
        ('#ffffff', '#e69f00', '#56b4e9')
    """
    full = CHANGE if view == "change" else SURPRISE
    end = BLUE if value > 0 else ORANGE
    share = min(abs(value) / full, 1.0)
    return "#" + "".join(f"{round(low + share * (high - low)):02x}" for low, high in zip(WHITE, end, strict=True))


def _span(row: tuple[str, float, float], view: str) -> str:
    text, before, after = row
    value = {"before": before, "after": after, "change": after - before}[view]
    title = f"{before:.2f} before, {after:.2f} after, {after - before:+.2f}" + ("" if text else "; part of a character")
    style = f"color:#000;background:{colour(value, view)};border-right:1px solid #0005"
    return f'<span title="{title}" style="{style}">{_visible(text) or "&hellip;"}</span>'


def _means(rows: list[tuple[str, float, float]]) -> str:
    """Say the means of an answer; the end token is one of its tokens."""
    if not rows:
        return "no token"
    before, after = (sum(row[place] for row in rows) / len(rows) for place in (1, 2))
    count = f"{len(rows)} token{'s' * (len(rows) > 1)}"
    return f"mean {before:.3f} before, {after:.3f} after, {after - before:+.3f}, of {count}"


def _legend(view: str) -> str:
    if view == "change":
        steps, name = (-CHANGE, -CHANGE / 2, 0.0, CHANGE / 2, CHANGE), "change of a token's log-probability (nats)"
        texts = [f"{step:+g}" if step else "0" for step in steps]
        texts = [f"{texts[0]} or less", *texts[1:-1], f"{texts[-1]} or more"]
    else:
        steps, name = (0.0, -1.0, -2.0, -4.0, -SURPRISE), f"log-probability of a token {view} training (nats)"
        texts = [f"{step:g}" for step in steps]
        texts[-1] += " or less"
    style = "color:#000;border:1px solid #bbb;padding:0 0.5em;display:inline-block"
    swatches = "".join(
        f'<span style="{style};background:{colour(step, view)}">{text}</span>'
        for step, text in zip(steps, texts, strict=True)
    )
    return f"<p>{name}: {swatches}</p>"


def _table(side: str, before: list[Token], after: list[Token]) -> str:
    rows = "".join(
        f"<tr><td>{_visible(one.text) or '(part of a character)'}</td><td>{one.logp:.3f}</td><td>{two.logp:.3f}</td>"
        f"<td>{two.logp - one.logp:+.3f}</td></tr>"
        for one, two in zip(before, after, strict=True)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in (f"token of {side}", *VIEWS))
    return scrolling(f"numbers of the {side} answer", f'<table style="{TABLE}"><tr>{head}</tr>{rows}</table>', "18em")


def _visible(text: str) -> str:
    """Escape a text, and show what would not be seen: spaces, line ends, and characters that print nothing."""
    shown = "".join(it if it.isprintable() or it in "\n\t" else f"\\u{ord(it):04x}" for it in text)
    return html.escape(shown).replace(" ", "&middot;").replace("\n", "&crarr;<br>").replace("\t", "&rarr;")
