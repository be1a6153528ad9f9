"""Which lengths are looked at again, and what the two looks claim: exact, without chance."""

from __future__ import annotations

import math

import pytest

from longctx.eval.needle.close import close_misses, is_close, pass_chance
from longctx.eval.needle.effective import effective_length
from longctx.eval.needle.inference import FIXED, Looks, Scores, pooled_interval
from longctx.eval.stats import wilson

FIRST, MORE = 22, 33
TWICE = Looks(first=FIRST, more=MORE)
Z_HALF = 2.2414027276049473  # of the normal distribution, beyond which 2.5 % lie


def missing(missed: int, n: int) -> Scores:
    return [[0.0]] * missed + [[1.0]] * (n - missed)


def chance(missed: int, n: int, p: float) -> float:
    return math.comb(n, missed) * p ** (n - missed) * (1 - p) ** missed


def test_one_or_two_misses_of_22_are_close() -> None:
    found = [missed for missed in range(FIRST + 1) if is_close(missing(missed, FIRST), MORE)]
    assert found == [1, 2]
    assert close_misses(FIRST, MORE) == (1, 2)
    # One of 34 passes, so that two and three are close.
    assert close_misses(34, 51) == (2, 3)


def test_what_passes_fails_for_certain_or_is_too_little_is_not_close() -> None:
    assert not is_close(missing(0, FIRST), MORE)
    assert not is_close(missing(3, FIRST), MORE)
    assert not is_close(missing(1, 21), MORE)  # one was never scored
    assert not is_close([[1.0, 1.0]] * 10 + [[1.0, 0.0]], MORE)  # of shared texts
    assert not is_close(missing(1, FIRST), 5)  # 26 of 27 would not do
    assert is_close([[0.5], *missing(0, 21)], MORE)  # half an answer is half a miss


def test_a_length_looked_at_again_has_an_interval_of_97_5_percent() -> None:
    assert pooled_interval(missing(2, FIRST), TWICE) == wilson(20, 22)
    low, high = pooled_interval(missing(2, 55), TWICE)
    assert (low, high) == pytest.approx(wilson(53, 55, Z_HALF), abs=1e-12)
    passing = [m for m in range(6) if pooled_interval(missing(m, 55), TWICE).low >= 0.85]
    assert passing == [0, 1, 2]
    assert effective_length({512: missing(2, 55)}, TWICE).length == 512
    assert effective_length({512: missing(0, 22)}, TWICE).length == 512
    assert effective_length({512: missing(3, 55)}, TWICE).length is None
    # Where nobody looked twice, three of 55 pass.
    assert effective_length({512: missing(3, 55)}, FIXED).length == 512


@pytest.mark.parametrize("others", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("truth", [0.7, 0.8, 0.85, 0.9, 0.95, 0.98])
def test_intervals_hold_the_truth_in_93_percent(truth: float, others: float) -> None:
    """`others`: how often another method makes the length be looked at again."""
    held = 0.0
    for missed in range(FIRST + 1):
        here = chance(missed, FIRST, truth)
        again = 1.0 if is_close(missing(missed, FIRST), MORE) else others
        low, high = pooled_interval(missing(missed, FIRST), TWICE)
        held += here * (1 - again) * (low <= truth <= high)
        for more in range(MORE + 1):
            low, high = pooled_interval(missing(missed + more, FIRST + MORE), TWICE)
            held += here * again * chance(more, MORE, truth) * (low <= truth <= high)
    assert held >= 0.93


def test_false_passes_and_power() -> None:
    assert pass_chance(0.8, TWICE, FIRST) < 0.01
    assert pass_chance(0.85, TWICE, FIRST) < 0.035
    assert pass_chance(0.98, TWICE, FIRST) > 0.9
    # For comparison: without a second look, and with the intervals of a fixed grid at it.
    assert pass_chance(0.98, FIXED, FIRST) == pytest.approx(0.98**22)


def test_comparisons_of_two_runs_allow_for_the_more_looks_of_both() -> None:
    assert FIXED.joined(TWICE) == TWICE.joined(FIXED) == TWICE
    assert TWICE.joined(Looks(10)) == Looks(10).joined(FIXED) == Looks(10)
    assert FIXED.joined(FIXED).fixed and not TWICE.fixed and not TWICE.any_time
