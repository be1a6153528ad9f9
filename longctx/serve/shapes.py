"""How much there is, before anything walks through it.

Of a large body how many values, before it is parsed: a parser makes them all while no other thread
can run, and a body of 60 MB has room for twenty million lists. Counts brackets, strings and commas
outside of strings, in pieces of a few milliseconds. Says nothing on whether it is JSON: that is the
parser's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from longctx.serve.errors import ApiError

# Token ids are many and cheap, all else is neither. 4,096 messages and 64K of schema are far below.
LISTS_AND_OBJECTS = 100_000
STRINGS = 200_000
VALUES = 2_500_000
_PIECE = 1 << 16


def check_shape(raw: bytes, most_ids: int = VALUES) -> None:
    """
    Args:
        most_ids: token ids that the largest request could have.

    Raises: ApiError, 400.
    """
    most_values = min(VALUES, STRINGS + most_ids)
    # What stands inside of strings counts too here, and mostly that is few enough.
    most_of = ((b"{[", LISTS_AND_OBJECTS), (b'"', STRINGS), (b",", most_values))
    if all(_counts(raw, characters) <= most for characters, most in most_of):
        return
    brackets = commas = strings = 0
    for outside, begun in _outside_strings(raw):
        brackets += outside.count(b"{") + outside.count(b"[")
        commas += outside.count(b",")
        strings += begun
        for found, most, what in (
            (brackets, LISTS_AND_OBJECTS, "objects and lists"),
            (strings, STRINGS, "strings, names of fields included"),
            (commas, most_values, "values"),
        ):
            if found > most:
                message = f"The body has more than {most:,} {what}: send fewer."
                raise ApiError(400, message, code="too_many_values")


def _counts(raw: bytes, characters: bytes) -> int:
    return sum(
        raw.count(bytes([character]), at, at + _PIECE)
        for character in characters
        for at in range(0, len(raw), _PIECE)
    )


def _outside_strings(raw: bytes) -> Iterator[tuple[bytes, int]]:
    """Of each piece, what is in no string, and how many strings begin in it."""
    inside, at = False, 0
    while at < len(raw):
        piece = raw[at : at + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what is escaped stays with its mark
            piece = raw[at : at + _PIECE + 1]
        at += len(piece)
        piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        parts = piece.split(b'"')
        yield b"".join(parts[int(inside) :: 2]), len(parts[int(not inside) :: 2]) - int(inside)
        inside ^= len(parts) % 2 == 0


def is_longer(value: Any, most: int) -> bool:
    """Whether JSON of it certainly has more characters; looks at no more values than that."""
    size, left = 0, [value]
    while left and size <= most:
        one = left.pop()
        size += 1
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, dict | list):
            size += len(one)
            if size <= most:
                left.extend(one)
                left.extend(one.values() if isinstance(one, dict) else ())
    return size > most


def check_json(schema: Any, most: int, param: str) -> None:
    """Raises: ApiError, for more than so many characters of JSON."""
    if is_longer(schema, most):  # before it is written, which takes long for what is large
        size = f"more than {most}"
    elif (exact := len(json.dumps(schema))) > most:
        size = str(exact)
    else:
        return
    raise ApiError(
        400,
        f"{param}: a schema of {size} characters, at most {most} are taken: make it smaller.",
        code="schema_too_large",
        param=param,
    )


def check_characters(texts: Iterable[str], most: int, param: str) -> None:
    """Raises: ApiError, for more than so many characters."""
    if (size := sum(map(len, texts))) > most:
        message = f"{param}: {size:,} characters, at most {most:,} are tokenised: send less."
        raise ApiError(400, message, code="text_too_long", param=param)
