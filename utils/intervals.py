"""How well an average is known: Wilson's interval of a share, a bootstrap of any mean, and how many rows a width takes.

Left out: what no interval holds, such as rows that are not like those the model will meet.
"""

import math

Z = 1.96  # 95 % of a normal distribution lies within so many standard deviations


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was seen among a number of rows (Wilson, 1927).

    Unlike the share plus or minus 1.96 standard errors it stays within 0 and 1, and holds for few rows too.

    Example:
        >>> [round(end, 2) for end in wilson(0.6, 10)]
        [0.31, 0.83]
    """
    middle = (share + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(share * (1 - share) / rows + Z * Z / (4 * rows * rows))
    # Where all rows are alike that end is the share itself, which rounding may miss.
    return (max(0.0, middle - half) if share else 0.0), (min(1.0, middle + half) if share < 1 else 1.0)


def rows_for(half_width: float, share: float = 0.5) -> int:
    """Return how many rows make a share known within plus or minus `half_width` (95 %).

    Example:
        >>> rows_for(0.07)
        196
    """
    return math.ceil(round(share * (1 - share) * (Z / half_width) ** 2, 6))


def bootstrap(values, resamples: int = 2000, seed: int = 42) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by drawing its rows again and again (percentile bootstrap; Efron, 1979).

    To compare two models on the same rows, give it their differences row by row: what makes a row hard for both drops
    out, and the interval of the difference is narrower than those of the two models suggest.

    Args:
        values: one number a row.
        resamples: how often as many rows as there are are drawn, each row perhaps several times or never.
        seed: of the draws.

    Raises:
        ValueError: if there is no row, or a value is not a number.

    Example:
        >>> low, high = bootstrap([0.0, 1.0] * 50)
        >>> 0.38 < low < 0.42 and 0.58 < high < 0.62
        True
    """
    import numpy as np

    rows = np.asarray(values, dtype=float)
    if rows.ndim != 1 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(
            f"No interval of {rows.size} values in {rows.ndim} dimensions, {int((~np.isfinite(rows)).sum())} of them "
            "not finite: give one finite number for each row, and at least one."
        )
    drawn = np.random.default_rng(seed).integers(len(rows), size=(resamples, len(rows)))
    low, high = np.quantile(rows[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
