"""Operators, as tensors that only say they are on a GPU need to know them.

Those that a GPU has and the CPU lacks are made here, and check what the CUDA one demands of its
inputs and does not say, or answers by crashing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from packing_kernel import PackingReference, by_pages

from longctx.attention.kernels import torch_cuda
from longctx.attention.kernels.base import Packed
from longctx.attention.kernels.reference import ReferenceKernel

_ATEN: Any = torch.ops.aten
_REFERENCE, _PACKING = ReferenceKernel(), PackingReference()
INDEXING = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default}
INDEXING |= {_ATEN._index_put_impl_.default, _ATEN._unsafe_index.Tensor}


@cache
def composite(func: Any) -> bool:
    """Made of other operators, which are looked at one by one."""
    made_of: bool = torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    return made_of


@cache
def reads(func: Any) -> bool:
    """The result, or its shape, depends on numbers: torch marks such operators."""
    marks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return func not in INDEXING and bool(marks & set(func.tags))


def each(do: Callable[[Any], Any], x: Any) -> Any:
    """`do` for every tensor in operands or results."""
    if isinstance(x, torch.Tensor):
        return do(x)
    return type(x)([each(do, y) for y in x]) if type(x) in (tuple, list) else x


def check_flash(*tensors: torch.Tensor) -> None:
    """What FlashAttention reads: half precision, one dtype, 16 bytes at a time.

    Raises:
        AssertionError: a GPU would refuse, or read at a misaligned address.
    """
    assert len({x.dtype for x in tensors}) == 1, [x.dtype for x in tensors]
    for x in tensors:
        assert x.dtype in (torch.float16, torch.bfloat16), f"flash attention has no {x.dtype}"
        assert x.shape[-1] % 8 == 0 and x.shape[-1] <= 256, f"head_dim {x.shape[-1]}"
        step = 16 // x.element_size()
        strides = [s for n, s in zip(x.shape[:-1], x.stride()[:-1], strict=True) if n > 1]
        assert x.stride(-1) == 1 and x.storage_offset() % step == 0, "misaligned"
        assert all(stride % step == 0 for stride in strides), f"misaligned: {x.stride()}"
        assert x.numel(), "no sequence, or no keys"


def _flash(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    check_flash(q_BHLD, k_BKMD, v_BKMD)
    assert scale is not None and not dropout_p and not return_debug_mask
    assert not is_causal or q_BHLD.shape[2] == k_BKMD.shape[2], "torch does not say how it aligns"
    out_BHLD, lse_BHL = _REFERENCE(q_BHLD, k_BKMD, v_BKMD, causal=is_causal, scale=scale)
    like_q_BHLD = torch.empty_like(q_BHLD).copy_(out_BHLD)
    nothing = torch.empty(0, dtype=torch.long)
    lengths = (q_BHLD.shape[2], k_BKMD.shape[2])
    return (like_q_BHLD, lse_BHL, None, None, *lengths, nothing, nothing, nothing)


def _flash_packed(
    q_NHD: torch.Tensor,
    k_MKD: torch.Tensor,
    v_MKD: torch.Tensor,
    ends_q: torch.Tensor,
    starts_k: torch.Tensor,
    most_q: int,
    most_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Any, ...]:
    check_flash(q_NHD, k_MKD, v_MKD)
    tables = (ends_q, starts_k, seqused_k)
    assert all(x.dtype == torch.int32 and x.is_contiguous() for x in tables)
    assert not dropout_p and not return_debug_mask
    nothing = torch.empty(0, dtype=torch.long)
    if block_table is not None:  # keys are [pages, page, K, D]
        grouped = q_NHD.shape[1] > k_MKD.shape[2]
        assert num_splits == 1 or (most_q == 1 and grouped), "split keys are joined wrongly"
        tables = (ends_q, seqused_k, block_table)
        page = torch_cuda.PAGE
        given = (q_NHD, k_MKD, v_MKD, *tables, most_q)
        made = by_pages(*given, causal=is_causal, scale=scale, multiple=page)
        return (*made, nothing, nothing, nothing)
    held = Packed(*tables, most_q, most_k)
    made = _PACKING.packed(q_NHD, k_MKD, v_MKD, held, causal=is_causal, scale=scale)
    return (*made, nothing, nothing, nothing)


def _histc(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A GPU counts whole numbers; the CPU has no such kernel."""
    return torch.histc(x.float(), *args, **kwargs).to(x.dtype)


ON_DEVICE: dict[Any, Callable[..., Any]] = {
    _ATEN._scaled_dot_product_flash_attention.default: _flash,
    _ATEN._flash_attention_forward.default: _flash_packed,
    _ATEN.histc.default: _histc,
}
