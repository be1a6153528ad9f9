"""Dual Chunk Attention of one block of a prompt, or of one decoded token, over any kernel.

A thin form of `attention/step.py` for callers with one contiguous key tensor: plan once for a
forward pass, attend in every layer. O(L) memory; K and V are read in place and never repeated.

Knows tensors that are already rotated at r; not models, caches or padding.
Shape legend: B batch, H query heads, K key/value heads, L query tokens, M key tokens, D head
dimension, F = D / 2 frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longctx.attention.chunks import ChunkQueries, Turns, describe_block
from longctx.attention.kernels.base import Kernel
from longctx.attention.positions import ChunkMap
from longctx.attention.step import Run, StepPlan, StepRow, attend_step, plan_step


@dataclass(frozen=True)
class BlockPlan:
    """What to compute for the queries at positions start .. start + length - 1.

    `print(plan)` lists the parts.
    """

    start: int
    length: int
    chunk_map: ChunkMap
    step: StepPlan

    @property
    def steps(self) -> tuple[ChunkQueries, ...]:
        return self.step.blocks[0].steps

    @property
    def key_length(self) -> int:
        return self.start + self.length

    def __str__(self) -> str:
        return describe_block(self.start, self.length, self.steps)


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
    turns = Turns(chunk_map, inv_freq_F, dtype)
    row = StepRow(start, length, (Run(0, 0, start + length, 0),), batch=slice(0, None))
    return BlockPlan(start, length, chunk_map, plan_step([row], turns))


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
    out_BLHD = attend_step(plan.step, q_BHLD, (k_BKMD,), (v_BKMD,), kernel, scale)
    return out_BLHD.transpose(1, 2)
