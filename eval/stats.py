"""Figures from counts and scores: Wilson's interval, the bootstrap over documents, paired tests.

Samples of texts that are asked several times are in clustered.py, runs that end by what they have
found in sequential.py, and which of them counts where in needle/inference.py. Pure functions of
numbers: the same numbers give the same interval, the bootstrap's included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_RESAMPLES = 10_000
_Z95 = 1.959963984540054


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: float, trials: float, z: float = _Z95) -> Interval:
    """Wilson's score interval: unlike the normal one it stays inside 0-1 and is wide at k = n.

    `successes` may be a sum of partial scores, `trials` an effective number of samples.
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


def cluster_bootstrap(
    groups: Sequence[Sequence[float] | npt.NDArray[np.float64]],
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean's 95 % percentile interval when whole documents are drawn, not single samples.

    `groups` holds one sequence of scores per document: samples that share a text fail together,
    so they are worth less than as many independent ones. One document has nothing to be drawn
    against: its interval is its mean, and says nothing.
    """
    filled = [group for group in groups if len(group)]
    if not filled:
        return Interval(0.0, 1.0)
    totals = np.array([math.fsum(group) for group in filled])
    sizes = np.array([len(group) for group in filled])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(filled), size=(resamples, len(filled)))
    means = totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))


_FEWEST_DOCUMENTS = 6
_BLOCK_TOKENS, _BLOCKS_AT_LEAST, _BLOCKS_AT_MOST = 128, 8, 512


def resampling_units(
    documents: Sequence[npt.NDArray[np.float64]],
) -> tuple[str, list[npt.NDArray[np.float64]]]:
    """What a bootstrap over token losses draws: `documents`, or `blocks` of them where they are
    too few. Neighbouring tokens are hard or easy together, so single ones are never drawn."""
    if len(documents) >= _FEWEST_DOCUMENTS:
        return "documents", list(documents)
    total = sum(len(document) for document in documents)
    units: list[npt.NDArray[np.float64]] = []
    for document in documents:
        size = min(_BLOCK_TOKENS, -(-len(document) // _BLOCKS_AT_LEAST))
        size = max(size, -(-total // _BLOCKS_AT_MOST), 1)
        units += [document[start : start + size] for start in range(0, len(document), size)]
    return "blocks", units


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Two-sided p that two arms are equally good, from the pairs in which just one was right.

    Pairs in which both or none was right say nothing about which arm is better.
    """
    discordant = first_only + second_only
    fewer = min(first_only, second_only)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    return min(1.0, tail / 2 ** max(discordant - 1, 0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p corrected for the number of tests (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
