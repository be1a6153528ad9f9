"""Which lengths are close: they do not pass at the first look, and a second one could carry them.

    misses of 22    0 passes    1, 2 close: 33 samples more, 2 misses of 55 pass    3, ... fail

Pure functions of scores.
"""

from __future__ import annotations

import math
from functools import lru_cache

from longctx.eval.needle.inference import (
    THRESHOLD,
    Looks,
    Scores,
    count,
    independent_interval,
    pooled_interval,
    samples_needed,
    shared,
)

# More misses than may pass at the first look, and still close.
_CLOSE = 2


def is_close(groups: Scores, more: int) -> bool:
    """Whether a length does not pass, yet `more` samples could still carry it.

    Close are one or two misses more than pass; fewer samples than could pass are not.
    """
    n, total = count(groups), sum(map(sum, groups))
    if shared(groups) or n < samples_needed():
        return False
    if pooled_interval(groups).low >= THRESHOLD or n - total > _allowed(n) + _CLOSE:
        return False
    carried = independent_interval(total + more, n + more, Looks(first=n), again=True)
    return carried.low >= THRESHOLD


@lru_cache(maxsize=64)
def _allowed(n: int) -> int:
    """The most misses of n samples that pass."""
    passing = (m for m in range(n, -1, -1) if pooled_interval(_missing(m, n)).low >= THRESHOLD)
    return next(passing, 0)


def close_misses(first: int, more: int) -> tuple[int, int]:
    """The fewest and the most misses of so many samples that are looked at again."""
    found = [
        missed
        for missed in range(_allowed(first) + _CLOSE + 1)
        if is_close(_missing(missed, first), more)
    ]
    return found[0], found[-1]


@lru_cache(maxsize=256)
def pass_chance(truth: float, looks: Looks, samples: int) -> float:
    """How often independent samples of a true score pass a length.

    Args:
        samples: of a length; at the first of two looks, where there is a second one.
    """
    chance = 0.0
    for missed in range(samples + 1):
        here = _chance(missed, samples, truth)
        if looks.first is None or not is_close(_missing(missed, samples), looks.more):
            chance += here * (pooled_interval(_missing(missed, samples)).low >= THRESHOLD)
            continue
        n = samples + looks.more
        after = (m for m in range(looks.more + 1) if _passes_again(missed + m, n, samples))
        chance += here * sum(_chance(m, looks.more, truth) for m in after)
    return chance


def _passes_again(missed: int, n: int, first: int) -> bool:
    return independent_interval(n - missed, n, Looks(first=first), again=True).low >= THRESHOLD


def _chance(missed: int, n: int, truth: float) -> float:
    return math.comb(n, missed) * truth ** (n - missed) * (1 - truth) ** missed


def _missing(missed: int, n: int) -> list[list[float]]:
    """The scores of so many samples, each of its own text."""
    return [[0.0]] * missed + [[1.0]] * (n - missed)
