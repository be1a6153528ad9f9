"""Bytes of a file to text, without ever making another text of them.

    a mark (UTF-8, UTF-16, UTF-32)   what it says, strictly
    UTF-8                            strictly
    --encoding NAME                  of all other files, strictly
    Chinese, Japanese, Korean        where one reading is far more plausible than every other
    anything else                    an error that names the readings

Encodings of one byte a character read any bytes as something, so they are named by errors and
never assumed. Knows no files.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from longctx.errors import UserError
from longctx.eval.texts.text import settle

# UTF-32's mark of little ends begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF8 = "utf-8"
# Their bytes come in pairs that most other bytes are not: a strict reading is evidence.
_WIDE = (
    *("gb18030", "big5", "big5hkscs", "cp932", "shift_jis_2004", "euc_jp", "euc_jis_2004"),
    *("cp949", "johab"),
)
# The commoner first: of readings that are equally plausible, errors name these.
_NARROW = (
    *("cp1252", "iso8859_15", "cp1250", "iso8859_2", "cp1251", "koi8_r", "koi8_u", "cp866"),
    *("iso8859_5", "cp1253", "iso8859_7", "cp1254", "iso8859_9", "cp1255", "iso8859_8"),
    *("cp1256", "iso8859_6", "cp1257", "iso8859_13", "iso8859_16", "cp1258", "cp874"),
    *("mac_roman", "cp850", "cp858", "cp437", "cp852", "cp855", "cp737", "mac_latin2"),
    *("mac_cyrillic", "mac_greek", "mac_turkish", "iso8859_1"),
)
_UNMARKED = ("utf_16_le", "utf_16_be")
# Codecs of Python that are no encodings of files.
_NO_FILES = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}
# In charset-normalizer's measure of disorder, 0 to 1. Over 450 pieces of 30 to 8,000 characters
# in 10 languages and 26 encodings, readings nearer than 0.05 to another were once a wrong one,
# and those further apart than 0.08 never.
_FAR = 0.1
_SHOWN, _SHOWN_LETTERS = 4, 8
_ESCAPED = (("iso2022_jp_2", (b"\x1b$B", b"\x1b$@", b"\x1b$(")), ("iso2022_kr", (b"\x1b$)C",)))


class Decoded(NamedTuple):
    text: str
    encoding: str


class UndecodableError(ValueError):
    """No text, or more than one; the message says what to do."""


def check_encoding(name: str, flag: str = "--encoding") -> str:
    """
    Raises:
        UserError: no encoding of that name.
    """
    try:
        found = codecs.lookup(name)
        if not found._is_text_encoding or found.name.replace("-", "_") in _NO_FILES:
            raise LookupError
    except (LookupError, ValueError):
        raise UserError(
            f"{flag} {name}: no encoding of that name: use one as cp1252, shift_jis, euc_kr, "
            "gb18030 or latin-1"
        ) from None
    return name


def decode(data: bytes, encoding: str | None = None) -> Decoded:
    """Text as `settle` leaves it, and the encoding it was in.

    Args:
        encoding: of bytes that are neither marked nor UTF-8; None: it is recognised, or an error.

    Raises:
        UndecodableError: says where, or names the readings.
    """
    found = _marked(data) or _utf8(data, encoding) or _other(data, encoding)
    return Decoded(settle(found.text), found.encoding)


def _marked(data: bytes) -> Decoded | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _strict(data, encoding)
            _refuse_nul(text, encoding)
            return Decoded(text, encoding.removesuffix("-sig"))
    return None


def _utf8(data: bytes, encoding: str | None) -> Decoded | None:
    """None where the bytes are not UTF-8, or may be something else that was named."""
    try:
        text = data.decode(UTF8)
    except UnicodeDecodeError:
        return None
    escaped = [
        name
        for name, starts in _ESCAPED
        if any(start in data for start in starts) and _reads(data, name)
    ]
    if encoding is not None and (text.isascii() or escaped or "\0" in text):
        return None
    if escaped:
        raise UndecodableError(
            f"it reads as {escaped[0]}, and as plain bytes with escapes: name the right one with "
            f"--encoding, {escaped[0]} or utf-8"
        )
    if "\0" in text:
        for name in _UNMARKED:
            if (wide := _reads(data, name)) is not None:
                raise UndecodableError(
                    f"it reads as {name} without its mark ({_shown(wide, 0)}): say --encoding "
                    f"{name}, or save it as UTF-8"
                )
        _refuse_nul(text, UTF8)
    return Decoded(text, UTF8)


def _other(data: bytes, encoding: str | None) -> Decoded:
    if encoding is not None:
        text = _strict(data, encoding)
        _refuse_nul(text, encoding)
        return Decoded(text, UTF8 if text.encode(errors="replace") == data else encoding)
    bad = _mostly_utf8(data)
    if bad is not None:
        raise UndecodableError(f"UTF-8 but for a bad byte at {bad}: save it as UTF-8 again")
    readings = list(_readings(data))
    if not readings:
        raise UndecodableError(
            f"no text: not UTF-8 (bad byte at {_first_bad(data)}), nor any other encoding that is "
            "known here: save it as UTF-8, or name its encoding with --encoding"
        )
    best, others = readings[0], readings[1:]
    if best.encoding in _WIDE and not any(other.near for other in others):
        return Decoded(best.text, best.encoding)
    near = [each for each in readings if each.near]
    at = _first_difference([each.text for each in near[:_SHOWN]])
    shown = [f"{each.encoding} ({_shown(each.text, at)})" for each in near[:_SHOWN]]
    more = " and others" if len(near) > _SHOWN else ""
    raise UndecodableError(
        f"not UTF-8; it may be {', '.join(shown)}{more}: name the right one with --encoding, or "
        "save it as UTF-8"
    )


class _Reading(NamedTuple):
    """`near` the most plausible of all, or itself that."""

    text: str
    encoding: str
    near: bool


def _readings(data: bytes) -> Iterator[_Reading]:
    """Different texts that the bytes may be, the most plausible first."""
    from charset_normalizer import from_bytes  # which most runs have no use for

    known = [*_WIDE, *_NARROW, *_UNMARKED]
    matches = from_bytes(data, cp_isolation=known, enable_fallback=False)
    disorder: dict[str, float] = {}
    for match in matches:
        # Encodings that read a file alike are one match.
        for name in (match.encoding, *match.could_be_from_charset):
            disorder[name] = min(match.chaos, disorder.get(name, 1.0))
    ranked = sorted(
        (name for name in disorder if name in known),
        key=lambda name: (round(disorder[name], 2), known.index(name)),
    )
    seen: set[str] = set()
    least = None
    for name in ranked:
        text = _reads(data, name)
        if text is not None and text not in seen:
            seen.add(text)
            least = disorder[name] if least is None else least
            yield _Reading(text, name, disorder[name] - least < _FAR)


def _reads(data: bytes, encoding: str) -> str | None:
    """The text, where the bytes are one: no control, private or unassigned characters in it."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    usual = set("\n\r\t\f\v\x1b\x08\x7f")
    if any(unicodedata.category(char) in ("Cc", "Co", "Cn", "Cs") for char in set(text) - usual):
        return None
    return text


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UndecodableError(
            f"not {encoding}: bad byte at {error.start}: save it as UTF-8, or name its encoding "
            "with --encoding"
        ) from None
    except UnicodeError as error:
        raise UndecodableError(f"not {encoding} ({error}): save it as UTF-8") from None


def _refuse_nul(text: str, encoding: str) -> None:
    nul = text.find("\0")
    if nul >= 0:
        before = len(text[:nul].encode(encoding))
        raise UndecodableError(f"no text: bad byte at {before}: name a file with text")


def _first_bad(data: bytes) -> int:
    try:
        data.decode(UTF8)
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _mostly_utf8(data: bytes) -> int | None:
    """Where damaged UTF-8 is damaged. Read in another encoding it would be a text all the same."""
    read = data.decode(UTF8, "replace")
    bad = read.count("\ufffd") - data.count("\ufffd".encode())
    good = sum(1 for char in read if char > "\x7f" and char != "\ufffd")
    return _first_bad(data) if good >= 10 * bad else None


def _first_difference(texts: Sequence[str]) -> int:
    """The first character in which not all agree; of one text, the first beyond ASCII."""
    shortest = min(map(len, texts))
    return next(
        (
            at
            for at in range(shortest)
            if len({text[at] for text in texts}) > 1 or (len(texts) == 1 and texts[0][at] > "\x7f")
        ),
        0,
    )


def _shown(text: str, at: int) -> str:
    """The word around a character, in quotes: it tells readings apart."""
    start = max(0, at - _SHOWN_LETTERS // 2)
    before, behind = text[start:at].split(), text[at : at + _SHOWN_LETTERS].split()
    joined = bool(before) and not text[at - 1].isspace()
    return f'"{before[-1] if joined else ""}{behind[0] if behind else ""}"'
