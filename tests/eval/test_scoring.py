"""Strings to scores and states, and intervals from counts."""

from __future__ import annotations

import pytest

from longctx.eval.scoring import contains, judge, strip_thinking
from longctx.eval.stats import wilson


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1234567",
            " 1234567.",
            "It is 1,234,567.",
            "**1234567**",
            "号码是1234567。",
            "key=1234567;",
        ),
        *("_1234567_", "__1234567__", "is _1234567_.", "___1234567___", "nº1234567", "nª1234567"),
        "1_234_567",
    ],
)
def test_found(text: str) -> None:
    assert contains(text, "1234567")


@pytest.mark.parametrize(
    "text",
    [
        *("", "123456", "12345678", "91234567", "123 4567", "x1234567"),
        *("key_1234567", "_x_1234567", "1234567_b", "__init__1234567", "12_34567"),
    ],
)
def test_not_found(text: str) -> None:
    assert not contains(text, "1234567")


@pytest.mark.parametrize(
    "text",
    [
        *("هو ١٬٢٣٤٬٥٦٧", "答えは１，２３４，５６７", "1\u2009234\u2009567"),
        *("คือ1234567ค่ะ", "数は1234567です", "숫자는 1234567입니다"),  # no space between words
        *("هو ١٢٣٤٥٦٧", "คือ ๑๒๓๔๕๖๗", "１２３４５６７です"),  # other digits
        *("1.234.567.", "1 234 567", "1\u202f234\u202f567", "1\u00a0234\u00a0567", "1'234'567"),
        *("الرقم ١٬٢٣٤٬٥٦٧", "1\u2009234\u2009567"),
        *("يقدر بـ1234567", "وهو ل١٢٣٤٥٦٧", "و1234567"),  # words of one letter, written together
    ],
)
def test_numbers_as_languages_write_them(text: str) -> None:
    assert contains(text, "1234567")
    assert judge(text, ["1234567"], "stop").status == "ok"


@pytest.mark.parametrize("text", ["1.234 567", "91.234.567", "1.234.5678", "1.23.4567"])
def test_other_groups_are_other_numbers(text: str) -> None:
    assert not contains(text, "1234567")


def test_a_short_number_is_found_inside_a_group() -> None:
    assert contains("in 1 234 parts", "234")


def test_other_digits_may_be_cut_off_too() -> None:
    assert judge("هو ١٢٣٤", ["1234567"], "length").status == "truncated_output"
    assert judge("هو ١٢٣٤", ["1234567"], "stop").status == "miss"


def test_words_match_however_they_are_composed() -> None:
    assert contains("Ha\u0323 Long", "Hạ Long")
    assert contains("café", "cafe\u0301")


def test_arabic_words_match_whole() -> None:
    assert contains("هو بيت.", "بيت")
    assert not contains("هو بيتنا", "بيت")


def test_words_match_whatever_their_case_but_whole() -> None:
    assert contains("The KETTLE.", "kettle")
    assert not contains("kettles", "kettle")
    assert contains("kettles and a kettle", "kettle")


@pytest.mark.parametrize(
    ("response", "reason", "score", "status"),
    [
        (" 1234567.", "stop", 1.0, "ok"),
        (" 1234567 and so on and on", "length", 1.0, "ok"),
        (" 7654321.", "stop", 0.0, "miss"),
        (" the the the the", "length", 0.0, "miss"),
        (" The number is 123", "length", 0.0, "truncated_output"),
        (" The number is 123", "stop", 0.0, "miss"),
        ("<think>let me see", "length", 0.0, "truncated_output"),
        ("<think>1234567?</think> No idea.", "stop", 0.0, "miss"),
        ("<think>hm</think> 1234567", "stop", 1.0, "ok"),
        ("", "stop", 0.0, "miss"),
    ],
)
def test_states(response: str, reason: str, score: float | None, status: str) -> None:
    verdict = judge(response, ["1234567"], reason)
    assert (verdict.score, verdict.status) == (score, status)


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (" 158114. The text is: the number is 15811", "miss"),
        (" 1581. The special magic number is 158", "miss"),
        (" 158114 158114", "miss"),
        (" 158114", "truncated_output"),  # nothing was finished before
        (" Is it 158? It is 15811", "truncated_output"),  # less than half of the value
        (" not 9158114 and not 1581149, but 15811", "truncated_output"),  # no words of their own
        (" 158114. It is 1581141", "ok"),
        (" 158114. It is 1581141 15", "ok"),
    ],
)
def test_a_wrong_answer_before_the_cut_is_a_miss(response: str, status: str) -> None:
    verdict = judge(response, ["1581141"], "length")
    assert (verdict.status, verdict.score) == (
        status,
        {"miss": 0.0, "ok": 1.0, "truncated_output": 0.0}[status],
    )


def test_some_of_several_is_partial() -> None:
    verdict = judge("1111111 and 2222222", ["1111111", "2222222", "3333333"], "stop")
    assert verdict.score == pytest.approx(2 / 3)
    assert verdict.status == "partial"


def test_thinking_that_the_template_opened() -> None:
    assert strip_thinking("hmm, 1.</think>\n\n2") == "2"


# Checked against R's binom::binom.wilson and the textbook value of 10/10.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (10, 10, 0.7224672, 1.0),
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (1, 1, 0.2065493, 1.0),
        (22, 22, 0.8513, 1.0),
    ],
)
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=1e-4)
