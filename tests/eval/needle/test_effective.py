"""The effective length: what passes, what ends it, and what is not known."""

from __future__ import annotations

import pytest

from longctx.eval.needle.effective import (
    RULE,
    Effective,
    effective_length,
    show_break,
    show_effective,
    show_other,
)
from longctx.eval.needle.inference import Looks, Scores, samples_needed

RIGHT: Scores = [[1.0]] * 22


def right(n: int, of: int) -> Scores:
    """`n` right answers of `of`, each about a text of its own."""
    return [[1.0]] * n + [[0.0]] * (of - n)


def texts(*found: int, of: int = 11) -> Scores:
    """So many right answers about each text that they share."""
    return [[1.0] * n + [0.0] * (of - n) for n in found]


def test_22_samples_are_the_least_that_can_pass() -> None:
    assert samples_needed() == 22
    assert effective_length({512: right(22, 22)}).length == 512
    found = effective_length({512: right(21, 21)})
    assert (found.length, found.enough_samples, found.samples) == (None, False, 21)
    assert show_effective(found) == "not enough samples (21 of 22)"


def test_it_never_failed() -> None:
    found = effective_length({256: RIGHT, 4096: RIGHT, 8192: RIGHT})
    assert found == Effective(
        length=8192,
        at_least=True,
        enough_samples=True,
        samples=22,
        needed=22,
        texts=None,
        last_pass=8192,
        first_fail=None,
        ruler=8192,
        nolima=8192,
        max_tested=8192,
    )
    assert show_effective(found) == ">= 8K (max tested)"


def test_it_breaks_between_two_lengths() -> None:
    found = effective_length({2048: RIGHT, 4096: RIGHT, 8192: right(14, 22)})
    assert (found.length, found.last_pass, found.first_fail) == (4096, 4096, 8192)
    assert not found.at_least
    assert show_effective(found) == "4K"


def test_a_longer_length_that_passes_mends_nothing() -> None:
    # 20 of 22 is 0.91, and its lower bound 0.72.
    found = effective_length({1024: RIGHT, 2048: right(20, 22), 4096: RIGHT})
    assert (found.length, found.first_fail, found.at_least) == (1024, 2048, False)
    assert (found.ruler, found.nolima) == (4096, 4096)


def test_it_fails_from_the_start() -> None:
    found = effective_length({256: right(11, 22), 512: RIGHT})
    assert (found.length, found.last_pass, found.first_fail) == (None, None, 256)
    assert found.enough_samples
    assert show_effective(found) == "below 256"


def test_where_depths_share_texts_ten_texts_are_the_least() -> None:
    found = effective_length({256: texts(*[11] * 9), 512: RIGHT})
    assert (found.length, found.enough_samples, found.texts, found.needed) == (None, False, 9, 10)
    assert show_effective(found) == "not enough texts (9 of 10)"
    # All right, and yet ten texts leave it open whether the eleventh is: the interval is below.
    assert show_effective(effective_length({256: texts(*[11] * 10)})) == "below 256"
    assert effective_length({256: texts(*[11] * 14)}).length == 256


def test_misses_of_one_text_weigh_more_than_misses_all_over() -> None:
    spread = texts(*[10] * 20)
    bad = texts(*[11] * 18, 1, 1)
    assert sum(map(sum, spread)) == sum(map(sum, bad)) == 200
    assert effective_length({512: spread}).length == 512
    assert effective_length({512: bad}).length is None


def test_a_run_that_ends_by_what_it_found_needs_more() -> None:
    assert samples_needed(Looks(10)) == 33
    found = effective_length({512: RIGHT}, Looks(10))
    assert show_effective(found) == "not enough samples (22 of 33)"
    assert effective_length({512: right(33, 33)}, Looks(10)).length == 512
    # One miss of 34 passes a fixed grid, and not yet a run that could have ended before.
    assert effective_length({512: right(33, 34)}).length == 512
    assert effective_length({512: right(33, 34)}, Looks(10)).length is None


def test_too_few_samples_behind_lengths_that_pass() -> None:
    found = effective_length({256: RIGHT, 512: right(10, 10), 1024: RIGHT})
    assert (found.length, found.at_least, found.enough_samples) == (None, False, False)
    assert (found.last_pass, found.first_fail, found.samples) == (256, None, 10)
    assert show_effective(found) == "not enough samples (10 of 22)"


def test_too_few_samples_beyond_the_break_do_not_matter() -> None:
    found = effective_length({256: RIGHT, 512: right(2, 22), 1024: right(1, 1)})
    assert (found.length, found.first_fail, found.samples) == (256, 512, 22)
    assert show_effective(found) == "256"


def test_few_samples_are_enough_to_fail_for_certain() -> None:
    # With 7 of 11 the upper bound is just below 0.85; with 8 it is above, and more could mend it.
    found = effective_length({256: RIGHT, 512: right(7, 11), 1024: RIGHT})
    assert (found.length, found.first_fail, found.samples) == (256, 512, 11)
    assert (show_effective(found), show_break(found)) == ("256", "256-512")
    found = effective_length({256: RIGHT, 512: right(8, 11)})
    assert show_effective(found) == "not enough samples (11 of 22)"


def test_the_break_in_words() -> None:
    assert show_break(effective_length({256: right(0, 22)})) == "before 256"
    assert show_break(effective_length({256: RIGHT})) == "–"
    found = effective_length({256: RIGHT, 512: right(0, 22)})
    assert [show_other(found, length) for length in (None, 256)] == ["–", "256"]
    assert show_other(effective_length({256: RIGHT, 512: RIGHT}), 512) == ">= 512"


def test_nothing_was_scored() -> None:
    for found in (effective_length({256: []}), effective_length({})):
        assert show_effective(found) == "not enough samples (0 of 22)"
        assert (found.ruler, found.nolima, found.last_pass) == (None, None, None)


@pytest.mark.parametrize(("share", "passes"), [(856, True), (855, False)])
def test_rulers_rule_is_the_mean(share: int, passes: bool) -> None:
    found = effective_length({512: RIGHT, 1024: right(share, 1000)})
    assert found.ruler == (1024 if passes else 512)


def test_nolimas_rule_is_the_share_of_the_own_base() -> None:
    # 85 % of 20/25 is 17/25.
    base, just, less = right(20, 25), right(17, 25), right(16, 25)
    assert effective_length({256: base, 512: just, 1024: less}).nolima == 512
    assert effective_length({256: base, 512: less, 1024: just}).nolima == 256
    assert effective_length({256: right(0, 22), 512: RIGHT}).nolima is None


def test_the_other_rules_need_no_22_samples() -> None:
    found = effective_length({256: [[1.0]], 512: [[1.0, 1.0, 0.0]], 1024: []})
    assert (found.ruler, found.nolima) == (256, 256)
    assert effective_length({256: [[1.0]], 512: [[1.0]]}).ruler == 512


def test_as_json() -> None:
    assert effective_length({256: RIGHT, 512: right(0, 22)}).to_dict() == {
        "rule": RULE,
        "length": 256,
        "at_least": False,
        "enough_samples": True,
        "samples": 22,
        "needed": 22,
        "texts": None,
        "last_pass": 256,
        "first_fail": 512,
        "ruler": 256,
        "nolima": 256,
        "max_tested": 512,
    }
    assert RULE == "pooled lower bound >= 0.85"
