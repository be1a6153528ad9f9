"""Figures that hold whenever one stops looking: for runs that end by what they have found.

A 95 % interval that is looked at after every repeat leaves the truth out at some look far more
often than in 5 % of runs. These do so in 5 % of runs over all looks together, however many there
are and whatever ends the run (Ville's inequality for a mixture of likelihood ratios: Robbins 1970;
the prior is Jeffreys'). Independent samples of scores from 0 to 1. Pure functions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from longctx.eval.stats import Interval

ALPHA = 0.05
_HALF = 0.5  # Jeffreys' prior is Beta(1/2, 1/2)


def anytime_interval(successes: float, trials: int, alpha: float = ALPHA) -> Interval:
    """Every mean that the samples so far do not speak against: M(p) < 1 / alpha, where

    M(p) = B(1/2 + k, 1/2 + n - k) / B(1/2, 1/2) / (p^k (1 - p)^(n - k))

    For partial scores M is no larger on average than for whole ones, so that it holds as well.
    """
    return _anytime(successes, trials, alpha)


@lru_cache(maxsize=4096)
def _anytime(successes: float, trials: int, alpha: float) -> Interval:
    if trials == 0:
        return Interval(0.0, 1.0)
    misses = trials - successes
    mixture = _log_beta(_HALF + successes, _HALF + misses) - _log_beta(_HALF, _HALF)

    def against(p: float) -> float:
        """log M(p); least at p = k / n, and rising to both sides of it."""
        return mixture - _times_log(successes, p) - _times_log(misses, 1 - p)

    limit, middle = -math.log(alpha), successes / trials
    low = 0.0 if successes <= 0 else _crossing(against, limit, 0.0, middle)
    high = 1.0 if misses <= 0 else _crossing(against, limit, 1.0, middle)
    return Interval(low, high)


def anytime_mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p that two arms are equally good, which holds whenever the run ended.

    The inverse of the same mixture over the pairs that just one arm got right: a fair coin, if the
    arms are equal.
    """
    pairs = first_only + second_only
    mixture = _log_beta(_HALF + first_only, _HALF + second_only) - _log_beta(_HALF, _HALF)
    return min(1.0, math.exp(-mixture - pairs * math.log(2)))


def _crossing(
    against: Callable[[float], float], limit: float, outside: float, inside: float
) -> float:
    """Where `against` passes the limit between the end of the scale and the mean."""
    for _ in range(100):
        between = (outside + inside) / 2
        if against(between) >= limit:
            outside = between
        else:
            inside = between
    return outside


def _times_log(count: float, p: float) -> float:
    return 0.0 if count <= 0 else count * math.log(p) if p > 0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
