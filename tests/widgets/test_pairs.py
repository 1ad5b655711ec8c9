"""Pairs as HTML that is safe and says what differs, and the widget that browses through a ledger."""

import html.parser
import random
import re
import time

import pandas as pd
import pytest

from utils.widgets import pairs as pair_browser

NONE = float("nan")
LINE = {
    "source": "math",
    "row": 7,
    "rating": 9.5,
    "reason": None,
    "prompt_tokens": 100.0,
    "chosen_tokens": 300.0,
    "rejected_tokens": 1250.0,
    "split": "train",
}


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its words, the words that are marked, and its tags."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.marked, self.tags, self.labels, self.depth = "", [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.labels += [value for name, value in attributes if name == "aria-label"]
        self.words += "\n" * (tag == "br")
        if tag == "mark":
            self.depth += 1
            self.marked.append("")
        elif self.marked and self.depth:
            self.marked[-1] += "\n" * (tag == "br")

    def handle_endtag(self, tag):
        self.depth -= tag == "mark"

    def handle_data(self, data):
        self.words += data
        if self.depth:
            self.marked[-1] += data


def pair_of(chosen: str, rejected: str, prompt: str = "Why?", **roles: str) -> dict:
    prompt = [{"role": role, "content": text} for role, text in (roles | {"user": prompt}).items()]
    answers = {
        side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"source": "math", "prompt": prompt, **answers}


# --- differing words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "marked"),
    [
        ("The sum is 4.", "The sum is 5.", (["4"], ["5"])),
        ("same words", "same  words", ([], [])),
        ("same\nlines", "same lines", ([], [])),
        ("a b c d", "a d", (["b c"], [])),
        ("", "all of it", ([], ["all of it"])),
        ("Paris, in France", "Paris in France", ([","], [])),
        ("one two three", "three two one", None),
        ("one\ntwo", "one\nthree\nfour", (["two"], ["three\nfour"])),
        ("日本、東京", "日本、大阪", (["東京"], ["大阪"])),
        ("cafe\u0301 au lait", "cafe\u0301 noir", (["au lait"], ["noir"])),
        ("x " * 300 + "end", "x " * 300 + "stop", (["end"], ["stop"])),
    ],
)
def test_words_that_stand_on_one_side_are_marked(left, right, marked):
    pages = [Page(page) for page in pair_browser.differing_words(left, right)]
    assert [page.words for page in pages] == [left, right]
    if marked:
        assert tuple(page.marked for page in pages) == marked
    unmarked = [
        re.sub(r"<mark.*?</mark>|<br>", " ", page).split() for page in pair_browser.differing_words(left, right)
    ]
    assert unmarked[0] == unmarked[1]


def test_a_word_that_recurs_often_is_aligned_too():
    left, right = (" the ".join(f"{letter}{number}" for number in range(120)) for letter in "xy")
    assert [len(Page(page).marked) for page in pair_browser.differing_words(left, right)] == [120, 120]


@pytest.mark.parametrize("text", ["<script>alert('x')</script>", '"&amp;" <img src=x onerror=y>', "</mark></div>\n<b>"])
def test_html_in_an_answer_stays_text(text):
    for left, right in ((text, "other"), (text, text)):
        page = pair_browser.differing_words(left, right)[0]
        assert Page(page).words == text and set(Page(page).tags) <= {"mark", "br"}


def numbers(count: int, kinds: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(str(draw.randrange(kinds)) for _ in range(count))


WORST = {
    "one word again and again": ("word " * 4000, "word " * 3999 + "end"),
    "two words in turn": ("a b " * 5000, "b a " * 5000),
    "a full stop after each letter": ("a." * 10000, "b.a." * 5000),
    "few words at random": (numbers(9000, 2, 1), numbers(9000, 2, 2)),
    "some words at random": (numbers(7000, 110, 1), numbers(7000, 110, 2)),
    "every second word differs": (
        " ".join(f"x{number} {number}" for number in range(2000)),
        " ".join(f"y{number} {number}" for number in range(2000)),
    ),
    "one long word": ("a" * 20000, "a" * 19999 + "b"),
    "spaces alone": (" " * 20000, "\n" * 20000),
}


@pytest.mark.parametrize("name", WORST)
def test_long_answers_are_compared_in_no_time(name):
    left, right = (text[: pair_browser.MOST_CHARACTERS] for text in WORST[name])
    start = time.process_time()
    pages = pair_browser.differing_words(left, right)
    assert time.process_time() - start < 1
    assert [Page(page).words for page in pages] == [left, right]


# --- one pair --------------------------------------------------------------------------------------------------


def test_a_pair_is_shown_with_what_the_ledger_says():
    page = Page(pair_browser.pair_page(pair_of("It is 4.", "It is 5.", "2 + 2?", system="Be brief."), LINE))
    assert page.words.startswith(
        "math, row 7 · 1,350 tokens (prompt 100, chosen 300, rejected 1,250) · rating 9.5 · kept in train"
    )
    positions = [
        page.words.index(words) for words in ("systemBe brief.", "user2 + 2?", "chosenIt is 4.", "rejectedIt is 5.")
    ]
    assert positions == sorted(positions)
    assert page.marked == ["4", "5"] and page.labels == ["earlier turns", "prompt", "chosen", "rejected"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": "near duplicate", "split": None}, "dropped: near duplicate"),
        ({"reason": NONE, "split": "test"}, "kept in test"),  # as pandas 3 stores None in a column of texts
        ({"split": NONE}, "· kept"),
        ({"rating": NONE}, "no rating"),
        ({"rating": 5}, "rating 5 ·"),
        ({"chosen_tokens": NONE}, "tokens not counted"),
        ({"reason": "<b>", "source": "<i>"}, "<i>, row 7"),
    ],
)
@pytest.mark.parametrize("form", [dict, pd.Series])
def test_what_happened_is_said(change, words, form):
    page = pair_browser.pair_page(pair_of("a", "b"), form(LINE | change))
    assert words in Page(page).words and "nan" not in page and "<i>" not in page


def test_several_turns_are_shown_in_their_order():
    pair = pair_of("x", "y")
    pair["prompt"] = [
        {"role": role, "content": f"turn {place}"} for place, role in enumerate(["user", "assistant"] * 4)
    ]
    words = Page(pair_browser.pair_page(pair, LINE)).words
    assert re.findall(r"(user|assistant)turn (\d)", words) == [
        (role, str(place)) for place, role in enumerate(["user", "assistant"] * 4)
    ]


def test_nothing_in_a_row_becomes_part_of_the_page():
    evil = "<script>alert(1)</script>"
    plain = Page(pair_browser.pair_page(pair_of("a", "b"), LINE))
    pair = pair_of(evil, evil + evil, evil)
    pair["prompt"][0]["role"] = evil
    page = Page(pair_browser.pair_page(pair, LINE | {"source": evil, "split": evil}))
    assert set(page.tags) <= set(plain.tags) | {"mark"} and page.words.count(evil) == 7


def test_long_texts_are_cut_and_the_cut_is_counted():
    most = pair_browser.MOST_CHARACTERS
    assert most == 3000
    page = Page(pair_browser.pair_page(pair_of("c" * (most + 1), "r" * 20_000, "p" * (most + 5)), LINE))
    assert [len(re.search(f"{letter}{{9,}}", page.words)[0]) for letter in "crp"] == [most] * 3
    assert re.findall(r"… ([\d,]+) more characters", page.words) == ["5", "1", "17,000"]


def test_answers_that_differ_out_of_sight_are_no_riddle():
    same = "word " * 700
    page = Page(pair_browser.pair_page(pair_of(same + "a", same + "b"), LINE))
    assert page.marked == [] and "The answers differ only in what is not shown." in page.words
    for chosen, rejected in ((same, same), ("a" + same, "b" + same), ("a", "b")):
        assert "differ only" not in pair_browser.pair_page(pair_of(chosen, rejected), LINE)


def test_an_empty_answer_is_named():
    assert Page(pair_browser.pair_page(pair_of("text", ""), LINE)).words.endswith("rejected(empty)")


def test_the_reason_why_a_row_cannot_be_read_is_shown():
    page = Page(pair_browser.pair_page("column <chosen> is missing.", LINE))
    assert page.words.endswith("This row cannot be read as a pair: column <chosen> is missing.")


# --- the widget ------------------------------------------------------------------------------------------------

LEDGER = pd.DataFrame(
    [
        ("b", 0, 5, None, 10, 20, 30, "train"),
        ("b", 1, 4, "prompt too long", 900, 20, 300, None),
        ("b", 2, 4, "no score", NONE, NONE, NONE, None),
        ("a", 0, NONE, None, 10, 90, 20, "test"),
        ("a", 1, NONE, "another", 10, 20, 30, None),
        ("a", 2, NONE, "prompt too long", 10, 2000, 30, None),
        ("a", 3, NONE, None, 40, 20, 30, "train"),
    ],
    columns=["source", "row", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens", "split"],
    index=[3, 3, 3, 1, 1, 1, 1],  # a ledger is a collection: its index means nothing
)


@pytest.fixture
def browser():
    """(controls, list of the rows that were read)."""
    reads = []

    def read(source: str, row: int) -> dict:
        reads.append((source, row))
        if (source, row) == ("b", 2):
            raise ValueError("column <score> is missing.")
        return pair_of(f"answer {source}{row}", "no")

    return pair_browser.browse_pairs(LEDGER, read).controls, reads


def shown(controls) -> str:
    return Page(controls.page.value).words.split(" · ")[0]


def matching(controls) -> str:
    return Page(controls.matches.value).words


def test_the_first_row_is_shown_and_no_other_is_read(browser):
    controls, reads = browser
    assert shown(controls) == "b, row 0" and matching(controls) == "7 rows match" and reads == [("b", 0)]
    assert "answer b0" in controls.page.value


@pytest.mark.parametrize(
    ("source", "outcome", "length", "rows"),
    [
        ("a", "all", None, ["a0", "a1", "a2", "a3"]),
        ("all", "kept", None, ["b0", "a0", "a3"]),
        ("all", "prompt too long", None, ["b1", "a2"]),
        ("a", "prompt too long", None, ["a2"]),
        ("b", "another", None, []),
        ("all", "all", (40, 100), ["b0", "b2", "a0", "a1", "a3"]),  # the tokens of b2 were never counted
        ("all", "all", (41, 99), ["b2", "a3"]),
        ("all", "all", (1200, 1200), ["b1", "b2"]),  # prompt and the longer answer
        ("a", "kept", (0, 5), []),
    ],
)
def test_what_is_chosen_is_what_is_shown(browser, source, outcome, length, rows):
    controls, reads = browser
    controls.source.value, controls.outcome.value = source, outcome
    controls.length.value = length or controls.length.value
    assert matching(controls) == {1: "1 row matches"}.get(len(rows), f"{len(rows)} rows match")
    found = []
    for number in range(1, len(rows) + 1):
        controls.number.value = number
        found.append(shown(controls).replace(", row ", ""))
        reads_before = len(reads)
    assert found == rows
    assert not rows or len(reads) == reads_before and "".join(map(str, reads[-1])) == rows[-1]


def test_buttons_go_on_and_back_and_end_at_the_ends(browser):
    controls, reads = browser
    controls.source.value = "b"
    places = []
    for button in [controls.previous] + [controls.following] * 3 + [controls.previous]:
        places.append((shown(controls), controls.previous.disabled, controls.following.disabled))
        button.click()
    assert places == [
        ("b, row 0", True, False),
        ("b, row 0", True, False),
        ("b, row 1", False, False),
        ("b, row 2", False, True),
        ("b, row 2", False, True),
    ]
    assert shown(controls) == "b, row 1"


def test_why_a_row_cannot_be_read_is_shown(browser):
    controls, _ = browser
    controls.outcome.value = "no score"
    assert Page(controls.page.value).words.endswith("cannot be read as a pair: column <score> is missing.")
    assert "dropped: no score" in controls.page.value
    controls.outcome.value = "kept"  # and the next row is shown as if nothing had been
    assert shown(controls) == "b, row 0" and "cannot be read" not in controls.page.value


def test_no_match_is_a_sentence(browser):
    controls, reads = browser
    controls.source.value, controls.outcome.value = "b", "another"
    assert reads == [("b", 0), ("b", 0)]
    assert "No row matches" in controls.page.value and matching(controls) == "0 rows match"
    assert controls.number.disabled and controls.previous.disabled and controls.following.disabled
    controls.following.click()
    controls.outcome.value = "all"
    assert not controls.number.disabled and not controls.following.disabled and shown(controls) == "b, row 0"


def test_every_control_is_on_the_panel():
    panel = pair_browser.browse_pairs(LEDGER, lambda source, row: pair_of("a", "b"))
    there, todo = [], [panel]
    while todo:
        there.append(todo.pop())
        todo += getattr(there[-1], "children", ())
    assert all(any(control is one for one in there) for control in vars(panel.controls).values())


@pytest.mark.parametrize("form", ["object", "category"])
def test_other_forms_of_the_ledger(form):
    ledger = LEDGER.astype({"source": form, "reason": form, "split": form})
    controls = pair_browser.browse_pairs(ledger, lambda source, row: pair_of("a", "b")).controls
    controls.source.value, controls.outcome.value = "a", "prompt too long"
    assert shown(controls) == "a, row 2"
    controls.outcome.value = "kept"
    assert shown(controls) == "a, row 0" and "kept in test" in controls.page.value


def test_a_ledger_without_tokens_and_one_without_rows():
    uncounted = LEDGER.assign(prompt_tokens=NONE)
    controls = pair_browser.browse_pairs(uncounted, lambda source, row: pair_of("a", "b")).controls
    assert matching(controls) == "7 rows match" and "tokens not counted" in controls.page.value
    empty = pair_browser.browse_pairs(LEDGER[:0], lambda source, row: pair_of("a", "b")).controls
    assert "No row matches" in empty.page.value


def test_the_whole_mix_is_browsed_without_waiting():
    ledger = pd.concat([LEDGER] * 13_300)
    start = time.process_time()
    controls = pair_browser.browse_pairs(ledger, lambda source, row: pair_of("a", "b")).controls
    controls.source.value, controls.outcome.value = "a", "prompt too long"
    controls.length.value = (0, 2010)
    assert time.process_time() - start < 1 and matching(controls) == "13,300 rows match"
