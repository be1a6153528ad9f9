"""Finished prefixes that are kept for reuse: a tree of exact tokens, one for each bucket.

Keys of deeper layers depend on YaRN's temperature, so a prefix serves only requests of its own
bucket; an engine has one scheme, and so has its tree. A node is a run of tokens and where their
keys lie; its children go on from it. What was not used for longest goes first, block by block from
the end, and only as much as somebody needs. Single-threaded, the engine's; knows no scheduling.

    root of bucket 0 -- [a document, 2,000 tokens] -- [a question and its answer]
                                                   \\- [another one]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from longctx.engine.buffer import KvBuffer, Segment, joined, spans
from longctx.engine.errors import InsufficientMemoryError
from longctx.engine.kv import KvPool

Tokens = npt.NDArray[np.int64]

# Less than this is not worth an entry.
MIN_TOKENS = 16


def common_prefix(a_N: Tokens, b_N: Tokens) -> int:
    """How many leading tokens are equal."""
    shorter = min(len(a_N), len(b_N))
    differ: npt.NDArray[np.bool_] = a_N[:shorter] != b_N[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


class Node:
    """Tokens at positions start, start + 1, ..., and the buffer that has them.

    Attributes:
        older, newer: neighbours in order of use; what hangs below a node is older than it.
        pins: how many pinned prefixes go through it.
    """

    __slots__ = (*("buffer", "children", "newer", "older", "parent", "pins", "start", "tokens_N"),)

    def __init__(self, tokens_N: Tokens, start: int, buffer: KvBuffer | None) -> None:
        self.tokens_N = tokens_N
        self.start = start
        self.buffer = buffer
        self.children: dict[int, Node] = {}
        self.parent: Node | None = None
        self.older = self.newer = self
        self.pins = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens_N)


class Match(NamedTuple):
    """The longest stored prefix: `length` tokens, which end within or behind `node`."""

    length: int
    segments: list[Segment]
    node: Node | None


class Pin:
    """A prefix that stays until release().

    Attributes:
        lost: its numbers proved wrong, and it serves nobody any more; it is to be released.
    """

    def __init__(self, tree: PrefixTree, bucket: int, tokens_N: Tokens, match: Match) -> None:
        self.tokens_N, self.bucket, self.lost = tokens_N, bucket, False
        self._tree, self._segments = tree, match.segments
        for buffer, start, stop in spans(self._segments, len(tokens_N)):
            buffer.hold(start, stop)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (rotated at p mod S, unscaled) and values of a layer, [K, L, D] each, in the order
        of the tokens; views, where they lie side by side."""
        parts = [
            buffer.read(layer, start, stop)
            for buffer, start, stop in spans(self._segments, len(self.tokens_N))
        ]
        keys, values = zip(*parts, strict=True)
        if len(parts) == 1:
            return keys[0][0], values[0][0]
        return torch.cat(keys, dim=2)[0], torch.cat(values, dim=2)[0]

    def release(self) -> None:
        """It becomes a prefix like others. Releasing twice is harmless."""
        if not self._segments:
            return
        self._tree.unpin(self)
        for buffer, start, stop in spans(self._segments, len(self.tokens_N)):
            buffer.let_go(start, stop)
        self._segments = []


class PrefixTree:
    """Kept prefixes over a pool of memory. `len()`: how many there are that none goes on from."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._roots: dict[int, Node] = {}
        self._ends = Node(np.empty(0, dtype=np.int64), 0, None)  # between the oldest and the newest
        self._leaves = 0
        self._pins: set[Pin] = set()

    def __len__(self) -> int:
        return self._leaves

    # -- finding and keeping ----------------------------------------------------------------------

    def match(self, bucket: int, tokens_N: Tokens) -> Match:
        """The longest prefix of the tokens that is stored. Takes time by depth, not by number."""
        segments: list[Segment] = []
        last, at = None, 0
        for node, common in self._walk(bucket, tokens_N):
            assert node.buffer is not None
            last, at = node, node.start + common
            segments.append(Segment(node.buffer, at))
        return Match(at, joined(segments), last)

    def _walk(self, bucket: int, tokens_N: Tokens) -> Iterator[tuple[Node, int]]:
        """Nodes from the root on, and how many of their tokens are the same: all, but of the last
        one perhaps."""
        node, at = self._roots.get(bucket), 0
        while node is not None and at < len(tokens_N):
            node = node.children.get(int(tokens_N[at]))
            if node is None:
                return
            common = common_prefix(node.tokens_N, tokens_N[at:])
            parted = common < len(node.tokens_N)
            yield node, common  # which may split the node
            if parted:
                return
            at += common

    def touch(self, node: Node | None) -> None:
        """It was used now, and so was all that it goes on from. One that has gone stays so."""
        while node is not None and node.parent is not None:
            self._unlink(node)
            self._link(node, self._ends)
            node = node.parent

    def insert(self, bucket: int, tokens_N: Tokens, segments: Sequence[Segment]) -> None:
        """Keep a prefix, or of it what is not kept yet.

        Args:
            segments: all of it; the caller holds it, and may let go of it afterwards.
        """
        if len(tokens_N) < MIN_TOKENS:
            return
        node = self._ending(bucket, tokens_N)
        at = node.stop
        for buffer, start, stop in spans(segments, len(tokens_N)):
            if stop <= at:
                continue
            first = max(start, at)
            buffer.hold(first, stop, kept=True)
            child = Node(tokens_N[first:stop].copy(), first, buffer)
            self._adopt(node, child)
            self._link(child, self._ends)
            node = child
        self.touch(node)

    def _ending(self, bucket: int, tokens_N: Tokens) -> Node:
        """The node that ends where the tokens and what is stored part; made, if it must be."""
        node = self._roots.get(bucket)
        if node is None:
            node = self._roots[bucket] = Node(self._ends.tokens_N, 0, None)
        for child, common in self._walk(bucket, tokens_N):
            node = child if common == len(child.tokens_N) else self._split(child, common)
        return node

    def _split(self, node: Node, tokens: int) -> Node:
        """Cut a node's first tokens off; the node that has them now."""
        buffer, parent = node.buffer, node.parent
        assert buffer is not None and parent is not None
        upper = Node(node.tokens_N[:tokens], node.start, buffer)
        upper.pins = node.pins
        if (start := buffer.block_start(upper.stop)) < upper.stop:  # now both have that block
            buffer.hold(start, upper.stop, kept=True)
        node.tokens_N, node.start = node.tokens_N[tokens:], upper.stop
        parent.children[int(upper.tokens_N[0])] = upper
        upper.parent = parent
        node.parent = upper
        upper.children[int(node.tokens_N[0])] = node
        self._link(upper, node.newer)
        return upper

    # -- pinned ones ------------------------------------------------------------------------------

    def pin(self, bucket: int, tokens_N: Tokens) -> Pin | None:
        """Hold a prefix that is stored, whole, in memory; None where it is not."""
        match = self.match(bucket, tokens_N)
        if not len(tokens_N) or match.length < len(tokens_N):
            return None
        node: Node | None = self._ending(bucket, tokens_N)
        self.touch(node)
        while node is not None:
            node.pins += 1
            node = node.parent
        pin = Pin(self, bucket, tokens_N.copy(), match)
        self._pins.add(pin)
        return pin

    def put(
        self,
        bucket: int,
        tokens_N: Tokens,
        layer: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    ) -> Pin:
        """Store given keys and values as a prefix, and pin it.

        What is kept already stays as it is, and the least recently used goes where it must.

        Args:
            layer: keys (rotated at p mod S, unscaled) and values of a layer, [K, L, D] each, in the
                order of the tokens, on that layer's device; asked for once, layer by layer.

        Raises:
            InsufficientMemoryError: it does not fit beside what is in use; nothing was given up.
            ValueError: fewer than MIN_TOKENS tokens, or numbers of another length.
        """
        if len(tokens_N) < MIN_TOKENS:
            raise ValueError(f"{len(tokens_N)} tokens are too few to keep: {MIN_TOKENS} at least")
        match, pool = self.match(bucket, tokens_N), self._pool
        if match.length < len(tokens_N):
            with pool.holding(match.segments, match.length):
                count = len(tokens_N) - match.length
                if not self.make_room(pool.blocks_of(count)):
                    size, room = pool.bytes_per_token, pool.free_blocks + pool.idle_blocks
                    raise InsufficientMemoryError(count, size, max(0, room) * pool.block * size)
                buffer = pool.allocate(match.length, count)
                try:
                    for number in range(pool.layers):
                        k_KLD, v_KLD = layer(number)
                        if not k_KLD.shape[1] == v_KLD.shape[1] == len(tokens_N):
                            raise ValueError(
                                f"layer {number} has {k_KLD.shape[1]} keys and {v_KLD.shape[1]} "
                                f"values for {len(tokens_N)} tokens"
                            )
                        own = slice(match.length, None)
                        buffer.write(number, match.length, k_KLD[:, own], v_KLD[:, own])
                    whole = [*match.segments, Segment(buffer, len(tokens_N))]
                    self.insert(bucket, tokens_N, whole)
                    pin = self.pin(bucket, tokens_N)
                finally:
                    buffer.release()
        else:
            pin = self.pin(bucket, tokens_N)
        assert pin is not None
        return pin

    def unpin(self, pin: Pin) -> None:
        """Called by Pin.release()."""
        self._pins.discard(pin)
        if pin.lost:
            return
        node = None
        for child, _ in self._walk(pin.bucket, pin.tokens_N):
            node = child
        while node is not None:
            node.pins -= 1
            node = node.parent

    # -- giving up --------------------------------------------------------------------------------

    def make_room(self, blocks: int) -> bool:
        """Give up what must go for so many free blocks; nothing at all where it is not enough."""
        missing = blocks - self._pool.free_blocks
        if missing > self._pool.idle_blocks:
            return False
        return missing <= 0 or self.evict(missing)

    def evict(self, blocks: int) -> bool:
        """Free so many blocks, what was not used for longest first; whether it went."""
        wanted = self._pool.used_blocks - blocks
        # Prefixes that are in use free nothing, but others may hang above them: only if need be.
        return self._evict(wanted, in_use=False) or self._evict(wanted, in_use=True)

    def _evict(self, wanted: int, *, in_use: bool) -> bool:
        node = self._ends.newer
        while node is not self._ends and self._pool.used_blocks > wanted:
            following = node.newer
            if not node.children and not node.pins:
                self._shorten(node, self._pool.used_blocks - wanted, in_use=in_use)
            node = following
        return self._pool.used_blocks <= wanted

    def _shorten(self, node: Node, blocks: int, *, in_use: bool) -> None:
        """Take up to so many blocks from a prefix's end, or all of it if little would stay."""
        buffer = node.buffer
        assert buffer is not None
        idle = buffer.idle_from(node.start, node.stop)
        if idle == node.stop and not in_use:
            return
        stop = buffer.block_start(node.stop - 1) - (blocks - 1) * self._pool.block
        stop = max(stop, idle)
        if stop <= max(node.start, MIN_TOKENS - 1) or idle == node.stop:
            self._drop(node)
            return
        if stop < node.stop:
            buffer.let_go(stop, node.stop, kept=True)
            node.tokens_N = node.tokens_N[: stop - node.start]

    def clear(self, *, pinned: bool = False) -> None:
        """Give up all that nobody has pinned, or with `pinned` everything, as its numbers may be
        wrong: the pins are lost then."""
        if pinned:
            for pin in self._pins:
                pin.lost = True
        node = self._ends.newer
        while node is not self._ends:
            following = node.newer
            if not node.children and (pinned or not node.pins):
                self._drop(node)
            node = following

    # -- the tree's own ---------------------------------------------------------------------------

    def _adopt(self, parent: Node, child: Node) -> None:
        child.parent = parent
        if parent.children or parent.parent is None:  # else it takes the parent's place as an end
            self._leaves += 1
        parent.children[int(child.tokens_N[0])] = child

    def _drop(self, node: Node) -> None:
        buffer, parent = node.buffer, node.parent
        assert buffer is not None and parent is not None
        self._unlink(node)
        del parent.children[int(node.tokens_N[0])]
        node.parent = None
        self._leaves -= 1
        if not parent.children and parent.parent is not None:
            self._leaves += 1  # the one above is an end now
        buffer.let_go(node.start, node.stop, kept=True)

    def _link(self, node: Node, newer: Node) -> None:
        node.older, node.newer = newer.older, newer
        node.older.newer = newer.older = node

    def _unlink(self, node: Node) -> None:
        node.older.newer, node.newer.older = node.newer, node.older
