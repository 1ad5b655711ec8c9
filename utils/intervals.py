"""How well a share is known from a number of rows: Wilson's interval, and how many rows a wanted width takes.

Left out: intervals of other averages, which need the rows themselves.
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
    return max(0.0, middle - half), min(1.0, middle + half)


def rows_for(half_width: float, share: float = 0.5) -> int:
    """Return how many rows make a share known within plus or minus `half_width` (95 %).

    Example:
        >>> rows_for(0.07)
        196
    """
    return math.ceil(round(share * (1 - share) * (Z / half_width) ** 2, 6))
