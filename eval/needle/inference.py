"""Which interval and which paired test count, by how the samples came to be.

    every sample has a text of its own       Wilson, McNemar
    samples share texts                      cluster-robust; signs of whole texts
    the run ended by what it had found       the same, made to hold at every look

A text is a window of the haystack with its needle: the unit of inference. Pure functions of scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

from longctx.eval.clustered import ALPHA, clustered_interval
from longctx.eval.sequential import anytime_interval
from longctx.eval.stats import Interval, wilson

THRESHOLD = 0.85
# Fewer shared texts give no effective length, whatever the interval.
TEXTS_NEEDED = 10

# The scores of one length, one sequence per text.
Scores = Sequence[Sequence[float]]


def pooled_interval(groups: Scores, looks: int = 1) -> Interval:
    """The 95 % interval of a length's score.

    Args:
        groups: one sequence of scores per text.
        looks: 1 for a fixed grid; else the most repeats, after each of which the run may have
            ended: independent samples get an interval that holds at any look, shared texts one
            whose 5 % are dealt out to the looks.
    """
    return _pooled(tuple(map(tuple, groups)), looks)


@lru_cache(maxsize=4096)  # summary, terminal, pictures and page all ask
def _pooled(groups: tuple[tuple[float, ...], ...], looks: int) -> Interval:
    if shared(groups):
        return clustered_interval(groups, ALPHA / looks)
    scores = [score for group in groups for score in group]
    total, n = math.fsum(scores), len(scores)
    return wilson(total, n) if looks == 1 else anytime_interval(total, n)


def shared(groups: Scores) -> bool:
    """Whether samples share a text."""
    return any(len(group) > 1 for group in groups)


def count(groups: Scores) -> int:
    return sum(map(len, groups))


def texts_of(groups: Scores) -> int:
    return sum(len(group) > 0 for group in groups)


def samples_needed(looks: int = 1) -> int:
    """The fewest samples, all of them right, that can pass the threshold: 22, or 33 in a run that
    ends by what it has found."""
    return _samples_needed(looks > 1)


@lru_cache(maxsize=2)
def _samples_needed(sequential: bool) -> int:
    interval = anytime_interval if sequential else wilson
    return next(n for n in itertools.count(1) if interval(n, n).low >= THRESHOLD)
