"""Intervals and tests of samples that share texts, against values worked out by hand and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from longctx.eval.clustered import (
    clustered_interval,
    design_effect,
    difference_interval,
    sign_flip,
    t_quantile,
    texts_for,
)
from longctx.eval.stats import wilson


def test_students_quantile_by_hand() -> None:
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(0.475 * math.pi))
    assert t_quantile(0.975, 2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))
    # R: qt(0.975, c(3, 9, 30))
    assert t_quantile(0.975, 3) == pytest.approx(3.182446305284263)
    assert t_quantile(0.975, 9) == pytest.approx(2.262157162740992)
    assert t_quantile(0.975, 30) == pytest.approx(2.0422724563012373)
    assert t_quantile(0.5, 4) == pytest.approx(0.0, abs=1e-12)


def test_students_quantile_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom, p in itertools.product((1, 2, 3, 4, 9, 10, 57, 500), (0.9, 0.975, 0.9975, 0.9999)):
        assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-9)


def test_the_design_effect_by_hand() -> None:
    # Texts that are all right or all wrong: 4 of them tell as much as 4 samples, but for 4 / 3.
    sizes = np.full(4, 11.0)
    assert design_effect(np.array([11.0, 11, 0, 0]), sizes) == pytest.approx(11 * 4 / 3)
    assert design_effect(np.array([5.0, 5, 5, 5]), sizes) == 0.0
    assert design_effect(np.array([11.0, 11, 11, 11]), sizes) == 1.0  # nothing varies


def test_the_design_effect_is_that_of_statsmodels_cluster_covariance() -> None:
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 12, size=9)
    scores = [(rng.random(size) < rng.random()).astype(float) for size in sizes]
    values, groups = np.concatenate(scores), np.repeat(np.arange(9), sizes)
    fit = api.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    mean = values.mean()
    between = float(fit.cov_params()[0, 0]) * 9 / 8
    wanted = between / (mean * (1 - mean) / len(values))
    found = design_effect(np.array([score.sum() for score in scores]), sizes.astype(float))
    assert found == pytest.approx(wanted, rel=1e-9)


def test_an_interval_by_hand() -> None:
    # Ten texts of 11, five all right and five all wrong, and one that is half right: a design
    # effect of 11 (texts - 1 = 10 in 11 / 10 cancels), so ten samples count, five of them right.
    found = clustered_interval([[1.0] * 11] * 5 + [[0.0] * 11] * 5)
    assert found == pytest.approx(wilson(5, 10, t_quantile(0.975, 9)))
    # Texts that are alike count all their samples, and Student's t stays.
    alike = [[1.0] * 5 + [0.0] * 5] * 12
    assert clustered_interval(alike) == pytest.approx(wilson(60, 120, t_quantile(0.975, 11)))


def test_all_right_is_no_proof_that_texts_are_alike() -> None:
    found = clustered_interval([[1.0] * 11] * 10)
    assert found.low == pytest.approx(0.788611, abs=1e-6)
    assert wilson(110, 110).low > 0.96 > 0.85 > found.low > wilson(10, 10).low
    assert found.high == 1.0
    assert clustered_interval([[0.0] * 11] * 10) == pytest.approx((0.0, 1 - found.low))


def test_one_text_tells_nothing() -> None:
    assert clustered_interval([[1.0] * 11]) == clustered_interval([]) == (0.0, 1.0)
    assert clustered_interval([[1.0] * 11, []]) == (0.0, 1.0)
    assert difference_interval([[1.0] * 11]) == difference_interval([]) == (-1.0, 1.0)


def test_more_looks_widen_it() -> None:
    groups = [[1.0] * 9 + [0.0] * (n % 3) for n in range(12)]
    one, ten = clustered_interval(groups), clustered_interval(groups, 0.005)
    assert ten.low < one.low < one.high < ten.high


def test_the_interval_of_a_difference_is_bonett_and_prices() -> None:
    # 4 of 12 for the one arm, 1 for the other: (5 - 2) / 14, sqrt((7 / 14 - (3 / 14)^2) / 14).
    found = difference_interval([[-1.0]] * 4 + [[1.0]] + [[0.0]] * 7)
    half = 1.959963984540054 * math.sqrt((7 / 14 - (3 / 14) ** 2) / 14)
    assert found == pytest.approx((-3 / 14 - half, -3 / 14 + half))


def test_signs_turned_by_hand() -> None:
    assert sign_flip([]) == sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([5.0]) == 1.0
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    # |1 + 2 - 3| = 0, which no pattern falls below.
    assert sign_flip([1.0, 2.0, -3.0]) == 1.0
    # Sums of 4 and -4 beside 6 and -6.
    assert sign_flip([-1.0, 2.0, 3.0]) == 4 / 8
    # Texts without a difference tell nothing.
    assert sign_flip([1.0] * 6 + [0.0] * 9) == 2 / 2**6


def test_signs_of_many_texts_are_counted_or_drawn() -> None:
    rng = np.random.default_rng(5)
    for texts in (17, 20):
        whole = [float(one) for one in rng.integers(-4, 8, size=texts)]
        by_counting = sign_flip(whole)
        # The same in halves, which are no whole numbers: drawn.
        assert sign_flip([one / 2 for one in whole]) == pytest.approx(by_counting, abs=0.01)
    assert sign_flip([1.0] * 40) == pytest.approx(2 / 2.0**40)
    assert sign_flip([0.5] * 40) == 1e-5


def test_signs_turned_are_scipys_permutations() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(9)
    for _ in range(5):
        found = rng.integers(-5, 6, size=9).astype(float)
        test = stats.permutation_test(
            (found,), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip(list(found)) == pytest.approx(test.pvalue)


def test_how_many_texts_give_a_star() -> None:
    assert [texts_for(tests) for tests in (1, 2, 3, 4, 6, 7, 12, 13)] == [6, 7, 7, 8, 8, 9, 9, 10]
    assert texts_for(6, 0.005) == 12
