"""Results on disk: one JSON line per finished cell, appended and synced, never rewritten.

    whole lines                  read
    a last line without its end  a write that a kill cut short: ignored when reading, removed or
                                 completed before the next append
    any other damage             an error with the line's number; nothing is guessed

Records of older versions are read as if they had the fields that came later; answers that were cut
off, which had no score in them, as scored by what they have. Knows what a record must have to be
counted, by the kind of file; not how it was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast, overload

from longctx.errors import UserError
from longctx.eval.runfolder import fields
from longctx.eval.runfolder.record_schema import ControlRecord, NeedleRecord, PerplexityRecord
from longctx.eval.scoring import SCORED, STATUSES, scores_of

SCHEMA = 1

Record = NeedleRecord
R = TypeVar("R", NeedleRecord, ControlRecord, PerplexityRecord)


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of record: `needed` beside its schema to be counted, `later` what older ones lack."""

    needed: tuple[str, ...]
    later: Mapping[str, Any]


_PLACED = ("key", "scheme", "length", "depth", "repeat", "status", "score")
_PASSED = ("key", "scheme", "document", "tokens", "window", "stride", "status", "nll")
NEEDLE = Kind[NeedleRecord](_PLACED, fields.later(NeedleRecord))
CONTROL = Kind[ControlRecord](_PLACED, fields.later(ControlRecord))
PERPLEXITY = Kind[PerplexityRecord](_PASSED, fields.later(PerplexityRecord))


@overload
def read(path: Path) -> list[NeedleRecord]: ...
@overload
def read(path: Path, kind: Kind[R]) -> list[R]: ...
def read(path: Path, kind: Kind[Any] = NEEDLE) -> list[Any]:
    """Every record, oldest first. A torn last line is left out."""
    return _parse(path, path.read_bytes(), kind)[0] if path.exists() else []


def latest(records: Iterable[R]) -> dict[str, R]:
    """The last record of each key, in the order in which they were measured.

    A cell that failed and was run again counts once; one that was judged again stays where it was.
    """
    found: dict[str, R] = {}
    for record in records:
        _put(found, record)
    return found


def _put(found: dict[str, R], record: R) -> None:
    if "rescored_from" not in record:
        found.pop(record["key"], None)
    found[record["key"]] = record


def scored(record: NeedleRecord | ControlRecord) -> float | None:
    """The score of an answer that counts; None of all others."""
    return record["score"] if record["status"] in SCORED else None


def text_of(record: NeedleRecord) -> int:
    """Which text of its length it was asked about: the depths of a repeat share one, or each has
    one of its own. Records without a recipe are of a time when they shared it."""
    recipe = record.get("recipe") or {}
    return int(recipe.get("repeat", record["repeat"]))


def place_of(record: NeedleRecord | ControlRecord) -> tuple[str, int, float | None, int]:
    """Method, length, depth and repeat."""
    return record["scheme"]["method"], record["length"], record["depth"], record["repeat"]


def looked_again(records: Iterable[NeedleRecord], first: int) -> set[int]:
    """The lengths with a sample beyond the `first` repeats."""
    return {record["length"] for record in records if record["repeat"] >= first}


class Newest(NamedTuple, Generic[R]):
    records: list[R]
    superseded: int


def newest(records: Iterable[R], place: Callable[[R], Hashable]) -> Newest[R]:
    """The newest record of each place, and how many are older: two versions may have two keys for
    one place."""
    everything = list(records)
    found: dict[Hashable, R] = {}
    for record in everything:
        found.pop(place(record), None)
        found[place(record)] = record
    return Newest(list(found.values()), len(everything) - len(found))


class RecordFile(Generic[R]):
    """A results file open for appending; the run folder's lock keeps other writers out."""

    def __init__(self, path: Path, kind: Kind[R]) -> None:
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        records, good = _parse(path, data, kind)
        self._records: dict[str, R] = latest(records)
        existed = path.exists()
        # Windows would write two bytes for each line end.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o644)
        if good < len(data):
            os.ftruncate(self._file, good)
        if good and data[good - 1 : good] != b"\n":
            self._write(b"\n")
        if not existed:
            sync_directory(path.parent)

    @property
    def records(self) -> dict[str, R]:
        return self._records

    def append(self, record: R) -> None:
        """Returns once the record is on the disk."""
        self._write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        _put(self._records, record)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)


def _parse(path: Path, data: bytes, kind: Kind[R]) -> tuple[list[R], int]:
    """The records, and the number of bytes that they take."""
    records: list[R] = []
    good = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        if last and not line:
            break
        try:
            records.append(_checked(json.loads(line), kind))
        except _OtherVersionError as error:
            raise UserError(f"{path}: line {number} {error}") from None
        except ValueError as error:
            if last:  # no newline behind it: the write did not finish
                break
            raise UserError(
                f"{path}: line {number} is damaged ({error}): restore the file from a copy, "
                "or delete that line to run its cell again"
            ) from None
        good += len(line) + (not last)
    return records, good


class _OtherVersionError(Exception):
    """A record that is whole, of a schema that is not read here."""


def age_of(schema: Any) -> str | None:
    """Which version wrote a schema that is not read here; None of the one that is.

    Raises:
        ValueError: no number of a schema.
    """
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise ValueError(f"schema {schema!r}, this version reads {SCHEMA}")
    if schema == SCHEMA:
        return None
    return "an older" if schema < SCHEMA else "a newer"


def _checked(record: Any, kind: Kind[R]) -> R:
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if (age := age_of(record.get("schema"))) is not None:
        raise _OtherVersionError(
            f"was written by {age} version (schema {record['schema']}, this one reads {SCHEMA}): "
            "use that version, or name another folder"
        )
    missing = [name for name in kind.needed if name not in record]
    if missing:
        raise ValueError(f"no {missing[0]}")
    if record["status"] not in STATUSES:
        raise ValueError(f"unknown status {record['status']!r}")
    return cast(R, _with_scores({**kind.later, **record}))


def _with_scores(record: dict[str, Any]) -> dict[str, Any]:
    """The verdicts of all scorers, where an older record has one or none of its answer."""
    answer, expected = record.get("response"), record.get("expected")
    if record.get("scores") is not None or record["status"] not in SCORED:
        return record
    if not isinstance(answer, str) or not expected:
        return record
    scores = scores_of(answer, expected, record["match"])
    if record["score"] is None:
        record["score"] = scores["whole"]
    # The verdict of then stays until `longctx rescore`.
    return {**record, "scores": {**scores, "whole": record["score"]}}


def write_atomically(path: Path, text: str) -> None:
    """Old content or new content, never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """A new or renamed file survives a power cut only once its directory is synced."""
    if os.name == "nt":  # which opens no directories
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
