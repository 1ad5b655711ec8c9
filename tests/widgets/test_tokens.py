"""Tokens and their log-probabilities, the colours that show them, and the widget that browses pairs."""

import html.parser
import itertools

import pytest

from utils import widgets
from utils.evaluate.scores import SIDES, answer_tokens
from utils.widgets import tokens

EVIL = "<script>alert('x')</script>"


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its tags, the tokens that are drawn, and the words of each region."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.tokens, self.regions, self.words, self.inside = [], [], {}, "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if "aria-label" in attributes:
            self.inside = attributes["aria-label"]
            self.regions[self.inside] = ""
        if tag == "span" and "title" in attributes:
            self.tokens.append((self.inside, attributes["title"], attributes["style"]))

    def handle_endtag(self, tag):
        self.inside = None if tag == "div" else self.inside

    def handle_data(self, data):
        self.words += data
        if self.inside:
            self.regions[self.inside] += data


class Words:
    """A tokenizer whose tokens are these words."""

    def __init__(self, *words: str):
        self.words = list(words)

    def decode(self, ids, **options) -> str:
        return "".join(self.words[token] for token in ids)


def message(content: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": content}]


def pair_of(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": message(prompt, "user"), "chosen": message(chosen), "rejected": message(rejected)}


def scored(chosen: list[int], rejected: list[int], *logps: float) -> dict:
    values = itertools.cycle(logps)
    return {side: [(token, next(values)) for token in ids] for side, ids in zip(SIDES, (chosen, rejected), strict=True)}


PAIR = pair_of("2 + 2?", "It is 4.", "5")
WORDS = Words("It", " is", " 4", ".", "5")
BEFORE, AFTER = scored([0, 1, 2, 3], [4], -1.0, -0.5, -3.25), scored([0, 1, 2, 3], [4], -0.25, -0.75, -8.0)
PAIRS = [
    pair_of("What colour is snow?", "The colour of snow is white.", "Nobody can tell."),
    pair_of("A face?", "Here \N{SLIGHTLY SMILING FACE}\n\n日本 é\tend", "\N{ROBOT FACE}"),
    pair_of("A page?", f"{EVIL} & <b>", "no"),
]


def test_the_texts_of_the_tokens_make_the_answer(tokenizer):
    for pair, side in itertools.product(PAIRS, SIDES):
        ids, start = answer_tokens(pair, side, tokenizer)
        texts = tokens.split_text(tokenizer, ids[start:])
        assert len(texts) == len(ids) - start
        assert "".join(texts) == pair[side][0]["content"] + tokenizer.eos_token
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)
    ids = tokenizer("\N{ROBOT FACE}a", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    assert tokens.split_text(tokenizer, ids) == [""] * (len(ids) - 2) + ["\N{ROBOT FACE}", "a"]
    cut = tokens.split_text(tokenizer, ids[: len(ids) - 2])  # an answer that ends in the middle
    assert "".join(cut) == tokenizer.decode(ids[: len(ids) - 2])


def test_spaces_stay_where_a_tokenizer_drops_the_first():
    """Llama 2 and Mistral write a space into the token after it, and lose it where a text begins."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["\u2581Paris", "\u2581is", "\u2581big", "."]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="."))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokens.split_text(tokenizer, [0, 1, 2, 3]) == ["Paris", " is", " big", "."]


def test_a_colour_is_deeper_the_further_from_nothing_and_differs_by_sign():
    for view, end in (("after", -6.0), ("change", -3.0), ("change", 3.0)):
        shades = [int(tokens.colour(end * part / 8, view)[5:], 16) for part in range(9)]  # blue falls towards orange
        reds = [int(tokens.colour(end * part / 8, view)[1:3], 16) for part in range(9)]  # and red towards blue
        falling = reds if end > 0 else shades
        assert falling == sorted(set(falling), reverse=True)
        assert tokens.colour(10 * end, view) == tokens.colour(end, view) and tokens.colour(0.0, view) == "#ffffff"


def test_each_token_is_drawn_with_its_numbers_and_its_colour():
    for view in tokens.VIEWS:
        page = Page(widgets.show_token_changes(WORDS, PAIR, BEFORE, AFTER, view))
        rows = [
            (f"tokens of the {side} answer", one, two)
            for side in SIDES
            for (_, one), (_, two) in zip(BEFORE[side], AFTER[side], strict=True)
        ]
        assert len(page.tokens) == len(rows) == 5
        for (region, title, style), (name, before, after) in zip(page.tokens, rows, strict=True):
            value = {"before": before, "after": after, "change": after - before}[view]
            assert region == name and title == f"{before:.2f} before, {after:.2f} after, {after - before:+.2f}"
            assert f"color:#000;background:{tokens.colour(value, view)};" in style
        assert page.regions["tokens of the chosen answer"] == "It·is·4."
        assert "chosen: mean -1.438 before, -2.312 after, -0.875, tokens: 4" in page.words
    numbers = page.regions["numbers of the chosen answer"]
    assert numbers.startswith("token of chosenbeforeafterchangeIt-1.000-0.250+0.750")


def test_nothing_in_a_pair_becomes_part_of_the_page():
    plain = Page(widgets.show_token_changes(WORDS, PAIR, BEFORE, AFTER))
    evil = Words(EVIL, '"><img src=x onerror=y>', "</span></div>", "&amp;")
    given = scored([0, 1, 2], [3], -1.0)
    page = Page(widgets.show_token_changes(evil, pair_of(EVIL, "", ""), given, given))
    assert set(page.tags) <= set(plain.tags) and "script" not in page.tags
    assert page.words.count(EVIL) == 3  # prompt, token, table
    assert "&amp;" in page.regions["tokens of the rejected answer"]
    assert page.regions["tokens of the chosen answer"].endswith("</span></div>")


def test_what_prints_nothing_is_seen_and_a_talk_is_named():
    given = scored([0, 1, 2, 3, 4], [0], -1.0)
    pair = {"prompt": message("first", "user") + message("second") + message("a <b>\nthird", "user")}
    source = widgets.show_token_changes(Words(" a", "\n", "\t", "\u202e", "\x00"), pair, given, given)
    page = Page(source)
    assert page.regions["tokens of the chosen answer"] == "·a↵→\\u202e\\u0000"
    assert "&crarr;<br>" in source and "\u202e" not in source and "\x00" not in source
    assert page.regions["prompt"] == "prompt, the last of 3 turns: a <b>third"


def test_the_widget_shows_what_is_chosen():
    other, others = pair_of(f"  {EVIL} " + "long " * 50, "b", "c"), (scored([0], [4], -2.0), scored([0], [4], -1.0))
    given = [PAIR, other, PAIR], [BEFORE, others[0], AFTER], [AFTER, others[1], BEFORE]
    controls = widgets.explore_tokens(WORDS, *given).controls
    assert controls.page.value == widgets.show_token_changes(WORDS, PAIR, BEFORE, AFTER, "change")
    names = [name for name, _ in controls.pair.options]
    assert names[0] == "1: 2 + 2?" and names[1].startswith(f"2: {EVIL} long") and len(names[1]) < 70
    for view, place in itertools.product(controls.view.options, range(3)):
        controls.view.value, controls.pair.value = view, place
        expected = widgets.show_token_changes(WORDS, *(column[place] for column in given), view)
        assert controls.page.value == expected


def test_scores_of_other_tokens_are_refused():
    with pytest.raises(ValueError):
        widgets.show_token_changes(WORDS, PAIR, BEFORE, scored([0], [4], -1.0))
