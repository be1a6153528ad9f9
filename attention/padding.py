"""Where a batch's real tokens lie: sequence positions and cache slots, row by row.

RoPE forgives a shifted row, Dual Chunk Attention does not: chunk borders are counted from the first
real token. So with a 2-D mask, positions and keys come from the mask. Computed once per forward on
the host; layers only slice. Knows masks and lengths, not models or schemes.

Shape legend: B batch rows, L columns of this block, M cache slots up to and with the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Columns = slice | tuple[int, ...]  # single columns only where padding lies between real tokens


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring batch rows whose real tokens lie in the same places.

    Attributes:
        rows: batch rows.
        queries: columns of the block that hold real tokens.
        keys: cache slots that hold the sequence, the block's own included: runs of them in order,
            more than one only where padding lies between real tokens.
        start: position of the first query in its sequence.
        length: queries per row.
    """

    rows: slice
    queries: Columns
    keys: tuple[slice, ...]
    start: int
    length: int


@dataclass(frozen=True)
class Padding:
    """The block's real tokens.

    Attributes:
        groups: rows with at least one real query.
        position_ids_BL: positions in the sequence, int64; 0 on padding. B is 1 without padding.
        lengths: real tokens per row up to and with the block; one entry per batch row.
        padded: False where every slot of every row is a real token.
    """

    groups: tuple[RowGroup, ...]
    position_ids_BL: torch.Tensor
    lengths: tuple[int, ...]
    padded: bool


def read_padding(
    batch: int,
    columns: int,
    past: int,
    mask_BM: torch.Tensor | None,
    position_ids_BL: torch.Tensor | None,
    device: torch.device,
) -> Padding:
    """Find positions and slots of a block of `columns` new tokens after `past` cached slots.

    Args:
        mask_BM: 2-D padding mask over past and block, non-zero for real tokens; None for none.
        position_ids_BL: what the caller said the positions are, only to be checked.

    Raises:
        ValueError: a mask of the wrong shape, or positions that contradict the padding (packed
            sequences, positions that do not continue the cache).
    """
    total = past + columns
    real_BM = _real_tokens(mask_BM, batch, total)
    if real_BM is None:
        positions_1L = torch.arange(past, total, device=device).unsqueeze(0)
        _check_positions(position_ids_BL, positions_1L, None)
        group = RowGroup(slice(0, batch), slice(0, columns), (slice(0, total),), past, columns)
        return Padding((group,), positions_1L, (total,) * batch, padded=False)

    positions_BL = (real_BM.long().cumsum(-1) - 1).clamp_min(0)[:, past:]
    positions_BL = positions_BL.masked_fill(~real_BM[:, past:], 0)
    _check_positions(position_ids_BL, positions_BL, real_BM[:, past:])
    groups, first = [], 0
    while first < batch:
        last = first + 1
        while last < batch and torch.equal(real_BM[first], real_BM[last]):
            last += 1
        keys = _runs(real_BM[first])
        queries = _runs(real_BM[first, past:])
        if queries:
            tokens, length = (sum(run.stop - run.start for run in runs) for runs in (keys, queries))
            rows = slice(first, last)
            groups.append(RowGroup(rows, _columns(queries), keys, tokens - length, length))
        first = last
    lengths = tuple(real_BM.sum(-1).tolist())
    return Padding(tuple(groups), positions_BL.to(device), lengths, padded=True)


def _real_tokens(mask_BM: torch.Tensor | None, batch: int, total: int) -> torch.Tensor | None:
    """The mask as bool on the host, cut to the slots in use; None where nothing is padding."""
    if mask_BM is None:
        return None
    if mask_BM.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(mask_BM.shape)}: Dual Chunk Attention takes a 2-D "
            "padding mask (batch, tokens); custom attention patterns are not supported"
        )
    if mask_BM.device.type == "cpu" and mask_BM.shape == (batch, total) and bool(mask_BM.all()):
        return None  # as below, in one operation: every step of most answers
    real_BM = mask_BM.detach().to("cpu") != 0
    if real_BM.shape[0] != batch or real_BM.shape[1] < total or bool(real_BM[:, total:].any()):
        raise ValueError(
            f"attention_mask has shape {tuple(mask_BM.shape)}, expected ({batch}, {total}): one "
            "entry for every cached and new token"
        )
    real_BM = real_BM[:, :total]
    return None if bool(real_BM.all()) else real_BM


def _runs(real_N: torch.Tensor) -> tuple[slice, ...]:
    """Where a row's real tokens lie side by side."""
    edges = torch.nn.functional.pad(real_N.to(torch.int8), (1, 1)).diff()
    starts, stops = ((edges == sign).nonzero().squeeze(-1).tolist() for sign in (1, -1))
    return tuple(map(slice, starts, stops))


def _columns(runs: tuple[slice, ...]) -> Columns:
    if len(runs) == 1:
        return runs[0]
    return tuple(column for run in runs for column in range(run.start, run.stop))


def _check_positions(
    given_BL: torch.Tensor | None, expected_BL: torch.Tensor, real_BL: torch.Tensor | None
) -> None:
    """Positions may be offset per row (a common habit with left padding), nothing else."""
    if given_BL is None:
        return
    if given_BL.ndim != 2 or given_BL.shape[-1] != expected_BL.shape[-1]:
        raise ValueError(
            f"position_ids have shape {tuple(given_BL.shape)}, expected "
            f"(batch, {expected_BL.shape[-1]})"
        )
    given_BL = given_BL.detach().to(expected_BL.device)
    if real_BL is None and torch.equal(given_BL, expected_BL):
        return
    off_BL = given_BL - expected_BL
    if real_BL is None:
        if bool((off_BL != 0).any()):
            at = int((off_BL != 0).any(0).nonzero()[0])
            raise ValueError(
                f"position_ids give {int(given_BL[:, at].max())} at column {at} where the "
                f"sequence is at {int(expected_BL[0, at])}: positions must continue the cache; "
                "packed sequences are not supported, pass one sequence per row"
            )
        return
    off_BL = off_BL.expand(real_BL.shape)
    for row, real_L in enumerate(real_BL):
        offsets = off_BL[row][real_L]
        if len(offsets) and bool((offsets != offsets[0]).any()):
            raise ValueError(
                f"position_ids of row {row} do not follow its attention_mask: leave position_ids "
                "out, or number the real tokens 0, 1, 2, ..."
            )
