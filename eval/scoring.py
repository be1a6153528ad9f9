"""From a response to a score and a state. Strings only; no model judges, no tokenizer is needed.

    whole    references as words of their own, in the answer without its thinking (the default)
    ruler    RULER's rule: references anywhere in the response, whatever stands around them

Every record keeps both. Score and state are two things: an answer that the token budget cut off
counts with what it has, and is reported as cut off.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "miss", "partial", "truncated_output", "overflow", "error"]
# What a finished cell can be; `error` is run again, `not_run` is the absence of a record.
SCORED: tuple[Status, ...] = ("ok", "miss", "partial", "truncated_output")
STATUSES: tuple[Status, ...] = (*SCORED, "overflow", "error")
# RULER's two measures: the share of the references that is found, or whether one of them is.
Match = Literal["all", "part"]
Scorer = Literal["whole", "ruler"]
SCORERS: tuple[Scorer, ...] = ("whole", "ruler")

_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# 1.234.567 and 1 234 567 (also with thin and unbreakable spaces), 1'234'567, 1_234_567, and the
# separators of Arabic and of full-width text: whole numbers in groups.
_GROUPS = re.compile(
    r"(?<!\d)\d{1,3}([. '’_\u00a0\u2009\u202f\u066c\uff0c])\d{3}(?:\1\d{3})*(?!\d)"
)
# Thai, Lao, Burmese and Khmer, and all from U+2E80 on (Chinese, Japanese, Korean): a number may
# stand straight after a word.
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")

# Arabic writes "and", "in", "for" together with the number: `بـ1234567`.
_ARABIC_PREFIX = re.compile(r"[\u0621-\u064a](?=\d)")


# nº1234567: the ordinal indicators are letters to Unicode, and no part of a number beside them.
_ORDINALS = "ºª"
# RULER reads each of these as a line end before it looks (its eval/evaluate.py).
_UNPRINTABLE = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class Verdict:
    """`score` by the scorer that was asked for, `scores` by each; None where nothing is scored."""

    score: float | None
    status: Status
    scores: Mapping[str, float] | None = None


def judge(
    response: str,
    expected: Sequence[str],
    finish_reason: str,
    match: Match = "all",
    scorer: Scorer = "whole",
) -> Verdict:
    """The share of expected strings that the response holds; with "part", 1 if it holds any.

    An answer counts as cut off while thinking is still open, or where it ends in the beginning of
    what was expected and has not stated a wrong beginning of it before. It keeps what it has: of
    four references three and the beginning of the fourth are 0.75.
    """
    scores = scores_of(response, expected, match)
    score = scores[scorer]
    if score == 1:
        return Verdict(score, "ok", scores)
    if finish_reason == "length" and _cut_off(response, strip_thinking(response), expected):
        return Verdict(score, "truncated_output", scores)
    return Verdict(score, "partial" if score else "miss", scores)


def scores_of(response: str, expected: Sequence[str], match: Match = "all") -> dict[str, float]:
    """The score by every scorer."""
    answer = strip_thinking(response)
    found = {
        "whole": [contains(answer, value) for value in expected],
        "ruler": [contains_as_ruler(response, value) for value in expected],
    }
    return {
        name: float(any(found[name])) if match == "part" else sum(found[name]) / len(expected)
        for name in SCORERS
    }


def contains_as_ruler(response: str, value: str) -> bool:
    """RULER's rule (string_match_all and _part in its eval/synthetic/constants.py): anywhere in the
    response, thinking included, whatever its case; digits and groups as they are."""
    return value.lower() in _UNPRINTABLE.sub("\n", response).lower()


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
        before, after = folded[:position], folded[position + len(wanted) :]
        if not _glued(_next_to(before[::-1])) and not _glued(_next_to(after)):
            return True
        position = folded.find(wanted, position + 1)
    return False


def _next_to(outwards: str) -> str:
    """The character that decides: underscores belong to names (`key_12`), but also mark emphasis
    (`_12_`), so that what stands beyond them tells."""
    return outwards.lstrip("_")[:1]


def _glued(neighbour: str) -> bool:
    return neighbour.isalnum() and neighbour not in _ORDINALS and not _NO_SPACES.match(neighbour)


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
