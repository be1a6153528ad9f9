"""multipart/form-data (RFC 7578) of a body that is in memory: names, file names, types, bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import HTTP
from typing import NamedTuple

from longctx.serve.errors import ApiError

_MOST_PARTS = 16
_MOST_HEAD = 4096


class FormPart(NamedTuple):
    """A field of a form; `filename` is what the client says, and nothing else."""

    name: str
    filename: str | None
    media_type: str | None
    data: memoryview


def parts_of(raw: bytes, content_type: str) -> list[FormPart]:
    """
    Raises:
        ApiError: it is no such form.
    """
    message = EmailMessage(policy=HTTP)
    message["content-type"] = content_type
    boundary = message.get_boundary() or ""
    if not re.fullmatch(r"[ -~]{1,70}", boundary):
        raise _no_form("its Content-Type names no boundary")
    found = [_part(raw, start, end) for start, end in _spans(raw, boundary.encode())]
    if not found:
        raise _no_form("it has no part")
    return found


def _spans(raw: bytes, boundary: bytes) -> Iterator[tuple[int, int]]:
    """Of each part, where it begins and ends; nothing is copied."""
    line = b"--" + boundary
    at = raw.find(line)
    if at > 0 and raw[at - 2 : at] != b"\r\n":
        raise _no_form("its first boundary does not begin a line")
    for _ in range(_MOST_PARTS + 1):
        if at < 0:
            raise _no_form("it ends in the middle")
        at += len(line)
        if raw[at : at + 2] == b"--":
            return
        start = raw.find(b"\r\n", at, at + 128)
        end = raw.find(b"\r\n" + line, at)
        if start < 0 or end < 0 or raw[at:start].strip(b" \t"):
            raise _no_form("it ends in the middle")
        yield start + 2, max(end, start + 2)
        at = end + 2
    raise _no_form(f"it has more than {_MOST_PARTS} parts")


def _part(raw: bytes, start: int, end: int) -> FormPart:
    head = raw.find(b"\r\n\r\n", start, min(end, start + _MOST_HEAD))
    if head < 0:
        raise _no_form("a part has no head, or one that is too long")
    headers = BytesHeaderParser(policy=HTTP).parsebytes(raw[start : head + 2])
    disposition = headers["content-disposition"]
    name = None if disposition is None else disposition.params.get("name")
    if name is None:
        raise _no_form("a part has no name")
    kind = headers.get_content_type() if headers["content-type"] is not None else None
    data = memoryview(raw)[head + 4 : end]
    return FormPart(str(name), disposition.params.get("filename"), kind, data)


def _no_form(why: str) -> ApiError:
    return ApiError(400, f"The body is no multipart form: {why}.", code="invalid_form")
