"""Results on disk: one JSON line per finished cell, appended and synced, never rewritten.

    whole lines                  read
    a last line without its end  a write that a kill cut short: ignored when reading, removed or
                                 completed before the next append
    any other damage             an error with the line's number; nothing is guessed

Knows what a record must have to be counted, by the kind of file; not how it was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longctx.errors import UserError
from longctx.eval.scoring import STATUSES

SCHEMA = 1

Record = dict[str, Any]

# What each kind of record has beside its schema.
NEEDLE = ("key", "scheme", "length", "depth", "repeat", "status", "score")
PERPLEXITY = ("key", "scheme", "document", "tokens", "window", "stride", "status", "nll")


def read(path: Path, needed: Sequence[str] = NEEDLE) -> list[Record]:
    """Every record, oldest first. A torn last line is left out."""
    return _parse(path, path.read_bytes(), needed)[0] if path.exists() else []


def latest(records: list[Record]) -> dict[str, Record]:
    """The last record of each key: a cell that failed and was run again counts once."""
    return {record["key"]: record for record in records}


class RecordFile:
    """A results file open for appending; the run folder's lock keeps other writers out."""

    def __init__(self, path: Path, needed: Sequence[str] = NEEDLE) -> None:
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        records, good = _parse(path, data, needed)
        self._records = latest(records)
        existed = path.exists()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if good < len(data):
            os.ftruncate(self._file, good)
        if good and data[good - 1 : good] != b"\n":
            self._write(b"\n")
        if not existed:
            sync_directory(path.parent)

    @property
    def records(self) -> dict[str, Record]:
        return self._records

    def append(self, record: Record) -> None:
        """Returns once the record is on the disk."""
        self._write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._records[record["key"]] = record

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)


def _parse(path: Path, data: bytes, needed: Sequence[str]) -> tuple[list[Record], int]:
    """The records, and the number of bytes that they take."""
    records: list[Record] = []
    good = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        if last and not line:
            break
        try:
            records.append(_checked(json.loads(line), needed))
        except ValueError as error:
            if last:  # no newline behind it: the write did not finish
                break
            raise UserError(
                f"{path}: line {number} is damaged ({error}): restore the file from a copy, "
                "or delete that line to run its cell again"
            ) from None
        good += len(line) + (not last)
    return records, good


def _checked(record: Any, needed: Sequence[str]) -> Record:
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema {record.get('schema')!r}, this version reads {SCHEMA}")
    missing = [name for name in needed if name not in record]
    if missing:
        raise ValueError(f"no {missing[0]}")
    if record["status"] not in STATUSES:
        raise ValueError(f"unknown status {record['status']!r}")
    return record


def write_atomically(path: Path, text: str) -> None:
    """Old content or new content, never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """A new or renamed file survives a power cut only once its directory is synced."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
