"""Intervals: of a share, and of any mean by drawing rows again."""

import numpy as np
import pytest

from utils.intervals import bootstrap, rows_for, wilson


def test_a_bootstrap_of_many_rows_is_the_normal_interval():
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=4000)
    low, high = bootstrap(rows)
    error = rows.std() / len(rows) ** 0.5
    assert low == pytest.approx(rows.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(rows.mean() + 1.96 * error, abs=0.15 * error)
    assert bootstrap(rows) == (low, high) != bootstrap(rows, seed=1)


def test_differences_of_the_same_rows_are_known_better():
    """What makes a row hard for both models drops out."""
    draws = np.random.default_rng(4)
    hard = draws.normal(size=300)
    first, second = hard + 0.1 * draws.normal(size=300), hard + 0.1 + 0.1 * draws.normal(size=300)
    paired, apart = bootstrap(second - first), bootstrap(second)
    assert 0 < paired[0] < 0.1 < paired[1] and paired[1] - paired[0] < 0.3 * (apart[1] - apart[0])


def test_rows_that_are_all_alike_have_no_width():
    """Which is why a share of 0 or 1 gets Wilson's interval."""
    assert bootstrap([1.0] * 6) == bootstrap([1.0]) == (1.0, 1.0)
    assert wilson(1.0, 6)[0] < 0.7


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="one finite number for each row"):
        bootstrap(values)


def test_a_share_is_within_its_interval_which_is_wilsons():
    for rows in (1, 2, 7, 10, 59):
        for right in range(rows + 1):
            share = right / rows
            low, high = wilson(share, rows)
            assert 0 <= low <= share <= high <= 1
            middle = (share + 1.96**2 / (2 * rows)) / (1 + 1.96**2 / rows)
            half = 1.96 / (1 + 1.96**2 / rows) * (share * (1 - share) / rows + (1.96 / (2 * rows)) ** 2) ** 0.5
            assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-4)
    assert [rows_for(half_width) for half_width in (0.03, 0.07, 0.1)] == [1068, 196, 97]
