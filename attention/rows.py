"""Rows of a step: which queries, and where their keys lie. Host numbers; knows no chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Run(NamedTuple):
    """Keys of neighbouring positions that lie side by side."""

    stack: int  # which of the step's key tensors
    start: int  # the first one's position
    stop: int
    at: int  # slot of the first


class StepRow(NamedTuple):
    """A block of one sequence, or of sequences that are alike in everything but their numbers.

    Attributes:
        start: position of the first query; `length` queries follow each other.
        runs: where the keys of positions 0 .. start + length - 1 lie, in order.
        logit_scale: m^2; multiplies the softmax scale, never a key.
        batch: rows of q, and of the key tensors.
        columns: where in q the queries stand.
    """

    start: int
    length: int
    runs: tuple[Run, ...]
    logit_scale: float = 1.0
    batch: slice = slice(0, 1)
    columns: slice | tuple[int, ...] = slice(0, None)

    @property
    def end(self) -> int:
        return self.start + self.length


def paged(table: Sequence[int], page: int, length: int, stack: int = 0) -> tuple[Run, ...]:
    """Runs of a sequence of `length` tokens whose pages of `page` slots are named in order."""
    runs: list[Run] = []
    for number, start in zip(table, range(0, length, page), strict=False):
        stop, at = min(start + page, length), number * page
        if runs and runs[-1].at + start - runs[-1].start == at:
            runs[-1] = runs[-1]._replace(stop=stop)
        else:
            runs.append(Run(stack, start, stop, at))
    return tuple(runs)


class Slots(NamedTuple):
    """A run of keys as the key tensors have it."""

    stack: int
    start: int
    stop: int


def slots_of(row: StepRow, keys: slice) -> list[Slots]:
    """Where positions [keys.start, keys.stop) lie."""
    found = []
    for run in row.runs:
        start, stop = max(keys.start, run.start), min(keys.stop, run.stop)
        if start < stop:
            offset = run.at - run.start
            found.append(Slots(run.stack, start + offset, stop + offset))
    return found


def column_of(row: StepRow) -> int:
    """Where in q a row's first query stands."""
    return (row.columns.start or 0) if isinstance(row.columns, slice) else row.columns[0]
