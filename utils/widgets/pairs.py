"""Shows pairs as HTML, chosen and rejected side by side, and browses through those that a mix keeps and drops."""

import difflib
import html
import re
from collections import Counter
from itertools import groupby
from types import SimpleNamespace

from utils.data.mix import REASONS, TOKENS
from utils.figures import scrolling

# Colours of Okabe and Ito at 30 %, with black text on them: legible on light and on dark pages.
COLOURS = {"chosen": "#b8dcee", "rejected": "#f5d3ae"}
MOST_CHARACTERS = 3000  # of one text that are shown
_PUNCTUATION = r".,;:!?…\"“”()\[\]{}。，、；：！？「」"
_PIECES = re.compile(rf"\s+|[{_PUNCTUATION}]+|[^\s{_PUNCTUATION}]+")


def differing_words(left: str, right: str) -> tuple[str, str]:
    """Write two texts as escaped HTML in which the words that are on one side only are marked, whatever the spacing.

    Example:
        >>> differing_words("2 < 3", "2 < 4")[0]
        '2 &lt; <mark style="color:#000;background:#b8dcee">3</mark>'
    """
    pieces = [_PIECES.findall(re.sub(r"\r\n?", "\n", text)) for text in (left, right)]
    words = [[piece for piece in side if not piece.isspace()] for side in pieces]
    counts = Counter(words[1])
    # Where few words recur all the time, as in a table of digits, difflib would take cubic time without its shortcut
    crowded = sum(counts[word] for word in words[0]) > 20_000
    same = [[False] * len(side) for side in words]
    for block in difflib.SequenceMatcher(None, *words, autojunk=crowded).get_matching_blocks():
        for side, start in zip(same, (block.a, block.b), strict=True):
            side[start : start + block.size] = [True] * block.size
    left_marked, right_marked = (
        _marked(side, flags, colour) for side, flags, colour in zip(pieces, same, COLOURS.values(), strict=True)
    )
    return left_marked, right_marked


def _marked(pieces: list[str], same: list[bool], colour: str) -> str:
    """Write pieces as HTML, those of words that are not the same marked, with the spaces between two such."""
    words = iter(same)
    differs = [None if piece.isspace() else not next(words) for piece in pieces]
    for place in range(1, len(pieces) - 1):
        if differs[place] is None:
            differs[place] = bool(differs[place - 1] and differs[place + 1])
    written = []
    for marked, run in groupby(zip(differs, pieces, strict=True), key=lambda pair: bool(pair[0])):
        shown = _escaped("".join(piece for _, piece in run))
        written.append(f'<mark style="color:#000;background:{colour}">{shown}</mark>' if marked else shown)
    return "".join(written)


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def show_pair(pair, line):
    """Draw a pair: what the ledger says of it, the prompt, and the two answers with differing words marked.

    `pair` may be a sentence that says why the row is none; `line` is of the ledger. Returns `IPython.display.HTML`, in
    which all of the row's text is escaped, and of each text at most `MOST_CHARACTERS` characters are shown.
    """
    from IPython.display import HTML

    return HTML(pair_page(pair, line))


def pair_page(pair, line) -> str:
    """Return the HTML of `show_pair`."""
    if isinstance(pair, str):
        return _page(line, f"<p>This row cannot be read as a pair: {_escaped(pair)}</p>")
    *turns, asked = [_box(turn["role"], turn["content"], "#888") for turn in pair["prompt"]]
    talk = scrolling("earlier turns", "".join(turns), "10em") if turns else ""
    talk += scrolling("prompt", asked, "18em")  # what the answers answer is always in sight
    answers = [pair[side][0]["content"] for side in COLOURS]
    shown = [answer[:MOST_CHARACTERS] for answer in answers]
    columns = ""
    for side, answer, written in zip(COLOURS, answers, differing_words(*shown), strict=True):
        columns += scrolling(side, _box(side, answer, COLOURS[side], written), "30em")
    note = ""
    if answers[0] != answers[1] and shown[0] == shown[1]:
        note = "<p>The answers differ only in what is not shown.</p>"
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(18em,1fr));gap:0 1em"
    return _page(line, f'{talk}<div style="{grid}">{columns}</div>{note}')


def _page(line, body: str) -> str:
    """Put what the ledger says above a body; the class keeps pages from typesetting what stands between dollars."""
    import pandas as pd

    lengths = "tokens not counted"
    if not any(pd.isna(line[column]) for column in TOKENS):
        prompt, chosen, rejected = (int(line[column]) for column in TOKENS)
        whole = prompt + max(chosen, rejected)
        lengths = f"{whole:,} tokens (prompt {prompt:,}, chosen {chosen:,}, rejected {rejected:,})"
    rating = "no rating" if pd.isna(line["rating"]) else f"rating {line['rating']:g}"
    fate = f"kept in {line['split']}" if isinstance(line["split"], str) else "kept"
    if isinstance(line["reason"], str):
        fate = f"dropped: {line['reason']}"
    facts = _escaped(f"{line['source']}, row {line['row']} · {lengths} · {rating} · ")
    return f'<div class="tex2jax_ignore mathjax_ignore"><p>{facts}<b>{_escaped(fate)}</b></p>{body}</div>'


def _box(name: str, text: str, colour: str, written: str | None = None) -> str:
    """Draw one text under its name, and say what is left out of it; `written` is its HTML, if there is one."""
    shown = _escaped(text[:MOST_CHARACTERS]) if written is None else written
    left_out = len(text) - MOST_CHARACTERS
    note = f"<br><i>… {left_out:,} more characters are not shown.</i>" if left_out > 0 else ""
    style = f"border-left:4px solid {colour};padding-left:0.6em;white-space:pre-wrap;overflow-wrap:anywhere"
    body = f'<div dir="auto" style="{style}">{shown or "<i>(empty)</i>"}{note}</div>'
    return f'<div style="margin-bottom:0.6em"><b>{_escaped(name)}</b>{body}</div>'


def browse_pairs(ledger, read):
    """Make a widget that shows the rows of a ledger one by one, by source, by what happened to them and by length.

    `read` is of `data.row_reader`; only the row that is shown is read. The widget's `controls` are its parts by name.
    """
    import ipywidgets as widgets
    import numpy as np

    source_of, reason_of = (ledger[column].astype(object).to_numpy() for column in ("source", "reason"))
    dropped = ledger["reason"].notna().to_numpy()
    prompt, *answers = (ledger[column].to_numpy(dtype=float) for column in TOKENS)
    whole = prompt + np.maximum(*answers)
    unknown = np.isnan(whole)
    longest = 1 if unknown.all() else int(whole[~unknown].max())
    sources, found = ledger["source"].value_counts(sort=False), ledger["reason"].value_counts()
    ordered = [reason for reason in dict.fromkeys([*REASONS, *found.index]) if reason in found.index]
    outcomes = [("all", "all"), (f"kept ({(~dropped).sum():,})", "kept")]
    outcomes += [(f"dropped: {reason} ({found[reason]:,})", reason) for reason in ordered]
    names = [("all", "all"), *((f"{name} ({count:,})", name) for name, count in sources.items())]
    wide = {"style": {"description_width": "initial"}, "layout": {"max_width": "100%"}}
    controls = SimpleNamespace(
        source=widgets.Dropdown(options=names, description="Source:", **wide),
        outcome=widgets.Dropdown(options=outcomes, description="What happened:", **wide),
        length=widgets.IntRangeSlider(
            value=(0, longest),
            max=longest,
            description="Whole length (tokens):",
            continuous_update=False,
            style=wide["style"],
            layout={"width": "36em", "max_width": "100%"},
        ),
        number=widgets.BoundedIntText(1, min=1, max=1, description="Match number:", **wide),
        previous=widgets.Button(description="Previous", tooltip="Previous match"),
        following=widgets.Button(description="Next", tooltip="Next match"),
        matches=widgets.HTML(),
        page=widgets.HTML(layout={"display": "block"}),  # a flex box could outgrow the page
    )
    number, found_rows = controls.number, np.array([], dtype=int)

    def show(_=None):
        controls.previous.disabled, controls.following.disabled = number.value <= 1, number.value >= len(found_rows)
        if not len(found_rows):
            text = "No row matches: choose all sources, all that happened, or a wider range of lengths."
            controls.page.value = f"<p>{text}</p>"
            return
        line = ledger.iloc[int(found_rows[number.value - 1])]
        try:
            pair = read(line["source"], int(line["row"]))
        except ValueError as error:
            pair = str(error)
        controls.page.value = pair_page(pair, line)

    def select(_=None):
        nonlocal found_rows
        low, high = controls.length.value
        fitting = unknown | ((whole >= low) & (whole <= high))
        if controls.source.value != "all":
            fitting &= source_of == controls.source.value
        if controls.outcome.value != "all":
            fitting &= ~dropped if controls.outcome.value == "kept" else reason_of == controls.outcome.value
        found_rows = np.flatnonzero(fitting)
        count = len(found_rows)
        text = f"{count:,} {'row matches' if count == 1 else 'rows match'}"
        controls.matches.value = f'<span role="status">{text}</span>'
        number.unobserve(show, "value")  # the first match is read once, whatever number was shown before
        number.max, number.value, number.disabled = max(count, 1), 1, not count
        number.observe(show, "value")
        show()

    def step(by: int):
        number.value = min(max(number.value + by, 1), number.max)

    for control in (controls.source, controls.outcome, controls.length):
        control.observe(select, "value")
    controls.previous.on_click(lambda _: step(-1))
    controls.following.on_click(lambda _: step(1))
    select()
    wrap = widgets.Layout(flex_flow="row wrap")
    choose = widgets.HBox([controls.source, controls.outcome], layout=wrap)
    turn = widgets.HBox([controls.previous, number, controls.following, controls.matches], layout=wrap)
    panel = widgets.VBox([choose, controls.length, turn, controls.page])
    panel.controls = controls
    return panel
