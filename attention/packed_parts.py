"""A step of packed sequences in host numbers: which queries of which part meet which run of keys.

The first part of a token is its own chunk, causal; the others see their keys whole. A row whose
keys lie in several runs has a part for each; under a kernel of pages, for each stretch of runs that
pages cover. Knows no tensors; packed.py lays these out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from longctx.attention.chunks import KeyPart, Turns, split_block
from longctx.attention.rows import Slots, StepRow, slots_of


class PartSequence(NamedTuple):
    """Queries [first, stop) of one part over one stretch of keys.

    Attributes:
        at: slot of the first key.
        behind: where the first run ends and keys go on elsewhere: (slot, keys) of the other runs,
            each of which begins with a page.
    """

    first: int
    stop: int
    at: int
    keys: int
    part: KeyPart | None = None
    r: int = 0  # chunk position of the first
    m: float = 1.0
    behind: tuple[tuple[int, int], ...] = ()

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(slot, keys), in order."""
        return ((self.at, self.keys - sum(keys for _, keys in self.behind)), *self.behind)


class KeyStretch(NamedTuple):
    """Keys that one sequence may read: one run, or several that pages cover."""

    at: int
    keys: int
    behind: tuple[tuple[int, int], ...] = ()


def stretches(slots: Sequence[Slots], page: int) -> list[KeyStretch]:
    """Runs of keys in order, joined where what lies before is whole pages.

    Args:
        page: keys of a page; 0: nothing is joined.
    """
    found: list[list[tuple[int, int]]] = []
    before = 0
    for _, start, stop in slots:
        if not (page and found) or before % page:
            found.append([])
            before = 0
        found[-1].append((start, stop - start))
        before += stop - start
    return [
        KeyStretch(runs[0][0], sum(keys for _, keys in runs), tuple(runs[1:])) for runs in found
    ]


def sequences_of(
    rows: Sequence[StepRow],
    turns: Turns | None,
    batch: int,
    columns: int,
    pitch: int,
    first: int,
    stop: int,
    page: int = 0,
) -> list[list[PartSequence]]:
    """The sequences of each part, within tokens [first, stop).

    Args:
        page: keys of a page of the kernel; 0: it reads runs.
    """
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
                found = _own_chunk(stretches(slots_of(row, keys), page), keys, position, span)
                found += [
                    PartSequence(*span, each.at, each.keys, part, behind=each.behind)
                    for part in behind
                    for each in stretches(slots_of(row, part.keys), page)
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
    held: Sequence[KeyStretch], keys: slice, position: int, span: tuple[int, int]
) -> list[PartSequence]:
    """The own chunk: causal where queries and keys meet (first in the list), whole before that."""
    meeting: list[PartSequence] = []
    whole: list[PartSequence] = []
    at = keys.start
    for slot, count, others in held:
        behind = at + count  # queries from here on see the stretch whole
        low = span[0] + max(at - position, 0)
        split = min(max(span[0] + behind - position, low), span[1])
        if split > low and behind > position + 1:
            meeting.append(PartSequence(low, split, slot, count, behind=others))
        else:
            split = low
        if split < span[1]:
            whole.append(PartSequence(split, span[1], slot, count, behind=others))
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
        behind = each.behind
        if offset:
            behind = tuple((at + offset, keys) for at, keys in behind)
        each = each._replace(at=each.at + offset, r=r + each.first - first, m=m, behind=behind)
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
