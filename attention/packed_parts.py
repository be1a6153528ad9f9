"""A step of packed sequences in host numbers: which queries of which part meet which run of keys.

The first part of a token is its own chunk, causal; the others see their keys whole. A row whose
keys lie in several runs has a part for each. Knows no tensors; packed.py lays these out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from longctx.attention.chunks import KeyPart, Turns, split_block
from longctx.attention.rows import StepRow, slots_of


class PartSequence(NamedTuple):
    """Queries [first, stop) of one part over one run of keys."""

    first: int
    stop: int
    at: int
    keys: int
    part: KeyPart | None = None
    r: int = 0  # chunk position of the first
    m: float = 1.0


def sequences_of(
    rows: Sequence[StepRow],
    turns: Turns | None,
    batch: int,
    columns: int,
    pitch: int,
    first: int,
    stop: int,
) -> list[list[PartSequence]]:
    """The sequences of each part, within tokens [first, stop)."""
    chunk_map = turns.chunk_map if turns else None
    pieces = sorted(
        (
            (token, start, length, b * pitch, row)
            for row in rows
            for b in range(*row.batch.indices(batch))
            for token, start, length in _runs(row, b * columns)
        ),
        key=lambda piece: piece[0],
    )
    parts: list[list[PartSequence]] = [[]]
    for token, start, length, offset, row in pieces:
        low, high = max(token, first), min(token + length, stop)
        if low >= high:
            continue
        start += low - token
        for step in split_block(chunk_map, start, high - low):
            bands = [(band.rows, band.parts) for band in step.bands] or [(step.rows, ())]
            for queries, behind in bands:
                span = (low - first + queries.start, low - first + queries.stop)
                position = start + queries.start
                keys = slice(step.keys.start, start + queries.stop)
                found = _own_chunk(row, keys, position, span)
                found += [
                    PartSequence(*span, each.start, each.stop - each.start, part)
                    for part in behind
                    for each in slots_of(row, part.keys)
                ]
                _place(parts, found, offset, position - keys.start, row.logit_scale, span[0])
    return parts


def _runs(row: StepRow, offset: int) -> list[tuple[int, int, int]]:
    """Neighbouring columns: (token, position, length)."""
    if isinstance(row.columns, slice):
        return [(offset + (row.columns.start or 0), row.start, row.length)]
    runs: list[tuple[int, int, int]] = []
    for at, column in enumerate(row.columns):
        if runs and runs[-1][0] + runs[-1][2] == offset + column:
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((offset + column, row.start + at, 1))
    return runs


def _own_chunk(
    row: StepRow, keys: slice, position: int, span: tuple[int, int]
) -> list[PartSequence]:
    """The own chunk: causal where queries and keys meet (first in the list), whole before that."""
    meeting: list[PartSequence] = []
    whole: list[PartSequence] = []
    at = keys.start
    for slots in slots_of(row, keys):
        count = slots.stop - slots.start
        behind = at + count  # queries from here on see the run whole
        low = span[0] + max(at - position, 0)
        split = min(max(span[0] + behind - position, low), span[1])
        if split > low and behind > position + 1:
            meeting.append(PartSequence(low, split, slots.start, count))
        else:
            split = low
        if split < span[1]:
            whole.append(PartSequence(split, span[1], slots.start, count))
        at = behind
    if not meeting:  # one query: nothing is causal
        meeting.append(whole.pop())
    return meeting + whole


def _place(
    parts: list[list[PartSequence]],
    found: list[PartSequence],
    offset: int,
    r: int,
    m: float,
    first: int,
) -> None:
    """Give each sequence the first part that its queries have free."""
    for each in found:
        each = each._replace(at=each.at + offset, r=r + each.first - first, m=m)
        for part in parts:
            if not part or part[-1].stop <= each.first:
                part.append(each)
                break
        else:
            parts.append([each])


def cover(part: list[PartSequence], count: int, single: bool) -> list[PartSequence]:
    """Sequences without keys where the part has none, so that all tokens are covered."""
    filled: list[PartSequence] = []
    at = 0
    for each in [*part, PartSequence(count, count, 0, 0)]:
        if at < each.first:
            step = 1 if single else each.first - at
            filled += [PartSequence(n, n + step, 0, 0) for n in range(at, each.first, step)]
        if each.stop > each.first:
            filled.append(each)
        at = each.stop
    return filled
