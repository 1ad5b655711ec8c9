"""How well an average is known: the interval of a share or of any mean, and how many rows a width takes."""

import math

Z = 1.96  # 95 % of a normal distribution is within so many standard deviations


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of a number of rows (Wilson, 1927): within 0 and 1, and right for few rows.

    Example:
        >>> [round(end, 2) for end in wilson(0.6, 10)]
        [0.31, 0.83]
    """
    from scipy.stats import binomtest

    interval = binomtest(round(share * rows), rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def rows_for(half_width: float, share: float = 0.5) -> int:
    """Return how many rows make a share known within plus or minus `half_width` (95 %).

    Example:
        >>> rows_for(0.07)
        196
    """
    return math.ceil(round(share * (1 - share) * (Z / half_width) ** 2, 6))


def bootstrap(values, resamples: int = 2000, seed: int = 42) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by drawing its rows again and again (percentile bootstrap; Efron, 1979).

    Of two models on the same rows, give it the differences row by row: what makes a row hard for both drops out.
    Raises `ValueError` without a row, or if a value is not a finite number.
    """
    import numpy as np
    from scipy import stats

    rows = np.asarray(values, dtype=float)
    if rows.ndim != 1 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(f"No interval of {rows.size} values: give one finite number for each row, and at least one.")
    if len(rows) == 1:
        return float(rows[0]), float(rows[0])
    found = stats.bootstrap((rows,), np.mean, n_resamples=resamples, method="percentile", rng=seed, batch=200)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
