"""Room for one run of keys and values on the host: side by side, and taken from the system by need.

Attention reads one long run fastest (`benchmarks/kv_blocks.py`), and how long an answer gets is not
known. So a run has addresses for all that it may reach; the system gives it memory page by page,
when it is written for the first time, and gets pages back that are given up before the run ends.

Shape legend: K key/value heads, M tokens, D head dimension.
"""

from __future__ import annotations

import mmap

import torch

_PAGE = mmap.PAGESIZE
# Smaller runs come from the allocator: the system has a limit of some ten thousand mappings.
_SMALL = 1 << 20


class MappedRun:
    """All layers' keys and values of `tokens` tokens.

    Args:
        shapes: heads, key dimension and value dimension of every layer; they are alike.
    """

    def __init__(
        self, layers: int, tokens: int, shapes: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        self._tokens, self._shapes, self._dtype = tokens, shapes, dtype
        heads, k_dim, v_dim = shapes
        self._layer_bytes = heads * tokens * (k_dim + v_dim) * dtype.itemsize
        self._memory = _taken(layers * self._layer_bytes)
        self._layers = layers

    @property
    def allocated(self) -> int:
        """Bytes that came from the allocator, and go back there."""
        return 0 if isinstance(self._memory, mmap.mmap) else len(self._memory)

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [K, M, D]: views, which keep the memory alive."""
        heads, k_dim, v_dim = self._shapes
        at = layer * self._layer_bytes
        k_KMD = self._view(at, heads, k_dim)
        return k_KMD, self._view(at + k_KMD.nbytes, heads, v_dim)

    def _view(self, at: int, heads: int, dim: int) -> torch.Tensor:
        count = heads * self._tokens * dim
        flat = torch.frombuffer(self._memory, dtype=self._dtype, count=count, offset=at)
        return flat.view(heads, self._tokens, dim)

    def give_back(self, first: int, last: int) -> None:
        """Tokens [first, last) are not read again before they are written: their whole pages go to
        the system. A small run's stay until it ends, and all where there is no such call."""
        if not isinstance(self._memory, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return
        heads, k_dim, v_dim = self._shapes
        itemsize = self._dtype.itemsize
        at = 0
        for _ in range(self._layers):
            for dim in (k_dim, v_dim):
                for _ in range(heads):
                    start = -(-(at + first * dim * itemsize) // _PAGE) * _PAGE
                    stop = (at + last * dim * itemsize) // _PAGE * _PAGE
                    if stop > start:
                        self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)
                    at += self._tokens * dim * itemsize


def _taken(size: int) -> mmap.mmap | bytearray:
    """Private memory of this process, which costs nothing before it is written.

    Raises:
        MemoryError: the system refuses so many addresses.
    """
    if size < _SMALL:
        return bytearray(size)
    try:
        if hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"no memory for keys and values: {size} bytes ({error})") from error
