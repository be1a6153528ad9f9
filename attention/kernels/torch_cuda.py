"""torch's own CUDA flash attention with its log-sum-exp, where flash-attn is not installed.

The op is aten._scaled_dot_product_flash_attention: FlashAttention-2, vendored by torch. Facts
relied on (torch 2.11 to 2.13: schema, meta kernel, flash_api.cpp):

- inputs are BHLD and go to the kernel as transposed views; it reads every stride but the last;
- K and V may have fewer heads than Q (params.h_h_k_ratio), nothing is repeated; one query per
  sequence is packed by group inside the op, so decode reads K and V once;
- results 0 and 1 are out, in q's dtype and layout, and lse, (B, H, L) float32, natural log;
- a row without keys gets lse +inf, not -inf: such calls are answered here before the op;
- lse carries no gradient: the caller forbids backward.

Packed sequences go to aten._flash_attention_forward, the same library. Facts relied on besides
(flash_api.cpp and block_info.h of FlashAttention-2): with `seqused_k`, sequence e reads the keys
cum_seq_k[e] .. cum_seq_k[e] + seqused_k[e] - 1, whatever stands in cum_seq_k[e + 1], so runs may
overlap and have no order; causal is aligned bottom-right in each; one without keys has out 0 and
lse +inf; lse is (H, N) float32.

With `block_table` too, key and value are [pages, page, K, D] of a multiple of 256 keys, read by
their strides, and `seqused_k` says how many are there (cum_seq_k is not read). A call of pages runs
the kernel for split keys, whose results are joined right only where each sequence has one query and
heads are grouped: elsewhere `num_splits` is 1, for the op would else choose. It is used where keys
lie in more runs than a packed step takes; it has not run on a GPU.

Not relied on: how `is_causal` is aligned for L < M. torch.nn.attention.bias takes it for
bottom-right, the op documents nothing, and a backend registered through torch.nn.attention may
replace it; a square is unambiguous, so past and diagonal are two calls, merged.
Shape legend in base.py.
"""

from __future__ import annotations

from functools import cache

import torch

from longctx.attention.kernels.base import (
    Packed,
    Pages,
    Partial,
    check_shapes,
    empty_partial,
    paged_view,
)
from longctx.attention.merge import merge

PAGE = 256

_DTYPES = (torch.float16, torch.bfloat16)


class TorchCudaKernel:
    """Flash attention on CUDA for float16 and bfloat16, without any package but torch."""

    name = "torch_cuda"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cuda":
            return f"runs on cuda, not on {device.type}"
        if torch.version.hip is not None:
            return "is not verified on ROCm, where the same op is another library"
        if not torch.backends.cuda.is_flash_attention_available():
            return "is not in this build of torch"
        return no_flash(device, dtype)

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
            return _op(q_BHLD, k_BKMD, v_BKMD, False, scale)
        if past == 0:
            return _op(q_BHLD, k_BKMD, v_BKMD, True, scale)
        return merge(
            (
                _op(q_BHLD, k_BKMD[:, :, :past], v_BKMD[:, :, :past], False, scale),
                _op(q_BHLD, k_BKMD[:, :, past:], v_BKMD[:, :, past:], True, scale),
            )
        )

    def packs(self, head_dim: int) -> bool:
        return head_dim % 8 == 0 and head_dim <= 256

    def pages(self) -> Pages | None:
        return Pages(PAGE, runs=True) if _op_reads_pages() else None

    def packed(
        self,
        q_NHD: torch.Tensor,
        k_MKD: torch.Tensor,
        v_MKD: torch.Tensor,
        sequences: Packed,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q_NHD, keys, values = (flash_ready(x) for x in (q_NHD, k_MKD, v_MKD))
        paging = {}
        if sequences.pages_EP is not None:
            splits = None if sequences.most_q == 1 and q_NHD.shape[1] > keys.shape[1] else 1
            keys, values = (paged_view(x, PAGE) for x in (keys, values))
            paging = {"block_table": sequences.pages_EP, "num_splits": splits}
        out_NHD, lse_HN, *_ = torch.ops.aten._flash_attention_forward(
            *(q_NHD, keys, values),
            *(sequences.ends_q, sequences.starts_k, sequences.most_q, sequences.most_k),
            *(0.0, causal, False),
            scale=scale,
            seqused_k=sequences.keys_E,
            **paging,
        )
        return out_NHD, lse_HN


@cache
def _op_reads_pages() -> bool:
    """torch 2.11 may lack it."""
    schema = torch.ops.aten._flash_attention_forward.default._schema
    return {"block_table", "num_splits"} <= {argument.name for argument in schema.arguments}


def no_flash(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no FlashAttention kernel runs there, as a clause; None where one does."""
    if dtype not in _DTYPES:
        return f"takes float16 or bfloat16, not {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "finds no CUDA device"
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"needs compute capability 8.0, {device} has {major}.{minor}"
    return None


def flash_ready(x_BHLD: torch.Tensor) -> torch.Tensor:
    """`x_BHLD` itself where FlashAttention can read it, else a contiguous copy.

    The kernels load 16 bytes at a time and check none of it but the last stride: a view that
    starts or steps at another multiple is a misaligned address, which kills the CUDA context.
    """
    step = 16 // x_BHLD.element_size()
    strides = [
        stride
        for size, stride in zip(x_BHLD.shape[:-1], x_BHLD.stride()[:-1], strict=True)
        if size > 1
    ]
    if (
        x_BHLD.stride(-1) == 1
        and x_BHLD.storage_offset() % step == 0
        and all(stride % step == 0 for stride in strides)
    ):
        return x_BHLD
    # Not .contiguous(): it returns a contiguous view as it is, whatever its offset.
    return x_BHLD.clone(memory_format=torch.contiguous_format)


def _op(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, causal: bool, scale: float
) -> Partial:
    dim = q_BHLD.shape[3]
    # The op wants head_dim in eights; zeros add nothing to q.k, and `scale` is explicit.
    q_BHLD, k_BKMD, v_BKMD = (
        torch.nn.functional.pad(x, (0, -dim % 8)) if dim % 8 else flash_ready(x)
        for x in (q_BHLD, k_BKMD, v_BKMD)
    )
    out_BHLD, lse_BHL, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q_BHLD, k_BKMD, v_BKMD, 0.0, causal, False, scale=scale
    )
    return Partial(out_BHLD[..., :dim], lse_BHL)
