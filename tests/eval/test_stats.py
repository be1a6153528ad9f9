"""Intervals, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from longctx.eval.stats import (
    Interval,
    cluster_bootstrap,
    resampling_units,
    wilson,
)


def test_wilson_by_hand() -> None:
    # At k = n the bound is n / (n + z^2), z^2 = 3.8414588.
    assert wilson(22, 22).low == pytest.approx(22 / 25.8414588)
    assert wilson(22, 22).low == pytest.approx(0.851345, abs=1e-6)
    assert wilson(21, 21).low == pytest.approx(0.845361, abs=1e-6)
    assert wilson(0, 22) == pytest.approx((0.0, 3.8414588 / 25.8414588))
    assert wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_whole_documents_are_drawn() -> None:
    # Two documents, one all right and one all wrong: means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    # Were single samples drawn, twenty of them would never give 0.
    assert cluster_bootstrap([[1.0] * 10, [0.0] * 10]) == (0.0, 1.0)
    # One bad of four: the mean is at most 0 with chance 1/256 (below 2.5 %), at most 1/4 with
    # 13/256 (above), and 1 with 81/256.
    assert cluster_bootstrap([[1.0], [1.0], [1.0], [0.0]]) == (0.25, 1.0)
    # One bad of three: the mean is 0 with chance 1/27, above 2.5 %.
    assert cluster_bootstrap([[1.0], [1.0], [0.0]]) == (0.0, 1.0)


def test_documents_count_by_their_samples() -> None:
    # [1, 1, 0] and [1]: means 2/3, 3/4, 1.
    low, high = cluster_bootstrap([[1.0, 1.0, 0.0], [1.0]])
    assert (low, high) == (pytest.approx(2 / 3), 1.0)


def test_equal_documents_leave_nothing_to_draw() -> None:
    assert cluster_bootstrap([[1.0, 0.0, 0.0, 0.0]] * 5) == (0.25, 0.25)
    assert cluster_bootstrap([[1.0, 1.0, 0.0]]) == pytest.approx((2 / 3, 2 / 3))


def test_no_samples_no_knowledge() -> None:
    assert cluster_bootstrap([]) == cluster_bootstrap([[], []]) == (0.0, 1.0)
    assert cluster_bootstrap([[], [0.5]]) == (0.5, 0.5)


def test_the_bootstrap_is_repeatable() -> None:
    groups = [[float(step % (index + 2) > 0) for step in range(11)] for index in range(7)]
    assert cluster_bootstrap(groups) == cluster_bootstrap(groups)
    assert cluster_bootstrap(groups, resamples=50) != cluster_bootstrap(
        groups, resamples=50, seed=1
    )


def test_few_documents_are_resampled_in_blocks() -> None:
    def units(documents: int, tokens: int) -> tuple[str, list[int]]:
        by, found = resampling_units([np.arange(tokens, dtype=float)] * documents)
        assert sum(part.sum() for part in found) == documents * tokens * (tokens - 1) / 2
        return by, [len(part) for part in found]

    assert units(6, 1000) == ("documents", [1000] * 6)
    assert units(2, 1000) == ("blocks", ([125] * 8) * 2)
    assert units(1, 1300) == ("blocks", [128] * 10 + [20])
    assert units(1, 1 << 17) == ("blocks", [256] * 512)
    assert units(1, 3) == ("blocks", [1, 1, 1])


def test_a_difference_that_is_everywhere_the_same_has_no_doubt() -> None:
    by, units = resampling_units([np.full(1000, 0.25)])
    assert by == "blocks"
    assert cluster_bootstrap(units) == Interval(0.25, 0.25)
