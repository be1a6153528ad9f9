"""torch's own CPU flash attention, with its traps fenced off.

The op: aten._scaled_dot_product_flash_attention_for_cpu. It returns the natural-log lse in fp32
for bf16 too, takes strided and sliced views and native grouped queries. What it does without a
word, and what is done about it here:

- no queries or no keys kill the process (SIGFPE)        -> answered before the call
- last-dim stride other than 1 gives wrong numbers       -> made contiguous
- heads that do not divide read out of bounds            -> check_shapes
- causal is aligned top-left                             -> past and diagonal are two calls, merged
- lse carries no gradient                                -> the caller forbids backward
Shape legend in base.py; G = H / K query heads share a key head.
"""

from __future__ import annotations

import torch

from longctx.attention.kernels.base import Partial, check_shapes, empty_partial
from longctx.attention.merge import merge

# Packing a group's query heads into the query axis reads K and V once instead of G times. It pays
# while the packed rows fit one tile of the op; longer blocks get their reuse from the tiling.
PACKED_ROWS = 256


class TorchCpuKernel:
    """Flash attention on CPU for float32, float64, bfloat16 and float16."""

    name = "torch_cpu"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"runs on cpu, not on {device.type}"
        if not dtype.is_floating_point or dtype.itemsize < 2:
            return f"has no {dtype} arithmetic"
        return None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        check_shapes(q_BHLD, k_BKMD, v_BKMD, causal)
        queries, keys = q_BHLD.shape[2], k_BKMD.shape[2]
        if q_BHLD.numel() == 0 or keys == 0:
            return empty_partial(q_BHLD)
        past = keys - queries
        if not causal or queries == 1:
            return _full(q_BHLD, k_BKMD, v_BKMD, scale)
        if past == 0:
            return _op(q_BHLD, k_BKMD, v_BKMD, True, scale)
        return merge(
            (
                _full(q_BHLD, k_BKMD[:, :, :past], v_BKMD[:, :, :past], scale),
                _op(q_BHLD, k_BKMD[:, :, past:], v_BKMD[:, :, past:], True, scale),
            )
        )


def _full(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, scale: float
) -> Partial:
    """Every query sees every key; short blocks are packed by group."""
    batch, heads, queries, dim = q_BHLD.shape
    kv_heads = k_BKMD.shape[1]
    group = heads // kv_heads
    if group == 1 or group * queries > PACKED_ROWS:
        return _op(q_BHLD, k_BKMD, v_BKMD, False, scale)
    packed = _op(
        q_BHLD.reshape(batch, kv_heads, group * queries, dim), k_BKMD, v_BKMD, False, scale
    )
    return Partial(
        packed.out_BHLD.reshape(batch, heads, queries, dim),
        packed.lse_BHL.reshape(batch, heads, queries),
    )


def _op(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, causal: bool, scale: float
) -> Partial:
    q_BHLD, k_BKMD, v_BKMD = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHLD, k_BKMD, v_BKMD)
    )
    return Partial(
        *torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_BHLD, k_BKMD, v_BKMD, 0.0, causal, scale=scale
        )
    )
