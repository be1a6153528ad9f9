"""The seam for perplexity: a table where a folder holds such records, else nothing.

Knows only the names under which a record may give its figures; a record without them is counted,
not guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longctx.report.collect import Run

_METHOD, _LENGTH, _VALUE = "method", "length", "perplexity"


@dataclass(frozen=True)
class Table:
    lengths: list[int]
    rows: list[tuple[str, list[float | None]]]
    unknown: int  # records without the figures


def table_of(run: Run) -> Table | None:
    if not run.perplexity:
        return None
    found: dict[str, dict[int, float]] = {}
    unknown = 0
    for record in run.perplexity:
        method, length, value = _method(record), record.get(_LENGTH), record.get(_VALUE)
        if method is None or not isinstance(length, int) or not isinstance(value, int | float):
            unknown += 1
            continue
        found.setdefault(method, {})[length] = float(value)
    lengths = sorted({length for row in found.values() for length in row})
    rows = [(method, [row.get(length) for length in lengths]) for method, row in found.items()]
    return Table(lengths, rows, unknown)


def _method(record: Mapping[str, Any]) -> str | None:
    scheme = record.get("scheme")
    method = scheme.get(_METHOD) if isinstance(scheme, Mapping) else record.get(_METHOD)
    return method if isinstance(method, str) else None
