"""The haystack: files read into one text, and how many tokens lie where in it.

Knows files and token counts. Does not know needles, prompts or lengths to aim at.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from longctx.errors import UserError
from longctx.eval.texts.files import ReadFiles, Reading, find, read
from longctx.eval.texts.text import Boundaries, Boundary, places

_SEPARATOR = "\n\n"
# Token counts are summed over blocks of this many characters; a seam shifts the sum by a token.
_BLOCK_CHARACTERS = 1 << 15

# Character offsets (start, end) of each token of a text.
Tokenize = Callable[[str], list[tuple[int, int]]]


@dataclass(frozen=True)
class Haystack:
    id: str
    text: str
    sha256: str
    sources: ReadFiles = field(default_factory=lambda: ReadFiles([]))

    @classmethod
    def from_text(cls, text: str, id: str = "text") -> Haystack:
        return cls(id, text, hashlib.sha256(text.encode()).hexdigest())

    @property
    def files(self) -> tuple[str, ...]:
        return self.sources.files


def load(pattern: str, reading: Reading | None = None) -> Haystack:
    """Read what `find` finds into one text."""
    reading = reading or Reading()
    found = find(pattern, reading.flag)
    return of_files(found.files, found.name, f"{reading.flag} {pattern}", reading)


def of_files(
    files: Sequence[Path],
    name: str,
    argument: str,
    reading: Reading,
    encodings: Mapping[str, str] | None = None,
) -> Haystack:
    """
    Args:
        argument: what errors about the text as a whole name.
        encodings: of files, by name, where they are known.
    """
    found = read(files, reading, encodings)
    stripped = (text.strip() for _, text in found.texts)
    text = _SEPARATOR.join(part for part in stripped if part)
    if not text:
        raise UserError(f"{argument}: there is no text in it: name files with text")
    return replace(Haystack.from_text(text, name), sources=found)


@dataclass
class TokenMap:
    """Tokens of a haystack under one tokenizer, counted once, and exact slices of it on demand."""

    haystack: Haystack
    tokenize: Tokenize
    allow_repeat: bool = False
    _marks: list[tuple[int, int]] = field(default_factory=list)  # (characters, tokens) so far
    _starts: dict[Boundary, Sequence[int]] = field(default_factory=dict)
    _slices: dict[tuple[int, int], Slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text, position, tokens = self.haystack.text, 0, 0
        self._marks.append((0, 0))
        while position < len(text):
            end = min(position + _BLOCK_CHARACTERS, len(text))
            if end < len(text):
                # Cut before white space: merges do not reach across it.
                space = max(text.rfind(" ", position, end), text.rfind("\n", position, end))
                end = space if space > position else end
            tokens += len(self.tokenize(text[position:end]))
            position = end
            self._marks.append((position, tokens))

    @property
    def tokens(self) -> int:
        return self._marks[-1][1]

    def starts(self, kind: Boundary) -> Sequence[int]:
        """Where a sentence, a line, a word or a character begins."""
        if kind not in self._starts:
            text = self.haystack.text
            self._starts[kind] = (
                range(len(text))
                if kind == "character"
                else [0, *(end for end in places(text, kind) if end < len(text))]
            )
        return self._starts[kind]

    def start_for(self, needed: int, fraction: float, kind: Boundary = "sentence") -> int:
        """A sentence start with `needed` tokens behind it, `fraction` of the way through them."""
        starts = self.starts(kind)
        spare = self.tokens if self.allow_repeat else max(self.tokens - needed, 0)
        target = self._character_at(fraction * spare)
        latest = len(self.haystack.text) if self.allow_repeat else self._character_at(spare)
        index = bisect.bisect_left(starts, target)
        if index < len(starts) and starts[index] <= latest:
            return starts[index]
        return starts[max(index - 1, 0)]

    def last_start(self, needed: int, before: int, kind: Boundary = "sentence") -> int:
        """The last sentence start up to `before` with `needed` tokens behind it, counted; else 0.

        `start_for` takes tokens for evenly spread within a block, which a text of several scripts
        is not.
        """
        starts = self.starts(kind)[: bisect.bisect_right(self.starts(kind), before)]
        short = bisect.bisect_left(
            starts, True, key=lambda start: len(self.slice(start, needed).token_ends) < needed
        )
        return starts[max(short - 1, 0)]

    def _character_at(self, token: float) -> int:
        index = bisect.bisect_right(self._marks, token, key=lambda mark: mark[1])
        if index == len(self._marks):
            return self._marks[-1][0]
        (char0, token0), (char1, token1) = self._marks[index - 1 : index + 1]
        return char0 + int((char1 - char0) * (token - token0) / max(token1 - token0, 1))

    def slice(self, start: int, tokens: int) -> Slice:
        """At least `tokens` tokens of text from character `start`, or all there is."""
        if (start, tokens) not in self._slices:
            self._slices = {(start, tokens): self._make_slice(start, tokens)}
        return self._slices[start, tokens]

    def _make_slice(self, start: int, tokens: int) -> Slice:
        source = self.haystack.text[start:].lstrip()
        characters = int(tokens * len(self.haystack.text) / max(self.tokens, 1) * 1.1) + 256
        while True:
            while self.allow_repeat and len(source) < characters:
                source += _SEPARATOR + self.haystack.text
            text = source[:characters]
            offsets = self.tokenize(text)
            if len(offsets) >= tokens or (len(text) == len(source) and not self.allow_repeat):
                return Slice(text, [end for _, end in offsets], Boundaries(text))
            characters = int(characters * 1.3)


@dataclass(frozen=True)
class Slice:
    """A stretch of haystack: its text, and the character at which each token ends."""

    text: str
    token_ends: list[int]
    boundaries: Boundaries

    def tokens_before(self, character: int) -> int:
        return bisect.bisect_right(self.token_ends, character)

    def character_after(self, tokens: int) -> int:
        return self.token_ends[min(tokens, len(self.token_ends)) - 1] if tokens > 0 else 0

    def without(self, characters: int) -> Slice:
        """The slice without its first characters; token ends are kept, as merges there change."""
        if characters == 0:
            return self
        ends = [end - characters for end in self.token_ends if end > characters]
        text = self.text[characters:]
        return Slice(text, ends, Boundaries(text))
