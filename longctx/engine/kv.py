"""Keys and values: buffers that are written once, shared read-only, and counted.

A buffer holds the tokens of positions [origin, origin + capacity), all layers, allocated for what a
request may need at most, so that nothing is ever concatenated. A sequence reads up to two shared
buffers and its own behind them. Tensors are made by the first write, on the layer's own device: a
buffer's own ones, or runs of the pool's arena where the kernel reads all rows from one tensor.
Knows no scheduling, no positions scheme: what lies here was rotated by somebody else.

Shape legend: K key/value heads, L tokens written, M tokens read, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from longctx.engine.arena import Arena
from longctx.options.engine import EngineSettings

# More buffers would cost a kernel call per layer and token each; the rest is copied.
MAX_SHARED = 2


class KvBuffer:
    """Storage of one run of tokens. `refs` counts sequences and retained prefixes.

    Attributes:
        at: slot of the first token in the tensors of `home`.
    """

    def __init__(self, pool: KvPool, origin: int, capacity: int) -> None:
        self.origin = origin
        self.capacity = capacity
        self.refs = 1
        self.at = pool.arena.take(capacity) if pool.arena else 0
        self._pool = pool
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * pool.layers

    def write(self, layer: int, at: int, k_KLD: torch.Tensor, v_KLD: torch.Tensor) -> None:
        """Store tokens at positions at, at + 1, ... (again, if a step is repeated)."""
        held = self._layers[layer]
        if held is None and self._pool.arena:
            held = self._pool.arena.run(layer, self.at, self.capacity, k_KLD, v_KLD)
            self._layers[layer] = held
        if held is None:
            heads, _, dim = k_KLD.shape
            dtype = self._pool.dtype
            held = (
                k_KLD.new_empty(heads, self.capacity, dim, dtype=dtype),
                v_KLD.new_empty(heads, self.capacity, v_KLD.shape[2], dtype=dtype),
            )
            self._layers[layer] = held
        first = at - self.origin
        last = first + k_KLD.shape[1]
        held[0][:, first:last] = k_KLD
        held[1][:, first:last] = v_KLD

    def read(self, layer: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [1, K, M, D] of positions [start, stop)."""
        held = self._layers[layer]
        first, last = start - self.origin, stop - self.origin
        if held is None and self._pool.arena:  # written with other rows of a step
            k_1KMD, v_1KMD = self._pool.arena.stack(layer)
            span = slice(self.at + first, self.at + last)
            return k_1KMD[:, :, span], v_1KMD[:, :, span]
        assert held is not None, f"layer {layer} was read before it was written"
        return held[0][None, :, first:last], held[1][None, :, first:last]

    @property
    def home(self) -> KvBuffer | Arena:
        """What has the tensors."""
        return self._pool.arena or self

    def stack(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [1, K, M, D] of all there is room for."""
        return self.read(layer, self.origin, self.origin + self.capacity)

    def copy_from(self, other: KvBuffer, start: int, stop: int) -> None:
        for layer in range(len(self._layers)):
            k_1KMD, v_1KMD = other.read(layer, start, stop)
            self.write(layer, start, k_1KMD[0], v_1KMD[0])

    def trim(self, tokens: int) -> None:
        """Give back what lies behind the first `tokens`, layer by layer: no doubling peak."""
        if tokens >= self.capacity:
            return
        if self._pool.arena:
            self._pool.arena.give(self.at + tokens, self.capacity - tokens)
            self._layers = [None] * len(self._layers)
        for layer, held in enumerate(self._layers):
            if held is not None:
                self._layers[layer] = (held[0][:, :tokens].clone(), held[1][:, :tokens].clone())
        self._pool.used_bytes -= (self.capacity - tokens) * self._pool.bytes_per_token
        self.capacity = tokens

    def release(self) -> None:
        self.refs -= 1
        assert self.refs >= 0, "a buffer was released twice"
        if not self.refs:
            self._layers = []
            if self._pool.arena:
                self._pool.arena.give(self.at, self.capacity)
            self._pool.used_bytes -= self.capacity * self._pool.bytes_per_token


class Segment(NamedTuple):
    """A buffer, read up to position `stop` (exclusive)."""

    buffer: KvBuffer
    stop: int


class KvPool:
    """The memory that keys and values may take. Admission asks it; buffers report back.

    Args:
        share_from: a trailing shared piece of fewer tokens is copied instead.
        dtype: what keys and values are kept in; None: as the model gives them.
        in_arena: one tensor a layer for all that the budget holds, made by the first step.
    """

    def __init__(
        self,
        layers: int,
        bytes_per_token: int,
        budget_bytes: int,
        share_from: int = EngineSettings.share_from,
        dtype: torch.dtype | None = None,
        *,
        in_arena: bool = False,
    ) -> None:
        self.layers = layers
        self.dtype = dtype
        self.bytes_per_token = bytes_per_token
        self.budget_bytes = budget_bytes
        self.share_from = share_from
        self.used_bytes = 0
        slots = budget_bytes // bytes_per_token
        self.arena = Arena(slots, layers, dtype) if in_arena else None

    @property
    def free_tokens(self) -> int:
        """Tokens that a buffer may have."""
        if self.arena:
            return self.arena.longest
        return (self.budget_bytes - self.used_bytes) // self.bytes_per_token

    def allocate(self, origin: int, capacity: int) -> KvBuffer:
        buffer = KvBuffer(self, origin, capacity)
        self.used_bytes += capacity * self.bytes_per_token
        return buffer

    def split(self, segments: Sequence[Segment], tokens: int) -> tuple[list[Segment], int]:
        """Of the first `tokens`: the segments to share in place, and from where on to copy."""
        shared = [
            Segment(segment.buffer, min(segment.stop, tokens))
            for segment in segments
            if segment.buffer.origin < tokens
        ][:MAX_SHARED]
        while shared and self._copies(shared[-1]):
            shared.pop()
        return shared, shared[-1].stop if shared else 0

    def _copies(self, segment: Segment) -> bool:
        """Short pieces, and a small part of a large buffer, which would be kept alive by it."""
        tokens = segment.stop - segment.buffer.origin
        return tokens < self.share_from or 4 * tokens < segment.buffer.capacity


class SequenceKv:
    """What one sequence reads: shared segments, then a buffer of its own that it writes.

    Args:
        source: segments of an equal prefix, alive until this returns.
        cached: leading tokens to take over from them.
        total: tokens the sequence may reach.
    """

    def __init__(self, pool: KvPool, source: Sequence[Segment], cached: int, total: int) -> None:
        self.shared, origin = pool.split(source, cached)
        for segment in self.shared:
            segment.buffer.refs += 1
        self.own = pool.allocate(origin, total - origin)
        start = origin
        try:
            for segment in source:
                stop = min(segment.stop, cached)
                if stop > start:
                    self.own.copy_from(segment.buffer, start, stop)
                    start = stop
        except Exception:  # most likely no memory
            self.release()
            raise

    def segments(self, length: int) -> list[Segment]:
        """All of it, read up to `length`."""
        whole = [*self.shared, Segment(self.own, length)]
        return [
            Segment(segment.buffer, min(segment.stop, length))
            for segment in whole
            if segment.buffer.origin < length
        ]

    def release(self) -> None:
        for segment in self.shared:
            segment.buffer.release()
        self.shared = []
        self.own.release()
