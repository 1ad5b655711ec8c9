"""The pictures of a mix: each shows the numbers of its ledger, says them in words, and can be read."""

import io
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from utils.data import mix_figures
from utils.figures import SEQUENCE, as_table
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


def draw_all(ledger: pd.DataFrame) -> dict[str, tuple]:
    return {
        "waterfall": mix_figures.plot_waterfall(ledger, REASONS),
        "ratings": mix_figures.plot_ratings(ledger, SOURCES),
        "lengths": mix_figures.plot_lengths(ledger),
        "budget": mix_figures.plot_budget(mix_figures.token_budget(ledger, PROFILES)),
    }


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


@pytest.mark.parametrize("form", ["object", "category", "index used twice"])
def test_the_account_does_not_depend_on_the_frames_form(form):
    ledger = FEW.copy()
    if form == "index used twice":
        ledger.index = [0, 1, 0, 1, 0, 1, 0]
    else:
        ledger = ledger.astype({"source": form, "reason": form})
    pd.testing.assert_frame_equal(mix_figures.account(ledger, REASONS), mix_figures.account(FEW, REASONS))


def test_nothing_dropped_and_nothing_at_all():
    kept = FEW[FEW["reason"].isna()]
    assert mix_figures.account(kept, REASONS).to_numpy().tolist() == [["b", 1, 1], ["a", 1, 1], ["all", 2, 2]]
    assert mix_figures.account(FEW[:0], REASONS).to_numpy().tolist() == [["all", 0, 0]]
    assert "Dropped, in this order: nothing." in mix_figures.plot_waterfall(kept, REASONS)[1]


def test_a_row_without_a_source_is_no_row_that_vanishes():
    with pytest.raises(ValueError, match="do not add up to the 8 lines"):
        mix_figures.account(pd.concat([FEW, FEW[:1].assign(source=None)]), REASONS)


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


def test_a_bar_too_short_to_be_seen_has_a_line_in_its_place(ledger):
    (axis,) = mix_figures.plot_waterfall(ledger, REASONS)[0].axes
    for line, pieces in enumerate(bars_of(axis)[1:], start=1):
        end = pieces["truthy"][1]
        assert any(set(mark.get_xdata()) == {end} and max(mark.get_ydata()) > line for mark in axis.lines)


def test_a_source_has_one_colour_in_every_figure(ledger):
    figures = draw_all(ledger)
    colours = dict(zip(NAMES, (colour.lower() for colour in SEQUENCE), strict=True))
    (axis,) = figures["waterfall"][0].axes
    assert {bars.get_label(): to_hex(bars[0].get_facecolor()) for bars in axis.containers} == colours
    left, right = figures["lengths"][0].axes
    lines = {line.get_label(): line.get_color().lower() for line in right.lines if line.get_label()[0] != "_"}
    assert lines == colours | {"all": "black"}
    assert [to_hex(bar.get_facecolor()) for bar in left.patches] == list(colours.values())


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


@pytest.mark.parametrize("ratings", [[9, 9.5, 8.5, 8.75, 8.99, 10], [0, 3, 9, 12], [9], [8.9]])
def test_every_rating_is_in_a_bar_of_its_colour(ratings):
    """Also one just below the threshold, and one outside of the scale."""
    ledger = ledger_of(*(("math", rating, None, 1, 1, 1, None) for rating in ratings))
    (axis,) = mix_figures.plot_ratings(ledger, SOURCES)[0].axes
    kept, low = map(sum, zip(*heights(axis).values(), strict=True))
    assert kept == sum(rating >= 9 for rating in ratings) and kept + low == len(ratings)


def test_only_sources_with_ratings_have_a_panel(ledger):
    figure, alt = mix_figures.plot_ratings(ledger, SOURCES)
    titles = [axis.get_title().split(":")[0] for axis in figure.axes]
    assert titles == NAMES[:4]
    for axis, source in zip(figure.axes, SOURCES, strict=False):
        part = ledger[ledger["source"] == source.name]["rating"]
        assert axis.get_title() == f"{source.name}: {part.isna().sum():,} without a rating"
        kept, low = map(sum, zip(*heights(axis).values(), strict=True))
        assert (kept, low) == ((part >= source.at_least).sum(), (part < source.at_least).sum())
        low, high = axis.get_xlim()
        assert low < 1 and high > source.best


def test_three_panels_leave_the_fourth_place_empty(ledger):
    figure, _ = mix_figures.plot_ratings(ledger, SOURCES[:3])
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]


def test_ratings_without_a_threshold_and_no_ratings():
    ledger = ledger_of(("a", 4, None, 1, 1, 1, None), ("b", NONE, None, 1, 1, 1, None))
    figure, alt = mix_figures.plot_ratings(ledger, [rule("a"), rule("b")])
    (axis,) = figure.axes
    assert heights(axis) == {4: (1, 0)} and "a: no threshold, reached by 1 of 1" in alt
    assert not [line for line in axis.lines if line.get_linestyle() == "--"]
    for sources in ([rule("b")], [rule("a source of no rows")], []):
        figure, alt = mix_figures.plot_ratings(ledger, sources)
        assert alt == "Histograms of the ratings. No source has any." and figure.axes[0].get_title() in alt


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


def test_boxes_show_quartiles_and_medians(ledger):
    left, right = mix_figures.plot_lengths(ledger)[0].axes
    medians = [line for line in left.lines if len(set(line.get_ydata())) == 2 and max(line.get_ydata()) % 1]
    known = ledger.dropna(subset=["prompt_tokens"])
    for name, bar, median in zip(NAMES, left.patches, medians, strict=False):
        part = known[known["source"] == name]
        whole = part["prompt_tokens"] + np.maximum(part["chosen_tokens"], part["rejected_tokens"])
        quartiles = whole.quantile([0.25, 0.5, 0.75]).tolist()
        box = [bar.get_x(), median.get_xdata()[0], bar.get_x() + bar.get_width()]
        assert box == pytest.approx(quartiles)
    assert left.get_xscale() == right.get_xscale() == "log"
    (all_pairs,) = [line for line in right.lines if line.get_label() == "all"]
    whole = known["prompt_tokens"] + np.maximum(known["chosen_tokens"], known["rejected_tokens"])
    shares = [100 * (whole > window).mean() for window in (512, 768, 1024, 1536, 2048)]
    assert list(all_pairs.get_ydata()) == pytest.approx(shares)


def test_no_lengths_is_said():
    with pytest.raises(ValueError, match="No pair has its tokens counted"):
        mix_figures.plot_lengths(FEW[FEW["prompt_tokens"].isna()])


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


def test_a_budget_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="No train pair"):
        mix_figures.token_budget(ledger_of(*NOT_COUNTED), PROFILES)


def test_the_rows_of_the_table_are_in_words():
    rows = mix_figures.budget_rows(mix_figures.token_budget(ledger_of(*COUNTED), PROFILES))
    assert rows[0] == {
        "pairs": "1,000",
        "tokens in the stock trainer": "853,000",
        "distinct tokens": "653,000",
        "on cpu": "14 days",
        "on t4": "3.7 h",
        "on l4": "2 h",
        "on a100": "45 min",
        "on h100": "15 min",
    }
    assert "853,000" in as_table(rows).to_html()


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (0.001, "0.06 min"),
        (0.99, "59 min"),
        (1, "1 h"),
        (47.9, "48 h"),
        (48, "2 days"),
        (8760, "360 days"),
        (1e6, "110 years"),
    ],
)
def test_times_in_words(hours, words):
    assert mix_figures.in_words(hours) == words


def test_the_budget_is_drawn_on_log_axes(ledger):
    budgets = mix_figures.token_budget(ledger, PROFILES)
    figure, alt = mix_figures.plot_budget(budgets)
    left, right = figure.axes
    assert left.get_xscale() == right.get_xscale() == "log"
    assert [label.get_text() for label in right.get_yticklabels()] == list(PROFILES)
    for number, budget in enumerate(budgets):
        stock, distinct = budget["tokens in the stock trainer"], budget["distinct tokens"]
        assert list(left.lines[number].get_xdata()) == [stock, distinct] and stock > distinct
        assert list(right.lines[number].get_xdata()) == list(budget["hours"].values())
        for words in (f"pairs {budget['pairs']:,}", f"{stock:,}", f"{distinct:,}"):
            assert words in alt
    written = [text.get_text() for text in right.texts]
    for budget in budgets:
        assert all(mix_figures.in_words(hours) in written for hours in budget["hours"].values())
    figure.canvas.draw()
    for text in right.texts:  # beside its point, and not upon it
        point = right.transData.transform(text.xy)[0]
        assert not text.get_window_extent().x0 - 3 < point < text.get_window_extent().x1 + 3
    pairs = (ledger["split"] == "train").sum()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1,000 pairs", f"all {pairs:,} train pairs"]


# --- all of them -----------------------------------------------------------------------------------------------


def texts_of(figure) -> list[Text]:
    """All that is written; ticks that lie outside of an axis exist, but are not drawn."""
    axes = [axis for axis in figure.axes if axis.axison]
    texts = list(figure.texts)
    texts += [text for axis in axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts)]
    legends = figure.legends + [axis.get_legend() for axis in axes if axis.get_legend()]
    texts += [text for legend in legends for text in (*legend.get_texts(), legend.get_title())]
    for shown in [*axes, *(child for axis in axes for child in axis.child_axes)]:
        for side in (shown.xaxis, shown.yaxis):
            low, high = sorted(side.get_view_interval())
            ticks = [*side.get_major_ticks(), *side.get_minor_ticks()]
            seen = [tick for tick in ticks if low <= tick.get_loc() <= high]
            texts += [label for tick in seen for label in (tick.label1, tick.label2)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def overlapping(figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie upon each other, and texts that are not whole within the figure."""
    figure.canvas.draw()
    frame, found = figure.bbox.padded(1), []
    boxes = [(text.get_text().strip(), text.get_window_extent().padded(-0.5)) for text in texts_of(figure)]
    for number, (text, box) in enumerate(boxes):
        if not (frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)):
            found.append((text, "the edge"))
        found += [(text, other) for other, its_box in boxes[number + 1 :] if box.overlaps(its_box)]
    return found


@pytest.mark.parametrize("name", ["waterfall", "ratings", "lengths", "budget"])
def test_no_text_lies_on_another(ledger, name):
    assert not overlapping(draw_all(ledger)[name][0])


def test_texts_that_lie_on_each_other_are_found():
    figure, _ = mix_figures.plot_waterfall(made_up(SMALL), REASONS)
    figure.axes[0].text(600, 0, "an intruder", va="center")
    figure.text(0.99, 0.1, "beyond the edge")
    assert overlapping(figure) == [("beyond the edge", "the edge"), ("600", "an intruder")]


def test_every_kind_of_text_is_looked_at():
    figures = draw_all(made_up(SMALL))
    words = {}
    for name, (figure, _) in figures.items():
        figure.canvas.draw()
        words[name] = {text.get_text().strip() for text in texts_of(figure)}
    assert {"rows in", "kept", "600", "truthy", "rows"} <= words["waterfall"]
    assert {"threshold 9", "1", "10", "rows", "capybara: 1 without a rating"} <= words["ratings"]
    assert {"all", "2,048", "% of pairs", "500"} <= words["lengths"] and any(
        "math (" in word for word in words["lengths"]
    )
    assert {"1,000 pairs", "a100", "1 h", "Tokens of one epoch"} <= words["budget"]


def test_everything_is_drawn_from_the_whole_mix_in_no_time():
    ledger = made_up(REAL)
    assert len(ledger) == 93_299
    draw_all(made_up(SMALL))  # what matplotlib loads at its first figure is not counted
    start = time.process_time()
    for figure, _ in draw_all(ledger).values():
        figure.savefig(io.BytesIO(), format="png", dpi=110)
    assert time.process_time() - start < 3
