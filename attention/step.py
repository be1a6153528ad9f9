"""One step's attention: the queries of some rows against their keys, in parts, one softmax.

The drop-in (padded and ragged batches) and the engine (prefill, decode, both at once) plan their
rows here, once a step and from host numbers alone; every layer then follows the plan:

    plan = plan_step([StepRow(start, length, (Run(...),)), ...], turns)
    for each layer:  out_BLHD = attend_step(plan, q_BHLD, keys, values, kernel, scale)

Where a kernel takes packed sequences (`varlen` of kernels/base.py), all rows and parts are one or
two calls (packed.py). Elsewhere calls are shared where that saves: rows of one token each are
turned together, those that read the same run of keys go through it in one call, and all are merged
at once; a block of a prompt goes chunk by chunk, over keys read in place. Keys come rotated at
p mod S and unscaled; a row's temperature multiplies its queries' logits.

Knows no models, caches or masks. Shape legend: B batch, H query heads, K key/value heads, L query
columns, M key slots, D head dimension, F = D / 2 frequencies, R rows of one token, N queries of
calls, A calls of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from longctx.attention import packed
from longctx.attention.chunks import ChunkQueries, KeyPart, Turns, describe_block, split_block
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge
from longctx.attention.rope import rotate
from longctx.attention.rows import Run, Slots, StepRow, paged, slots_of

__all__ = ["Run", "StepPlan", "StepRow", "attend_step", "paged", "plan_step"]


class Token(NamedTuple):
    """A row of one query."""

    batch: int
    column: int


class Call(NamedTuple):
    """Queries `first` .. `stop` - 1 of the step's expanded ones over one run of keys, all seen."""

    slots: Slots
    batch: int
    logit_scale: float
    first: int
    stop: int


@dataclass(frozen=True)
class Tokens:
    """All rows of one query: what they read, and how the partial results are gathered.

    Attributes:
        of_N: the token that each query of a call is.
        turned_from: queries from here on are turned, by `turn_N` positions.
        parts_RA: the queries of each token; the number of queries stands for none.
    """

    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    of_N: tuple[int, ...]
    turned_from: int
    turn_N: tuple[int, ...]
    parts_RA: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Block:
    """A row of more queries, chunk by chunk."""

    row: StepRow
    steps: tuple[ChunkQueries, ...]


@dataclass(frozen=True)
class StepPlan:
    """What every layer of one step follows. `print(plan)` lists rows and parts."""

    rows: tuple[StepRow, ...]
    turns: Turns | None
    blocks: tuple[Block, ...]
    tokens: Tokens | None
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

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
    single: list[tuple[Token, StepRow, ChunkQueries]] = []
    for at, row in enumerate(rows):
        _check(at, row)
        steps = split_block(chunk_map, row.start, row.length)
        if row.length == 1 and row.batch.stop is not None:
            single.extend(
                (Token(batch, _column(row)), row, steps[0])
                for batch in range(row.batch.start, row.batch.stop)
            )
        else:
            blocks.append(Block(row, steps))
    single.sort(key=lambda each: each[0])
    tokens = _plan_tokens(single, turns) if single else None
    return StepPlan(tuple(rows), turns, tuple(blocks), tokens)


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


def _column(row: StepRow) -> int:
    return row.columns.start if isinstance(row.columns, slice) else row.columns[0]


def _plan_tokens(
    single: Sequence[tuple[Token, StepRow, ChunkQueries]], turns: Turns | None
) -> Tokens:
    members: dict[tuple[bool, Slots, int, float], list[tuple[int, int]]] = {}
    for at, (token, row, step) in enumerate(single):
        parts: list[tuple[KeyPart | None, slice]] = [(None, step.keys)]
        parts += [(part, part.keys) for band in step.bands for part in band.parts]
        for part, keys in parts:
            turn = turns.amount(part, row.start - step.keys.start) if part and turns else 0
            for slots in slots_of(row, keys):
                key = (part is not None, slots, token.batch, row.logit_scale)
                members.setdefault(key, []).append((at, turn))
    calls: list[Call] = []
    of_N: list[int] = []
    turn_N: list[int] = []
    parts_RA: list[list[int]] = [[] for _ in single]
    turned_from = 0
    for (turned, slots, batch, scale), found in sorted(members.items(), key=lambda each: each[0]):
        first = len(of_N)
        for at, turn in found:
            parts_RA[at].append(len(of_N))
            of_N.append(at)
            if turned:
                turn_N.append(turn)
        if not turned:
            turned_from = len(of_N)
        calls.append(Call(slots, batch, scale, first, len(of_N)))
    most = max(len(parts) for parts in parts_RA)
    filled = tuple((*parts, *[len(of_N)] * (most - len(parts))) for parts in parts_RA)
    tokens = tuple(token for token, _, _ in single)
    return Tokens(tokens, tuple(calls), tuple(of_N), turned_from, tuple(turn_N), filled)


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
    if len(plan.blocks) == 1 and plan.tokens is None and not plan.blocks[0].steps[0].bands:
        block = plan.blocks[0]
        if len(block.steps) == 1 and _covers(block.row, q_BHLD):
            # Within the first chunk this is plain causal attention: one call, bit-equal to it.
            out_BHLD = _intra(block.row, block.steps[0], q_BHLD, keys, values, kernel, scale)
            return out_BHLD.out_BHLD.transpose(1, 2).to(q_BHLD.dtype).contiguous()
    tokens = plan.tokens
    lone = not plan.blocks and tokens is not None and len(tokens.calls) == 1
    if not lone and packed.takes(kernel, q_BHLD, keys):
        layout = _layout(plan, q_BHLD, keys[0])
        if layout is not None:
            return packed.attend_packed(layout, q_BHLD, keys[0], values[0], kernel, scale)
    if tokens is not None and len(tokens.tokens) == batch * columns:
        out_1HRD = _attend_tokens(plan, tokens, q_BHLD, keys, values, kernel, scale)
        out_RHD = out_1HRD[0].transpose(0, 1).to(q_BHLD.dtype).contiguous()
        return out_RHD.view(batch, columns, heads, dim)
    out_BLHD = q_BHLD.new_zeros(batch, columns, heads, dim)
    for block in plan.blocks:
        _attend_block(plan, block, q_BHLD, keys, values, kernel, scale, out_BLHD)
    if tokens is not None:
        out_1HRD = _attend_tokens(plan, tokens, q_BHLD, keys, values, kernel, scale)
        batch_R, column_R = _token_index(plan, tokens, q_BHLD.device)
        out_BLHD[batch_R, column_R] = out_1HRD[0].transpose(0, 1).to(q_BHLD.dtype)
    return out_BLHD


def _layout(plan: StepPlan, q_BHLD: torch.Tensor, k_BKMD: torch.Tensor) -> packed.PackedStep | None:
    """How a kernel of packed sequences gets this step; made once a step and device."""
    pitch = packed.pitch(k_BKMD)
    key = ("packed", q_BHLD.device, pitch, q_BHLD.shape[::2])
    if key not in plan.kept:
        batch, _, columns, _ = q_BHLD.shape
        plan.kept[key] = packed.lay_out(plan.rows, plan.turns, batch, columns, pitch, q_BHLD.device)
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
        columns = torch.tensor(row.columns, device=q_BHLD.device)
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
                    k_BKMD, v_BKMD = _read(slots, row.batch, keys, values)
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
        k_BKMD, v_BKMD = _read(slots.pop(0), row.batch, keys, values)
        partials.append(kernel(q_BHLD, k_BKMD, v_BKMD, causal=False, scale=scale))
        position = stop
    pairs = [_read(each, row.batch, keys, values) for each in slots]
    k_BKMD, v_BKMD = pairs[0]
    if len(pairs) > 1:  # the block's own keys lie apart: in pages, or around padding
        k_BKMD, v_BKMD = (torch.cat(each, dim=2) for each in zip(*pairs, strict=True))
    partials.append(kernel(q_BHLD, k_BKMD, v_BKMD, causal=True, scale=scale))
    return merge(partials)


def _read(
    slots: Slots, batch: slice, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [B, K, M, D]."""
    k_BKMD, v_BKMD = keys[slots.stack], values[slots.stack]
    span = slice(slots.start, slots.stop)
    return k_BKMD[batch, :, span], v_BKMD[batch, :, span]


# -- rows of one query ----------------------------------------------------------------------------


def _attend_tokens(
    plan: StepPlan,
    tokens: Tokens,
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
) -> torch.Tensor:
    """[1, H, R, D], in the merge's dtype where there was one."""
    q_1HND, device = _expand(plan, tokens, q_BHLD), q_BHLD.device
    turned, total = tokens.turned_from, len(tokens.of_N)
    turned_1HND = q_1HND
    if turned < total:
        if (table := plan.kept.get(("turns", device))) is None:
            assert plan.turns is not None
            table = plan.kept["turns", device] = plan.turns.take(tokens.turn_N, device)
        turned_1HND = rotate(q_1HND[:, :, turned:], table)
    partials = []
    for slots, batch, logit_scale, first, stop in tokens.calls:
        if first < turned:
            mine_1HND = q_1HND[:, :, first:stop]
        else:
            mine_1HND = turned_1HND[:, :, first - turned : stop - turned]
        k_1KMD, v_1KMD = _read(slots, slice(batch, batch + 1), keys, values)
        partials.append(kernel(mine_1HND, k_1KMD, v_1KMD, causal=False, scale=scale * logit_scale))
    count, most = len(tokens.tokens), len(tokens.parts_RA[0])
    if len(partials) == 1 and most == 1:
        return partials[0].out_BHLD
    dtype = torch.promote_types(q_BHLD.dtype, torch.float32)
    out_1HND = torch.cat([part.out_BHLD for part in partials], dim=2).to(dtype)
    if most == 1:
        return out_1HND[:, :, _parts_index(plan, tokens, device)]
    lses = [part.lse_BHL for part in partials]
    if count == 1:
        weights_1HN = torch.cat(lses, dim=2).to(dtype).softmax(-1)
        return weights_1HN.unsqueeze(2) @ out_1HND
    index = _parts_index(plan, tokens, device)
    nothing_1H1 = lses[0].new_full((1, q_BHLD.shape[1], 1), -torch.inf)
    lse_1HN = torch.cat([*lses, nothing_1H1], dim=2).to(dtype)
    weights_1HRA = lse_1HN[:, :, index].view(1, -1, count, most).softmax(-1)
    # What stands for no call has weight 0; the last query's number keeps the index inside.
    parts_1HRAD = out_1HND[:, :, index.clamp(max=total - 1)].unflatten(2, (count, most))
    return (weights_1HRA.unsqueeze(3) @ parts_1HRAD).squeeze(3)


def _expand(plan: StepPlan, tokens: Tokens, q_BHLD: torch.Tensor) -> torch.Tensor:
    """[1, H, N, D]: each token's query as often as it is asked."""
    if len(tokens.tokens) == 1:
        batch, column = tokens.tokens[0]
        q_1H1D = q_BHLD[batch : batch + 1, :, column : column + 1]
        return q_1H1D.expand(-1, -1, len(tokens.of_N), -1)
    key = ("queries", q_BHLD.device)
    if key not in plan.kept:
        found = [tokens.tokens[at] for at in tokens.of_N]
        plan.kept[key] = torch.tensor(found).T.contiguous().to(q_BHLD.device)
    batch_N, column_N = plan.kept[key]
    return q_BHLD[batch_N, :, column_N].transpose(0, 1).unsqueeze(0)


def _parts_index(plan: StepPlan, tokens: Tokens, device: torch.device) -> torch.Tensor:
    """[R * A] int64."""
    key = ("parts", device)
    if key not in plan.kept:
        plan.kept[key] = torch.tensor(tokens.parts_RA).flatten().to(device)
    index: torch.Tensor = plan.kept[key]
    return index


def _token_index(plan: StepPlan, tokens: Tokens, device: torch.device) -> torch.Tensor:
    """[2, R]: where tokens stand in q."""
    key = ("tokens", device)
    if key not in plan.kept:
        plan.kept[key] = torch.tensor(tokens.tokens).T.contiguous().to(device)
    index: torch.Tensor = plan.kept[key]
    return index
