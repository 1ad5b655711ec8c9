"""Shows the tokens of both answers coloured by what two models think of each, and a widget to browse pairs.

`before` and `after` are what `evaluate.token_logps` gives of a pair: log-probabilities in nats, given the prompt and
the tokens before.
"""

import html
from types import SimpleNamespace

from utils.evaluate.scores import SIDES
from utils.figures import scrolling

VIEWS = {
    "before": "log-probability that the base gives each token",
    "after": "log-probability that the tuned model gives each token",
    "change": "after minus before",
}
SURPRISE, CHANGE = 6.0, 3.0  # nats from which on a colour is full
# Okabe and Ito's orange and sky blue, from white on: told apart by colour-blind readers, legible under black text
WHITE, ORANGE, BLUE = (255, 255, 255), (230, 159, 0), (86, 180, 233)


def split_text(tokenizer, ids: list[int]) -> list[str]:
    """Decode tokens one by one, so that together they read as the whole text does.

    One character may be split over several tokens: it comes with the last of them, and those before are "".
    """
    texts, begin, done = [], 0, 0  # a token is decoded after the one before, since some tokenizers drop a first space

    def decode(end: int) -> str:
        return tokenizer.decode(ids[begin:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    for end in range(1, len(ids) + 1):
        before, now = decode(done), decode(end)
        whole = not now.endswith("\N{REPLACEMENT CHARACTER}") or end == len(ids)
        texts.append(now[len(before) :] if whole else "")
        if whole:
            begin, done = done, end
    return texts


def show_token_changes(tokenizer, pair: dict, before: dict, after: dict, view: str = "change") -> str:
    """Draw both answers of a pair as safe HTML, each token coloured by its log-probability or by how that changed.

    The numbers are in each token's title, and in a folded table.
    """
    asked = html.escape(pair["prompt"][-1]["content"]).replace("\n", "<br>")
    turns = f", the last of {len(pair['prompt'])} turns" if len(pair["prompt"]) > 1 else ""
    parts, tables = [scrolling("prompt", f"<b>prompt</b>{turns}: {asked}", "8em"), _legend(view)], []
    for side in SIDES:
        texts = split_text(tokenizer, [token for token, _ in before[side]])
        logps = [(one, two, two - one) for (_, one), (_, two) in zip(before[side], after[side], strict=True)]
        means = [sum(column) / len(logps) for column in zip(*logps, strict=True)]
        told = "mean {:.3f} before, {:.3f} after, {:+.3f}".format(*means)
        words, lines = [], [f"<tr><th>token of {side}</th><th>{'</th><th>'.join(VIEWS)}</th></tr>"]
        for text, values in zip(texts, logps, strict=True):
            background = colour(values[list(VIEWS).index(view)], view)
            style = f"color:#000;background:{background};border-right:1px solid #0005"
            title = "{:.2f} before, {:.2f} after, {:+.2f}".format(*values) + ("" if text else "; part of a character")
            words.append(f'<span title="{title}" style="{style}">{_visible(text) or "&hellip;"}</span>')
            cells = "</td><td>".join([_visible(text), *(f"{value:+.3f}" for value in values)])
            lines.append(f"<tr><td>{cells}</td></tr>")
        drawn = scrolling(f"tokens of the {side} answer", "<wbr>".join(words), "18em")
        parts.append(f"<p><b>{side}</b>: {told}, tokens: {len(logps)}</p>{drawn}")
        table = f'<table style="text-align:left">{"".join(lines)}</table>'
        tables.append(scrolling(f"numbers of the {side} answer", table, "18em"))
    folded = f"<details><summary>The numbers as tables</summary>{''.join(tables)}</details>"
    style = "line-height:1.7;max-width:60em"
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{style}">{"".join(parts)}{folded}</div>'


def explore_tokens(tokenizer, pairs: list[dict], before: list[dict], after: list[dict]):
    """Make a widget that shows the pairs one by one with `show_token_changes`.

    Its attribute `controls` holds `pair` (dropdown), `view` (toggle buttons) and `page` (HTML).
    """
    import ipywidgets as widgets

    names = [f"{place}: {pair['prompt'][-1]['content'].strip()[:60]}" for place, pair in enumerate(pairs, 1)]
    options = list(zip(names, range(len(pairs)), strict=True))
    narrow, label = {"width": "32em", "max_width": "100%"}, {"description_width": "initial", "button_width": "6em"}
    pair = widgets.Dropdown(options=options, description="Pair:", style={"description_width": "initial"}, layout=narrow)
    view = widgets.ToggleButtons(options=list(VIEWS), value="change", description="Show:", style=label)
    view.tooltips = list(VIEWS.values())
    page = widgets.HTML(layout={"display": "block"})  # not a flex box, which grows with what should scroll

    def draw(_=None):
        shown = pairs[pair.value], before[pair.value], after[pair.value]
        page.value = show_token_changes(tokenizer, *shown, view.value)

    pair.observe(draw, "value")
    view.observe(draw, "value")
    draw()
    panel = widgets.VBox([widgets.HBox([pair, view], layout={"flex_flow": "row wrap"}), page])
    panel.controls = SimpleNamespace(pair=pair, view=view, page=page)
    return panel


def colour(value: float, view: str) -> str:
    """Return the colour of a log-probability, where white is certainty, or of its change: blue is a rise."""
    share = min(abs(value) / (CHANGE if view == "change" else SURPRISE), 1.0)
    end = BLUE if value > 0 else ORANGE
    return "#" + "".join(f"{round(low + share * (high - low)):02x}" for low, high in zip(WHITE, end, strict=True))


def _legend(view: str) -> str:
    steps = [-CHANGE, -CHANGE / 2, 0, CHANGE / 2, CHANGE] if view == "change" else [0, -1, -2, -4, -SURPRISE]
    style = "color:#000;border:1px solid #bbb;padding:0 0.5em"
    shown = [f'<span style="{style};background:{colour(step, view)}">{step:g}</span>' for step in steps]
    return f"<p>{VIEWS[view]}, in nats (the colour of the last value is full): {''.join(shown)}</p>"


def _visible(text: str) -> str:
    """Escape a text, and show what would not be seen: spaces, line ends, and characters that print nothing."""
    shown = "".join(it if it.isprintable() or it in "\n\t" else f"\\u{ord(it):04x}" for it in text)
    return html.escape(shown).replace(" ", "&middot;").replace("\n", "&crarr;<br>").replace("\t", "&rarr;")
