"""Words, runs of words and their sketches, against plain sets of words; near duplicates; and benchmark items."""

import random
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHashLSH

from utils.data.overlap import (
    PERMUTATIONS,
    BenchmarkIndex,
    bands,
    find_near_duplicates,
    numbers,
    signature,
    words,
)

LEXICON = [f"{first}{second}" for first in "b d f g k l m n p r s t v z".split() for second in "a e i o u ay".split()]
WORDS = [left + right for left, right in combinations(LEXICON, 2)]  # 3,486 different ones


def text_of(count: int, seed: int = 0) -> list[str]:
    """So many words by chance; the lexicon is large enough that no run of five comes twice."""
    return random.Random(seed).choices(WORDS, k=count)


def shingles(text: list[str]) -> set[tuple[str, ...]]:
    """The runs of five words of a text, or the whole of a shorter one, as plain Python."""
    length = min(5, len(text))
    return {tuple(text[place : place + length]) for place in range(len(text) - length + 1)}


def jaccard(left: list[str], right: list[str]) -> float:
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


def sketch(text: list[str] | str):
    return signature(numbers(words(text) if isinstance(text, str) else text))


def estimate(left, right) -> float:
    return float((sketch(left) == sketch(right)).mean())


# --- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Is it 9:30, or  TEN?\n", ["is", "it", "9", "30", "or", "ten"]),
        ("Größe und ÄRGER, naïve\u00a0Œuvre", ["größe", "und", "ärger", "naïve", "œuvre"]),
        ("Δεν είναι ΣΩΣΤΌ - это ПРАВДА", ["δεν", "είναι", "σωστό", "это", "правда"]),
        ("二加三等于几？五です。", ["二加三等于几", "五です"]),
        ("מהי בירת פרו? ما عاصمة", ["מהי", "בירת", "פרו", "ما", "عاصمة"]),
        ("smile 🙂 now", ["smile", "now"]),
        ("?! ...  --", ["?!", "...", "--"]),
        ("🙂", ["🙂"]),
        ("a\x00b\x07c", ["a", "b", "c"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words_are_lower_case_and_without_punctuation(text, expected):
    assert words(text) == expected


# --- runs ------------------------------------------------------------------------------------------------------


# --- sketches --------------------------------------------------------------------------------------------------


def test_sketches_estimate_the_exact_jaccard_similarity():
    """Over 800 pairs of texts of 2 to 300 words: no bias, and no estimate off by more than its spread allows."""
    chance, errors = random.Random(1), []
    while len(errors) < 800:
        left = text_of(chance.randint(2, 300), seed=chance.random())
        right = list(left)
        for _ in range(chance.randint(1, 1 + len(left) // 15)):
            place = chance.randrange(len(right))
            right[place : place + chance.randint(0, 1)] = chance.choices(WORDS, k=chance.randint(0, 2))
            right = right or text_of(1)
        exact = jaccard(left, right)
        if exact in (0, 1):
            assert estimate(left, right) == exact
        else:
            errors.append((estimate(left, right) - exact) / (exact * (1 - exact) / PERMUTATIONS) ** 0.5)
    assert abs(np.mean(errors)) < 4 / len(errors) ** 0.5  # standard errors of the mean
    assert 0.9 < np.std(errors) < 1.1 and max(map(abs, errors)) < 4.5


def test_texts_of_fewer_than_five_words_are_compared_whole():
    assert estimate("What is it?", "what IS it") == 1
    assert estimate("What is it?", "What was it?") < 0.1
    assert estimate("What is it?", "What is it then?") < 0.1
    assert estimate("?!", "...") < 0.1 and estimate("", "What?") < 0.1 and estimate("", " ") == 1


# --- near duplicates -------------------------------------------------------------------------------------------


def twins_of(texts, order=None, **options) -> list[int]:
    return find_near_duplicates(
        np.array([sketch(text) for text in texts]), order or range(len(texts)), **options
    ).tolist()


def changed(text: list[str], *places: int) -> list[str]:
    """A text with other words at these places; each touches five runs."""
    return [f"other{place}" if place in places else word for place, word in enumerate(text)]


LONG = text_of(100)


def test_the_better_one_is_kept():
    pair = [LONG, changed(LONG, 50)]
    assert jaccard(*pair) > 0.9
    assert twins_of(pair, [0, 1]) == [-1, 0]
    assert twins_of(pair, [1, 0]) == [1, -1]


def test_a_chain_ends_where_the_likeness_does():
    """The first is like the second, and the second like the third, but not the first like the third."""
    chain = [LONG, changed(LONG, 10, 30), changed(LONG, 10, 30, 60, 80)]
    assert jaccard(*chain[:2]) > 0.81 < jaccard(*chain[1:]) and jaccard(chain[0], chain[2]) < 0.7
    assert twins_of(chain, [0, 1, 2]) == [-1, 0, -1]  # what is dropped pulls nothing down with it
    assert twins_of(chain, [1, 0, 2]) == [1, -1, 1]
    assert twins_of(chain, [2, 1, 0]) == [-1, 2, -1]


def test_a_lower_threshold_finds_what_is_less_alike():
    """Of pairs well above the threshold next to none may be missed, wherever it lies."""
    count, pairs = 150, []
    for seed in range(count):
        text = text_of(100, seed)
        pairs += [text, changed(text, *range(8, 100, 23))]
    assert 0.60 < jaccard(*pairs[:2]) < 0.70
    assert sum(twin >= 0 for twin in twins_of(pairs, threshold=0.5)) >= 0.94 * count
    assert sum(twin >= 0 for twin in twins_of(pairs, threshold=0.8)) == 0


def test_bands_see_a_pair_at_the_threshold_and_are_ones_that_datasketch_takes():
    for threshold in np.linspace(0.01, 1, 100):
        count, length = bands(threshold)
        assert count * length <= PERMUTATIONS
        assert 1 - (1 - threshold**length) ** count >= 0.94 or length == 1
        MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, params=(count, length))


# --- benchmark items -------------------------------------------------------------------------------------------

ITEM, OTHER, THIRD = text_of(40, 10), text_of(40, 11), text_of(40, 12)
FILLER = text_of(50, 13)


def row_with(piece: list[str], place: int = 20) -> str:
    return " ".join(FILLER[:place] + piece + FILLER[place:])


@pytest.fixture(scope="module")
def index():
    """Two benchmarks with an empty one between them; the second item of the first has a long answer."""
    short, short_answer = "Who was first?", "Nobody ever knew."
    return BenchmarkIndex(
        {
            "sums": [[" ".join(ITEM)], [" ".join(OTHER[:20]), " ".join(OTHER[20:]), short_answer], [short]],
            "nothing": [],
            "words": [[" ".join(THIRD), "a b c"], ["?!", ""], [""], [], ["How many?", short]],
        }
    )


@pytest.mark.parametrize("start", [0, 7, 40 - 13], ids=["its beginning", "its middle", "its end"])
@pytest.mark.parametrize("place", [0, 20, 50], ids=["first", "inside", "last"])
def test_thirteen_words_are_a_match_and_twelve_are_none(index, start, place):
    piece = ITEM[start : start + 13]
    assert index.match([row_with(piece, place)]) == ("sums 0", " ".join(piece))
    assert index.match([row_with(piece[1:], place)]) is None
    assert index.match([row_with(piece[:-1], place)]) is None
    assert index.match([row_with(piece[:6] + ["between"] + piece[6:], place)]) is None


def test_a_match_does_not_reach_from_one_text_into_the_next(index):
    assert index.match([" ".join(ITEM[:10]), " ".join(ITEM[10:20])]) is None


def test_the_longest_run_of_several_items_is_told(index):
    pieces = [OTHER[:14], ITEM[5:21], THIRD[:15]]
    for texts in ([row_with(piece) for piece in pieces], [" and ".join(" ".join(piece) for piece in pieces)]):
        assert index.match(texts) == ("sums 0", " ".join(ITEM[5:21]))


def test_an_item_may_stand_in_an_answer_and_an_answer_in_an_item(index):
    assert index.match(["Hello?", "No.", row_with(THIRD[:13])], "Hello?") == ("words 0", " ".join(THIRD[:13]))
    assert index.match([row_with(OTHER[25:40])]) == ("sums 1", " ".join(OTHER[25:40]))


def test_a_short_item_counts_only_as_the_whole_question(index):
    assert index.match(["Who was first?", "I."], "who was FIRST") == ("sums 2", "who was first")
    assert index.match(["Hello. Who was first?", "I."], "Hello. Who was first?") is None
    assert index.match(["So?", "Who was first?"], "So?") is None
    assert index.match(["Nobody ever knew."], "Nobody ever knew.") is None  # an answer of an item
    assert index.match(["How many?"], "How many?") == ("words 4", "how many")
    assert index.match(["", "?"], "") is None


def test_thirteen_words_are_long_and_twelve_are_short():
    index = BenchmarkIndex({"long": [[" ".join(ITEM[:13])]], "short": [[" ".join(OTHER[:12])]]})
    assert index.match([row_with(ITEM[:13])]) == ("long 0", " ".join(ITEM[:13]))
    assert index.match([row_with(OTHER[:12])], row_with(OTHER[:12])) is None
    assert index.match([" ".join(OTHER[:12])], " ".join(OTHER[:12])) == ("short 0", " ".join(OTHER[:12]))


def test_a_long_match_goes_before_a_short_question(index):
    assert index.match(["Who was first?", row_with(THIRD)], "Who was first?")[0] == "words 0"
