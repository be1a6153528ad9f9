"""A text that was read, and where in its file each character of it stood."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from longctx.errors import UserError

# Of one document, whatever it was read from: some five million tokens.
MOST_CHARACTERS = 20_000_000
_BETWEEN = "\n\n"


class ReadingError(UserError):
    """No text can be had. Reads `NAME: WHY: WHAT TO DO`.

    Attributes:
        why: without the name.
    """

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why = name, why
        super().__init__(f"{name}: {why}")


@dataclass(frozen=True)
class Place:
    """Where a character stands: what a person looks up. `line` and `page` count from 1."""

    name: str
    page: int | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.page is not None:
            return f"{self.name}, page {self.page}"
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Part:
    """From character `start` on: a page, a file of a folder, or a block that began in a line.

    `line` is that of the character `start`. Within a part lines count on where `counts`.
    """

    start: int
    name: str
    page: int | None = None
    line: int | None = None
    counts: bool = False


@dataclass(frozen=True)
class ReadDocument:
    """
    Attributes:
        text: in NFC, with \\n as line end; never empty.
        name: what the user calls it.
        notes: what was not read as it is, a line each.
        media_type: what it was read as.
        parts: by `start`; what stands before the first is ours.
    """

    text: str = field(repr=False)
    name: str
    notes: tuple[str, ...] = ()
    media_type: str = "text/plain"
    parts: tuple[Part, ...] = field(default=(), repr=False)

    def place(self, at: int) -> Place:
        """Of the character at this index of `text`."""
        index = bisect.bisect_right(self.parts, at, key=lambda part: part.start) - 1
        if index < 0:
            return Place(self.parts[0].name if self.parts else self.name)
        part = self.parts[index]
        line = part.line
        if line is not None and part.counts:
            line += self.text.count("\n", part.start, at)
        return Place(part.name, part.page, line)


def plain(text: str, name: str, notes: tuple[str, ...], media_type: str) -> ReadDocument:
    """A text whose lines are its file's."""
    return ReadDocument(text, name, notes, media_type, (Part(0, name, line=1, counts=True),))


def joined(pieces: Iterable[tuple[Part, str]]) -> tuple[str, tuple[Part, ...]]:
    """Texts with an empty line between them; parts come back with their `start` in the whole."""
    texts: list[str] = []
    parts: list[Part] = []
    length = 0
    for part, text in pieces:
        if texts:
            length += len(_BETWEEN)
        parts.append(replace(part, start=length + part.start))
        texts.append(text)
        length += len(text)
    return _BETWEEN.join(texts), tuple(parts)


def too_long(name: str, characters: int, most: int = MOST_CHARACTERS) -> ReadingError:
    return ReadingError(
        name,
        f"has {characters:,} characters of text, {characters - most:,} more than the {most:,} that "
        "are read at most: split it",
    )
