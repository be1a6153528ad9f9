"""torch's own CPU flash attention, with its traps fenced off.

The op: aten._scaled_dot_product_flash_attention_for_cpu. It returns the natural-log lse in fp32
for bf16 too, takes strided and sliced views and native grouped queries. What it does without a
word, and what is done about it here:

- no queries or no keys kill the process (SIGFPE)        -> answered before the call
- last-dim stride other than 1 gives wrong numbers       -> made contiguous
- heads that do not divide read out of bounds            -> check_shapes
- causal is aligned top-left                             -> past and diagonal are two calls, merged
- causal takes tiles of 64 queries a head below 768      -> blocks of queries, heads packed, masked
- lse carries no gradient                                -> the caller forbids backward
Shape legend in base.py; G = H / K query heads share a key head.
"""

from __future__ import annotations

import functools
import math

import torch

from longctx.attention.kernels.base import Partial, check_shapes, empty_partial
from longctx.attention.merge import merge

# The op gives a thread whole heads: three key heads leave one of two threads idle for a third of
# the time. From so many keys on, evening that out pays for the merge.
SPLIT_FROM = 4096
# A diagonal of so many queries is computed in blocks of BLOCK: each block's query heads of a group
# are one run of rows against all keys that any of them sees, under a mask. 1.1 to 1.6 times as
# fast; above, the op's own tiles are as good.
BLOCK, BLOCKS_FROM, BLOCKS_UP_TO = 64, 256, 1024


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
            return _diagonal(q_BHLD, k_BKMD, v_BKMD, scale)
        return merge(
            (
                _full(q_BHLD, k_BKMD[:, :, :past], v_BKMD[:, :, :past], scale),
                _diagonal(q_BHLD, k_BKMD[:, :, past:], v_BKMD[:, :, past:], scale),
            )
        )


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default  # found once


def _full(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, scale: float
) -> Partial:
    """Every query sees every key.

    A group's query heads are packed into the query axis: K and V are read once instead of G times,
    and the op takes larger tiles, for a decoded token and for a chunk of a prompt alike.
    """
    batch, heads, queries, dim = q_BHLD.shape
    kv_heads = k_BKMD.shape[1]
    group = heads // kv_heads
    packed = _split(q_BHLD.reshape(batch, kv_heads, group * queries, dim), k_BKMD, v_BKMD, scale)
    return Partial(
        packed.out_BHLD.reshape(batch, heads, queries, dim),
        packed.lse_BHL.reshape(batch, heads, queries),
    )


def _diagonal(
    q_BHLD: torch.Tensor, k_BKLD: torch.Tensor, v_BKLD: torch.Tensor, scale: float
) -> Partial:
    """As many keys as queries, each of which sees those up to its own."""
    batch, heads, queries, _ = q_BHLD.shape
    # Not in a graph, which would be made anew for every length; and outside of inference mode, as
    # in the drop-in, a prompt within a chunk has the op's bits.
    engine = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    if not engine or not BLOCKS_FROM <= queries <= BLOCKS_UP_TO:
        return _op(q_BHLD, k_BKLD, v_BKLD, True, scale)
    kv_heads, dim = k_BKLD.shape[1], v_BKLD.shape[3]
    group = heads // kv_heads
    mask_11RM = _mask(group, q_BHLD.dtype)
    out_BLHD = q_BHLD.new_empty(batch, queries, heads, dim)
    lse = []
    start = 0
    for stop in range(queries % BLOCK or BLOCK, queries + 1, BLOCK):
        length = stop - start
        q_BKRD = q_BHLD[:, :, start:stop].reshape(batch, kv_heads, group * length, -1)
        keys = k_BKLD[:, :, :stop], v_BKLD[:, :, :stop]
        if length < BLOCK:  # the first, where the blocks behind it are whole ones
            part = _op(q_BHLD[:, :, :stop], *keys, True, scale)
        else:
            part = _op(q_BKRD, *keys, False, scale, mask_11RM[..., BLOCKS_UP_TO - stop :])
        out_BLHD[:, start:stop].unflatten(2, (kv_heads, group)).copy_(
            part.out_BHLD.reshape(batch, kv_heads, group, length, dim).permute(0, 3, 1, 2, 4)
        )
        lse.append(part.lse_BHL.reshape(batch, heads, length))
        start = stop
    return Partial(out_BLHD.transpose(1, 2), torch.cat(lse, dim=2))


@functools.cache
def _mask(group: int, dtype: torch.dtype) -> torch.Tensor:
    """[1, 1, group * BLOCK, BLOCKS_UP_TO], to be cut from the left: the last BLOCK columns are a
    block's own keys, those before it are seen by all."""
    with torch.inference_mode(False):
        future = torch.full((BLOCK, BLOCKS_UP_TO), float("-inf"), dtype=dtype)
        return future.triu(BLOCKS_UP_TO - BLOCK + 1).repeat(group, 1)[None, None]


def _split(
    q_BKRD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, scale: float
) -> Partial:
    """Every row sees every key of its head; runs of keys side by side where threads would idle."""
    batch, kv_heads, keys, _ = k_BKMD.shape
    if batch > 1 or keys < SPLIT_FROM:
        return _op(q_BKRD, k_BKMD, v_BKMD, False, scale)
    threads = torch.get_num_threads()
    runs = threads // math.gcd(kv_heads, threads)
    if runs == 1:
        return _op(q_BKRD, k_BKMD, v_BKMD, False, scale)
    length = keys // runs
    k_NKMD, v_NKMD = (
        x[0, :, : runs * length].unflatten(1, (runs, length)).transpose(0, 1)
        for x in (k_BKMD, v_BKMD)
    )
    many = _op(q_BKRD.expand(runs, -1, -1, -1), k_NKMD, v_NKMD, False, scale)
    parts = [Partial(many.out_BHLD[n : n + 1], many.lse_BHL[n : n + 1]) for n in range(runs)]
    if runs * length < keys:
        rest = slice(runs * length, keys)
        parts.append(_op(q_BKRD, k_BKMD[:, :, rest], v_BKMD[:, :, rest], False, scale))
    return merge(parts)


def _op(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
    scale: float,
    mask_11LM: torch.Tensor | None = None,
) -> Partial:
    q_BHLD, k_BKMD, v_BKMD = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHLD, k_BKMD, v_BKMD)
    )
    found = _flash(q_BHLD, k_BKMD, v_BKMD, 0.0, causal, attn_mask=mask_11LM, scale=scale)
    return Partial(*found)
