"""Intervals and tests that hold at every look: by hand, by scipy, and by many runs that stop."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from longctx.eval.sequential import anytime_interval, anytime_mcnemar
from longctx.eval.stats import Interval, mcnemar_exact, wilson


def test_by_hand() -> None:
    assert anytime_interval(0, 0) == (0.0, 1.0)
    # One right answer: M(p) = B(3/2, 1/2) / B(1/2, 1/2) / p = 1 / (2 p), which is 20 at 1/40.
    assert anytime_interval(1, 1) == (pytest.approx(1 / 40), 1.0)
    assert anytime_interval(0, 1) == (0.0, pytest.approx(39 / 40))
    # Two: B(5/2, 1/2) / B(1/2, 1/2) = 3/8.
    assert anytime_interval(2, 2).low == pytest.approx(math.sqrt(3 / 160))


def test_it_is_wider_than_wilsons_and_narrows() -> None:
    for k, n in ((11, 22), (20, 22), (33, 33), (90, 110)):
        found, once = anytime_interval(k, n), wilson(k, n)
        assert found.low < once.low <= once.high <= found.high
    widths = [anytime_interval(0.9 * n, n).high - anytime_interval(0.9 * n, n).low for n in
              (20, 80, 320)]  # fmt: skip
    assert widths == sorted(widths, reverse=True)


def test_the_mixture_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for k, n in ((3, 10), (20, 22), (50, 110)):
        for p in anytime_interval(k, n):
            mixture = stats.betabinom.pmf(k, n, 0.5, 0.5)
            assert mixture / stats.binom.pmf(k, n, p) == pytest.approx(20, rel=1e-6)
    mixture = stats.betabinom.pmf(9, 10, 0.5, 0.5) / stats.binom.pmf(9, 10, 0.5)
    assert anytime_mcnemar(1, 9) == pytest.approx(1 / mixture)


def test_mcnemar_at_every_look() -> None:
    assert anytime_mcnemar(0, 0) == 1.0
    assert anytime_mcnemar(2, 9) == anytime_mcnemar(9, 2)
    for pairs in ((0, 8), (1, 12), (3, 20)):
        assert mcnemar_exact(*pairs) < anytime_mcnemar(*pairs) < 0.05
    assert anytime_mcnemar(5, 5) == 1.0


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.85, 0.95])
def test_the_truth_is_left_out_at_some_look_in_one_run_of_twenty_at_most(truth: float) -> None:
    """Looked at after every fifth sample: the fixed interval fails in far more runs."""
    rng = np.random.default_rng(17)
    found = np.cumsum(rng.random((2000, 110)) < truth, axis=1)

    def ever_left_out(interval: Callable[[int, int], Interval]) -> float:
        out = np.zeros(len(found), dtype=bool)
        for n in range(5, 111, 5):
            known = {k: interval(k, n) for k in set(found[:, n - 1].tolist())}
            out |= [not known[k].low <= truth <= known[k].high for k in found[:, n - 1].tolist()]
        return float(out.mean())

    assert ever_left_out(anytime_interval) <= 0.05
    assert ever_left_out(wilson) > 0.15


def test_equal_arms_are_told_apart_at_some_look_in_one_run_of_twenty_at_most() -> None:
    rng = np.random.default_rng(19)
    wins = np.cumsum(rng.random((2000, 80)) < 0.5, axis=1)
    told = [
        any(anytime_mcnemar(int(k), n - int(k)) < 0.05 for n, k in enumerate(run, start=1))
        for run in wins
    ]
    assert np.mean(told) <= 0.05
