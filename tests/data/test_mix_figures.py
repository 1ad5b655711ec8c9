"""The pictures of a mix: each shows the numbers of its ledger, says them in words, and can be read."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from utils.data import mix_figures
from utils.figures import as_table
from utils.train.profiles import PROFILES

REASONS = [
    "no score",
    "score too low",
    "in GSM8K's training set",
    "not a pair",
    "prompts of the two sides differ",
    "empty answer",
    "equal answers",
    "text of a special token",
    "prompt too long",
    "answer too long",
    "same prompt",
    "near duplicate",
    "in a benchmark",
    "over the cap",
]
NAMES = ["capybara", "intel-orca", "ultrafeedback", "math", "toxic", "prm", "truthy"]
REAL = dict(zip(NAMES, (7563, 12859, 60917, 2418, 541, 7985, 1016), strict=True))
SMALL = dict(zip(NAMES, (60, 80, 220, 50, 20, 50, 120), strict=True))
NONE = float("nan")


def rule(name: str, at_least: float | None = None, best: float = 5.0, text: str = "all rows") -> SimpleNamespace:
    return SimpleNamespace(name=name, at_least=at_least, best=best, rule=text)


SOURCES = [
    rule("capybara", 5.0, 5.0, "rating_chosen >= 5"),
    rule("intel-orca", 9.0, 10.0, "chosen_score >= 9 and not in_gsm8k_train"),
    rule("ultrafeedback", 5.0, 5.0, "chosen-rating >= 5"),
    rule("math", 9.0, 10.0, "chosen_rating >= 9"),
    *(rule(name) for name in ("toxic", "prm", "truthy")),
]


def ledger_of(*lines) -> pd.DataFrame:
    """Lines of (source, rating, reason, prompt, chosen and rejected tokens, split)."""
    columns = ["source", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens", "split"]
    ledger = pd.DataFrame(lines, columns=columns)
    return ledger.assign(row=ledger.groupby("source").cumcount())


def made_up(sizes: dict[str, int], seed: int = 0) -> pd.DataFrame:
    """A ledger in which every reason occurs, some in most of the rows, and some in a few."""
    random, parts = np.random.default_rng(seed), []
    for place, (name, size) in enumerate(sizes.items()):
        (source,) = [source for source in SOURCES if source.name == name]
        rating = np.full(size, np.nan)
        if source.at_least is not None:
            rating = random.integers(1, int(source.best) + 1, size).astype(float)
            rating[: 1 + size // 300] = np.nan
        prompt, chosen, rejected = np.round(random.lognormal(5.3 + 0.1 * place, 0.9, (3, size))).clip(1)
        whole = prompt + np.maximum(chosen, rejected)
        reason = np.full(size, None, dtype=object)
        reason[(whole > 1024) & (prompt < 1024)] = "answer too long"
        reason[prompt >= 1024] = "prompt too long"
        for number, few in enumerate(REASONS[2:13]):
            reason[number::500] = few
        if source.at_least is not None:
            reason[rating < source.at_least] = "score too low"
            reason[np.isnan(rating)] = "no score"
        early = np.isin(reason, REASONS[:8])
        split = np.where(random.random(size) < 0.1, "test", "train").astype(object)
        split[[isinstance(one, str) for one in reason]] = None
        columns = {"source": name, "row": np.arange(size), "rating": rating, "reason": reason}
        for part, tokens in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
            columns[f"{part}_tokens"] = np.where(early, np.nan, tokens)
        parts.append(pd.DataFrame({**columns, "split": split}))
    ledger = pd.concat(parts, ignore_index=True)
    free = ledger.index[ledger["reason"].isna() & (ledger["source"] == "ultrafeedback")]
    ledger.loc[free[: len(free) // 5], ["reason", "split"]] = ["over the cap", None]
    return ledger


pytestmark = pytest.mark.usefixtures("no_open_figures")


@pytest.fixture(scope="module", params=["real", "small"])
def ledger(request) -> pd.DataFrame:
    return made_up(REAL if request.param == "real" else SMALL)


# --- the account -----------------------------------------------------------------------------------------------

FEW = ledger_of(
    ("b", 5, None, 10, 20, 30, "train"),
    ("b", 4, "score too low", NONE, NONE, NONE, None),
    ("a", NONE, "same prompt", 10, 20, 30, None),
    ("b", NONE, "no score", NONE, NONE, NONE, None),
    ("a", NONE, None, 10, 30, 20, "test"),
    ("a", NONE, "a reason of its own", 10, 20, 30, None),
    ("b", 3, "score too low", NONE, NONE, NONE, None),
)


def test_the_account_counts_every_row_once():
    table = mix_figures.account(FEW, REASONS)
    columns = ["source", "rows in", "no score", "score too low", "same prompt", "a reason of its own", "kept"]
    assert list(table.columns) == columns
    assert table.to_numpy().tolist() == [["b", 4, 1, 2, 0, 0, 1], ["a", 3, 0, 0, 1, 1, 1], ["all", 7, 1, 2, 1, 1, 2]]


def test_the_account_of_all_rows_adds_up(ledger):
    table = mix_figures.account(ledger, REASONS)
    assert list(table["source"]) == [*NAMES, "all"] and list(table.columns[2:-1]) == REASONS
    assert (table["rows in"] == table.drop(columns=["source", "rows in"]).sum(axis=1)).all()
    for name, part in ledger.groupby("source"):
        line = table.set_index("source").loc[name]
        assert line["kept"] == sum(not isinstance(reason, str) for reason in part["reason"])
    assert "all" in as_table(table).to_html()


# --- the waterfall ---------------------------------------------------------------------------------------------


def bars_of(axis) -> list[dict[str, tuple[float, float]]]:
    """For each line of the waterfall: source -> (begin, end) of its piece."""
    lines = len(axis.get_yticks())
    pieces = [{} for _ in range(lines)]
    for container in axis.containers:
        for line, bar in enumerate(container):
            pieces[line][container.get_label()] = (bar.get_x(), bar.get_x() + bar.get_width())
    return pieces


def test_the_waterfall_falls_from_all_rows_to_those_kept(ledger):
    figure, alt = mix_figures.plot_waterfall(ledger, REASONS)
    (axis,) = figure.axes
    table = mix_figures.account(ledger, REASONS).set_index("source")
    steps, bars = [label.get_text() for label in axis.get_yticklabels()], bars_of(axis)
    assert steps == ["rows in", *REASONS, "kept"]
    level = len(ledger)
    for step, pieces in zip(steps, bars, strict=True):
        assert {source: round(end - begin) for source, (begin, end) in pieces.items()} == dict(table[step][:-1])
        begins, ends = zip(*pieces.values(), strict=True)
        assert begins[1:] == ends[:-1]  # stacked without a gap
        assert ends[-1] == level
        level = begins[0] if step not in ("rows in", "kept") else level
    assert bars[0]["capybara"][0] == bars[-1]["capybara"][0] == 0
    texts = [text.get_text().strip() for text in axis.texts]
    share = 100 * table.loc["all", "kept"] / len(ledger)
    assert texts[0] == f"{len(ledger):,}" and texts[-1] == f"{table.loc['all', 'kept']:,} = {share:.1f} %"
    assert texts[1:-1] == [f"\N{MINUS SIGN}{table.loc['all', reason]:,}" for reason in REASONS]
    assert all(f"{reason} {table.loc['all', reason]:,}" in alt for reason in REASONS)
    assert f"{len(ledger):,} rows from 7 sources to {table.loc['all', 'kept']:,} that are kept" in alt


# --- the ratings -----------------------------------------------------------------------------------------------


def heights(axis) -> dict[float, tuple[int, int]]:
    """Middle of each bar -> rows that (reach, do not reach) the threshold."""
    kept, low = axis.containers
    middles = [round(bar.get_x() + bar.get_width() / 2, 6) for bar in kept]
    counts = [(round(bar.get_height()), round(other.get_height())) for bar, other in zip(kept, low, strict=True)]
    return {middle: count for middle, count in zip(middles, counts, strict=True) if count != (0, 0)}


def test_ratings_are_divided_at_the_threshold():
    ratings = [5, 5, 4.75, 4.5, 1, NONE, NONE]
    ledger = ledger_of(*(("ultrafeedback", rating, None, 1, 1, 1, None) for rating in ratings))
    figure, alt = mix_figures.plot_ratings(ledger, SOURCES)
    (axis,) = figure.axes
    assert heights(axis) == {5: (2, 0), 4.75: (0, 1), 4.5: (0, 1), 1: (0, 1)}
    (line,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert 4.75 < line.get_xdata()[0] <= 5
    assert axis.get_title() == "ultrafeedback: 2 without a rating"
    assert "chosen-rating >= 5" in axis.get_xlabel()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["reach it: 2 (40 %)", "do not: 3"]
    assert "ultrafeedback: threshold 5, reached by 2 of 5 ratings up to 5; 2 without a rating" in alt


# --- the lengths -----------------------------------------------------------------------------------------------


def test_the_share_that_does_not_fit_is_that_of_whole_pairs():
    lines = [("a", NONE, None, 500, 12, 3, "train"), ("a", NONE, "too long", 500, 3, 13, None)]
    lines += [("b", NONE, None, 1, 2, 3, "train"), ("b", NONE, "no score", NONE, NONE, NONE, None)]
    lines += [("b", NONE, "half counted", 9000, NONE, 9000, None), ("c", NONE, "no score", NONE, NONE, NONE, None)]
    figure, alt = mix_figures.plot_lengths(ledger_of(*lines), max_lengths=(512, 4), chosen=3)
    left, right = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines if line.get_label()[0] != "_"}
    assert drawn == {"a": [100, 100, 50], "b": [100, 0, 0], "all": pytest.approx([100, 200 / 3, 100 / 3])}
    assert [label.get_text() for label in right.get_xticklabels()] == ["3", "4", "512"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a (2)", "b (1)"]
    assert alt == (
        "Lengths of 3 pairs. Median tokens: a 512, b 4. "
        "Share that does not fit: 100.0 % at 3, 66.7 % at 4, 33.3 % at 512."
    )
    assert right.get_title() == "Pairs that do not fit: 100.0 % of all at 3"


# --- the budget ------------------------------------------------------------------------------------------------

# 853,000 tokens in 1,000 pairs, as the hours of a profile are stated for
COUNTED = [("a", NONE, None, 100, 400, 53, "train"), ("a", NONE, None, 300, 200, 253, "train")]
NOT_COUNTED = [("a", NONE, None, 9e9, 9e9, 9e9, "test"), ("a", NONE, "same prompt", 9e9, 9e9, 9e9, None)]


def test_the_budget_is_that_of_the_train_pairs():
    thousand, everything = mix_figures.token_budget(ledger_of(*COUNTED, *NOT_COUNTED), PROFILES)
    assert thousand["pairs"] == 1000 and everything["pairs"] == 2
    assert thousand["tokens in the stock trainer"] == 853_000 and thousand["distinct tokens"] == 653_000
    assert everything["tokens in the stock trainer"] == 1706 and everything["distinct tokens"] == 1306
    assert thousand["hours"] == pytest.approx({name: profile.hours for name, profile in PROFILES.items()})
    assert everything["hours"] == pytest.approx({name: profile.hours / 500 for name, profile in PROFILES.items()})


# --- all of them -----------------------------------------------------------------------------------------------
