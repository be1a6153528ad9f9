"""Which interval and which paired test count, by how the samples came to be.

    every sample has a text of its own       Wilson, McNemar
    samples share texts                      cluster-robust; signs of whole texts
    close lengths were looked at again       the 5 % shared by the two looks
    the run ended by what it had found       the same, made to hold at every look

A text is a window of the haystack with its needle: the unit of inference. Pure functions of scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from longctx.eval.clustered import ALPHA, clustered_interval
from longctx.eval.sequential import anytime_interval
from longctx.eval.stats import Interval, wilson

THRESHOLD = 0.85
# Fewer shared texts give no effective length, whatever the interval.
TEXTS_NEEDED = 10

# Of a normal score beyond which half of the 5 % lie: the second look's share of them.
_Z_SHARED = NormalDist().inv_cdf(1 - ALPHA / 4)

# The scores of one length, one sequence per text.
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Looks:
    """When a run looked at what it had found, and might end by it.

    Attributes:
        most: 1 for a fixed grid; else the most repeats, after each of which it may have ended.
        first: samples of a length at the first of two looks, where there was no other than a
            second one at lengths that were close; None: no such rule.
        more: samples that the second look adds to a length.
    """

    most: int = 1
    first: int | None = None
    more: int = 0

    @property
    def fixed(self) -> bool:
        return self.most == 1 and self.first is None

    @property
    def any_time(self) -> bool:
        """Whether the run may have ended after any repeat."""
        return self.most > 1

    @property
    def shares(self) -> int:
        """Into how many the 5 % of a test are shared, where it has no form for all looks."""
        return self.most if self.first is None else 2

    def joined(self, other: Looks) -> Looks:
        """Of a comparison of two runs: the more looks of both."""
        return self if (self.most, self.first or 0) >= (other.most, other.first or 0) else other


FIXED = Looks()


def pooled_interval(groups: Scores, looks: Looks = FIXED) -> Interval:
    """The 95 % interval of a length's score.

    Independent samples of a run that may have ended at any look get an interval that holds at
    each; shared texts one whose 5 % are dealt out to the looks. With more samples than at the first
    of two looks, a length gets Wilson's of 97.5 %.

    Args:
        groups: one sequence of scores per text.
    """
    return _pooled(tuple(map(tuple, groups)), looks)


@lru_cache(maxsize=4096)  # summary, terminal, pictures and page all ask
def _pooled(groups: tuple[tuple[float, ...], ...], looks: Looks) -> Interval:
    if shared(groups):
        return clustered_interval(groups, ALPHA / looks.shares)
    scores = [score for group in groups for score in group]
    total, n = math.fsum(scores), len(scores)
    again = looks.first is not None and n > looks.first
    return independent_interval(total, n, looks, again=again)


def independent_interval(total: float, n: int, looks: Looks, *, again: bool) -> Interval:
    """Of samples with texts of their own; `again`: some are of the second look."""
    if looks.any_time:
        return anytime_interval(total, n)
    return wilson(total, n, _Z_SHARED) if again else wilson(total, n)


def shared(groups: Scores) -> bool:
    """Whether samples share a text."""
    return any(len(group) > 1 for group in groups)


def count(groups: Scores) -> int:
    return sum(map(len, groups))


def texts_of(groups: Scores) -> int:
    return sum(len(group) > 0 for group in groups)


def samples_needed(looks: Looks = FIXED) -> int:
    """The fewest samples, all of them right, that can pass the threshold: 22, or 33 in a run that
    ends by what it has found."""
    return _samples_needed(looks.any_time)


@lru_cache(maxsize=2)
def _samples_needed(sequential: bool) -> int:
    interval = anytime_interval if sequential else wilson
    return next(n for n in itertools.count(1) if interval(n, n).low >= THRESHOLD)
