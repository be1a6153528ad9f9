"""Where in the documents the words of an answer stand, for a person to look up.

The longest runs of words that answer and document have in common, found by comparing words: no
model, so a place is where words stand, not proof that the answer is right. Words are compared
without case; of Chinese and Japanese every character is one.
"""

from __future__ import annotations

import bisect
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longctx.reading import Place, ReadDocument

MOST_SOURCES = 5
_MOST_ANSWER_WORDS = 1000
_WIDE = r"\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_WIDE}\U00020000-\U0003ffff]|[^\W{_WIDE}]+(?:['’.,][^\W{_WIDE}]+)*")
_ONE_WIDE = re.compile(rf"[{_WIDE}\U00020000-\U0003ffff]")
_AROUND = 70  # characters of an excerpt on each side
_NEAR = 60  # words in which others of answer and question speak for a place
# A word that stands so often says little about where it was taken from.
_FEW = 20
_SHARE = 200  # words of a document for each time that a rare one may stand in it
_SHORT = 3  # words of an answer


@dataclass(frozen=True)
class FoundSource:
    """`start` and `end` are characters of the document's text."""

    document: str
    place: Place
    start: int
    end: int
    before: str
    words: str
    after: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "document": self.document,
            "place": str(self.place),
            "file": self.place.name,
            "page": self.place.page,
            "line": self.place.line,
            "start": self.start,
            "end": self.end,
            "words": self.words,
            "excerpt": f"{self.before}{self.words}{self.after}",
        }


class _Word(NamedTuple):
    word: str
    start: int
    end: int


def _words(text: str) -> Iterator[_Word]:
    for match in _WORD.finditer(text):
        yield _Word(match[0].casefold(), match.start(), match.end())


@dataclass
class _Index:
    """Where the words of answer and question stand in one document."""

    document: ReadDocument
    count: int = 0
    places: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)

    def weight(self, word: str) -> float:
        """How much a word says about its place: its surprise, in nats."""
        return math.log((self.count + 1) / len(self.places[word]))

    def is_rare(self, word: str) -> bool:
        """Numbers stand where they are meant, also where they stand several times."""
        share = self.count // (_SHARE if not _is_number(word) else 1)
        return len(self.places[word]) <= max(1, min(_FEW, share))


def _is_number(word: str) -> bool:
    return sum(char.isdigit() for char in word) >= 2


@dataclass(frozen=True)
class _Run:
    """Words `first` to `last` of the answer, as words `at` on of a document."""

    index: _Index
    first: int
    last: int
    at: int
    score: float


def find(
    documents: Sequence[ReadDocument], answer: str, question: str, most: int = MOST_SOURCES
) -> list[FoundSource]:
    """The places that the answer shares most words with, the best first."""
    said = [each.word for each in _words(answer)][:_MOST_ANSWER_WORDS]
    asked = {each.word for each in _words(question)}
    if not said:
        return []
    indexes = [_indexed(document, {*said, *asked}) for document in documents]
    runs = [run for index in indexes for run in _runs(index, said)]
    strong = [run for run in runs if _tells(run, said)]
    # Of an answer of a word or two, that is all that can be shared: where it stands is told.
    weak = sorted(runs, key=lambda run: -run.score)[:200] if len(said) <= _SHORT else []
    chosen, near = strong or weak, {*said, *asked}
    spans: list[_Span] = []
    for run in _best(chosen, near, 2 * most if strong else 1):
        _add(spans, run)
    return [_source(span) for span in spans[:most]]


def _indexed(document: ReadDocument, wanted: set[str]) -> _Index:
    index = _Index(document)
    for at, each in enumerate(_words(document.text)):
        index.count += 1
        if each.word in wanted:
            index.places[each.word].append(at)
            index.spans[at] = (each.start, each.end)
    return index


def _runs(index: _Index, said: Sequence[str]) -> Iterator[_Run]:
    """Every run that is not part of a longer one at the same place."""
    lengths: dict[int, int] = {}
    # A single word that stands everywhere is no run, unless the answer is hardly more.
    least = 2 if len(said) > _SHORT else 1
    for number, word in enumerate([*said, None]):
        places = () if word is None else index.places.get(word, ())
        longer = {at: lengths.get(at - 1, 0) + 1 for at in places}
        for at, length in lengths.items():
            if at + 1 in longer:
                continue
            if length >= least or index.is_rare(said[number - 1]):
                yield _run(index, said, number - length, number - 1, at - length + 1)
        lengths = longer


def _run(index: _Index, said: Sequence[str], first: int, last: int, at: int) -> _Run:
    score = sum(index.weight(word) for word in said[first : last + 1])
    return _Run(index, first, last, at, score)


def _tells(run: _Run, said: Sequence[str]) -> bool:
    """Whether such a run is hardly there by chance."""
    words = said[run.first : run.last + 1]
    rare = [word for word in words if run.index.is_rare(word)]
    if all(_ONE_WIDE.fullmatch(word) for word in words):
        return len(words) >= 4 or (len(words) >= 2 and len(rare) == len(words))
    if any(_is_number(word) for word in rare):
        return True
    return (len(words) >= 3 and bool(rare)) or (len(words) == 2 and len(rare) == 2)


def _best(runs: Sequence[_Run], near: set[str], most: int) -> list[_Run]:
    """One place for each stretch of the answer: of equal runs the one with most of the others'
    words around it."""
    taken: list[_Run] = []
    by_score = sorted(runs, key=lambda run: (-round(run.score, 6), run.first))
    groups: dict[tuple[int, int], list[_Run]] = defaultdict(list)
    for run in by_score:
        groups[run.first, run.last].append(run)
    for (first, last), equal in groups.items():
        if len(taken) == most:
            break
        if any(first <= other.last and other.first <= last for other in taken):
            continue
        top = [run for run in equal if run.score >= equal[0].score - 1e-6][:200]
        taken.append(max(top, key=lambda run: _support(run, near)))
    return taken


def _support(run: _Run, near: set[str]) -> float:
    index, length = run.index, run.last - run.first + 1
    low, high = run.at - _NEAR, run.at + length + _NEAR
    found = 0.0
    for word in near:
        places = index.places.get(word)
        if places and len(places) < index.count // 50 + 2:
            first = bisect.bisect_left(places, low)
            behind = bisect.bisect_left(places, run.at)
            after = bisect.bisect_left(places, run.at + length)
            around = first < behind or (after < len(places) and places[after] < high)
            found += index.weight(word) if around else 0.0
    return found


@dataclass
class _Span:
    """Characters of a document."""

    document: ReadDocument
    start: int
    end: int


def _add(spans: list[_Span], run: _Run) -> None:
    """As a place of its own, or as more of one that is hardly further away than its excerpt."""
    document, length = run.index.document, run.last - run.first + 1
    start = run.index.spans[run.at][0]
    end = run.index.spans[run.at + length - 1][1]
    for span in spans:
        if span.document is document and start - _AROUND < span.end and span.start < end + _AROUND:
            span.start, span.end = min(span.start, start), max(span.end, end)
            return
    spans.append(_Span(document, start, end))


def _source(span: _Span) -> FoundSource:
    document, start, end = span.document, span.start, span.end
    text = document.text
    before = text[max(0, start - _AROUND) : start]
    after = text[end : end + _AROUND]
    if start > _AROUND and (cut := before.find(" ")) >= 0:
        before = before[cut:]
    if end + _AROUND < len(text) and (cut := after.rfind(" ")) >= 0:
        after = after[: cut + 1]
    place = document.place(start)
    return FoundSource(
        document.name,
        place,
        start,
        end,
        ("…" if start > len(before) else "") + _line(before),
        _line(text[start:end]),
        _line(after) + ("…" if end + len(after) < len(text) else ""),
    )


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
