"""Paired comparisons: known values of the tests, and what may be paired at all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from longctx.eval.needle.inference import FIXED, Looks
from longctx.eval.needle.paired import (
    LIMIT,
    PairedComparison,
    compare,
    net_by_cell,
    pairs_of,
)
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
    own = {"recipe": {"repeat": 1_000_000 * (repeat + 1) + int(1000 * depth)}}
    return {**place, "score": score, "status": status, **own, **more}


def arm(
    score_of: Any, lengths: tuple[int, ...] = (512, 1024), repeats: int = 4, shared: bool = False
) -> list[dict[str, Any]]:
    places = itertools.product(lengths, (0.0, 50.0, 100.0), range(repeats))
    more: dict[str, Any] = {"recipe": {}} if shared else {}
    return [record(*place, score_of(*place), **more) for place in places]


def test_a_difference_that_holds() -> None:
    first, second = arm(lambda *_: 1.0), arm(lambda length, *_: float(length < 1024))
    compared = compare(pairs_of(first, second))
    found = compared.lengths
    assert list(found) == [512, 1024]
    assert (found[512].difference, found[512].p, found[512].holds) == (0.0, 1.0, False)
    assert found[1024].first_only == found[1024].pairs == found[1024].texts == 12
    assert found[1024].difference == -1.0
    assert found[1024].p == pytest.approx(3 * 2 / 2**12)  # Holm over two lengths and all
    assert found[1024].holds
    assert compared.overall is not None
    assert (compared.overall.first_only, compared.overall.pairs) == (12, 24)
    assert compared.overall.holds
    assert not compared.shared and "McNemar" in compared.meaning


def test_holm_runs_over_the_lengths_compared_and_all_together() -> None:
    lengths = tuple(2**n for n in range(8, 14))
    # Seven of twelve lost: p = 2 / 2^7 alone, seven times that among six lengths and all.
    second = arm(
        lambda length, depth, repeat: float(
            length > 256 or depth > 50 or (depth, repeat) == (50.0, 3)
        ),
        lengths,
    )
    found = compare(pairs_of(arm(lambda *_: 1.0, lengths), second)).lengths[256]
    assert found.first_only == 7
    assert found.p == pytest.approx(7 * 2 / 2**7)
    assert not found.holds and LIMIT > 2 / 2**7


def test_a_small_difference_at_every_length_holds_over_all() -> None:
    """Three of twelve lost at each of six lengths: none holds alone, all together do."""
    lengths = tuple(2**n for n in range(8, 14))
    second = arm(lambda _, depth, repeat: float(depth > 0 or repeat == 3), lengths)
    compared = compare(pairs_of(arm(lambda *_: 1.0, lengths), second))
    assert not any(one.holds for one in compared.lengths.values())
    assert compared.overall is not None and compared.overall.holds
    assert compared.overall.p == pytest.approx(7 * 2 / 2**18)


def test_one_length_is_all_there_is() -> None:
    compared = compare(pairs_of(arm(lambda *_: 1.0, (512,)), arm(lambda *_: 0.0, (512,))))
    assert compared.overall is None
    assert compared.lengths[512].p == pytest.approx(2 / 2**12)


def lost(length: int, depth: float, repeat: int) -> float:
    """Everything at 1,024."""
    return float(length < 1024)


def test_depths_that_share_texts_are_tested_by_texts() -> None:
    first = arm(lambda *_: 1.0, repeats=7, shared=True)
    compared = compare(pairs_of(first, arm(lost, repeats=7, shared=True)))
    assert (compared.shared, compared.texts_needed, compared.by_length) == (True, 7, True)
    found = compared.lengths[1024]
    assert (found.pairs, found.texts) == (21, 7)
    # All seven point one way, and so do two of their 128 patterns; Holm over two lengths.
    assert found.p == pytest.approx(2 * 2 / 2**7)
    assert found.holds and not compared.lengths[512].holds
    assert compared.overall is None
    assert "signs of whole texts" in compared.meaning


def test_too_few_shared_texts_have_one_test_over_all_lengths() -> None:
    """Three texts at each of two lengths: all six lose, which luck does in 2 of 64."""
    first = arm(lambda *_: 1.0, repeats=3, shared=True)
    compared = compare(pairs_of(first, arm(lambda *_: 0.0, repeats=3, shared=True)))
    assert not compared.by_length
    assert [one.p for one in compared.lengths.values()] == [None, None]
    assert not any(one.holds for one in compared.lengths.values())
    assert compared.overall is not None and compared.overall.p == pytest.approx(2 / 2**6)
    assert "3 a length are too few" in compared.meaning
    assert "7 would do (--repeats 7)" in compared.meaning


@pytest.mark.parametrize(("lengths", "texts"), [(1, 6), (2, 7), (4, 8), (6, 8), (7, 9), (12, 9)])
def test_so_many_texts_can_give_a_star(lengths: int, texts: int) -> None:
    sizes = tuple(256 * (n + 1) for n in range(lengths))
    for repeats, holds in ((texts, True), (texts - 1, False)):
        first = arm(lambda *_: 1.0, sizes, repeats, shared=True)
        second = arm(lambda length, *_: float(length > 256), sizes, repeats, shared=True)
        compared = compare(pairs_of(first, second))
        assert compared.texts_needed == texts
        assert compared.lengths[256].holds == holds


def test_a_run_that_ended_by_what_it_found_has_tests_that_allow_for_it() -> None:
    first, second = arm(lambda *_: 1.0, (512,)), arm(lambda _, depth, __: float(depth > 0), (512,))
    fixed, open_end = (compare(pairs_of(first, second), looks) for looks in (FIXED, Looks(10)))
    found = [one.lengths[512] for one in (fixed, open_end)]
    assert [one.first_only for one in found] == [4, 4]
    assert found[0].p is not None and found[1].p is not None
    assert found[0].p < found[1].p
    assert open_end.meaning.startswith("Tested: McNemar's test, valid at every look")
    shared = [
        compare(
            pairs_of(
                arm(lambda *_: 1.0, (512,), 9, shared=True),
                arm(lambda *_: 0.0, (512,), 9, shared=True),
            ),
            looks,
        ).lengths[512]
        for looks in (FIXED, Looks(4))
    ]
    assert [one.p for one in shared] == [2 / 2**9, pytest.approx(4 * 2 / 2**9)]


def test_two_looks_share_the_level_of_a_test() -> None:
    first, second = arm(lambda *_: 1.0, (512,)), arm(lambda _, depth, __: float(depth > 0), (512,))
    fixed, twice = (
        compare(pairs_of(first, second), looks) for looks in (FIXED, Looks(first=22, more=33))
    )
    before, now = fixed.lengths[512], twice.lengths[512]
    assert before.p == 2 / 2**4 and now.p == 2 * before.p
    assert now.interval.low < before.interval.low and now.interval.high > before.interval.high
    assert "each p doubled for the second look" in twice.meaning
    assert "doubled" not in fixed.meaning


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
    assert compare([]).lengths == {}


def test_partial_answers_are_not_found_but_count_with_their_share() -> None:
    first, second = arm(lambda *_: 1.0), arm(lambda *_: 0.5)
    found = compare(pairs_of(first, second)).lengths[512]
    assert found.first_only == 12
    assert found.difference == -0.5


def test_the_interval_goes_by_texts() -> None:
    """One text of four lost at every depth: four texts say less than twelve."""

    def found(shared: bool) -> PairedComparison:
        first = arm(lambda *_: 1.0, (512,), shared=shared)
        second = arm(lambda length, depth, repeat: float(repeat > 0), (512,), shared=shared)
        return compare(pairs_of(first, second)).lengths[512]

    own, shared = found(False), found(True)
    assert own.difference == shared.difference == -0.25
    assert (own.texts, shared.texts) == (12, 4)
    assert own.interval == pytest.approx((-0.506513, 0.077942), abs=1e-6)  # Bonett, Price
    # Totals -3, 0, 0, 0 and the two that are added, 1.5 and -1.5, of three prompts each.
    half = 3.182446305284263 * (12 / 18**2 * 4 / 3) ** 0.5
    assert shared.interval == pytest.approx((-1 / 6 - half, -1 / 6 + half))
    one = compare(pairs_of(arm(lambda *_: 1.0, (512,), 1, True), arm(lost, (512,), 1, True)))
    assert one.lengths[512].interval == (-1.0, 1.0)
