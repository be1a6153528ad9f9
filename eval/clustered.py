"""Figures from samples that share texts: what some texts, each asked several times, can tell.

Samples of one text are right or wrong together, so many of them are worth less than as many of
independent texts. The unit here is the text: intervals widen by how much texts differ, and the
paired test turns the signs of whole texts. Pure functions of numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from longctx.eval.stats import Interval, wilson

ALPHA = 0.05
# Up to so many texts every pattern of signs is looked at; of more, whose sums are not whole
# numbers, so many patterns are drawn.
_ENUMERATED, _DRAWN = 16, 99_999
_ROUNDING = 1e-9


def clustered_interval(groups: Sequence[Sequence[float]], alpha: float = ALPHA) -> Interval:
    """The mean's interval, for one sequence of scores per text.

    Wilson's, of the effective number of samples (their number over the design effect) and with the
    quantile of Student's t for texts - 1 degrees of freedom (Korn and Graubard 1998; Franco et al.
    2019). The design effect is that of the texts and one more, half of which is right: where all
    or none is right, texts show no difference, and would be taken for having none. Between 1 and
    the samples of a text. One text tells nothing: 0 to 1.
    """
    filled = [group for group in groups if len(group)]
    texts, n = len(filled), sum(map(len, filled))
    if texts < 2:
        return Interval(0.0, 1.0)
    sizes = np.array([len(group) for group in filled], dtype=float)
    totals = np.array([math.fsum(group) for group in filled])
    more = float(sizes.mean())
    effect = design_effect(np.append(totals, more / 2), np.append(sizes, more))
    effective = n / min(max(effect, 1.0), n / texts)
    mean = math.fsum(totals) / n
    return wilson(mean * effective, effective, t_quantile(1 - alpha / 2, texts - 1))


def difference_interval(groups: Sequence[Sequence[float]], alpha: float = ALPHA) -> Interval:
    """The interval of a mean of paired differences from -1 to 1, one sequence of them per text.

    Two texts are added, one that speaks for each arm, so that equal differences leave some doubt:
    with one pair a text that is Bonett and Price's interval (2012). Where texts are shared, the
    two speak half as loud, and the quantile is Student's for texts - 1 degrees of freedom. One
    shared text tells nothing: -1 to 1.
    """
    filled = [group for group in groups if len(group)]
    texts, n = len(filled), sum(map(len, filled))
    alone = texts == n
    if texts == 0 or (texts < 2 and not alone):
        return Interval(-1.0, 1.0)
    totals = np.array([math.fsum(group) for group in filled])
    sizes = np.array([len(group) for group in filled], dtype=float)
    more = float(sizes.mean())
    voice = more if alone else more / 2
    totals, sizes = np.append(totals, [voice, -voice]), np.append(sizes, [more, more])
    mean = float(totals.sum() / sizes.sum())
    variance = float(((totals - sizes * mean) ** 2).sum()) / float(sizes.sum()) ** 2
    if not alone:
        variance *= texts / (texts - 1)
    normal = NormalDist().inv_cdf(1 - alpha / 2)
    quantile = normal if alone else t_quantile(1 - alpha / 2, texts - 1)
    half = quantile * math.sqrt(variance)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def design_effect(totals: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """By how much the mean varies more than that of as many independent samples would.

    Args:
        totals: the sum of scores of each text.
        sizes: its samples.
    """
    texts, n = len(sizes), float(sizes.sum())
    mean = float(totals.sum()) / n
    between = texts / (texts - 1) * float(((totals - sizes * mean) ** 2).sum()) / n**2
    independent = mean * (1 - mean) / n
    return between / independent if independent > 0 else 1.0


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: int) -> float:
    """Student's t: the value below which a share `p` of at least one half lies."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _t_below(middle, freedom) < p else (low, middle)
    return high


def _t_below(t: float, freedom: int) -> float:
    """The finite series in the angle atan(t / sqrt(freedom)) (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= (step - 1) / step * cosine**2
        total += term
    share = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + share / 2


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p that two arms are equally good, from the summed difference of each text.

    Were they equal, each text's difference might as well have the other sign: p is the share of
    the patterns of signs whose sum is as far from zero. Exact up to 16 texts that differ, and for
    whole numbers; else by patterns that are drawn, the observed one counted among them.
    """
    found = np.abs(np.array([one for one in differences if abs(one) > _ROUNDING]))
    observed = abs(math.fsum(differences)) - _ROUNDING
    if not len(found):
        return 1.0
    if len(found) > _ENUMERATED and np.allclose(found, np.round(found), atol=_ROUNDING):
        return _by_counting(np.round(found).astype(int), observed)
    if len(found) <= _ENUMERATED:
        sums = np.zeros(1)
        for one in found:
            sums = np.concatenate([sums + one, sums - one])
        return float((np.abs(sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    signs = rng.integers(2, size=(_DRAWN, len(found))) * 2.0 - 1
    return float((1 + (np.abs(signs @ found) >= observed).sum()) / (_DRAWN + 1))


def _by_counting(found: npt.NDArray[np.int_], observed: float) -> float:
    """The distribution of the signed sum, text by text."""
    most = int(found.sum())
    shares = np.zeros(2 * most + 1)
    shares[most] = 1.0
    for one in found:
        shares = (np.roll(shares, one) + np.roll(shares, -one)) / 2
    return min(1.0, float(shares[np.abs(np.arange(-most, most + 1)) >= observed].sum()))


def texts_for(tests: int, alpha: float = ALPHA) -> int:
    """The fewest texts with which one of so many tests can still hold after Holm's correction.

    The least p of n texts is 2 / 2^n, where all of them point one way.
    """
    return next(n for n in itertools.count(1) if tests * 2.0 ** (1 - n) < alpha)
