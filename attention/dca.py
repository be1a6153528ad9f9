"""Dual Chunk Attention over any kernel: three partial attentions and one softmax.

For the queries of chunk n (DCA, arXiv 2402.17463, section 3; cut at multiples of S):

    keys     0 ......... (n-1)S ......... nS ......... e
             |--- inter ---|---- succ -----|-- intra --|
    query at      cap       min(r + S, cap)      r
    mask        none             none          causal

From r = cap - S on, succ and inter give one and the same query, so the whole past of the chunk is a
single part. The plan says all of this once for a forward pass; every layer then follows it. Same
FLOPs as causal attention, O(L) memory; K and V are read in place and never repeated.

Knows tensors that are already rotated at r; not models, caches or padding.
Shape legend: B batch, H query heads, K key/value heads, L query tokens, M key tokens, D head
dimension, F = D / 2 frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge
from longctx.attention.positions import ChunkMap
from longctx.attention.rope import rotate, rotation


@dataclass(frozen=True)
class Part:
    """Keys that some queries see whole, and how those queries are rotated for them."""

    name: str
    keys: slice
    rotation_2LF: torch.Tensor  # from r to the part's query position; L may be 1, for all rows


@dataclass(frozen=True)
class Band:
    """Rows of one chunk that share the parts behind the chunk."""

    rows: slice  # into the block's queries
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChunkStep:
    """The queries that fall into one chunk."""

    index: int
    rows: slice
    keys: slice  # intra: causal, bottom-right aligned
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class BlockPlan:
    """What to compute for the queries at positions start .. start + length - 1.

    `print(plan)` lists the parts.
    """

    start: int
    length: int
    chunk_map: ChunkMap
    steps: tuple[ChunkStep, ...]

    @property
    def key_length(self) -> int:
        return self.start + self.length

    def __str__(self) -> str:
        lines = [f"queries {self.start}..{self.key_length - 1} over {self.key_length} keys"]
        for step in self.steps:
            lines.append(f"  chunk {step.index}: intra {_span(step.keys)} causal")
            for band in step.bands:
                first, last = self.start + band.rows.start, self.start + band.rows.stop - 1
                parts = ", ".join(f"{part.name} {_span(part.keys)}" for part in band.parts)
                lines.append(f"    queries {first}..{last}: {parts}")
        return "\n".join(lines)


def _span(keys: slice) -> str:
    return f"[{keys.start}:{keys.stop})"


def plan_block(
    chunk_map: ChunkMap,
    start: int,
    length: int,
    inv_freq_F: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> BlockPlan:
    """Split a block of a prompt, or one decoded token, into chunks and parts.

    Args:
        start: absolute position of the first query; all keys before it are cached.
        length: queries in the block.
        inv_freq_F: [F] the frequencies that the rotary uses.
        dtype: arithmetic of the query's rotations; float64 only for float64 models.
    """
    chunk_len, cap, capped_from = chunk_map.chunk_len, chunk_map.max_position, chunk_map.capped_from
    steps = []
    begin, end = start, start + length
    while begin < end:
        n = begin // chunk_len
        origin, stop = n * chunk_len, min(end, (n + 1) * chunk_len)
        bands = []
        if n > 0:
            r_L = torch.arange(begin - origin, stop - origin, device=inv_freq_F.device)
            to_cap_2LF = rotation(cap - r_L, inv_freq_F, dtype)
            to_succ_21F = rotation(r_L.new_tensor([chunk_len]), inv_freq_F, dtype)
            split = min(max(begin, origin + capped_from), stop)
            before, near = (n - 1) * chunk_len, split - begin
            if near:
                parts = [Part("succ", slice(before, origin), to_succ_21F)]
                if before:
                    parts.append(Part("inter", slice(0, before), to_cap_2LF[:, :near]))
                bands.append(Band(slice(begin - start, split - start), tuple(parts)))
            if split < stop:
                past = Part("past", slice(0, origin), to_cap_2LF[:, near:])
                bands.append(Band(slice(split - start, stop - start), (past,)))
        steps.append(
            ChunkStep(n, slice(begin - start, stop - start), slice(origin, stop), tuple(bands))
        )
        begin = stop
    return BlockPlan(start, length, chunk_map, tuple(steps))


def attend(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    plan: BlockPlan,
    kernel: Kernel,
    scale: float,
) -> torch.Tensor:
    """Dual Chunk Attention of one block; [B, H, L, D] in q's dtype.

    Args:
        q_BHLD, k_BKMD: rotated at r = p mod S; M = plan.key_length.
        scale: head_dim^-0.5, times m^2 where YaRN's temperature is on. Never baked into K.

    Raises:
        ValueError: lengths that do not match the plan.
    """
    if q_BHLD.shape[2] != plan.length or k_BKMD.shape[2] != plan.key_length:
        raise ValueError(
            f"plan is for {plan.length} queries and {plan.key_length} keys, got "
            f"{q_BHLD.shape[2]} and {k_BKMD.shape[2]}"
        )
    if len(plan.steps) == 1 and not plan.steps[0].bands:
        # Within the first chunk this is plain causal attention: one call, bit-equal to it.
        out_BHLD = kernel(q_BHLD, k_BKMD, v_BKMD, causal=True, scale=scale).out_BHLD
        return out_BHLD.to(q_BHLD.dtype)  # fp32 where the kernel merged a block with its history

    out_BHLD = torch.empty_like(q_BHLD)
    for step in plan.steps:
        intra = kernel(
            q_BHLD[:, :, step.rows],
            k_BKMD[:, :, step.keys],
            v_BKMD[:, :, step.keys],
            causal=True,
            scale=scale,
        )
        if not step.bands:
            out_BHLD[:, :, step.rows] = intra.out_BHLD
        for band in step.bands:
            partials = [_rows_of(intra, band.rows, step.rows.start)]
            for part in band.parts:
                q_part_BHLD = rotate(q_BHLD[:, :, band.rows], part.rotation_2LF.to(q_BHLD.device))
                partials.append(
                    kernel(
                        q_part_BHLD,
                        k_BKMD[:, :, part.keys],
                        v_BKMD[:, :, part.keys],
                        causal=False,
                        scale=scale,
                    )
                )
            out_BHLD[:, :, band.rows] = merge(partials).out_BHLD
    return out_BHLD


def _rows_of(partial: Partial, rows: slice, offset: int) -> Partial:
    local = slice(rows.start - offset, rows.stop - offset)
    return Partial(partial.out_BHLD[:, :, local], partial.lse_BHL[:, :, local])
