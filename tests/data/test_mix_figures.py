"""The pictures of a mix: each shows the numbers of its ledger, and says them in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.data import mix_figures
from utils.data.sources import Source

NONE = float("nan")


@pytest.fixture
def ledger() -> pd.DataFrame:
    lines = [
        ("a", 5.0, None, 100, 200, 300, "train"),
        ("a", 5.0, "answer too long", 100, 2000, 300, None),
        ("a", 3.0, "score too low", NONE, NONE, NONE, None),
        ("a", NONE, "no score", NONE, NONE, NONE, None),
        ("b", NONE, None, 40, 50, 60, "test"),
        ("b", NONE, "one of ours", 600, 10, 20, None),
    ]
    columns = ["source", "rating", "reason", "prompt_tokens", "chosen_tokens", "rejected_tokens", "split"]
    return pd.DataFrame(lines, columns=columns)


def test_the_waterfall_loses_what_the_reasons_take(ledger):
    figure, alt = mix_figures.plot_waterfall(ledger)
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [
        *("rows in", "no score", "score too low", "answer too long", "one of ours", "kept")
    ]
    widths = {container.get_label(): [bar.get_width() for bar in container] for container in axis.containers}
    assert widths == {"a": [4, 1, 1, 1, 0, 1], "b": [2, 0, 0, 0, 1, 1]}
    ends = [
        max(container[line].get_x() + container[line].get_width() for container in axis.containers) for line in range(6)
    ]
    assert ends == [6, 6, 5, 4, 3, 2]  # a reason ends where the one before it begins
    assert alt.startswith("Waterfall of 6 rows from 2 sources to 2 that are kept.") and "one of ours 1" in alt
    plt.close(figure)


def test_ratings_are_cut_at_the_threshold(ledger):
    made = [Source("a", "", rating="score", at_least=5), Source("b", "")]
    figure, alt = mix_figures.plot_ratings(ledger, made)
    heights = [[bar.get_height() for bar in container] for container in figure.axes[0].containers]
    assert [sum(each) for each in heights] == [2, 1]  # kept, and not
    assert alt == ("Histograms of the ratings. a: threshold 5, reached by 2 of 3 ratings up to 5; 1 without a rating.")
    plt.close(figure)
    figure, alt = mix_figures.plot_ratings(ledger[ledger.source == "b"], made)
    assert alt == "Histograms of the ratings. No source has any."
    plt.close(figure)


def test_lengths_are_those_of_the_prompt_with_the_longer_answer(ledger):
    figure, alt = mix_figures.plot_lengths(ledger, max_lengths=(512, 1024), chosen=700)
    assert alt == (
        "Lengths of 4 pairs. Median tokens: a 1,250, b 360. Share that does not fit: 50.0 % at 512, 25.0 % at 700, "
        "25.0 % at 1,024."
    )
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    assert np.array_equal(lines["a"], [50, 50, 50]) and np.array_equal(lines["all"], [50, 25, 25])
    plt.close(figure)
    with pytest.raises(ValueError, match="no lengths to draw"):
        mix_figures.plot_lengths(ledger[2:4])
