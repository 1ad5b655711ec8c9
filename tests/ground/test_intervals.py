"""Intervals: of a share, and of any mean by drawing rows again."""

import numpy as np
import pytest

from utils.intervals import bootstrap, wilson


def test_a_bootstrap_of_many_rows_is_the_normal_interval():
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=4000)
    low, high = bootstrap(rows)
    error = rows.std() / len(rows) ** 0.5
    assert low == pytest.approx(rows.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(rows.mean() + 1.96 * error, abs=0.15 * error)


def test_a_bootstrap_is_that_of_scipy():
    scipy = pytest.importorskip("scipy.stats")
    rows = np.random.default_rng(1).exponential(size=60)
    theirs = scipy.bootstrap((rows,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    assert bootstrap(rows, resamples=20_000) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_bootstrap_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(2)
    inside = [low <= 0.7 <= high for low, high in (bootstrap(draws.random(100) < 0.7, 500) for _ in range(400))]
    assert 0.91 <= np.mean(inside) <= 0.98


def test_a_seed_decides_the_draws():
    rows = np.random.default_rng(3).normal(size=50)
    assert bootstrap(rows, seed=1) == bootstrap(rows, seed=1) != bootstrap(rows, seed=2)


def test_differences_of_the_same_rows_are_known_better():
    """What makes a row hard for both models drops out."""
    draws = np.random.default_rng(4)
    hard = draws.normal(size=300)
    first, second = hard + 0.1 * draws.normal(size=300), hard + 0.1 + 0.1 * draws.normal(size=300)
    paired, apart = bootstrap(second - first), bootstrap(second)
    assert 0 < paired[0] < 0.1 < paired[1] and paired[1] - paired[0] < 0.3 * (apart[1] - apart[0])


def test_rows_that_are_all_alike_have_no_width():
    """Which is why a share of 0 or 1 gets Wilson's interval."""
    assert bootstrap([1.0] * 6) == (1.0, 1.0)
    assert wilson(1.0, 6)[0] < 0.7


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="one finite number for each row"):
        bootstrap(values)


def test_a_share_lies_within_its_interval():
    """At its ends too, where rounding would leave it out."""
    for rows in range(1, 60):
        for right in range(rows + 1):
            low, high = wilson(right / rows, rows)
            assert 0 <= low <= right / rows <= high <= 1, (right, rows)
