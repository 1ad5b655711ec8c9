"""What notebook 09 draws is what was counted and measured."""

import pytest
from matplotlib.colors import to_hex

from utils.train import cost_figures, step_costs

pytestmark = pytest.mark.usefixtures("no_open_figures")

LENGTHS = [(20, 30, 12), (7, 5, 40)]


def widths(figure) -> dict[str, list[tuple[str, float]]]:
    """Colour and width of each bar's parts, by the label of the bar."""
    (axis,) = figure.axes
    names = [text.get_text() for text in axis.get_yticklabels()]
    labels = dict(zip((round(place, 1) for place in axis.get_yticks()), names, strict=True))
    found: dict[str, list] = {name: [] for name in labels.values()}
    for patch in axis.patches:
        place = round(patch.get_y() + patch.get_height() / 2, 1)
        found[labels[place]].append((to_hex(patch.get_facecolor()), patch.get_width()))
    return found


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:1], [*LENGTHS, (33, 8, 9)]])
def test_a_batch_is_drawn_to_scale(lengths):
    rows = step_costs.made_up_rows(lengths, 4096)
    figure, alt = cost_figures.plot_batch(rows)
    bars, counts = widths(figure), step_costs.count_tokens(rows, len(rows))
    packed = bars.pop("packed, one row")
    longest = max(prompt + max(answers) for prompt, *answers in lengths)
    assert len(bars) == 2 * len(lengths) and all(sum(width for _, width in bar) == longest for bar in bars.values())
    assert sum(width for _, width in packed) == counts["distinct"]
    padding = sum(width for bar in bars.values() for colour, width in bar if colour == "#ffffff")
    assert padding == counts["padding"] and not [width for colour, width in packed if colour == "#ffffff"]
    again = sum(width for bar in bars.values() for colour, width in bar if colour == "#d0d0d0")
    assert again - len(lengths) == counts["repeated"]  # the last token of a prompt stands twice in a packed row too
    assert f"{sum(counts.values()):,} tokens" in alt and f"{counts['distinct']:,} in one" in alt


def test_the_roof_is_the_lower_of_two_rates():
    rates = {"matrix": 1e12, "bandwidth": 1e10}
    figure, alt = cost_figures.plot_roofline(rates, {"product": (1000.0, 5e11), "norm": (0.5, 5e9)})
    (axis,) = figure.axes
    roof, *points = axis.lines
    assert dict(zip(*roof.get_data(), strict=True)) == pytest.approx({0.125: 1.25e9, 100: 1e12, 4000: 1e12})
    assert [float(line.get_ydata()[0]) for line in points] == [5e11, 5e9]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[1:] == ["product: 50% of its roof", "norm: 100% of its roof"] and "norm 5e+09 FLOP/s" in alt


def made_up_ladder(scale: float = 1.0) -> dict:
    rungs = [
        {"name": "stock", "predicted_seconds": 1.0, "seconds": 8.0, "peak_gb": 2.0 * scale},
        {"name": "packed", "predicted_seconds": 4.0, "seconds": 3.0, "peak_gb": 0.5 * scale},
        {"name": "fast", "predicted_seconds": 1.0, "seconds": 2.0, "peak_gb": 0.6 * scale},
    ]
    return {"floor_seconds": 0.5, "rungs": rungs}


@pytest.mark.parametrize(("scale", "unit", "first"), [(1.0, "GB", 2.0), (0.01, "MB", 20.0)])
def test_the_ladder_shows_what_was_measured_and_predicted(scale, unit, first):
    figure, alt = cost_figures.plot_ladder(made_up_ladder(scale))
    time, memory = figure.axes
    assert [bar.get_width() for bar in time.patches] == [8, 3, 2]
    predicted, floor = time.lines
    assert list(predicted.get_xdata()) == [1, 4, 1] and set(floor.get_xdata()) == {0.5}
    assert [text.get_text() for text in time.texts] == ["8 s, 1.0x", "3 s, 2.7x", "2 s, 4.0x"]
    assert memory.patches[0].get_width() == pytest.approx(first) and f"({unit})" in memory.get_xlabel()
    assert "packed 3 s" in alt and alt.endswith("floor 0.5 s")
