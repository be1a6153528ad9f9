"""Attention over one step's packed tokens: each sequence's rows against its own keys, in place.

The step's plan travels as a keyword argument through the model's own layers to the function that is
registered with transformers here. The function stores the new keys and values in the sequence's
buffer and attends to views of the buffers: nothing is gathered, concatenated or repeated.

Keys arrive rotated at p mod S (at p without Dual Chunk Attention) and unscaled. Knows no scheduling
and no sampling.

Shape legend: H query heads, K key/value heads, T packed tokens of the step, L tokens of one
sequence, M its keys, D head dimension, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from transformers import AttentionInterface

from longctx.attention.dca import BlockPlan, attend, plan_block
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge
from longctx.attention.positions import ChunkMap
from longctx.engine.decode import AttentionCall, DecodeRow, attend_decode, plan_decode
from longctx.engine.kv import KvBuffer, Segment

# The loader takes a name with "flash" in it for a kernel to download.
ATTENTION_NAME = "longctx_batch"


@dataclass(frozen=True)
class RowPlan:
    """One sequence's part of the step."""

    rows: slice  # of the packed tokens
    start: int  # position of the first
    own: KvBuffer  # where the new tokens go
    segments: tuple[Segment, ...]  # all keys, the new ones included
    block: BlockPlan | None  # None without chunks: plain causal attention
    logit_scale: float  # m^2; multiplies softmax_scale, never a key

    @property
    def length(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class BatchPlan:
    """What every layer of one step follows.

    Attributes:
        decoding: leading rows of one token each; their attention is `calls`.
    """

    rows: tuple[RowPlan, ...]
    decoding: int
    calls: tuple[AttentionCall, ...]
    kernel: Kernel


class RowInput(NamedTuple):
    """What the plan is made from, per sequence."""

    start: int
    length: int
    own: KvBuffer
    segments: Sequence[Segment]
    logit_scale: float


def plan_batch(
    inputs: Sequence[RowInput],
    chunk_map: ChunkMap | None,
    inv_freq_F: torch.Tensor,
    dtype: torch.dtype,
    kernel: Kernel,
) -> BatchPlan:
    """Lay the sequences' tokens one behind the other.

    Args:
        dtype: arithmetic of the query's rotations.
    """
    rows, first = [], 0
    for each in inputs:
        block = None
        if chunk_map is not None:
            block = plan_block(chunk_map, each.start, each.length, inv_freq_F, dtype)
        span = slice(first, first + each.length)
        rows.append(
            RowPlan(span, each.start, each.own, tuple(each.segments), block, each.logit_scale)
        )
        first = span.stop
    decoding = next((at for at, row in enumerate(rows) if row.length > 1), len(rows))
    calls = plan_decode(
        [DecodeRow(row.segments, row.block, row.logit_scale) for row in rows[:decoding]]
    )
    return BatchPlan(tuple(rows), decoding, calls, kernel)


def batch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    longctx_batch: BatchPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function behind transformers' attention interface.

    Args:
        query: [1, H, T, D], key and value: [1, K, T, D].

    Returns:
        [1, T, H, D] contiguous, and no attention weights.

    Raises:
        RuntimeError: no plan: somebody else called the model while the engine owns it.
        ValueError: attention features that are not computed here.
    """
    if longctx_batch is None:
        raise RuntimeError(
            "the model belongs to a longctx engine: submit requests to it, or close() it before "
            "calling the model"
        )
    for name in ("softcap", "s_aux", "position_bias", "sliding_window"):
        if kwargs.get(name) is not None:
            raise ValueError(f"the engine's attention does not support {name}={kwargs[name]!r}")
    if attention_mask is not None:
        raise ValueError(
            f"{type(module).__name__} makes an attention mask of its own (shape "
            f"{tuple(attention_mask.shape)}): the engine's attention does not support it"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = cast(int, module.layer_idx)
    plan, kernel = longctx_batch, longctx_batch.kernel
    for row in plan.rows:
        row.own.write(layer, row.start, key[0, :, row.rows], value[0, :, row.rows])
    if len(plan.rows) == 1 and not plan.decoding:
        out_1HTD = _attend_row(query, plan.rows[0], layer, kernel, scale)
        return out_1HTD.transpose(1, 2).contiguous(), None
    _, heads, tokens, dim = query.shape
    out_1THD = query.new_empty(1, tokens, heads, dim)
    if plan.decoding:
        span = slice(0, plan.decoding)
        out_1HRD = attend_decode(query[:, :, span], plan.calls, layer, kernel, scale)
        out_1THD[:, span] = out_1HRD.transpose(1, 2)
    for row in plan.rows[plan.decoding :]:
        out_1HLD = _attend_row(query[:, :, row.rows], row, layer, kernel, scale)
        out_1THD[:, row.rows] = out_1HLD.transpose(1, 2)
    return out_1THD, None


def _attend_row(
    q_1HLD: torch.Tensor, row: RowPlan, layer: int, kernel: Kernel, scale: float
) -> torch.Tensor:
    """A chunk of a prompt against all keys up to its own."""
    scale = scale * row.logit_scale
    keys: Any
    values: Any
    if len(row.segments) == 1:
        buffer, stop = row.segments[0]
        keys, values = buffer.read(layer, buffer.origin, stop)
    else:
        pairs = [s.buffer.read(layer, s.buffer.origin, s.stop) for s in row.segments]
        keys, values = _Pieces([k for k, _ in pairs]), _Pieces([v for _, v in pairs])
        kernel = _PiecewiseKernel(kernel)
    if row.block is not None:
        return attend(q_1HLD, keys, values, row.block, kernel, scale)
    return kernel(q_1HLD, keys, values, causal=True, scale=scale).out_BHLD.to(q_1HLD.dtype)


class _Pieces:
    """Keys or values of neighbouring positions in several tensors; sliced like one."""

    def __init__(self, pieces: list[torch.Tensor]) -> None:
        self.pieces = pieces
        first = pieces[0].shape
        self.shape = (*first[:2], sum(piece.shape[2] for piece in pieces), first[3])

    def __getitem__(self, index: tuple[slice, slice, slice]) -> _Pieces | torch.Tensor:
        start, stop = index[2].start, index[2].stop
        found, offset = [], 0
        for piece in self.pieces:
            length = piece.shape[2]
            low, high = max(start - offset, 0), min(stop - offset, length)
            if low < high:
                found.append(piece[:, :, low:high])
            offset += length
        if not found:
            return self.pieces[0][:, :, :0]
        return found[0] if len(found) == 1 else _Pieces(found)


class _PiecewiseKernel:
    """A kernel over `_Pieces`: one call per piece, one softmax over all.

    The queries' own keys lie in the last piece, so every other one is seen whole.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return self._kernel.unavailable(device, dtype)

    def __call__(
        self, q_BHLD: torch.Tensor, k_BKMD: Any, v_BKMD: Any, *, causal: bool, scale: float
    ) -> Partial:
        if not isinstance(k_BKMD, _Pieces):
            return self._kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale)
        last = len(k_BKMD.pieces) - 1
        return merge(
            [
                self._kernel(q_BHLD, k, v, causal=causal and at == last, scale=scale)
                for at, (k, v) in enumerate(zip(k_BKMD.pieces, v_BKMD.pieces, strict=True))
            ]
        )


class InKeysDtype:
    """A kernel whose keys are kept in another dtype than the model's: queries are cast to it.

    Rotations and the merge stay in the model's arithmetic.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return self._kernel.unavailable(device, dtype)

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        return self._kernel(q_BHLD.to(k_BKMD.dtype), k_BKMD, v_BKMD, causal=causal, scale=scale)


def register() -> None:
    """Make the function known to transformers (idempotent).

    No mask function goes with it: without one transformers makes no mask at all.
    """
    AttentionInterface.register(ATTENTION_NAME, batch_attention)
