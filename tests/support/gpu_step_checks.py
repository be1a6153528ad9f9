"""What must hold of Dual Chunk Attention's steps on a GPU, at real shapes: rows of decoding and of
prompts over filled caches. For `tests/gpu` and `benchmarks/gpu.py`, as gpu_checks.py.

The oracle is float64, shares no code with `longctx`, and goes one query at a time: a key is turned,
unfolded, by the distance at which the query sees it.

Shape legend: H query heads, K key/value heads, G query heads of one, L queries, M keys, D head
dimension, F = D / 2 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from gpu_checks import FLOAT32, SCALE, SHARPNESS, Check, Shape, distance, normal
from oracle import rotate_dense

from longctx.attention import ChunkMap
from longctx.attention.chunks import Turns
from longctx.attention.kernels.base import Kernel
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import Run, StepRow, attend_step, plan_step


class Fold(NamedTuple):
    """Positions of Dual Chunk Attention."""

    chunk: int
    local: int
    theta: float = 1e6


QWEN2 = Fold(32_768, 1_024)

# Of plain attention's error, in 16 bits. Queries that are turned on are rounded once more: three
# roundings of q and k instead of two are sqrt(3/2) = 1.22 times the noise of a logit, and few
# queries scatter: 1.09 to 1.31 were seen over 128K keys in the 7B's shape.
SHARE = 1.5


def seen_at(position: int, keys: int, fold: Fold | None, device: torch.device) -> torch.Tensor:
    """[M] the relative positions that a query gives to keys 0 .. keys - 1, by the definition."""
    j_M = torch.arange(keys, device=device)
    if fold is None:
        return position - j_M
    chunk_len, cap = fold.chunk - fold.local, fold.chunk
    r, away_M = position % chunk_len, position // chunk_len - j_M // chunk_len
    succ, inter = min(r + chunk_len, cap), min(2 * chunk_len - 1, cap)
    at_M = torch.where(away_M == 0, r, torch.where(away_M == 1, succ, inter))
    return at_M - j_M % chunk_len


def one_token(
    q_HD: torch.Tensor,
    position: int,
    k_KMD: torch.Tensor,
    v_KMD: torch.Tensor,
    inv_freq_F: torch.Tensor,
    fold: Fold | None,
    scale: float,
) -> torch.Tensor:
    """[H, D] float64, of an unrotated query over unrotated keys: q . (R(-a) k)."""
    away_M = -seen_at(position, k_KMD.shape[1], fold, k_KMD.device)
    turned_1KMD = rotate_dense(k_KMD.double()[None], away_M, inv_freq_F)
    q_KGD = q_HD.double().unflatten(0, (len(k_KMD), -1))
    weights_KGM = (scale * q_KGD @ turned_1KMD[0].mT).softmax(-1)
    out_KGD: torch.Tensor = weights_KGM @ v_KMD.double()
    return out_KGD.flatten(0, 1)


class Filled(NamedTuple):
    """Sequences one behind the other in one stack of keys: unrotated, and as a cache has them."""

    at: list[int]
    raw_KMD: torch.Tensor
    v_KMD: torch.Tensor
    folded_KMD: torch.Tensor
    plain_KMD: torch.Tensor


def _filled(
    shape: Shape,
    lengths: Sequence[int],
    fold: Fold,
    inv_freq_F: torch.Tensor,
    dtype: torch.dtype,
) -> Filled:
    device = inv_freq_F.device
    size = (shape.kv_heads, sum(lengths), shape.dim)
    raw_KMD, v_KMD = (normal(*size, dtype=dtype, seed=s, device=device) for s in (1, 2))
    folded_KMD, plain_KMD, at = torch.empty_like(raw_KMD), torch.empty_like(raw_KMD), [0]
    for length in lengths:
        run = slice(at[-1], at[-1] + length)
        p_M = torch.arange(length, device=device)
        for made, position_M in ((folded_KMD, p_M % (fold.chunk - fold.local)), (plain_KMD, p_M)):
            made[:, run] = rotate_dense(raw_KMD[None, :, run], position_M, inv_freq_F)[0]
        at.append(run.stop)
    return Filled(at[:-1], raw_KMD, v_KMD, folded_KMD, plain_KMD)


def dca_checks(
    name: str,
    kernel: Kernel,
    shape: Shape,
    fold: Fold,
    rows: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device,
) -> list[Check]:
    """One step of rows (first position, queries) over caches that are filled up to them.

    Both arms and the oracle start from the same unrotated numbers; plain attention of the same
    step, by the same kernel, says what is allowed.
    """
    inv_freq_F = base_inv_freq(fold.theta, shape.dim).to(device)
    lengths = [start + queries for start, queries in rows]
    filled = _filled(shape, lengths, fold, inv_freq_F, dtype)
    count = sum(queries for _, queries in rows)
    raw_HLD = SHARPNESS * normal(shape.heads, count, shape.dim, dtype=dtype, seed=3, device=device)
    p_L = torch.tensor([p for start, n in rows for p in range(start, start + n)], device=device)
    steps, first = [], 0
    for (start, queries), length, at in zip(rows, lengths, filled.at, strict=True):
        columns = slice(first, first + queries)
        steps.append(StepRow(start, queries, (Run(0, 0, length, at),), SCALE, columns=columns))
        first += queries
    turns = Turns(ChunkMap(fold.chunk, fold.local), inv_freq_F)
    scale = shape.dim**-0.5
    errors = []
    for arm, keys_KMD in ((fold, filled.folded_KMD), (None, filled.plain_KMD)):
        position_L = p_L if arm is None else p_L % (fold.chunk - fold.local)
        q_1HLD = rotate_dense(raw_HLD[None], position_L, inv_freq_F)
        plan = plan_step(steps, None if arm is None else turns)
        got = attend_step(plan, q_1HLD, (keys_KMD[None],), (filled.v_KMD[None],), kernel, scale)
        wants: list[torch.Tensor] = []
        for row, at in zip(steps, filled.at, strict=True):
            for n in range(row.length):
                position = row.start + n
                run = slice(at, at + position + 1)
                wants.append(
                    one_token(
                        raw_HLD[:, len(wants)],
                        position,
                        filled.raw_KMD[:, run],
                        filled.v_KMD[:, run],
                        inv_freq_F,
                        arm,
                        scale * SCALE,
                    )
                )
        errors.append(distance(got[0], torch.stack(wants)))
    # Plain attention by a wrong kernel is wrong too, and must excuse nothing.
    at_most = max(3 * torch.finfo(dtype).eps, FLOAT32)
    return [
        Check(name, errors[0], SHARE * errors[1] if dtype.itemsize < 4 else at_most),
        Check(f"{name}, plain", errors[1], at_most),
    ]


def ragged(longest: int, fold: Fold, rows: int = 16) -> list[tuple[int, int]]:
    """Decoding rows of different lengths, some around the borders of chunks."""
    chunk_len = fold.chunk - fold.local
    borders = [p for n in (1, 2, 3) for p in (n * chunk_len - 1, n * chunk_len)]
    found = [0, 17, *borders, chunk_len + fold.local + 1, longest - 1]
    found = [p for p in found if p < longest]
    found += [longest * n // rows for n in range(1, rows + 1 - len(found))]
    return [(p, 1) for p in found[:rows]]


def across_a_border(longest: int, fold: Fold, queries: int = 48) -> list[tuple[int, int]]:
    """A prompt's block over the last border between chunks, and a decoding row beside it."""
    chunk_len = fold.chunk - fold.local
    border = (longest - queries) // chunk_len * chunk_len
    return [(border - queries // 2, queries), (longest // 2, 1)]
