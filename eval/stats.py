"""Figures from counts: binomial intervals. Pure functions of numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

_Z95 = 1.959963984540054


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: float, trials: int, z: float = _Z95) -> Interval:
    """Wilson's score interval: unlike the normal one it stays inside 0-1 and is wide at k = n.

    `successes` may be a sum of partial scores.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / denominator
    # At k = 0 and k = n the bound is 0 or 1 exactly; the formula leaves 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)
