"""Blocks of queries as prefill.c reads them, and the call: a prompt's chunk over a run of keys.

Shape legend: B batch, H query heads, K key/value heads (H % K == 0), L queries, M keys, D head
dimension.
"""

from __future__ import annotations

from array import array

import torch

from longctx.attention.int8_keys import ROOM
from longctx.attention.native.library import KEPT, TYPES, Library

# Rows of a task: what is packed for it stays in the second cache. Fewer where threads would idle.
_ROWS, _FEWEST = 192, 48
# Below so many products a second thread costs more to wake than it saves.
_ALONE = 1 << 21


def takes(q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor) -> bool:
    """Whether the library reads these tensors. In inference mode alone, which engines compute in:
    it knows no gradients and no graphs, and the drop-in within a chunk has the bits of torch's op.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    if any(x.device.type != "cpu" for x in (q_BHLD, k_BKMD, v_BKMD)):
        return False
    return q_BHLD.dtype in TYPES and k_BKMD.dtype in KEPT and v_BKMD.dtype in KEPT


def numbers(x_BKMD: torch.Tensor) -> torch.Tensor:
    """Keys or values without what lies behind them: the shape that they stand for."""
    return x_BKMD[..., :-ROOM] if x_BKMD.dtype == torch.int8 else x_BKMD


def attend(
    library: Library,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of every query to all keys, or, causal, aligned bottom-right. Keys and values in
    rows of bytes are those of int8_keys.py: their products are taken in float32, and stay so.

    Returns:
        out [B, H, L, D] in q's dtype, a view of [B, L, H, D], and lse [B, H, L] float32, natural
        log; out 0 and lse -inf where every logit is -inf.

    Raises:
        MemoryError: no thread got the numbers that it computes with.
    """
    q_BHLD, k_BKMD, v_BKMD = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHLD, k_BKMD, v_BKMD)
    )
    batch, heads, queries, dim = q_BHLD.shape
    kv_heads, keys = k_BKMD.shape[1:3]
    out_BLHD = q_BHLD.new_empty(batch, queries, heads, dim)
    lse_BHL = q_BHLD.new_empty(batch, heads, queries, dtype=torch.float32)
    alone = batch * heads * queries * keys * dim < _ALONE
    threads = 1 if alone else torch.get_num_threads()
    rows = queries * (heads // kv_heads)
    most = _ROWS
    while threads > 1 and most > _FEWEST and batch * kv_heads * -(-rows // most) < 3 * threads:
        most //= 2
    shape = array(
        "q",
        (
            *(batch, heads, kv_heads, queries, keys, dim),
            *(KEPT[x.dtype] for x in (q_BHLD, k_BKMD, v_BKMD, out_BLHD)),
            *(stride for x in (q_BHLD, k_BKMD, v_BKMD) for stride in x.stride()[:3]),
            int(causal),
            min(most, -(-rows // 6) * 6),
        ),
    )
    failed = library.prefill.longctx_prefill(
        shape.buffer_info()[0],
        *(x.data_ptr() for x in (q_BHLD, k_BKMD, v_BKMD, out_BLHD, lse_BHL)),
        scale,
        library.level,
        library.parallel,
        threads,
    )
    if failed:
        raise MemoryError("no memory for the attention of a block of queries")
    return out_BLHD.transpose(1, 2), lse_BHL
