"""Shows pairs as HTML, chosen and rejected side by side, and browses through those that a mix keeps and drops.

A ledger is a data frame with one line for each row of each source, as `mix_figures` describes it. Left out: reading the
rows, and remembering what a reader chose.
"""

import difflib
import html
import re
from collections import Counter
from itertools import groupby
from types import SimpleNamespace

from utils.figures import scrolling

# Colours of Okabe and Ito at 30 %, with black text on them: legible on light and on dark pages.
COLOURS = {"chosen": "#b8dcee", "rejected": "#f5d3ae"}
MOST_CHARACTERS = 3000  # of one text that are shown
MOST_WORDS = 1000  # of each side that are aligned; more could take seconds
_PUNCTUATION = r".,;:!?…\"“”()\[\]{}。，、；：！？「」"
_PIECES = re.compile(rf"\s+|[{_PUNCTUATION}]+|[^\s{_PUNCTUATION}]+")


def differing_words(left: str, right: str, most: int | None = None) -> tuple[str, str]:
    """Write two texts as HTML in which the words that stand on one side only are marked.

    Words are compared in their order, spacing is not. Beyond the first `MOST_WORDS` words after which the texts part, a
    word is marked if the other side holds it nowhere. Where few words recur all the time, more is marked than differs.

    Args:
        left: shown in the colour of chosen answers.
        right: shown in the colour of rejected answers.
        most: characters to write of each; the whole texts are compared.

    Returns:
        HTML of both sides, escaped, with `<br>` for line breaks.

    Example:
        >>> differing_words("2 < 3", "2 < 4")[0]
        '2 &lt; <mark style="color:#000;background:#b8dcee">3</mark>'
    """
    pieces = [_PIECES.findall(re.sub(r"\r\n?", "\n", text)) for text in (left, right)]
    shared = _shared_words(*([piece for piece in side if not piece.isspace()] for side in pieces))
    return tuple(
        _marked(side, same, colour, most) for side, same, colour in zip(pieces, shared, COLOURS.values(), strict=True)
    )


def _shared_words(left: list[str], right: list[str]) -> tuple[list[bool], list[bool]]:
    """Say of each word whether it also stands on the other side, in the same order."""
    begin, end, shortest = 0, 0, min(len(left), len(right))
    while begin < shortest and left[begin] == right[begin]:
        begin += 1
    while end < shortest - begin and left[-1 - end] == right[-1 - end]:
        end += 1
    middles = [side[begin : len(side) - end] for side in (left, right)]
    known = [set(middles[1]), set(middles[0])]
    same = [
        [False] * len(middle[:MOST_WORDS]) + [word in words for word in middle[MOST_WORDS:]]
        for middle, words in zip(middles, known, strict=True)
    ]
    heads = [middle[:MOST_WORDS] for middle in middles]
    counts = Counter(heads[1])
    # Where few words recur all the time, as in a table of digits, difflib would take cubic time without its shortcut
    crowded = sum(counts[word] for word in heads[0]) > 20_000
    for block in difflib.SequenceMatcher(None, *heads, autojunk=crowded).get_matching_blocks():
        for side, start in ((0, block.a), (1, block.b)):
            same[side][start : start + block.size] = [True] * block.size
    return tuple([True] * begin + side + [True] * end for side in same)


def _marked(pieces: list[str], same: list[bool], colour: str, most: int | None) -> str:
    """Write pieces as HTML, those of words that are not the same marked, with the spaces between two such."""
    words, flags = iter(same), []
    for piece in pieces:
        flags.append(None if piece.isspace() else not next(words))
    for place, flag in enumerate(flags):
        if flag is None:
            flags[place] = 0 < place < len(flags) - 1 and flags[place - 1] and flags[place + 1]
    written, left = [], sum(map(len, pieces)) if most is None else most
    for differs, run in groupby(zip(flags, pieces, strict=True), key=lambda pair: bool(pair[0])):
        text = "".join(piece for _, piece in run)[:left]
        left -= len(text)
        shown = _escaped(text)
        written.append(f'<mark style="color:#000;background:{colour}">{shown}</mark>' if differs and text else shown)
    return "".join(written)


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def show_pair(pair, line) -> str:
    """Draw a pair as HTML: what the ledger says of it, the prompt, and the two answers with differing words marked.

    Args:
        pair: `{"source": str, "prompt": [messages], "chosen": [one message], "rejected": [one message]}`, or a sentence
            that says why the row cannot be read as one.
        line: of the ledger: anything that is asked for a column's value by its name.

    Returns:
        HTML in which all of the row's text is escaped; of each text at most `MOST_CHARACTERS` characters.
    """
    try:
        turns = [(message["role"], message["content"]) for message in pair["prompt"]]
        answers = [pair[side][0]["content"] for side in COLOURS]
        if not all(isinstance(text, str) for text in [*answers, *(text for turn in turns for text in turn)]):
            raise TypeError("a role or a content is no text")
    except (KeyError, IndexError, TypeError):
        why = f": {pair}" if isinstance(pair, str) else "."
        return _page(line, f"<p>This row cannot be read as a pair{_escaped(why)}</p>")
    boxes = [_box(role, _escaped(text[:MOST_CHARACTERS]), text, "#888") for role, text in turns]
    talk = scrolling("earlier turns", "".join(boxes[:-1]), "10em") if boxes[1:] else ""
    talk += scrolling("prompt", "".join(boxes[-1:]), "18em")  # what the answers answer is always in sight
    written = differing_words(*answers, most=MOST_CHARACTERS)
    columns = "".join(
        scrolling(side, _box(side, shown, text, COLOURS[side]), "30em")
        for side, shown, text in zip(COLOURS, written, answers, strict=True)
    )
    note = ""
    if answers[0] != answers[1] and answers[0][:MOST_CHARACTERS] == answers[1][:MOST_CHARACTERS]:
        note = "<p>The answers differ only in what is not shown.</p>"
    grid = "display:grid;grid-template-columns:repeat(auto-fit,minmax(18em,1fr));gap:0 1em"
    return _page(line, f'{talk}<div style="{grid}">{columns}</div>{note}')


def browse(ledger, read, reasons):
    """Make a widget that shows the rows of a ledger one by one, by source, by what happened to them and by length.

    Args:
        ledger: data frame, see `mix_figures`.
        read: function of a source's name and a row's number that returns the pair, or raises `ValueError`, whose
            message is then shown. Only the row that is shown is read.
        reasons: names in the order of the rules; others that occur go last.

    Returns:
        `ipywidgets.VBox`; its attribute `controls` holds `source`, `outcome`, `length`, `number`, `previous` and
        `following` (buttons), `matches` and `page` (HTML).
    """
    import ipywidgets as widgets
    import numpy as np

    source_of, reason_of = (ledger[column].astype(object).to_numpy() for column in ("source", "reason"))
    dropped = ledger["reason"].notna().to_numpy()
    prompt, *answers = (ledger[f"{part}_tokens"].to_numpy(dtype=float) for part in ("prompt", "chosen", "rejected"))
    whole = prompt + np.maximum(*answers)
    unknown = np.isnan(whole)
    longest = 1 if unknown.all() else int(whole[~unknown].max())
    sources, found = ledger["source"].value_counts(sort=False), ledger["reason"].value_counts()
    ordered = [reason for reason in dict.fromkeys([*reasons, *found.index]) if reason in found.index]
    outcomes = [("all", "all"), (f"kept ({(~dropped).sum():,})", "kept")]
    outcomes += [(f"dropped: {reason} ({found[reason]:,})", reason) for reason in ordered]
    style = {"style": {"description_width": "initial"}, "layout": {"max_width": "100%"}}
    source = widgets.Dropdown(
        options=[("all", "all"), *((f"{name} ({count:,})", name) for name, count in sources.items())],
        description="Source:",
        **style,
    )
    outcome = widgets.Dropdown(options=outcomes, description="What happened:", **style)
    length = widgets.IntRangeSlider(
        value=(0, longest),
        min=0,
        max=longest,
        description="Whole length (tokens):",
        continuous_update=False,
        style=style["style"],
        layout={"width": "36em", "max_width": "100%"},
    )
    number = widgets.BoundedIntText(1, min=1, max=1, description="Match number:", **style)
    previous, following = (widgets.Button(description=text, tooltip=f"{text} match") for text in ("Previous", "Next"))
    matches, page = widgets.HTML(), widgets.HTML(layout={"display": "block"})  # a flex box could outgrow the page
    found_rows = np.array([], dtype=int)

    def show(_=None):
        previous.disabled, following.disabled = number.value <= 1, number.value >= len(found_rows)
        if not len(found_rows):
            page.value = "<p>No row matches: choose all sources, all that happened, or a wider range of lengths.</p>"
            return
        line = ledger.iloc[int(found_rows[number.value - 1])]
        try:
            pair = read(line["source"], int(line["row"]))
        except ValueError as error:
            pair = str(error)
        page.value = show_pair(pair, line)

    def select(_=None):
        nonlocal found_rows
        low, high = length.value
        fitting = unknown | ((whole >= low) & (whole <= high))
        if source.value != "all":
            fitting &= source_of == source.value
        if outcome.value != "all":
            fitting &= ~dropped if outcome.value == "kept" else reason_of == outcome.value
        found_rows = np.flatnonzero(fitting)
        count = len(found_rows)
        matches.value = f'<span role="status">{count:,} {"row matches" if count == 1 else "rows match"}</span>'
        number.unobserve(show, "value")  # the first match is read once, whatever number was shown before
        number.max, number.value, number.disabled = max(count, 1), 1, not count
        number.observe(show, "value")
        show()

    def step(by: int):
        number.value = min(max(number.value + by, 1), number.max)

    for control in (source, outcome, length):
        control.observe(select, "value")
    previous.on_click(lambda _: step(-1))
    following.on_click(lambda _: step(1))
    select()
    panel = widgets.VBox(
        [
            widgets.HBox([source, outcome], layout=widgets.Layout(flex_flow="row wrap")),
            length,
            widgets.HBox([previous, number, following, matches], layout=widgets.Layout(flex_flow="row wrap")),
            page,
        ]
    )
    panel.controls = SimpleNamespace(
        source=source, outcome=outcome, length=length, number=number, matches=matches, page=page
    )
    panel.controls.previous, panel.controls.following = previous, following
    return panel


def _page(line, body: str) -> str:
    """Put what the ledger says above a body; the class keeps pages from typesetting what stands between dollars."""
    import pandas as pd

    tokens = [line[f"{part}_tokens"] for part in ("prompt", "chosen", "rejected")]
    if any(pd.isna(count) for count in tokens):
        lengths = "tokens not counted"
    else:
        prompt, chosen, rejected = (int(count) for count in tokens)
        whole = prompt + max(chosen, rejected)
        lengths = f"{whole:,} tokens (prompt {prompt:,}, chosen {chosen:,}, rejected {rejected:,})"
    rating = "no rating" if pd.isna(line["rating"]) else f"rating {line['rating']:g}"
    kept = f"kept in {line['split']}" if isinstance(line["split"], str) else "kept"
    fate = f"dropped: {line['reason']}" if isinstance(line["reason"], str) else kept
    facts = _escaped(f"{line['source']}, row {line['row']} · {lengths} · {rating} · ")
    return f'<div class="tex2jax_ignore mathjax_ignore"><p>{facts}<b>{_escaped(fate)}</b></p>{body}</div>'


def _box(name: str, shown: str, whole: str, colour: str) -> str:
    """Draw one text under its name, and say what is left out of it."""
    left_out = len(whole) - MOST_CHARACTERS
    note = f"<br><i>… {left_out:,} more characters are not shown.</i>" if left_out > 0 else ""
    style = f"border-left:4px solid {colour};padding-left:0.6em;white-space:pre-wrap;overflow-wrap:anywhere"
    text = f'<div dir="auto" style="{style}">{shown or "<i>(empty)</i>"}{note}</div>'
    return f'<div style="margin-bottom:0.6em"><b>{_escaped(name)}</b>{text}</div>'
