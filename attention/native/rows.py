"""Rows of one query as decode.c reads them: tables made once a step, one call a layer.

A row's parts (own chunk, succ, inter) become segments of keys, each with the rotation that its
query gets. What changes from layer to layer are the addresses of the tensors alone.

Shape legend: B batch, H query heads, K key/value heads, L query columns, M key slots, D head
dimension, N rotations, F = D / 2 frequencies.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longctx.attention.chunks import ChunkQueries, KeyPart, Turns
from longctx.attention.int8_keys import row_bytes
from longctx.attention.native.library import KEPT, TYPES, Library
from longctx.attention.rows import StepRow, column_of, slots_of

# Below so many numbers of keys a second thread costs more to wake than it saves.
_ALONE = 1 << 15


@dataclass(frozen=True)
class NativeStep:
    """A step's rows of one query, ready for tensors of one shape.

    Attributes:
        address: of the packed `Step` of decode.c.
        tasks: that threads can share; 1 where it does not pay.
        covers: every column of q is a row's.
        held: what the addresses point into.
    """

    address: int
    tasks: int
    covers: bool
    held: tuple[Any, ...]


def takes(
    q_BHLD: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
) -> bool:
    """Whether the library reads these tensors where they lie. It knows no gradients."""
    if q_BHLD.dtype not in TYPES or q_BHLD.device.type != "cpu":
        return False
    for stacks in (keys, values):
        dtype = stacks[0].dtype
        if dtype not in KEPT or any(x.dtype != dtype or x.stride(3) != 1 for x in stacks):
            return False
    return not (torch.is_grad_enabled() and q_BHLD.requires_grad)


def lay_out(
    rows: Sequence[tuple[StepRow, ChunkQueries]],
    turns: Turns | None,
    split: int,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
) -> NativeStep:
    """Tables of the rows for tensors of these shapes and strides.

    Args:
        rows: of one query each, and the chunks that it meets.
        split: keys of a task, as the library says.

    Raises:
        ValueError: heads that do not divide, or head dims that differ.
    """
    batch, heads, columns, dim = q_BHLD.shape
    kv_heads = keys[0].shape[1]
    if heads % kv_heads:
        raise ValueError(
            f"query heads ({heads}) must be a multiple of key/value heads ({kv_heads})"
        )
    for x in (*keys, *values):
        wide = row_bytes(dim) if x.dtype == torch.int8 else dim
        if x.shape[1] != kv_heads or x.shape[3] != wide:
            raise ValueError(f"q {tuple(q_BHLD.shape)} and keys or values {tuple(x.shape)} differ")
    segments: list[tuple[int, ...]] = []
    amounts: dict[int, int] = {}
    scaled: list[tuple[tuple[int, ...], float]] = []
    for row, chunks in rows:
        first = len(segments)
        count = _segments(row, chunks, turns, segments, amounts)
        splits = -(-count // split)
        for b in range(*row.batch.indices(batch)):
            at = b * q_BHLD.stride(0) + column_of(row) * q_BHLD.stride(2)
            out = (b * columns + column_of(row)) * heads * dim
            place = (at, out, count, first, len(segments) - first, b, splits)
            scaled.append((place, row.logit_scale))
    scaled.sort(key=lambda each: -each[0][-1])
    counts = [place[-1] for place, _ in scaled]
    partials = [0, *itertools.accumulate(counts)]
    row_table = array("q", _flat((*p, n) for (p, _), n in zip(scaled, partials, strict=False)))
    scales = array("f", [scale for _, scale in scaled])
    splits = counts[0]
    alive = [0] * splits
    for count in counts:
        alive[count - 1] += 1
    alive = list(itertools.accumulate(reversed(alive)))[::-1]
    before = array("q", [0, *itertools.accumulate(n * kv_heads for n in alive)])
    stacks = array(
        "q",
        _flat(
            (0 if x.shape[0] == 1 else x.stride(0), x.stride(1), x.stride(2))
            for pair in zip(keys, values, strict=True)
            for x in pair
        ),
    )
    turn_N2F = torch.zeros(1)
    if amounts:
        assert turns is not None
        turn_N2F = turns.take(list(amounts), q_BHLD.device).transpose(0, 1).float().contiguous()
    space = -(-dim // 16) * 16 + 2
    several = partials[-1] if splits > 1 else 0
    scratch = torch.empty(several * heads * space, dtype=torch.float32)
    left = torch.empty(len(scaled) * kv_heads, dtype=torch.int64)
    table = array("q", _flat(segments))
    types = [KEPT[x.dtype] for x in (q_BHLD, keys[0], values[0], q_BHLD)]
    step = array(
        "q",
        [
            *(heads, kv_heads, dim, *types, q_BHLD.stride(1), len(scaled), splits, before[-1]),
            *(each.buffer_info()[0] for each in (row_table, table, before, stacks, scales)),
            *(each.data_ptr() for each in (turn_N2F, scratch, left)),
        ],
    )
    numbers = sum(place[2] for place, _ in scaled) * kv_heads * dim
    return NativeStep(
        step.buffer_info()[0],
        before[-1] if numbers >= _ALONE else 1,
        len(scaled) == batch * columns,
        (step, row_table, table, before, stacks, scales, turn_N2F, scratch, left),
    )


def _segments(
    row: StepRow,
    chunks: ChunkQueries,
    turns: Turns | None,
    segments: list[tuple[int, ...]],
    amounts: dict[int, int],
) -> int:
    """Adds a row's keys in the order of their positions, and the rotations that are new.

    Returns:
        How many keys these are.
    """
    parts: list[tuple[KeyPart | None, slice]] = [(None, chunks.keys)]
    parts += [(part, part.keys) for band in chunks.bands for part in band.parts]
    count = 0
    for part, keys in sorted(parts, key=lambda each: each[1].start):
        turn = -1
        if part is not None and turns is not None:
            amount = turns.amount(part, row.start - chunks.keys.start)
            turn = amounts.setdefault(amount, len(amounts))
        for stack, start, stop in slots_of(row, keys):
            segments.append((stack, count, count + stop - start, start, turn))
            count += stop - start
    return count


def _flat(rows: Any) -> list[int]:
    return list(itertools.chain.from_iterable(rows))


def attend(
    library: Library,
    step: NativeStep,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    out_BLHD: torch.Tensor,
    scale: float,
) -> None:
    """Writes the rows' attention into `out_BLHD`, contiguous and of q's dtype.

    Raises:
        MemoryError: no thread got the few numbers that it computes with.
    """
    bases = array("Q", [x.data_ptr() for pair in zip(keys, values, strict=True) for x in pair])
    failed = library.decode.longctx_decode(
        step.address,
        q_BHLD.data_ptr(),
        out_BLHD.data_ptr(),
        bases.buffer_info()[0],
        scale,
        library.level,
        library.parallel,
        min(torch.get_num_threads(), step.tasks),
    )
    if failed:
        raise MemoryError("no memory for the attention of a step's rows")
