"""Text as sentences, lines and words: the places where one may cut or insert.

Knows nothing of tokens or files. Everything downstream hashes and tokenises what `settle` returns,
so it settles line ends and Unicode form once.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Boundary = Literal["sentence", "line", "word", "character"]
BOUNDARIES: tuple[Boundary, ...] = ("sentence", "line", "word", "character")
# Of pieces in which a needle's place can be chosen; legal prose has sentences of 500 characters.
_LONGEST_PIECE = 1000

# Closing quotes and brackets stay with the sentence that they close.
_CLOSERS = "\"'”’»)\\]」』）】"
# Thai marks no sentence; a space between two of its letters parts phrases. Not so at the signs of
# repetition (U+0E46) and of shortening (U+0E2F), nor around numbers, abbreviations, foreign words.
_THAI = r"\u0e01-\u0e2e\u0e30-\u0e45"
_THAI_PHRASE_END = rf"(?<=[{_THAI}\u0e47-\u0e4e])(?= +(?![\u0e01-\u0e4e]+\.)[{_THAI}])"
# German closes with “ or «, French puts a space before its ». Chinese opens with “.
_END = rf"[.!?؟।…]+(?:[{_CLOSERS}“«]|[ \u00a0\u202f]»)*(?=\s|$)"
# Japanese goes on behind a quotation with と or って: 「だれ？」と聞いた。
_WIDE_END = rf"[。！？…]++[{_CLOSERS}]*+(?!と|って)"
_SENTENCE_END = re.compile(rf"{_END}|{_WIDE_END}|(?<=\S)(?=\n\s*\n)|{_THAI_PHRASE_END}")
_CLAUSE_END = re.compile(rf"[,;:—،؛][{_CLOSERS}]*(?=\s|$)|—|[，；：、]")
_LINE_END = re.compile(r"(?<=\S)(?=[^\S\n]*(?:\n|$))")
_GAP = re.compile(r"(?<=\S)(?=\s)")
# "Mr. Knightley" and "J. Smith" are not ends of sentences; nor "Sra. García", "z. B.", "т. е.",
# "А. С. Пушкин", "د. محمد". Thai has the full stop in abbreviations alone.
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Mme|Prof|Rev|Capt|Col|Gen|Lt|Jr|Sr|vs|etc|e\.g|i\.e|No|Vol"
    r"|Sra|Srta|Dra|Uds?|EE|Hr|Fr|Nr|bzw|ca|vgl|гг|им|тыс|ул|TP)"
    r"|\b[A-ZÀ-ÖØ-ÞА-ЯЁ\u0621-\u064a]|(?<![\w'’])[duzhвгдекмнпрстчэ]|[\u0e01-\u0e4e])\.$"
)
_LONGEST_ABBREVIATION = 8
# Punctuation that Chinese has in common with scripts that are not wide, and how much of it may
# stand side by side.
_SHARED, _MARKS = "\"'“”‘’«»()…—·", 8
_WIDE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3040-\u30ff\U00020000-\U0003ffff]")


def settle(text: str) -> str:
    """`\\n` line ends and Unicode's composed form (NFC)."""
    # Qwen's tokenizer gives \r\n other tokens than \n.
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def is_wide(char: str) -> bool:
    """Chinese, Japanese or full-width: scripts that put no space between words."""
    return bool(_WIDE.match(char))


def sentence_ends(text: str) -> list[int]:
    """Character positions just behind each sentence, ascending."""
    ends: list[int] = []
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        head = text[max(0, match.start() + 1 - _LONGEST_ABBREVIATION) : match.start() + 1]
        if match.group() == "." and _ABBREVIATION.search(head):
            continue
        if not ends or ends[-1] != end:
            ends.append(end)
    return ends


def places(text: str, kind: Boundary) -> Sequence[int]:
    """Character positions behind which one may cut or insert, ascending."""
    if kind == "sentence":
        return sentence_ends(text)
    if kind == "character":
        return range(1, len(text) + 1)
    pattern = _LINE_END if kind == "line" else _GAP
    return [match.end() for match in pattern.finditer(text)]


def boundary_of(text: str) -> Boundary:
    """The first kind that parts most of a text into pieces of reasonable size.

    Lists, logs and tables have no sentences, minified code has no lines, and some have no words.
    """
    for kind in BOUNDARIES[:-1]:
        ends = [0, *places(text, kind), len(text)]
        sizes = (end - start for start, end in pairwise(ends))
        if 2 * sum(size for size in sizes if size > _LONGEST_PIECE) <= len(text):
            return kind
    return BOUNDARIES[-1]


@dataclass
class Boundaries:
    """Where a text may be cut, by kind, from the one that it has to weaker ones."""

    text: str
    _places: dict[str, Sequence[int]] = field(default_factory=dict)

    def of(self, kind: Boundary | Literal["clause"]) -> Sequence[int]:
        if kind not in self._places:
            self._places[kind] = (
                [match.end() for match in _CLAUSE_END.finditer(self.text)]
                if kind == "clause"
                else places(self.text, kind)
            )
        return self._places[kind]

    def last(self, kind: Boundary, limit: int) -> int:
        """The largest place of a kind at or before `limit`; 0 where there is none."""
        ends = self.of(kind)
        index = bisect.bisect_right(ends, limit)
        return ends[index - 1] if index else 0

    def near(
        self, position: int, limit: int, kind: Boundary = "sentence"
    ) -> Iterable[Sequence[int]]:
        """Per kind, from the given one on, the up to two places in (0, limit) around `position`."""
        weaker: tuple[Boundary | Literal["clause"], ...] = ("clause", "word", "character")
        own = () if kind in weaker else (kind,)
        for each in (*own, *(weaker[weaker.index(kind) :] if kind in weaker else weaker)):
            ends = self.of(each)
            at = bisect.bisect_left(ends, position)
            yield [end for end in ends[max(at - 1, 0) : at + 1] if 0 < end < limit]


def join(left: str, right: str) -> str:
    """The space that two sentences need between them; none beside wide scripts or line ends."""
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return ""
    last, first = left[-_MARKS:].rstrip(_SHARED)[-1:], right[:_MARKS].lstrip(_SHARED)[:1]
    return "" if is_wide(last) and is_wide(first) else " "
