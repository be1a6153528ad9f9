"""One document out of bytes, a file, a folder or standard input.

a folder          its files, each under its path (folder.py)
PDF               its pages (longctx.eval.texts.pdf), by bytes or name
HTML              its blocks (process.py), by media type, name or beginning
all else          text, Markdown too: as it is, in the encoding that it is in
"""

from __future__ import annotations

import difflib
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from longctx.errors import UserError
from longctx.eval.texts.encoding import UTF8, UndecodableError, check_encoding, decode
from longctx.eval.texts.pdf import PdfError, pages_of
from longctx.eval.texts.text import settle
from longctx.reading.document import (
    MOST_CHARACTERS,
    Part,
    ReadDocument,
    ReadingError,
    joined,
    plain,
    too_long,
)
from longctx.reading.folder import folder_files
from longctx.reading.markup import charset_of
from longctx.reading.process import PageError, page_blocks

STDIN, STDIN_NAME = "-", "standard input"
MOST_BYTES = 256 << 20
PDF, HTML, MARKDOWN, PLAIN = "application/pdf", "text/html", "text/markdown", "text/plain"
FOLDER = "inode/directory"
SOURCE = "text/x-source"  # as it is, whatever its name says
_NAMED = 5  # files of a folder that are named in notes
_BY_SUFFIX = {".pdf": PDF, ".html": HTML, ".htm": HTML, ".xhtml": HTML, ".md": MARKDOWN}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PAGE_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype\s+html|<html[\s>])", re.I)
# What people take for a document, by its first bytes; and what to do about it.
_KNOWN = (
    (b"PK\x03\x04", "a zip archive, as Word, Excel and EPUB files are", "export it as PDF or text"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file", "export it as PDF or text"),
    (b"{\\rtf", "rich text (RTF)", "save it as plain text or PDF"),
    (b"\x89PNG", "a picture", "run text recognition (OCR) on it first"),
    (b"\xff\xd8\xff", "a picture", "run text recognition (OCR) on it first"),
    (b"GIF8", "a picture", "run text recognition (OCR) on it first"),
    (b"\x1f\x8b", "compressed", "unpack it first"),
    (b"BZh", "compressed", "unpack it first"),
    (b"\xfd7zXZ", "compressed", "unpack it first"),
    (b"\x7fELF", "a program", "name a file with text"),
)
_SNIFFED, _LARGE = 1 << 16, 1 << 20
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
_CONTROL = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f]")


def read_word(word: str, encoding: str | None = None) -> ReadDocument:
    """What a command line names: a file, a folder, or `-` for standard input.

    Raises:
        ReadingError: a URL, nothing there, or what `read_document` raises.
    """
    if word == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ReadingError(STDIN, "nothing is piped in: longctx ask - < FILE")
        return read_document(sys.stdin.buffer.read(MOST_BYTES + 1), STDIN_NAME, encoding=encoding)
    if _URL.match(word):
        raise ReadingError(
            word, "a URL is not fetched: save it first (curl -LO URL) and name the file"
        )
    return read_document(Path(word).expanduser(), word, encoding=encoding)


def read_document(
    source: bytes | Path,
    name: str | None = None,
    media_type: str | None = None,
    *,
    encoding: str | None = None,
) -> ReadDocument:
    """The text of a file or folder, or of the bytes of a file.

    Args:
        name: what the user calls it; of a path, the path. Of bytes, its ending tells their kind
            where `media_type` does not.
        media_type: as in an HTTP header, `charset` too; None, or application/octet-stream, where it
            is not known.
        encoding: of bytes that are neither marked nor UTF-8, before what the file says of itself.

    Raises:
        ReadingError: one line: nothing there, no text, encrypted, scanned, empty, or too large.
        UserError: `encoding` is none.
    """
    if encoding is not None:
        check_encoding(encoding)
    if isinstance(source, Path):
        name = str(source) if name is None else name
        if source.is_dir():
            return _folder(source, name, encoding)
        data = _bytes_of(source, name)
    else:
        data, name = source, "document" if name is None else name
    if len(data) > MOST_BYTES:
        raise ReadingError(
            name, f"is larger than the {MOST_BYTES >> 20} MiB that are read at most: split it"
        )
    if not data.strip():
        raise ReadingError(name, "is empty: give one with text")
    told, charset = _told(media_type)
    kind = _kind(data, name, told)
    if kind == PDF:
        return _pdf(data, name)
    for begin, what, remedy in _KNOWN:
        if data.startswith(begin):
            raise ReadingError(name, f"no text but {what}: {remedy}")
    if kind == HTML:
        return _page(data, name, encoding or charset or charset_of(data))
    return _text(data, name, encoding or charset, kind)


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        try:
            near = difflib.get_close_matches(
                path.name, [each.name for each in path.parent.iterdir()], n=1
            )
        except OSError:
            near = []
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ReadingError(name, f"no such file or folder: {hint}") from None
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        why = getattr(error, "strerror", None) or error
        raise ReadingError(name, f"cannot be read ({why}): check it") from error


def _told(media_type: str | None) -> tuple[str | None, str | None]:
    """Type and charset of a header's value; a charset that is none is as if it were not said."""
    kind, _, parameters = (media_type or "").partition(";")
    found = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.I)
    kind = kind.strip().lower()
    return (kind if kind and kind != "application/octet-stream" else None), _known(
        found[1] if found else None
    )


def _known(charset: str | None) -> str | None:
    try:
        return None if charset is None else check_encoding(charset)
    except UserError:
        return None


def _kind(data: bytes, name: str, told: str | None) -> str:
    """Bytes that begin as a PDF are one, whatever they are called."""
    if told == PDF or b"%PDF-" in data[:1024]:
        return PDF
    if told in ("text/html", "application/xhtml+xml"):
        return HTML
    if told == SOURCE:
        return PLAIN
    if told in (MARKDOWN, "text/x-markdown"):
        return MARKDOWN
    if (by_suffix := _BY_SUFFIX.get(Path(name).suffix.lower())) is not None:
        return by_suffix
    return HTML if told is None and _PAGE_BEGINS.match(data[:1024]) else PLAIN


def _pdf(data: bytes, name: str) -> ReadDocument:
    try:
        pages = pages_of(data)
    except PdfError as error:
        raise ReadingError(name, str(error)) from error
    empty = pages.count("")
    text, parts = joined(
        (Part(0, name, page=number), page) for number, page in enumerate(pages, 1) if page
    )
    notes = (f"{empty} of {len(pages)} pages have no text, and are left out",) if empty else ()
    return ReadDocument(text, name, notes, PDF, parts)


def _decoded(data: bytes, name: str, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    # Trying encodings on it would take minutes. In smaller ones, UTF-16 without its mark is named.
    if len(data) > _LARGE and not data.startswith(_MARKS):
        control = _CONTROL.search(data[:_SNIFFED])
        if control is not None:
            byte, at = control[0][0], control.start()
            raise ReadingError(
                name, f"is no text (byte {byte:#04x} at {at}): name a file with text"
            )
    try:
        text, used = decode(data, encoding)
    except UndecodableError as error:
        raise ReadingError(name, str(error)) from error
    return text, () if used == UTF8 else (f"read as {used}",)


def _text(data: bytes, name: str, encoding: str | None, kind: str) -> ReadDocument:
    text, notes = _decoded(data, name, encoding)
    if not text.strip():
        raise ReadingError(name, "is empty: give one with text")
    if len(text) > MOST_CHARACTERS:
        raise too_long(name, len(text))
    return plain(text, name, notes, kind)


def _page(data: bytes, name: str, encoding: str | None) -> ReadDocument:
    text, notes = _decoded(data, name, _known(encoding))
    if len(text) > 4 * MOST_CHARACTERS:
        raise too_long(name, len(text), 4 * MOST_CHARACTERS)
    try:
        blocks = page_blocks(text)
    except PageError as error:
        raise ReadingError(name, str(error)) from error
    whole, parts = joined((Part(0, name, line=line), settle(block)) for line, block in blocks)
    if not whole.strip():
        raise ReadingError(
            name, "is a page without text (made by a script?): save it as text in a browser"
        )
    return ReadDocument(whole, name, notes, HTML, parts)


@dataclass
class _Gathered:
    """What the files of a folder gave."""

    pieces: list[tuple[Part, str]] = field(default_factory=list)
    files: int = 0
    characters: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def lines(self, skipped: Counter[str]) -> tuple[str, ...]:
        found = [f"{self.files} file{'s' if self.files != 1 else ''}"]
        if skipped:
            found.append(
                "skipped: " + ", ".join(f"{count} {why}" for why, count in sorted(skipped.items()))
            )
        found += [f"{note}: {count} of them" for note, count in self.notes.items()]
        found += [f"skipped {why}" for why in self.unreadable[:_NAMED]]
        if len(self.unreadable) > _NAMED:
            found.append(f"skipped {len(self.unreadable) - _NAMED} more that cannot be read")
        return tuple(found)


def _folder(folder: Path, name: str, encoding: str | None) -> ReadDocument:
    listed, gathered = folder_files(folder, name), _Gathered()
    for path in listed.files:
        inner = path.relative_to(folder).as_posix()
        called = f"{name.rstrip('/')}/{inner}"
        try:
            data = _bytes_of(path, called)
            if not data.strip():
                listed.skipped["empty"] += 1
                continue
            # A page is source code here. PDFs are told by their bytes.
            read = read_document(data, called, SOURCE, encoding=encoding)
        except ReadingError as error:
            gathered.unreadable.append(f"{inner}: {error.why}")
            continue
        gathered.notes.update(read.notes)
        gathered.pieces += _under(f"## {inner}\n\n", read)
        gathered.files += 1
        gathered.characters += len(read.text)
        if gathered.characters > MOST_CHARACTERS:
            raise ReadingError(
                name,
                f"its files have more than the {MOST_CHARACTERS:,} characters of text that are "
                "read at most: name a folder below it",
            )
    if not gathered.pieces:
        why = f" ({gathered.unreadable[0]})" if gathered.unreadable else ""
        raise ReadingError(name, f"holds no file with text{why}: name files")
    text, parts = joined(gathered.pieces)
    return ReadDocument(text, name, gathered.lines(listed.skipped), FOLDER, parts)


def _under(head: str, read: ReadDocument) -> list[tuple[Part, str]]:
    """A file's text below its path. Its parts (pages) come one by one."""
    text = read.text.strip("\n")
    lost = len(read.text) - len(read.text.lstrip("\n"))
    first = read.parts[0]
    if len(read.parts) == 1:
        line = None if first.line is None else first.line + lost
        return [(replace(first, start=len(head), line=line), head + text)]
    ends = [*(part.start for part in read.parts[1:]), len(read.text)]
    pieces = []
    for part, end in zip(read.parts, ends, strict=True):
        own = read.text[part.start : end].strip("\n")
        lead = head if part is first else ""
        pieces.append((replace(part, start=len(lead)), lead + own))
    return pieces
