"""Finished prefixes that are kept for reuse: a tree of exact tokens, one for each bucket.

Keys of deeper layers depend on YaRN's temperature, so a prefix serves only requests of its own
bucket; an engine has one scheme, and so has its tree. A node is a run of tokens and where their
keys lie; its children go on from it. What was not used for longest goes first, block by block from
the end, and only as much as somebody needs. Single-threaded, the engine's; knows no scheduling.

    root of bucket 0 -- [a document, 2,000 tokens] -- [a question and its answer]
                                                   \\- [another one]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longctx.engine.buffer import KvBuffer, Segment, joined, spans
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
    """

    __slots__ = (*("buffer", "children", "newer", "older", "parent", "start", "tokens_N"),)

    def __init__(self, tokens_N: Tokens, start: int, buffer: KvBuffer | None) -> None:
        self.tokens_N = tokens_N
        self.start = start
        self.buffer = buffer
        self.children: dict[int, Node] = {}
        self.parent: Node | None = None
        self.older = self.newer = self

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens_N)


class Match(NamedTuple):
    """The longest stored prefix: `length` tokens, which end within or behind `node`."""

    length: int
    segments: list[Segment]
    node: Node | None


class PrefixTree:
    """Kept prefixes over a pool of memory. `len()`: how many there are that none goes on from."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._roots: dict[int, Node] = {}
        self._ends = Node(np.empty(0, dtype=np.int64), 0, None)  # between the oldest and the newest
        self._leaves = 0

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
        if (start := buffer.block_start(upper.stop)) < upper.stop:  # now both have that block
            buffer.hold(start, upper.stop, kept=True)
        node.tokens_N, node.start = node.tokens_N[tokens:], upper.stop
        parent.children[int(upper.tokens_N[0])] = upper
        upper.parent = parent
        node.parent = upper
        upper.children[int(node.tokens_N[0])] = node
        self._link(upper, node.newer)
        return upper

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
            if not node.children:
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

    def clear(self) -> None:
        """Give up all."""
        node = self._ends.newer
        while node is not self._ends:
            following = node.newer
            if not node.children:
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
