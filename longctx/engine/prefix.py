"""Finished prefixes that are kept for reuse: exact token matches within one temperature bucket.

Keys of deeper layers depend on YaRN's temperature, so an entry serves only requests of its own
bucket. Least recently used entries go first when memory is needed. Knows no scheduling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from longctx.engine.kv import Segment

Tokens = npt.NDArray[np.int64]

# Less than this is not worth an entry.
MIN_TOKENS = 16


def common_prefix(a_N: Tokens, b_N: Tokens) -> int:
    """How many leading tokens are equal."""
    shorter = min(len(a_N), len(b_N))
    differ: npt.NDArray[np.bool_] = a_N[:shorter] != b_N[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


class Prefix:
    """Retained tokens and where their keys and values lie."""

    def __init__(self, tokens_N: Tokens, bucket: int, segments: list[Segment]) -> None:
        self.tokens_N = tokens_N
        self.bucket = bucket
        self.segments = segments

    def release(self) -> None:
        for segment in self.segments:
            segment.buffer.release()


class PrefixStore:
    """Entries in order of use, oldest first."""

    def __init__(self) -> None:
        self._entries: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._entries)

    def match(
        self, bucket: int, common: Callable[[Prefix, Tokens], int]
    ) -> tuple[Prefix | None, int]:
        """The entry with most leading tokens in common, and how many.

        Args:
            common: how many an entry and its tokens have in common with what is looked for.
        """
        best, longest = None, 0
        for entry in self._entries:
            if entry.bucket == bucket and (length := common(entry, entry.tokens_N)) > longest:
                best, longest = entry, length
        return best, longest

    def touch(self, entry: Prefix) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)

    def add(self, entry: Prefix) -> None:
        """Keep an entry, unless another one covers it; what it covers goes.

        The entry's references pass to the store.
        """
        length = len(entry.tokens_N)
        for other in list(self._entries):
            if other.bucket != entry.bucket:
                continue
            common = common_prefix(other.tokens_N, entry.tokens_N)
            if common == length:
                self.touch(other)
                entry.release()
                return
            if common == len(other.tokens_N):
                self._drop(other)
        if length < MIN_TOKENS:
            entry.release()
            return
        self._entries.append(entry)

    def evict_oldest(self, spared: Any = None) -> bool:
        """Forget the entry that was not used for longest; False if there is none but `spared`."""
        for entry in self._entries:
            if entry is not spared:
                self._drop(entry)
                return True
        return False

    def clear(self) -> None:
        while self.evict_oldest():
            pass

    def _drop(self, entry: Prefix) -> None:
        self._entries.remove(entry)
        entry.release()
