"""Words, runs of words and their sketches, against plain sets of words; near duplicates; and benchmark items."""

import random
import time
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
    runs,
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


def test_words_have_the_same_numbers_on_every_machine():
    """The checksums of zip files, of which the standard one is that of 123456789."""
    found = numbers(["123456789", "a", "größe", "a"])
    assert found.dtype == np.uint64 and found.tolist() == [0xCBF43926, 0xE8B7BE43, found[2], 0xE8B7BE43]
    assert len(set(numbers(WORDS).tolist())) == len(WORDS)
    assert numbers([]).shape == (0,)


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 13])
@pytest.mark.parametrize("high", [False, True], ids=["all 64 bits", "the high 32 bits"])
def test_a_run_depends_on_every_word(length, high):
    """Also on the last one, and also in the high bits alone, which sketches are made of."""
    text = text_of(length)
    seen = {tuple(text)}
    for place in range(length):
        for other in text_of(200, seed=place + 1):
            seen.add((*text[:place], other, *text[place + 1 :]))
    found = {int(runs(numbers(list(run)), length)[0]) >> (32 if high else 0) for run in seen}
    assert len(seen) > 150 * length and len(found) == len(seen)


def test_a_run_depends_on_the_order():
    text = text_of(5)
    turned = [*text[1:], text[0]]
    assert runs(numbers(text), 5) != runs(numbers(turned), 5) != runs(numbers(text[::-1]), 5)


def test_equal_words_are_equal_runs_wherever_they_stand():
    shared = text_of(20)
    left, right = text_of(7, 1) + shared + text_of(3, 2), text_of(30, 3) + shared
    found = [set(runs(numbers(text), 13).tolist()) for text in (left, right)]
    assert len(found[0] & found[1]) == 20 - 13 + 1
    assert found[0] & found[1] == set(runs(numbers(shared), 13).tolist())


@pytest.mark.parametrize("count, expected", [(0, 0), (4, 0), (5, 1), (6, 2), (100, 96)])
def test_there_are_as_many_runs_as_places(count, expected):
    found = runs(numbers(text_of(count)), 5)
    assert found.dtype == np.uint64 and found.shape == (expected,)


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


def test_a_sketch_sees_neither_case_nor_punctuation():
    text = "Tell me, in two sentences, why the sea is salt and the rain is not."
    found = sketch(text)
    assert found.dtype == np.uint32 and found.shape == (PERMUTATIONS,)
    assert (found == sketch(text.upper().replace(",", " -- "))).all()


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


def test_texts_that_are_not_in_the_order_are_left_alone():
    texts = [LONG, text_of(80, 1), LONG, LONG]
    assert twins_of(texts, [3, 1, 0]) == [3, -1, -1, -1]
    assert twins_of(texts, [2]) == [-1, -1, -1, -1]


def test_of_several_the_one_that_is_most_alike_is_kept_in_its_place():
    far, near = changed(LONG, 20, 70), changed(LONG, 10)
    assert jaccard(far, near) < 0.8 < jaccard(far, LONG) < jaccard(near, LONG)
    assert twins_of([far, near, LONG]) == [-1, -1, 1]
    assert twins_of([near, far, LONG]) == [-1, -1, 0]


def test_identical_texts_leave_the_best():
    assert twins_of([LONG] * 5, [3, 0, 1, 2, 4]) == [3, 3, 3, -1, 3]


def test_a_chain_ends_where_the_likeness_does():
    """The first is like the second, and the second like the third, but not the first like the third."""
    chain = [LONG, changed(LONG, 10, 30), changed(LONG, 10, 30, 60, 80)]
    assert jaccard(*chain[:2]) > 0.81 < jaccard(*chain[1:]) and jaccard(chain[0], chain[2]) < 0.7
    assert twins_of(chain, [0, 1, 2]) == [-1, 0, -1]  # what is dropped pulls nothing down with it
    assert twins_of(chain, [1, 0, 2]) == [1, -1, 1]
    assert twins_of(chain, [2, 1, 0]) == [-1, 2, -1]


@pytest.mark.parametrize("threshold, found", [(1.0, False), (0.95, False), (0.8, True), (0.5, True), (0.05, True)])
def test_the_threshold_decides(threshold, found):
    pair = [LONG, changed(LONG, 50)]
    assert 0.85 < estimate(*pair) < 0.95
    assert twins_of(pair, threshold=threshold) == [-1, 0 if found else -1]
    assert twins_of([LONG, LONG], threshold=threshold) == [-1, 0]


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


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, 80, float("nan")])
def test_a_threshold_that_is_no_similarity_is_refused(threshold):
    with pytest.raises(
        ValueError, match="is no Jaccard similarity to look for: set NEAR_DUPLICATE above 0 and up to 1"
    ):
        twins_of([LONG, LONG], threshold=threshold)


def test_nothing_has_no_duplicates():
    assert find_near_duplicates(np.zeros((0, PERMUTATIONS), np.uint32), []).tolist() == []
    assert find_near_duplicates(np.zeros((2, PERMUTATIONS), np.uint32), []).tolist() == [-1, -1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("shared", [0, 60], ids=["texts of their own", "one long template"])
def test_ten_thousand_texts_take_seconds(shared):
    """A comparison of each with each would take minutes; texts made from one template are nearly alike all of them."""
    begin = text_of(shared)
    texts = [begin + text_of(12 + shared // 4, seed) for seed in range(10_000 if not shared else 4_000)]
    started = time.perf_counter()
    found = twins_of(texts)
    assert time.perf_counter() - started < 10  # about 1 s on two cores
    assert set(found) == {-1}


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


def test_a_match_sees_neither_case_nor_punctuation(index):
    loud = "... ".join(ITEM[3:20]).upper()
    assert index.match([f"Please: {loud}!"]) == ("sums 0", " ".join(ITEM[3:20]))


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


def test_numbers_of_items_begin_anew_with_each_benchmark(index):
    labels = ["sums 0", "sums 1", "sums 2", "words 0", "words 1", "words 2", "words 3", "words 4"]
    assert [index.label(item) for item in range(8)] == labels
    with pytest.raises(IndexError):
        index.label(8)


def test_an_item_without_words_matches_nothing(index):
    for text in ("", " ", "!", "\n"):
        assert index.match([text], text) is None
    assert index.match(["..."], "...") is None


@pytest.mark.parametrize("benchmarks", [{}, {"none": []}, {"none": [[], [""]]}])
def test_without_items_nothing_matches(benchmarks):
    index = BenchmarkIndex(benchmarks)
    assert index.match([row_with(ITEM)], " ".join(ITEM)) is None and index.match(["Hi"], "Hi") is None


def test_words_and_numbers_that_are_there_already_give_the_same(index):
    texts = [row_with(THIRD[2:30]), row_with(ITEM[:13])]
    cut = [words(text) for text in texts]
    expected = ("words 0", " ".join(THIRD[2:30]))
    assert index.match(texts, "So?") == expected
    assert index.match_words(cut, ["so"]) == index.match_words(cut, ["so"], [numbers(text) for text in cut]) == expected


def test_a_thousand_items_are_told_apart():
    """Every item is found in a row that holds 13 of its words, and rows of other words hold none."""
    items = [text_of(30, 1000 + seed) for seed in range(1000)]
    parts = {"a": items[:400], "b": items[400:]}
    index = BenchmarkIndex({name: [[" ".join(item)] for item in part] for name, part in parts.items()})
    for name, part in parts.items():
        for number, item in enumerate(part):
            label, found = index.match([row_with(item[8:21])])
            assert label == f"{name} {number}" and " ".join(item[8:21]) in found
    assert not any(index.match([" ".join(text_of(200, seed))]) for seed in range(5000, 5300))
