"""One step's attention: the queries of some rows against their keys, in parts, one softmax.

The engine (prefill, decode, both at once) and, for each group of like rows, the drop-in plan their
rows here, once a step and from host numbers alone; every layer then follows the plan:

    plan = plan_step([StepRow(start, length, (Run(...),)), ...], turns)
    for each layer:  out_BLHD = attend_step(plan, q_BHLD, keys, values, kernel, scale)

Where a kernel takes packed sequences (`PackingKernel` of kernels/base.py), all rows and parts are
one or two calls (packed.py). Where it decodes (`DecodingKernel`), all rows of one query and their
parts are one. Elsewhere calls are shared where that saves: rows of one token each are turned
together, those that read the same run of keys go through it in one call, and all are merged at once
(tokens.py); a block of a prompt goes chunk by chunk, over keys read in place. Keys
come rotated at p mod S and unscaled; a row's temperature multiplies its queries' logits.

Knows no models, caches or masks. Shape legend: B batch, H query heads, K key/value heads, L query
columns, M key slots, D head dimension, R rows of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch

from longctx.attention import packed
from longctx.attention.chunks import ChunkQueries, Turns, describe_block, split_block
from longctx.attention.kernels.base import DecodingKernel, Kernel, Partial
from longctx.attention.merge import merge
from longctx.attention.rope import rotate
from longctx.attention.rows import Run, StepRow, column_of, paged, slots_of
from longctx.attention.tokens import (
    Token,
    Tokens,
    attend_tokens,
    plan_tokens,
    read,
    token_index,
)
from longctx.attention.upload import upload

__all__ = ["Run", "StepPlan", "StepRow", "attend_step", "paged", "plan_step"]


@dataclass(frozen=True)
class Block:
    """A row of more queries, or of several sequences, chunk by chunk."""

    row: StepRow
    steps: tuple[ChunkQueries, ...]


@dataclass(frozen=True)
class StepPlan:
    """What every layer of one step follows. `print(plan)` lists rows and parts."""

    rows: tuple[StepRow, ...]
    turns: Turns | None
    blocks: tuple[Block, ...]
    single: tuple[tuple[StepRow, ChunkQueries], ...]  # all rows of one query
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def tokens(self) -> Tokens | None:
        """Rows of one query of one sequence each, for kernels that know no rows."""
        lone = [
            (Token(row.batch.start, column_of(row)), row, step)
            for row, step in self.single
            if _alone(row)
        ]
        lone.sort(key=lambda each: each[0])
        return plan_tokens(lone, self.turns) if lone else None

    def __str__(self) -> str:
        chunk_map = self.turns.chunk_map if self.turns else None
        return "\n".join(
            f"row {at}, logits x {row.logit_scale:.6f}: "
            + describe_block(row.start, row.length, split_block(chunk_map, row.start, row.length))
            for at, row in enumerate(self.rows)
        )


def plan_step(rows: Sequence[StepRow], turns: Turns | None = None) -> StepPlan:
    """Plan one step.

    Args:
        turns: chunks and frequencies; None: plain causal attention.

    Raises:
        ValueError: a row without queries, or whose runs are not its keys, one behind the other.
    """
    chunk_map = turns.chunk_map if turns else None
    blocks: list[Block] = []
    single: list[tuple[StepRow, ChunkQueries]] = []
    for at, row in enumerate(rows):
        _check(at, row)
        steps = split_block(chunk_map, row.start, row.length)
        if row.length == 1:
            single.append((row, steps[0]))
        if row.length > 1 or not _alone(row):
            blocks.append(Block(row, steps))
    return StepPlan(tuple(rows), turns, tuple(blocks), tuple(single))


def _alone(row: StepRow) -> bool:
    """Of one sequence."""
    return row.batch.stop is not None and row.batch.stop == row.batch.start + 1


def _check(at: int, row: StepRow) -> None:
    position = 0
    for run in row.runs:
        if run.start != position or run.stop <= run.start:
            break
        position = run.stop
    if row.length < 1 or position != row.end:
        raise ValueError(
            f"row {at} has {row.length} queries from position {row.start} on and keys at "
            f"{[f'{run.start}..{run.stop - 1}' for run in row.runs]}: a row needs a query, and "
            f"runs of keys that follow each other up to position {row.end - 1}"
        )


def attend_step(
    plan: StepPlan,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
) -> torch.Tensor:
    """Attention of all rows; [B, L, H, D] in q's dtype, 0 where no row has a query.

    Args:
        q_BHLD: rotated at p mod S (at p without chunks).
        keys, values: the stacks that the runs name, [B, K, M, D] each; any strides.
        scale: head_dim^-0.5.
    """
    batch, heads, columns, dim = q_BHLD.shape
    if plan.single and (decoding := _decoding(kernel, q_BHLD, keys, values)):
        given = (q_BHLD, keys, values)
        out_BLHD = decoding.decode(plan.single, plan.turns, plan.kept, *given, scale)
        for block in plan.blocks:
            if block.row.length > 1:
                _attend_block(plan, block, *given, kernel, scale, out_BLHD)
        return out_BLHD
    packs = packed.takes(kernel, q_BHLD, keys)
    if len(plan.blocks) == 1 and plan.tokens is None and not plan.blocks[0].steps[0].bands:
        block = plan.blocks[0]
        alone = len(block.steps) == 1 and _covers(block.row, q_BHLD)
        whole = len(block.row.runs) == 1
        if alone and ((block.row.start == 0 and whole) or not packs):
            # Within the first chunk this is plain causal attention: one call, bit-equal to it.
            out_BHLD = _intra(block.row, block.steps[0], q_BHLD, keys, values, kernel, scale)
            return out_BHLD.out_BHLD.transpose(1, 2).to(q_BHLD.dtype).contiguous()
    tokens = plan.tokens
    lone = not plan.blocks and tokens is not None and len(tokens.calls) == 1
    if packs and not lone:
        layout = _layout(plan, q_BHLD, keys[0], kernel)
        if layout is not None:
            return packed.attend_packed(layout, q_BHLD, keys[0], values[0], kernel, scale)
    if tokens is not None and len(tokens.tokens) == batch * columns:
        out_1HRD = attend_tokens(tokens, plan.turns, plan.kept, q_BHLD, keys, values, kernel, scale)
        if batch == columns == 1:
            return out_1HRD.to(q_BHLD.dtype).contiguous().view(1, 1, heads, dim)
        out_RHD = out_1HRD[0].transpose(0, 1).to(q_BHLD.dtype).contiguous()
        return out_RHD.view(batch, columns, heads, dim)
    out_BLHD = q_BHLD.new_zeros(batch, columns, heads, dim)
    for block in plan.blocks:
        _attend_block(plan, block, q_BHLD, keys, values, kernel, scale, out_BLHD)
    if tokens is not None:
        out_1HRD = attend_tokens(tokens, plan.turns, plan.kept, q_BHLD, keys, values, kernel, scale)
        batch_R, column_R = token_index(tokens, plan.kept, q_BHLD.device)
        out_BLHD[batch_R, column_R] = out_1HRD[0].transpose(0, 1).to(q_BHLD.dtype)
    return out_BLHD


def _decoding(
    kernel: Kernel,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
) -> DecodingKernel | None:
    """The kernel, where it decodes and reads these tensors."""
    decodes = getattr(kernel, "decodes", None)
    return cast(DecodingKernel, kernel) if decodes and decodes(q_BHLD, keys, values) else None


def _layout(
    plan: StepPlan, q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, kernel: Kernel
) -> packed.PackedStep | None:
    """How a kernel of packed sequences gets this step; made once a step and device."""
    slots = k_BKMD.shape[2]
    key = ("packed", kernel.name, q_BHLD.device, packed.pitch(k_BKMD), slots, q_BHLD.shape[::2])
    if key not in plan.kept:
        plan.kept[key] = packed.layout_for(kernel, plan.rows, plan.turns, q_BHLD, k_BKMD)
    layout: packed.PackedStep | None = plan.kept[key]
    return layout


def _covers(row: StepRow, q_BHLD: torch.Tensor) -> bool:
    """All of q is this row's, in order."""
    batch = row.batch.indices(q_BHLD.shape[0])
    if not isinstance(row.columns, slice) or batch[1] - batch[0] != q_BHLD.shape[0]:
        return False
    return row.length == q_BHLD.shape[2]


# -- rows of more than one query ------------------------------------------------------------------


def _attend_block(
    plan: StepPlan,
    block: Block,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
    out_BLHD: torch.Tensor,
) -> None:
    row, turns = block.row, plan.turns
    q_BHLD, out = q_BHLD[row.batch], out_BLHD[row.batch]
    if isinstance(row.columns, slice):
        first = row.columns.start
        columns: Any = slice(first, first + row.length)
        out = out[:, columns]
        target = out
    else:
        columns = _columns(plan, row.columns, q_BHLD.device)
        target = out.new_empty(out.shape[0], row.length, *out.shape[2:])
    q_BHLD = q_BHLD[:, :, columns]
    for step in block.steps:
        intra = _intra(row, step, q_BHLD[:, :, step.rows], keys, values, kernel, scale)
        if not step.bands:
            target[:, step.rows] = intra.out_BHLD.transpose(1, 2)
        for band in step.bands:
            assert turns is not None
            local = slice(band.rows.start - step.rows.start, band.rows.stop - step.rows.start)
            partials = [Partial(intra.out_BHLD[:, :, local], intra.lse_BHL[:, :, local])]
            r = range(
                *(row.start + at - step.keys.start for at in (band.rows.start, band.rows.stop))
            )
            for part in band.parts:
                key = ("turn", part.cap, r, q_BHLD.device)
                if (turn := plan.kept.get(key)) is None:
                    turn = plan.kept[key] = turns.at(part, r, q_BHLD.device)
                turned_BHLD = rotate(q_BHLD[:, :, band.rows], turn)
                for slots in slots_of(row, part.keys):
                    k_BKMD, v_BKMD = read(slots, row.batch, keys, values)
                    partials.append(
                        kernel(
                            turned_BHLD,
                            k_BKMD,
                            v_BKMD,
                            causal=False,
                            scale=scale * row.logit_scale,
                        )
                    )
            target[:, band.rows] = merge(partials).out_BHLD.transpose(1, 2)
    if target is not out:
        out[:, columns] = target


def _columns(plan: StepPlan, columns: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int64 [L], made once a step."""
    key = ("columns", columns, device)
    if key not in plan.kept:
        plan.kept[key] = upload(torch.tensor(columns), device)
    index: torch.Tensor = plan.kept[key]
    return index


def _intra(
    row: StepRow,
    step: ChunkQueries,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
) -> Partial:
    """The own chunk. Runs before the queries' own are seen whole; what follows is causal."""
    scale = scale * row.logit_scale
    slots, position = slots_of(row, step.keys), step.keys.start
    first_query = row.start + step.rows.start
    partials = []
    while len(slots) > 1 and (stop := position + slots[0].stop - slots[0].start) <= first_query:
        k_BKMD, v_BKMD = read(slots.pop(0), row.batch, keys, values)
        partials.append(kernel(q_BHLD, k_BKMD, v_BKMD, causal=False, scale=scale))
        position = stop
    pairs = [read(each, row.batch, keys, values) for each in slots]
    k_BKMD, v_BKMD = pairs[0]
    if len(pairs) > 1:  # the block's own keys lie apart: in pages, or around padding
        k_BKMD, v_BKMD = (torch.cat(each, dim=2) for each in zip(*pairs, strict=True))
    partials.append(kernel(q_BHLD, k_BKMD, v_BKMD, causal=True, scale=scale))
    return merge(partials)
