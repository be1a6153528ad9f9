"""Tool calls in a stream of text, in Qwen's format, told apart from what is said to the reader.

    said to the reader
    <tool_call>
    {"name": "weather", "arguments": {"place": "Oslo"}}
    </tool_call>

A call is handed on when its JSON is complete: only then is it known to be one, and what turns out
not to be one is given back as content, so no text is lost. White space around calls is layout.
Knows neither HTTP nor tokens.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ContentPiece:
    text: str


@dataclass(frozen=True)
class ToolCallStart:
    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """`text` is JSON as the model wrote it; the pieces of one `index` belong together."""

    index: int
    text: str


Piece = ContentPiece | ToolCallStart | ToolCallArguments


def new_call_id() -> str:
    """Of a call that the model has made."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Feed an answer's text as it comes; pieces come out once nothing can change them.

    However the text is cut into feeds, the contents between calls concatenate to the same text and
    the calls are the same. A call whose closing tag never came counts where its JSON is complete.
    """

    def __init__(self, new_id: Callable[[], str] = new_call_id) -> None:
        self._new_id = new_id
        self._text = ""  # what is undecided yet
        self._calls = 0
        self._object: ObjectEnd | None = None  # inside a call: looks for the end of its JSON
        self._spaces = ""  # before the open call: content if it turns out to be none
        self._between = False  # behind a call, and nothing said since

    def feed(self, text: str) -> list[Piece]:
        self._text += text
        return self._advance(last=False)

    def close(self) -> list[Piece]:
        """What was held back, at the end of the answer."""
        return self._advance(last=True)

    def _advance(self, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._step(pieces, last):
            pass
        return _joined(pieces)

    def _step(self, pieces: list[Piece], last: bool) -> bool:
        """Decide about the beginning of what is held; False where more text is needed."""
        return self._read_call(pieces, last) if self._object else self._read_content(pieces, last)

    def _read_content(self, pieces: list[Piece], last: bool) -> bool:
        said, tag, rest = self._text.partition(OPEN)
        if tag:
            kept = said.rstrip()
            self._spaces, self._text, self._object = said[len(kept) :], rest, ObjectEnd()
            self._say(pieces, kept)
            return True
        if last:
            self._text = ""
            self._say(pieces, "" if self._between and said.isspace() else said)
            return False
        # Held back: what may begin a tag, and white space, which a call would swallow.
        kept = said[: len(said) - _overlap(said, OPEN)].rstrip()
        self._say(pieces, kept)
        self._text = said[len(kept) :]
        return False

    def _read_call(self, pieces: list[Piece], last: bool) -> bool:
        assert self._object is not None
        end = self._object.find(self._text)
        if end is None and not last:
            return False
        if end is None or end < 0:
            return self._give_back(pieces)
        tail = self._text[end:].lstrip()
        if not tail.startswith(CLOSE):
            if CLOSE.startswith(tail):
                if not last:
                    return False
                tail = CLOSE  # cut off behind a complete call
            else:
                return self._give_back(pieces)
        call = parse_call(self._text[:end])
        if call is None:
            return self._give_back(pieces)
        pieces.append(ToolCallStart(self._calls, self._new_id(), call.name))
        pieces.append(ToolCallArguments(self._calls, call.arguments))
        self._calls += 1
        self._text, self._object, self._between = tail[len(CLOSE) :], None, True
        return True

    def _give_back(self, pieces: list[Piece]) -> bool:
        """It was no call: its tag is content, and what follows is read as content."""
        self._say(pieces, self._spaces + OPEN)
        self._object = None
        return True

    def _say(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(ContentPiece(text))
            self._between = False


class ToolCall(NamedTuple):
    name: str
    arguments: str


def parse_call(text: str) -> ToolCall | None:
    """Name and arguments of `{"name": …, "arguments": {…}}`; None where it is anything else.

    `arguments` is the value as it is written. A string that holds an object is unwrapped: models
    write that too. Without arguments it is `{}`.
    """
    members = _members(text)
    if members is None or not set(members) <= {"name", "arguments"}:
        return None
    name, _ = members.get("name", (None, ""))
    value, written = members.get("arguments", ({}, "{}"))
    if isinstance(value, str):
        written, value = value, _loaded(value)
    if not isinstance(name, str) or not name or not isinstance(value, dict):
        return None
    if not _is_unicode(name) or not _is_unicode(written):
        return None
    return ToolCall(name, written)


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair, which JSON can escape, cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _loaded(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _members(text: str) -> dict[str, tuple[object, str]] | None:
    """The members of a JSON object, each with its value and the value as it is written."""
    text = text.strip()
    if not isinstance(_loaded(text), dict):
        return None
    found: dict[str, tuple[object, str]] = {}
    # The text is an object, so each of these positions holds what is expected there.
    at = _skip(text, 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)  # behind the colon
        value, at = _DECODER.raw_decode(text, start)
        found[key] = (value, text[start:at])
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at


class ObjectEnd:
    """Finds where the JSON object at the beginning of a growing text ends; reads each part once."""

    def __init__(self) -> None:
        self._at = self._depth = 0
        self._in_string = self._escaped = False
        self._result: int | None = None

    def find(self, text: str) -> int | None:
        """The position behind the object; None while it goes on; -1 where there is none."""
        while self._result is None and self._at < len(text):
            self._read(text[self._at])
            self._at += 1
        return self._result

    def _read(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = char == "\\"
            self._in_string = char != '"'
        elif char == '"' and self._depth:
            self._in_string = True
        elif char in "{[" and (self._depth or char == "{"):
            self._depth += 1
        elif char in "}]" and self._depth:
            self._depth -= 1
            if not self._depth:
                self._result = self._at + 1
        elif char == "<" or not (self._depth or char.isspace()):
            self._result = -1  # JSON has no `<` outside strings: a tag came too early


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next(n for n in range(len(tag) - 1, -1, -1) if text.endswith(tag[:n]))


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring contents as one."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, ContentPiece) and joined and isinstance(joined[-1], ContentPiece):
            joined[-1] = ContentPiece(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined
