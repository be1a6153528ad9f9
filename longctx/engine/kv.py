"""The memory of keys and values, in blocks, and what one sequence has of it.

The pool bounds all blocks of all buffers (buffer.py); admission and growth ask it. A sequence reads
up to two shared buffers and its own behind them. Knows no scheduling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from longctx.engine.buffer import KvBuffer, Ledger, Segment, spans
from longctx.options.engine import EngineSettings

# More buffers would cost a kernel call per layer and token each; the rest is copied.
MAX_SHARED = 2
# A block has at most so many tokens, and few enough that a budget has so many blocks.
MOST_TOKENS, FEWEST_BLOCKS = 64, 128


def block_tokens(budget_tokens: int, page: int = 0) -> int:
    """A power of two: what rounding costs of the budget is below one in a hundred.

    Args:
        page: tokens of a page of the kernel, if it has pages: a block is one where it can.
    """
    tokens, most = 1, max(MOST_TOKENS, page)
    while tokens < most and 2 * tokens * FEWEST_BLOCKS <= budget_tokens:
        tokens *= 2
    return tokens


class KvPool(Ledger):
    """The memory that keys and values may take. Admission asks it; buffers report back.

    Args:
        share_from: a trailing shared piece of fewer tokens is copied instead.
        dtype: what keys and values are kept in; None: as the model gives them.
        in_arena: one tensor a layer for all that the budget holds, made by the first step.
        block: tokens of a block; by default `block_tokens` of the budget.
        page: tokens of a page of the kernel that reads the arena; 0: it has none. Keys that lie
            apart do so at a page's end then, if a block is whole pages.
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
        block: int | None = None,
        page: int = 0,
    ) -> None:
        spare = max(0, page - 1)
        tokens = max(0, budget_bytes // bytes_per_token - spare)
        block = block or block_tokens(tokens, page)
        blocks = tokens // block
        super().__init__(layers, block, blocks, dtype, in_arena=in_arena, spare=spare)
        self._whole = page if page and block % page == 0 else 1
        self.bytes_per_token = bytes_per_token
        self.budget_bytes = budget_bytes
        self.share_from = share_from

    @property
    def budget_tokens(self) -> int:
        """Tokens that the budget holds, in whole blocks."""
        return self.blocks * self.block

    @property
    def used_bytes(self) -> int:
        return self.used_blocks * self.block * self.bytes_per_token

    @property
    def free_blocks(self) -> int:
        """Below 0 where more was taken than the budget has."""
        return self.blocks - self.used_blocks

    @property
    def free_tokens(self) -> int:
        return self.free_blocks * self.block

    def buffer(self, origin: int, capacity: int) -> KvBuffer:
        """A buffer that holds nothing yet."""
        return KvBuffer(self, origin, capacity)

    def allocate(self, origin: int, capacity: int) -> KvBuffer:
        """A buffer that may be written at once, all of it."""
        buffer = KvBuffer(self, origin, capacity)
        buffer.reserve(origin + capacity)
        return buffer

    @contextmanager
    def holding(self, segments: Sequence[Segment], tokens: int) -> Iterator[None]:
        """The first `tokens` are not given up within."""
        held = list(spans(segments, tokens))
        for buffer, start, stop in held:
            buffer.hold(start, stop)
        try:
            yield
        finally:
            for buffer, start, stop in held:
                buffer.let_go(start, stop)

    def split(self, segments: Sequence[Segment], tokens: int) -> tuple[list[Segment], int]:
        """Of the first `tokens`: the segments to share in place, and from where on to copy.

        Under a kernel of pages every segment ends with one. So every buffer begins with one, and
        the keys before the next one's first block, which are its own too, are read there.
        """
        held = list(spans(segments, tokens))[:MAX_SHARED]
        while held and held[-1][2] - held[-1][1] < self.share_from:
            held.pop()
        shared = [Segment(buffer, stop - stop % self._whole) for buffer, _, stop in held]
        return shared, shared[-1].stop if shared else 0


class SequenceKv:
    """What one sequence reads: shared segments, then a buffer of its own that it writes.

    Args:
        source: segments of an equal prefix, alive until this returns.
        cached: leading tokens to take over from them.
        total: tokens the sequence may reach.
        ready: tokens that it has room for at once.

    Raises:
        MemoryError: no memory to copy to; the pool's budget is the caller's to look at.
    """

    def __init__(
        self, pool: KvPool, source: Sequence[Segment], cached: int, total: int, ready: int
    ) -> None:
        self._pool = pool
        self.shared, origin = pool.split(source, cached)
        for buffer, start, stop in spans(self.shared, origin):
            buffer.hold(start, stop)
        self.own = pool.buffer(origin, total - origin)
        try:
            self.own.reserve(max(ready, cached))
            for buffer, start, stop in spans(source, cached):
                if stop > origin:
                    self.own.copy_from(buffer, max(start, origin), stop)
        except Exception:  # most likely no memory
            self.release()
            raise

    def missing(self, stop: int) -> int:
        """Blocks to take before positions below `stop` can be written."""
        origin, blocks_of = self.own.origin, self._pool.blocks_of
        return max(0, blocks_of(stop - origin) - blocks_of(self.own.stop - origin))

    def reserve(self, stop: int) -> None:
        """Positions below `stop` can be written. Raises as `KvBuffer.reserve`."""
        self.own.reserve(stop)

    def segments(self, length: int) -> list[Segment]:
        """All of it, read up to `length`."""
        whole = [*self.shared, Segment(self.own, length)]
        return [Segment(buffer, stop) for buffer, _, stop in spans(whole, length)]

    def release(self) -> None:
        for buffer, start, stop in spans(self.shared, self.own.origin):
            buffer.let_go(start, stop)
        self.shared = []
        self.own.release()
