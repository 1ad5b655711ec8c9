"""Tokens and their log-probabilities, the colours that show them, and the widget that looks through pairs."""

import html.parser
import itertools
import re

import pytest

from utils.evaluate import scores as evaluation
from utils.widgets import tokens as token_heat_map
from utils.widgets.tokens import Token

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


def message(content: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": content}]


def pair_of(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": message(prompt, "user"), "chosen": message(chosen), "rejected": message(rejected)}


def scored(chosen: list[str], rejected: list[str], *logps: float) -> dict[str, list[Token]]:
    values = itertools.cycle(logps)
    return {
        side: [Token(text, next(values)) for text in texts]
        for side, texts in zip(token_heat_map.SIDES, (chosen, rejected), strict=True)
    }


PAIR = pair_of("2 + 2?", "It is 4.", "5")
TEXTS = ["It", " is", " 4", "."], ["5"]
BEFORE, AFTER = scored(*TEXTS, -1.0, -0.5, -3.25), scored(*TEXTS, -0.25, -0.75, -8.0)


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(small_base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        small_base, dtype="float32", use_safetensors=True, trust_remote_code=False
    )


PAIRS = [
    pair_of("What colour is snow?", "The colour of snow is white.", "Nobody can tell."),
    pair_of("A face?", "Here \N{SLIGHTLY SMILING FACE}\n\n日本 é\tend", "\N{ROBOT FACE}"),
    pair_of("A page?", f"{EVIL} & <b>", "no"),
]


def test_the_mean_of_the_tokens_is_the_score_of_the_pair(model, tokenizer):
    table = evaluation.score_pairs(model, tokenizer, PAIRS)
    for tokens, row in zip(token_heat_map.score_tokens(model, tokenizer, PAIRS), table.to_dict("records"), strict=True):
        for side in token_heat_map.SIDES:
            logps = [token.logp for token in tokens[side]]
            assert len(logps) == row[f"{side}_tokens"] and max(logps) <= 0
            assert sum(logps) / len(logps) == pytest.approx(row[side], abs=1e-4)


def test_each_token_has_the_probability_that_the_model_gave_it(model, tokenizer):
    import torch

    (tokens,) = token_heat_map.score_tokens(model, tokenizer, PAIRS[:1])
    ids, start = evaluation.answer_tokens(PAIRS[0], "chosen", tokenizer)
    for place in (start, len(ids) - 1):  # asked one at a time
        with torch.no_grad():
            told = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)
        assert tokens["chosen"][place - start].logp == pytest.approx(told[ids[place]].item(), abs=1e-4)


@pytest.mark.parametrize("pair", PAIRS, ids=["words", "emoji", "html"])
def test_the_texts_of_the_tokens_make_the_answer(tokenizer, pair):
    for side in token_heat_map.SIDES:
        ids, start = evaluation.answer_tokens(pair, side, tokenizer)
        texts = token_heat_map.split_text(tokenizer, ids[start:])
        assert len(texts) == len(ids) - start
        assert "".join(texts) == pair[side][0]["content"] + tokenizer.eos_token
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


def test_a_character_of_several_tokens_stands_with_the_last(tokenizer):
    ids = tokenizer("\N{ROBOT FACE}a", add_special_tokens=False)["input_ids"]
    texts = token_heat_map.split_text(tokenizer, ids)
    assert len(ids) > 2 and texts == [""] * (len(ids) - 2) + ["\N{ROBOT FACE}", "a"]
    cut = token_heat_map.split_text(tokenizer, ids[: len(ids) - 2])  # an answer that ends in the middle
    assert "".join(cut) == tokenizer.decode(ids[: len(ids) - 2])


def test_spaces_stay_where_a_tokenizer_drops_the_first():
    """Llama 2 and Mistral write a space into the token after it, and lose it where a text begins."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["\u2581Paris", "\u2581is", "\u2581big", "."]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="."))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert token_heat_map.split_text(tokenizer, [0, 1, 2, 3]) == ["Paris", " is", " big", "."]


# --- one pair --------------------------------------------------------------------------------------------------------


def brightness(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("view", token_heat_map.VIEWS)
def test_every_colour_holds_black_text_on_light_and_dark_pages(view):
    values = [value / 4 for value in range(-60, 61 if view == "change" else 1)]
    grounds = [token_heat_map.colour(value, view) for value in values]
    assert all((brightness(ground) + 0.05) / 0.05 > 7 for ground in grounds)  # as WCAG's level AAA asks
    page = token_heat_map.show_pair(PAIR, BEFORE, AFTER, view)
    assert all("color:#000;" in style for _, _, style in Page(page).tokens)


def test_the_further_from_nothing_the_deeper_the_colour():
    falls = [brightness(token_heat_map.colour(-value / 2, "change")) for value in range(7)]
    rises = [brightness(token_heat_map.colour(value / 2, "change")) for value in range(7)]
    assert falls == sorted(set(falls), reverse=True) and rises == sorted(set(rises), reverse=True)
    assert token_heat_map.colour(-3.0, "change") != token_heat_map.colour(3.0, "change")
    assert token_heat_map.colour(-3.0, "change") == token_heat_map.colour(-30.0, "change")


@pytest.mark.parametrize("view", token_heat_map.VIEWS)
def test_each_token_is_drawn_with_its_numbers_and_its_colour(view):
    page = Page(token_heat_map.show_pair(PAIR, BEFORE, AFTER, view))
    rows = [
        (f"tokens of the {side} answer", one.logp, two.logp)
        for side in token_heat_map.SIDES
        for one, two in zip(BEFORE[side], AFTER[side], strict=True)
    ]
    assert len(page.tokens) == len(rows) == 5
    for (region, title, style), (name, before, after) in zip(page.tokens, rows, strict=True):
        value = {"before": before, "after": after, "change": after - before}[view]
        assert region == name and title == f"{before:.2f} before, {after:.2f} after, {after - before:+.2f}"
        assert f"background:{token_heat_map.colour(value, view)};" in style
    assert page.regions["tokens of the chosen answer"] == "It·is·4."
    assert "chosen: mean -1.438 before, -2.312 after, -0.875, of 4 tokens" in page.words
    assert "of 1 token" in page.words and "of 1 tokens" not in page.words
    assert f"{'change of a' if view == 'change' else 'log-probability of a'} token" in page.words


def test_the_numbers_also_stand_in_tables():
    page = Page(token_heat_map.show_pair(PAIR, BEFORE, AFTER))
    assert page.regions["numbers of the chosen answer"].startswith(
        "token of chosenbeforeafterchangeIt-1.000-0.250+0.750"
    )
    assert page.regions["numbers of the rejected answer"] == "token of rejectedbeforeafterchange5-0.500-0.750-0.250"


def test_nothing_in_a_pair_becomes_part_of_the_page():
    plain = Page(token_heat_map.show_pair(PAIR, BEFORE, AFTER))
    tokens = scored([EVIL, '"><img src=x onerror=y>', "</span></div>"], ["&amp;"], -1.0)
    page = Page(token_heat_map.show_pair(pair_of(EVIL, "", ""), tokens, tokens))
    assert set(page.tags) <= set(plain.tags) and "script" not in page.tags
    assert page.words.count(EVIL) == 3  # prompt, token, table
    assert "&amp;" in page.regions["tokens of the rejected answer"]
    assert page.regions["tokens of the chosen answer"].endswith("</span></div>")


def test_what_prints_nothing_is_seen():
    texts = [" a", "\n", "", "\N{ROBOT FACE}", "\t", "\u202e", "\x00"], [""]
    tokens = scored(*texts, -1.0)
    source = token_heat_map.show_pair(PAIR, tokens, tokens)
    page = Page(source)
    assert page.regions["tokens of the chosen answer"] == "·a↵…\N{ROBOT FACE}→\\u202e\\u0000"
    assert "&crarr;<br>" in source and "\u202e" not in source and "\x00" not in source
    assert [title.endswith("; part of a character") for _, title, _ in page.tokens].index(True) == 2


def test_a_talk_and_an_empty_answer_are_named():
    pair = {"prompt": message("first", "user") + message("second") + message("a <b>\nthird", "user")}
    tokens = scored([], ["x"], -1.0)
    page = Page(token_heat_map.show_pair(pair, tokens, tokens))
    assert page.regions["prompt"] == "prompt, the last of 3 turns: a <b>third" and "chosen: no token" in page.words


def test_a_view_or_scores_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no view 'later'. Choose one of before, after, change"):
        token_heat_map.show_pair(PAIR, BEFORE, AFTER, "later")
    with pytest.raises(ValueError, match="not of the same tokens"):
        token_heat_map.show_pair(PAIR, BEFORE, scored(["It"], ["5"], -1.0))


# --- the widget ------------------------------------------------------------------------------------------------------

OTHER = pair_of(f"  {EVIL} " + "long " * 50, "b", "c")
OTHERS = scored(["b"], ["c"], -2.0), scored(["b"], ["c"], -1.0)


@pytest.fixture
def panel():
    return token_heat_map.explore([PAIR, OTHER], [BEFORE, OTHERS[0]], [AFTER, OTHERS[1]])


def test_it_begins_with_the_change_of_the_first_pair(panel):
    controls = panel.controls
    assert controls.page.value == token_heat_map.show_pair(PAIR, BEFORE, AFTER, "change")
    assert controls.view.options == token_heat_map.VIEWS and len(controls.view.tooltips) == 3
    names = [name for name, _ in controls.pair.options]
    assert names[0] == "1: 2 + 2?" and names[1].startswith(f"2: {EVIL} long") and len(names[1]) < 70


@pytest.mark.parametrize("view", token_heat_map.VIEWS)
def test_what_is_chosen_is_shown(panel, view):
    panel.controls.view.value = view
    assert panel.controls.page.value == token_heat_map.show_pair(PAIR, BEFORE, AFTER, view)
    panel.controls.pair.value = 1
    assert panel.controls.page.value == token_heat_map.show_pair(OTHER, *OTHERS, view)


def test_two_pairs_with_one_prompt_can_both_be_chosen():
    controls = token_heat_map.explore([PAIR, PAIR], [BEFORE, AFTER], [AFTER, BEFORE]).controls
    pages = [controls.page.value]
    controls.pair.value = 1
    assert controls.page.value != pages[0]


@pytest.mark.parametrize("given", [([], [], []), ([PAIR], [], [AFTER]), ([PAIR, PAIR], [BEFORE], [AFTER])])
def test_pairs_without_scores_are_refused(given):
    with pytest.raises(ValueError, match=r"\d pairs, \d scored before and \d after"):
        token_heat_map.explore(*given)


def test_every_control_has_a_label_and_fits_a_narrow_page(panel):
    controls = panel.controls
    assert (controls.pair.description, controls.view.description) == ("Pair:", "Show:")
    assert controls.page.layout.display == "block"  # so that what is wide scrolls, and the page does not
    assert controls.pair.layout.max_width == "100%" and panel.children[0].layout.flex_flow == "row wrap"
    assert [*panel.children[0].children, panel.children[1]] == list(vars(controls).values())


def test_a_long_answer_stays_a_small_page_that_scrolls():
    tokens = scored([f" word{number}" for number in range(1000)], ["x"], -1.0)
    page = token_heat_map.show_pair(PAIR, tokens, tokens)
    assert len(page) < 400_000
    assert len(re.findall('role="region" aria-label="[^"]+" tabindex="0" style="max-height', page)) == 5
