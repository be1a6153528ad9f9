"""The libraries of attention/native: rows of one query, and blocks of queries.

A decoded token is bound by memory: one call reads all keys of all rows once, whatever their parts.
A block of a prompt is bound by arithmetic: its query heads are packed, and its products stay in
registers. Graphs, gradients and all else outside of inference mode go to torch's own op
(torch_cpu.py), whose bits the plain model has.
Shape legend in base.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from longctx.attention.chunks import ChunkQueries, Turns
from longctx.attention.kernels.base import Partial, check_shapes, empty_partial
from longctx.attention.kernels.torch_cpu import TorchCpuKernel
from longctx.attention.native import blocks, library, rows
from longctx.attention.rows import StepRow


class NativeKernel:
    """float32 and bfloat16 on a CPU; keys and values may be of the other type than queries, and in
    inference mode rows of int8_keys.py."""

    name = "native"

    def __init__(self) -> None:
        self._torch = TorchCpuKernel()

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"runs on cpu, not on {device.type}"
        if dtype not in library.TYPES:
            return "computes in float32 and bfloat16 alone"
        loaded = library.load()
        return loaded if isinstance(loaded, str) else None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        if not blocks.takes(q_BHLD, k_BKMD, v_BKMD):
            return self._torch(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale)
        check_shapes(q_BHLD, blocks.numbers(k_BKMD), blocks.numbers(v_BKMD), causal)
        if q_BHLD.numel() == 0 or k_BKMD.shape[2] == 0:
            return empty_partial(q_BHLD)
        loaded = _loaded()
        return Partial(*blocks.attend(loaded, q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale))

    def reads(self, q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor) -> bool:
        """Whether a call takes rows of int8_keys.py as they lie."""
        return blocks.takes(q_BHLD, k_BKMD, v_BKMD)

    def decodes(
        self, q_BHLD: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
    ) -> bool:
        return rows.takes(q_BHLD, keys, values)

    def decode(
        self,
        single: Sequence[tuple[StepRow, ChunkQueries]],
        turns: Turns | None,
        kept: dict[Any, Any],
        q_BHLD: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        scale: float,
    ) -> torch.Tensor:
        loaded = _loaded()
        if q_BHLD.stride(3) != 1:
            q_BHLD = q_BHLD.contiguous()
        step = self._step(loaded, single, turns, kept, q_BHLD, keys, values)
        batch, heads, columns, dim = q_BHLD.shape
        made = torch.empty if step.covers else torch.zeros
        out_BLHD = made((batch, columns, heads, dim), dtype=q_BHLD.dtype)
        rows.attend(loaded, step, q_BHLD, keys, values, out_BLHD, scale)
        return out_BLHD

    @staticmethod
    def _step(
        loaded: library.Library,
        single: Sequence[tuple[StepRow, ChunkQueries]],
        turns: Turns | None,
        kept: dict[Any, Any],
        q_BHLD: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
    ) -> rows.NativeStep:
        """Made once a step: layers differ in their addresses alone."""
        laid: Hashable = (
            "native",
            (q_BHLD.shape, q_BHLD.stride(), q_BHLD.dtype, keys[0].dtype, values[0].dtype),
            *[(x.shape, x.stride()) for x in (*keys, *values)],
        )
        step: rows.NativeStep | None = kept.get(laid)
        if step is None:
            step = rows.lay_out(single, turns, loaded.split, q_BHLD, keys, values)
            kept[laid] = step
        return step


def _loaded() -> library.Library:
    loaded = library.load()
    if isinstance(loaded, str):
        raise RuntimeError(f"kernel='native' {loaded}")
    return loaded
