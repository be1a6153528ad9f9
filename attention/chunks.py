"""Which keys the queries of a block meet, and how far each query is turned for them: host numbers.

For the queries of chunk n (DCA, arXiv 2402.17463, section 3; cut at multiples of S):

    keys     0 ......... (n-1)S ......... nS ......... e
             |--- inter ---|---- succ -----|-- intra --|
    query at      cap       min(r + S, cap)      r
    mask        none             none          causal

From r = cap - S on, succ and inter give one and the same query, so the whole past of the chunk is a
single part. Same FLOPs as causal attention. Knows no tensors but the tables of `Turns`.

Shape legend: N queries, F = D / 2 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longctx.attention.positions import ChunkMap
from longctx.attention.rope import rotation
from longctx.attention.upload import upload

# Bytes of a table that is kept; a larger one (windows of 256K tokens) is made anew for each step.
TABLE_BYTES = 32 << 20


@dataclass(frozen=True)
class KeyPart:
    """Keys that some queries see whole, and the query's position for them.

    Attributes:
        keys: positions.
        cap: the query's position, the same for all; None: S behind its own.
    """

    name: str
    keys: slice
    cap: int | None


@dataclass(frozen=True)
class QueryBand:
    """Queries of one chunk that share the parts behind the chunk."""

    rows: slice  # into the block's queries
    parts: tuple[KeyPart, ...]


@dataclass(frozen=True)
class ChunkQueries:
    """The queries that fall into one chunk."""

    index: int
    rows: slice
    keys: slice  # intra: causal, bottom-right aligned
    bands: tuple[QueryBand, ...]


def split_block(chunk_map: ChunkMap | None, start: int, length: int) -> tuple[ChunkQueries, ...]:
    """Chunks and parts of the queries at positions start .. start + length - 1.

    Args:
        chunk_map: None: no chunks, plain causal attention.
    """
    end = start + length
    if chunk_map is None:
        return (ChunkQueries(0, slice(0, length), slice(0, end), ()),)
    chunk_len, cap, capped_from = chunk_map.chunk_len, chunk_map.max_position, chunk_map.capped_from
    steps, begin = [], start
    while begin < end:
        n = begin // chunk_len
        origin, stop = n * chunk_len, min(end, (n + 1) * chunk_len)
        bands = []
        if n > 0:
            split = min(max(begin, origin + capped_from), stop)
            before = (n - 1) * chunk_len
            if begin < split:
                parts = [KeyPart("succ", slice(before, origin), None)]
                if before:
                    parts.append(KeyPart("inter", slice(0, before), cap))
                bands.append(QueryBand(slice(begin - start, split - start), tuple(parts)))
            if split < stop:
                past = KeyPart("past", slice(0, origin), cap)
                bands.append(QueryBand(slice(split - start, stop - start), (past,)))
        steps.append(
            ChunkQueries(n, slice(begin - start, stop - start), slice(origin, stop), tuple(bands))
        )
        begin = stop
    return tuple(steps)


def describe_block(start: int, length: int, steps: Sequence[ChunkQueries]) -> str:
    """The parts of a block, a line each."""
    lines = [f"queries {start}..{start + length - 1} over {start + length} keys"]
    for step in steps:
        lines.append(f"  chunk {step.index}: intra {_span(step.keys)} causal")
        for band in step.bands:
            first, last = start + band.rows.start, start + band.rows.stop - 1
            parts = ", ".join(f"{part.name} {_span(part.keys)}" for part in band.parts)
            lines.append(f"    queries {first}..{last}: {parts}")
    return "\n".join(lines)


def _span(keys: slice) -> str:
    return f"[{keys.start}:{keys.stop})"


class Turns:
    """Rotations of queries from their chunk position on; made once for a model's frequencies.

    Args:
        inv_freq_F: the frequencies that the rotary uses.
        dtype: arithmetic of the rotations; float64 only for float64 models.
    """

    def __init__(
        self, chunk_map: ChunkMap, inv_freq_F: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        self.chunk_map = chunk_map
        self.inv_freq_F = inv_freq_F
        self.dtype = dtype
        self._kept: dict[torch.device, torch.Tensor] = {}

    def amount(self, part: KeyPart, r: int) -> int:
        """By how many positions the query at chunk position `r` is turned on for a part."""
        return self.chunk_map.chunk_len if part.cap is None else part.cap - r

    def at(self, part: KeyPart, r: range, device: torch.device) -> torch.Tensor:
        """[2, N, F] for queries at neighbouring chunk positions; N is 1 where one serves all."""
        cap, table = self.chunk_map.max_position, self._table(device)
        if part.cap is None:
            amounts: Sequence[int] = [self.chunk_map.chunk_len]
        else:
            amounts = range(part.cap - r.start, part.cap - r.stop, -1)
        first, count = cap - amounts[0], len(amounts)
        if table is not None and first >= 0 and first + count <= table.shape[1]:
            return table[:, first : first + count]
        return self.take(amounts, device)

    def take(self, amounts: Sequence[int], device: torch.device) -> torch.Tensor:
        """[2, N, F] for turns by so many positions."""
        cap, table = self.chunk_map.max_position, self._table(device)
        if table is None or max(amounts) > cap or cap - min(amounts) >= table.shape[1]:
            return self._rotation(upload(torch.tensor(amounts), device))
        index_N = torch.tensor([cap - each for each in amounts])
        return table.index_select(1, upload(index_N, device))

    def _table(self, device: torch.device) -> torch.Tensor | None:
        """[2, cap + 1, F]: row r turns a query from r to the cap."""
        entries = self.chunk_map.max_position + 1
        if 2 * entries * self.inv_freq_F.numel() * self.dtype.itemsize > TABLE_BYTES:
            return None
        if device not in self._kept:
            amounts_N = torch.arange(self.chunk_map.max_position, -1, -1, device=device)
            blocks = [self._rotation(some_N) for some_N in amounts_N.split(4096)]
            self._kept[device] = torch.cat(blocks, dim=1)
        return self._kept[device]

    def _rotation(self, amounts_N: torch.Tensor) -> torch.Tensor:
        return rotation(amounts_N, self.inv_freq_F.to(amounts_N.device), self.dtype)


def turns_of(
    chunk_map: ChunkMap | None, inv_freq_F: torch.Tensor, dtype: torch.dtype, kept: Turns | None
) -> Turns | None:
    """`kept` where it is for these very numbers, else new ones; None without chunks."""
    if chunk_map is None:
        return None
    if (
        kept is not None
        and kept.inv_freq_F is inv_freq_F
        and kept.chunk_map == chunk_map
        and kept.dtype == dtype
    ):
        return kept
    return Turns(chunk_map, inv_freq_F, dtype)
