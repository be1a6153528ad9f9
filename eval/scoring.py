"""From a response to a score and a state. Strings only; no model judges, no tokenizer is needed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "miss", "partial", "truncated_output", "overflow", "error"]
# What a finished cell can be; `error` is run again, `not_run` is the absence of a record.
SCORED: tuple[Status, ...] = ("ok", "miss", "partial")
STATUSES: tuple[Status, ...] = (*SCORED, "truncated_output", "overflow", "error")
# RULER's two measures: the share of the references that is found, or whether one of them is.
Match = Literal["all", "part"]

_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# 1.234.567 and 1 234 567 (also with thin and unbreakable spaces), 1'234'567, and the separators of
# Arabic and of full-width text: whole numbers in groups.
_GROUPS = re.compile(r"(?<!\d)\d{1,3}([. '’\u00a0\u2009\u202f\u066c\uff0c])\d{3}(?:\1\d{3})*(?!\d)")
# Thai, Lao, Burmese and Khmer, and all from U+2E80 on (Chinese, Japanese, Korean): a number may
# stand straight after a word.
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")

# Arabic writes "and", "in", "for" together with the number: `بـ1234567`.
_ARABIC_PREFIX = re.compile(r"[\u0621-\u064a](?=\d)")


@dataclass(frozen=True)
class Verdict:
    score: float | None
    status: Status


def judge(
    response: str, expected: Sequence[str], finish_reason: str, match: Match = "all"
) -> Verdict:
    """The share of expected strings that the response holds; with "part", 1 if it holds any.

    An answer that the token budget cut off is not a wrong answer: it has no score. It counts as
    cut off while thinking is still open, or where it ends in the beginning of what was expected and
    has not stated a wrong beginning of it before.
    """
    answer = strip_thinking(response)
    found = sum(contains(answer, value) for value in expected)
    if found == len(expected) or (found and match == "part"):
        return Verdict(1.0, "ok")
    if finish_reason == "length" and _cut_off(response, answer, expected):
        return Verdict(None, "truncated_output")
    return Verdict(found / len(expected), "partial" if found else "miss")


def strip_thinking(response: str) -> str:
    # A template may open the block itself, and then the response only closes it.
    head, closed, tail = response.rpartition("</think>")
    if closed and "<think>" not in head:
        return tail.strip()
    return _THINKING.sub("", response).strip()


def contains(text: str, value: str) -> bool:
    """Whether `value` stands in `text` as a word of its own, whatever its case.

    Numbers also in the digits of another script and in groups of thousands.
    """
    folded, wanted = _fold(text), _fold(value)
    if not wanted.isdigit():
        return _stands(folded, wanted)
    folded = _THOUSANDS.sub("", folded)
    return _stands(folded, wanted) or _stands(_GROUPS.sub(_ungrouped, folded), wanted)


def _fold(text: str) -> str:
    """Composed, without case, all digits as 0-9: `١٢٣`, `๑๒๓` and `１２３` are 123."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
        text = _ARABIC_PREFIX.sub(" ", text)
    return text.casefold()


def _ungrouped(match: re.Match[str]) -> str:
    return match.group().replace(match.group(1), "")


def _stands(folded: str, wanted: str) -> bool:
    position = folded.find(wanted)
    while position >= 0:
        end = position + len(wanted)
        if not _glued(folded[position - 1 : position]) and not _glued(folded[end : end + 1]):
            return True
        position = folded.find(wanted, position + 1)
    return False


def _glued(neighbour: str) -> bool:
    return (neighbour.isalnum() or neighbour == "_") and not _NO_SPACES.match(neighbour)


def _cut_off(response: str, answer: str, expected: Sequence[str]) -> bool:
    if response.count("<think>") > response.count("</think>"):
        return True
    tail = _fold(answer)
    # Of several references one letter would often be enough by chance: half of one is asked for.
    return any(
        tail.endswith(_fold(value[:size]))
        and not _glued(tail[-size - 1 : -size])
        and not _stated_wrong(answer[:-size], value)
        for value in expected
        if len(expected) == 1 or not contains(answer, value)
        for size in range(1 if len(expected) == 1 else _half(value), len(value))
    )


def _stated_wrong(text: str, value: str) -> bool:
    """Whether a beginning of `value`, half of it or more, was finished as a word of its own.

    A model that says "158114. The text is: ... 15811" for 1581141 has answered, and wrongly: what
    the budget cut off is its second thought.
    """
    return any(contains(text, value[:size]) for size in range(_half(value), len(value)))


def _half(value: str) -> int:
    return max(1, (len(value) + 1) // 2)
