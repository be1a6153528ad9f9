"""A run of keys and values: written once, shared read-only, counted by block.

A buffer has places for the tokens of positions [origin, origin + capacity), all layers. Its blocks
are taken by need and given back one by one when nobody reads them any more: so nothing is reserved
that may not be written, nothing is concatenated, and a kept prefix can lose its end alone. How
blocks lie is the device's matter: on the host side by side (mapped.py), under a kernel that packs
as slots of one tensor a layer (arena.py). Knows no scheduling and no positions scheme: what lies
here was rotated by somebody else.

Shape legend: K key/value heads, L tokens written, M tokens read, D head dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from longctx.attention.int8_keys import put, row_bytes
from longctx.attention.rows import Run
from longctx.engine.allocator import give_back
from longctx.engine.arena import Arena
from longctx.engine.mapped import MappedRun

# Bytes of small runs; giving back takes some ten milliseconds.
TRIM_EVERY = 256 << 20


class Ledger:
    """How many blocks are taken, of how many, and what buffers are made of.

    Args:
        layers: of the model.
        block: tokens of a block.
        blocks: that there are.
        dtype: what keys and values are kept in; None: as the model gives them.
        in_arena: one tensor a layer for all blocks, made by the first step.
        spare: slots behind them that an arena has besides.

    Attributes:
        used_blocks, idle_blocks: held by anybody; held by kept prefixes alone.
    """

    def __init__(
        self,
        layers: int,
        block: int,
        blocks: int,
        dtype: torch.dtype | None,
        *,
        in_arena: bool,
        spare: int = 0,
    ) -> None:
        self.layers, self.block, self.blocks, self.dtype = layers, block, blocks, dtype
        self.used_blocks = self.idle_blocks = 0
        self._freed = 0
        self.arena = Arena(blocks * block, layers, dtype, spare) if in_arena else None

    def blocks_of(self, tokens: int) -> int:
        """Blocks that so many tokens take, the last one in part."""
        return -(-tokens // self.block)

    def freed(self, size: int) -> None:
        """A run of so many bytes went back to the allocator. What many leave behind, holes between
        runs of other lengths, goes back to the system now and then."""
        self._freed += size
        if self._freed >= TRIM_EVERY:
            self._freed = 0
            give_back()


class KvBuffer:
    """Storage of one run of tokens.

    A block is held by those that read or write it, its users, and by prefixes that are kept for
    reuse; it is taken with the first and given back with the last of them.
    """

    def __init__(self, pool: Ledger, origin: int, capacity: int) -> None:
        self.origin = origin
        self.capacity = capacity
        self.stop = origin  # the owner holds what lies before
        blocks = pool.blocks_of(capacity)
        self._pool = pool
        self._users = np.zeros(blocks, dtype=np.int32)
        self._kept = np.zeros(blocks, dtype=np.int32)
        self._slots = np.full(blocks, -1, dtype=np.int64) if pool.arena else None
        self._runs: list[Run] | None = None
        self._mapped: MappedRun | None = None
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * pool.layers

    # -- who holds what ---------------------------------------------------------------------------

    def reserve(self, stop: int) -> None:
        """The owner may write positions below `stop`.

        Raises:
            MemoryError: the arena has no such slots; the pool's budget is the caller's to look at.
        """
        stop = min(stop, self.origin + self.capacity)
        if stop <= self.stop:
            return
        blocks_of = self._pool.blocks_of
        held, wanted = blocks_of(self.stop - self.origin), blocks_of(stop - self.origin)
        self._count(held, wanted, self._users, 1)
        self.stop = stop

    def trim(self, tokens: int) -> None:
        """The owner gives back what lies behind the first `tokens`."""
        kept, held = self._pool.blocks_of(tokens), self._pool.blocks_of(self.stop - self.origin)
        self.stop = min(self.stop, self.origin + tokens)
        self._count(kept, held, self._users, -1)

    def release(self) -> None:
        """The owner gives back all of it; what others hold stays."""
        self.trim(0)

    def hold(self, start: int, stop: int, *, kept: bool = False) -> None:
        """Positions [start, stop), which somebody holds already, are held once more."""
        self._count(*self._blocks(start, stop), self._kept if kept else self._users, 1)

    def let_go(self, start: int, stop: int, *, kept: bool = False) -> None:
        """Undo a hold() of the same positions, or of a part of them that ends with a block."""
        self._count(*self._blocks(start, stop), self._kept if kept else self._users, -1)

    def idle_from(self, start: int, stop: int) -> int:
        """The first position from which on no user holds [start, stop)."""
        first, last = self._blocks(start, stop)
        used = np.flatnonzero(self._users[first:last])
        if not len(used):
            return start
        return min(stop, self.origin + (first + int(used[-1]) + 1) * self._pool.block)

    def block_start(self, position: int) -> int:
        """Where the block of a position starts."""
        return position - (position - self.origin) % self._pool.block

    def _blocks(self, start: int, stop: int) -> tuple[int, int]:
        block = self._pool.block
        return (start - self.origin) // block, -(-(stop - self.origin) // block)

    def _count(self, first: int, last: int, counts: np.ndarray[Any, Any], by: int) -> None:
        if last <= first:
            return
        users, kept = self._users[first:last], self._kept[first:last]
        had, idle = users + kept > 0, (users == 0) & (kept > 0)
        if by > 0 and not had.all():
            self._take(first + np.flatnonzero(~had))
        counts[first:last] += by
        assert (counts[first:last] >= 0).all(), "a block was released twice"
        has = users + kept > 0
        self._pool.used_blocks += int(has.sum()) - int(had.sum())
        self._pool.idle_blocks += int(((users == 0) & (kept > 0)).sum()) - int(idle.sum())
        if by < 0 and (gone := had & ~has).any():
            self._give(first + np.flatnonzero(gone))

    # -- where it lies ----------------------------------------------------------------------------

    def _take(self, blocks_N: np.ndarray[Any, Any]) -> None:
        arena, block = self._pool.arena, self._pool.block
        if arena is None or self._slots is None:
            return
        before = int(blocks_N[0]) - 1
        behind = int(self._slots[before]) if before >= 0 else -1
        pieces = arena.take_pieces(len(blocks_N) * block, behind + block if behind >= 0 else None)
        slots = [slot for at, length in pieces for slot in range(at, at + length, block)]
        self._slots[blocks_N] = slots
        self._runs = None

    def _give(self, blocks_N: np.ndarray[Any, Any]) -> None:
        arena, block = self._pool.arena, self._pool.block
        if arena is not None and self._slots is not None:
            for slot in self._slots[blocks_N].tolist():
                arena.give(slot, block)
            self._slots[blocks_N] = -1
            self._runs = None
            return
        if not (self._users.any() or self._kept.any()):
            allocated = 0 if self._mapped is None else self._mapped.allocated
            self._mapped, self._layers = None, [None] * self._pool.layers
            self._pool.freed(allocated)
        elif self._mapped is not None:
            for run_N in np.split(blocks_N, np.flatnonzero(np.diff(blocks_N) > 1) + 1):
                first, last = int(run_N[0]) * block, (int(run_N[-1]) + 1) * block
                self._mapped.give_back(first, min(last, self.capacity))

    @property
    def at(self) -> int:
        """Slot of the first token in the tensors of `home`."""
        return int(self._slots[0]) if self._slots is not None and len(self._slots) else 0

    @property
    def home(self) -> KvBuffer | Arena:
        """What has the tensors."""
        return self._pool.arena or self

    def runs(self, stack: int, start: int, stop: int) -> list[Run]:
        """Where positions [start, stop) lie in the tensors of `home`, the step's `stack`."""
        if self._slots is None:
            return [Run(stack, start, stop, start - self.origin)]
        found = []
        for _, first, last, at in self._all_runs(self._slots):
            low, high = max(first, start), min(last, stop)
            if low < high:
                found.append(Run(stack, low, high, at + low - first))
        return found

    def _all_runs(self, slots_N: np.ndarray[Any, Any]) -> list[Run]:
        if self._runs is None:
            block = self._pool.block
            ends = np.flatnonzero((np.diff(slots_N) != block) | (slots_N[1:] < 0)) + 1
            bounds = [0, *ends.tolist(), len(slots_N)]
            self._runs = [
                Run(0, self.origin + a * block, self.origin + b * block, int(slots_N[a]))
                for a, b in itertools.pairwise(bounds)
                if a < b and slots_N[a] >= 0
            ]
        return self._runs

    def slots(self, start: int, stop: int) -> torch.Tensor:
        """int64, on the host: where positions [start, stop) lie in the tensors of `home`."""
        parts = [
            torch.arange(run.at, run.at + run.stop - run.start) for run in self.runs(0, start, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # -- numbers ----------------------------------------------------------------------------------

    def write(self, layer: int, at: int, k_KLD: torch.Tensor, v_KLD: torch.Tensor) -> None:
        """Store tokens at positions at, at + 1, ... (again, if a step is repeated)."""
        stop = at + k_KLD.shape[1]
        arena = self._pool.arena
        if arena is None:
            k_KMD, v_KMD = self._layers[layer] or self._made(layer, k_KLD, v_KLD)
            first, last = at - self.origin, stop - self.origin
            put(k_KMD[:, first:last], k_KLD)
            put(v_KMD[:, first:last], v_KLD)
            return
        for _, start, end, slot in self.runs(0, at, stop):
            held = arena.run(layer, slot, end - start, k_KLD, v_KLD)
            held[0][:] = k_KLD[:, start - at : end - at]
            held[1][:] = v_KLD[:, start - at : end - at]

    def _made(
        self, layer: int, k_KLD: torch.Tensor, v_KLD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self._pool.dtype or k_KLD.dtype
        shapes = k_KLD.shape[0], k_KLD.shape[2], v_KLD.shape[2]
        if dtype == torch.int8 and k_KLD.dtype != torch.int8:
            shapes = shapes[0], row_bytes(shapes[1]), row_bytes(shapes[2])
        if k_KLD.device.type != "cpu":
            heads, tokens = shapes[0], self.capacity
            k_KMD = k_KLD.new_empty(heads, tokens, shapes[1], dtype=dtype)
            v_KMD = v_KLD.new_empty(heads, tokens, shapes[2], dtype=dtype)
        else:
            if self._mapped is None:
                self._mapped = MappedRun(self._pool.layers, self.capacity, shapes, dtype)
            k_KMD, v_KMD = self._mapped.layer(layer)
        self._layers[layer] = k_KMD, v_KMD
        return k_KMD, v_KMD

    def read(self, layer: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, K, M, D] of positions [start, stop): views, where they lie side by side."""
        k_1KMD, v_1KMD = self.stack(layer)
        spans = [slice(at, at + last - first) for _, first, last, at in self.runs(0, start, stop)]
        if len(spans) == 1:
            return k_1KMD[:, :, spans[0]], v_1KMD[:, :, spans[0]]
        keys, values = (torch.cat([x[:, :, s] for s in spans], dim=2) for x in (k_1KMD, v_1KMD))
        return keys, values

    def stack(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [1, K, M, D] of all there is room for."""
        if self._pool.arena:
            return self._pool.arena.stack(layer)
        held = self._layers[layer]
        assert held is not None, f"layer {layer} was read before it was written"
        return held[0][None], held[1][None]

    def copy_from(self, other: KvBuffer, start: int, stop: int) -> None:
        for layer in range(len(self._layers)):
            k_1KMD, v_1KMD = other.read(layer, start, stop)
            self.write(layer, start, k_1KMD[0], v_1KMD[0])


class Segment(NamedTuple):
    """A buffer, read up to position `stop` (exclusive), from where the one before it ends."""

    buffer: KvBuffer
    stop: int


def spans(segments: Sequence[Segment], tokens: int) -> Iterator[tuple[KvBuffer, int, int]]:
    """(buffer, start, stop) of the first `tokens` tokens."""
    start = 0
    for buffer, end in segments:
        stop = min(end, tokens)
        if stop > start:
            yield buffer, start, stop
            start = stop


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one buffer as one."""
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1].buffer is segment.buffer:
            found.pop()
        found.append(segment)
    return found
