"""Attention of a step's decoding sequences: one query each, and shared keys are read once.

A decoded token sees all its keys, so nothing here is causal: a row's attention is a few calls over
runs of keys, each with its own rotation of the query under Dual Chunk Attention. Rows that read the
same run, the questions about one document, go through it in one call; all is merged into one
softmax per row.

Shape legend: H query heads, R decoding rows, M keys, D head dimension, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from longctx.attention.dca import BlockPlan
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.rope import rotate
from longctx.engine.kv import KvBuffer, Segment


class DecodeRow(NamedTuple):
    """One sequence's query: its keys and what to do with them."""

    segments: Sequence[Segment]
    block: BlockPlan | None  # None without chunks
    logit_scale: float


@dataclass(frozen=True)
class AttentionCall:
    """Queries of some rows over one run of keys."""

    buffer: KvBuffer
    start: int
    stop: int
    rows: slice | list[int]
    rotation_2RF: torch.Tensor | None  # from r to the run's query position
    logit_scale: float


class _Key(NamedTuple):
    """What rows must agree on to share a call."""

    buffer: int
    start: int
    stop: int
    rotated: bool
    logit_scale: float


def plan_decode(rows: Sequence[DecodeRow]) -> tuple[AttentionCall, ...]:
    """The calls of one step; those of most rows last, so that most of them need no merge."""
    found: dict[_Key, tuple[KvBuffer, list[int], list[torch.Tensor]]] = {}
    for index, row in enumerate(rows):
        for keys, rotation_21F in _runs(row):
            for buffer, start, stop in _pieces(row.segments, keys):
                key = _Key(id(buffer), start, stop, rotation_21F is not None, row.logit_scale)
                _, members, rotations = found.setdefault(key, (buffer, [], []))
                members.append(index)
                if rotation_21F is not None:
                    rotations.append(rotation_21F)
    calls = [
        AttentionCall(
            buffer,
            key.start,
            key.stop,
            _as_slice(members),
            torch.cat(rotations, dim=1) if rotations else None,
            key.logit_scale,
        )
        for key, (buffer, members, rotations) in found.items()
    ]
    return tuple(sorted(calls, key=lambda call: _count(call.rows)))


def attend_decode(
    q_1HRD: torch.Tensor, calls: Sequence[AttentionCall], layer: int, kernel: Kernel, scale: float
) -> torch.Tensor:
    """One softmax per row over all its keys; [1, H, R, D] in q's dtype.

    Args:
        q_1HRD: rotated at r = p mod S.
        scale: head_dim^-0.5.
    """
    if len(calls) == 1:
        return _partial(q_1HRD, calls[0], layer, kernel, scale).out_BHLD.to(q_1HRD.dtype)
    if all(_count(call.rows) == q_1HRD.shape[2] for call in calls):  # one sequence, mostly
        merged = _partial(q_1HRD, calls[0], layer, kernel, scale)
        for call in calls[1:]:
            merged = _merge_two(merged, _partial(q_1HRD, call, layer, kernel, scale))
        return merged.out_BHLD.to(q_1HRD.dtype)
    dtype = torch.promote_types(q_1HRD.dtype, torch.float32)
    out_1HRD = q_1HRD.new_empty(q_1HRD.shape, dtype=dtype)
    lse_1HR = q_1HRD.new_empty(q_1HRD.shape[:3], dtype=dtype)
    begun: set[int] = set()
    for call in calls:
        rows = call.rows
        partial = _partial(q_1HRD[:, :, rows], call, layer, kernel, scale)
        # A row's newest key lies in a buffer of its own: a call of several rows finds them begun.
        if begun.issuperset(_members(rows)):
            partial = _merge_two(Partial(out_1HRD[:, :, rows], lse_1HR[:, :, rows]), partial)
        out_1HRD[:, :, rows] = partial.out_BHLD.to(dtype)
        lse_1HR[:, :, rows] = partial.lse_BHL
        begun.update(_members(rows))
    return out_1HRD.to(q_1HRD.dtype)


def _partial(
    q_1HRD: torch.Tensor, call: AttentionCall, layer: int, kernel: Kernel, scale: float
) -> Partial:
    if call.rotation_2RF is not None:
        q_1HRD = rotate(q_1HRD, call.rotation_2RF.to(q_1HRD.device))
    keys, values = call.buffer.read(layer, call.start, call.stop)
    return kernel(q_1HRD, keys, values, causal=False, scale=scale * call.logit_scale)


def _merge_two(a: Partial, b: Partial) -> Partial:
    """As `merge`, for two parts that saw a key each; fewer and smaller operations."""
    dtype = torch.promote_types(a.out_BHLD.dtype, torch.float32)
    weight_BHL1 = torch.sigmoid(b.lse_BHL - a.lse_BHL).unsqueeze(-1).to(dtype)
    out_BHLD = torch.lerp(a.out_BHLD.to(dtype), b.out_BHLD.to(dtype), weight_BHL1)
    return Partial(out_BHLD, torch.logaddexp(a.lse_BHL, b.lse_BHL))


def _runs(row: DecodeRow) -> list[tuple[slice, torch.Tensor | None]]:
    """Runs of keys, and the rotation [2, 1, F] of the query for each."""
    if row.block is None:
        return [(slice(0, row.segments[-1].stop), None)]
    (step,) = row.block.steps
    runs: list[tuple[slice, torch.Tensor | None]] = [(step.keys, None)]
    for band in step.bands:
        runs.extend((part.keys, part.rotation_2LF) for part in band.parts)
    return runs


def _pieces(segments: Sequence[Segment], keys: slice) -> list[tuple[KvBuffer, int, int]]:
    """Where positions [keys.start, keys.stop) lie."""
    found = []
    for buffer, end in segments:
        start, stop = max(keys.start, buffer.origin), min(keys.stop, end)
        if start < stop:
            found.append((buffer, start, stop))
    return found


def _as_slice(rows: list[int]) -> slice | list[int]:
    """A view of neighbours instead of a copy."""
    first, last = rows[0], rows[-1] + 1
    return slice(first, last) if last - first == len(rows) else rows


def _members(rows: slice | list[int]) -> list[int]:
    return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows


def _count(rows: slice | list[int]) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)
