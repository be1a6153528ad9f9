"""Paired comparisons: known values of the tests, and what may be paired at all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from longctx.eval.needle.paired import LIMIT, compare, net_by_cell, pairs_of
from longctx.eval.stats import holm, mcnemar_exact


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 0.0625),  # 2 / 2^5
        (0, 6, 0.03125),
        (1, 9, 0.021484375),  # 2 (1 + 10) / 2^10
        (5, 5, 1.0),
        (6, 16, 0.052478790283203125),  # R: binom.test(6, 22)
    ],
)
def test_mcnemar_has_the_values_of_the_binomial(
    first_only: int, second_only: int, p: float
) -> None:
    assert mcnemar_exact(first_only, second_only) == pytest.approx(p, rel=1e-12)
    assert mcnemar_exact(second_only, first_only) == mcnemar_exact(first_only, second_only)


def test_holm_has_the_values_of_p_adjust() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def record(
    length: int, depth: float, repeat: int, score: float | None, **more: Any
) -> dict[str, Any]:
    status = {None: "error", 0.0: "miss", 1.0: "ok"}.get(score, "partial")
    place = {"length": length, "depth": depth, "repeat": repeat}
    return {**place, "score": score, "status": status, **more}


def arm(score_of: Any, lengths: tuple[int, ...] = (512, 1024)) -> list[dict[str, Any]]:
    places = itertools.product(lengths, (0.0, 50.0, 100.0), range(4))
    return [record(*place, score_of(*place)) for place in places]


def test_a_difference_that_holds() -> None:
    first, second = arm(lambda *_: 1.0), arm(lambda length, *_: float(length < 1024))
    found = compare(pairs_of(first, second))
    assert list(found) == [512, 1024]
    assert (found[512].difference, found[512].p, found[512].holds) == (0.0, 1.0, False)
    assert found[1024].first_only == found[1024].pairs == 12
    assert found[1024].difference == -1.0
    assert found[1024].interval == (-1.0, -1.0)
    assert found[1024].p == pytest.approx(2 * 2 / 2**12)  # Holm over two lengths
    assert found[1024].holds


def test_holm_runs_over_the_lengths_compared() -> None:
    lengths = tuple(2**n for n in range(8, 14))
    # Seven of twelve lost: p = 2 / 2^7 alone, six times that among six lengths.
    second = arm(
        lambda length, depth, repeat: float(
            length > 256 or depth > 50 or (depth, repeat) == (50.0, 3)
        ),
        lengths,
    )
    found = compare(pairs_of(arm(lambda *_: 1.0, lengths), second))
    assert found[256].first_only == 7
    assert found[256].p == pytest.approx(6 * 2 / 2**7)
    assert not found[256].holds and LIMIT > 2 / 2**7


def test_what_has_no_equal_partner_is_left_out() -> None:
    first = [
        record(512, 0.0, 0, 1.0, prompt_sha256="a"),
        record(512, 0.0, 1, 1.0, prompt_sha256="b"),
        record(512, 0.0, 2, None, prompt_sha256="c"),
        record(512, 0.0, 3, 1.0, prompt_sha256="d"),
    ]
    second = [
        record(512, 0.0, 0, 0.0, prompt_sha256="a"),
        record(512, 0.0, 1, 0.0, prompt_sha256="other"),
        record(512, 0.0, 2, 1.0, prompt_sha256="c"),
        record(512, 0.0, 3, None, prompt_sha256="d"),
        record(512, 50.0, 0, 1.0, prompt_sha256="e"),
    ]
    pairs = pairs_of(first, second)
    assert [pair.repeat for pair in pairs] == [0]
    assert net_by_cell(pairs) == {(512, 0.0): (-1.0, 1)}
    assert compare([]) == {}


def test_partial_answers_are_not_found_but_count_with_their_share() -> None:
    first, second = arm(lambda *_: 1.0), arm(lambda *_: 0.5)
    found = compare(pairs_of(first, second))
    assert found[512].first_only == 12
    assert found[512].difference == -0.5


def test_the_interval_draws_whole_texts() -> None:
    """One text of four lost at every depth: the interval reaches from none lost to most."""
    second = arm(lambda length, depth, repeat: float(repeat > 0), (512,))
    found = compare(pairs_of(arm(lambda *_: 1.0, (512,)), second))[512]
    assert found.difference == -0.25
    assert found.texts == 4
    assert found.interval.low == -0.75 and found.interval.high == 0.0
