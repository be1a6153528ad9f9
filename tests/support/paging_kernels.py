"""Packages' calls of pages for the CPU, held to their contracts; their numbers are the reference's.

The signatures are the packages' own: flash-attn 2's `flash_attn_varlen_func`, and version 3's
`flash_attn_with_kvcache`. What their C++ refuses is refused, and so is what it does not look at and
reads out of bounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import packing_kernel
import pytest
import torch
from counted_operations import Counted
from fake_cuda import at as on
from fake_cuda import real
from fake_cuda_ops import check_flash
from packing_kernel import PackingReference

from longctx.attention.kernels import flash_attn
from longctx.attention.kernels.base import Packed, Partial
from longctx.attention.kernels.flash_attn import FlashAttnKernel
from longctx.attention.kernels.reference import ReferenceKernel
from longctx.engine.arena import Arena

_EXACT = ReferenceKernel()


def by_pages(
    q_NHD: torch.Tensor,
    k_PMKD: torch.Tensor,
    v_PMKD: torch.Tensor,
    ends_q: torch.Tensor,
    keys_E: torch.Tensor,
    pages_EP: torch.Tensor,
    most_q: int,
    **how: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `packing_kernel.by_pages`, on one device of any kind; half precision as it is loaded."""
    given = (q_NHD, k_PMKD, v_PMKD, ends_q, keys_E, pages_EP)
    assert {x.device for x in given} == {q_NHD.device}
    if q_NHD.dtype != torch.float32:
        check_flash(*map(real, given[:3]))
    out_NHD, lse_HN = packing_kernel.by_pages(*map(real, given), most_q, **how)
    return on(out_NHD, q_NHD.device), on(lse_HN, q_NHD.device)


class Version2:
    """flash-attn 2. Attributes: calls: (sequences, causal) of each; page: what pages are multiples
    of."""

    def __init__(self, page: int = 256) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.page = page

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        assert return_attn_probs and block_table is not None and softmax_scale is not None
        assert (dropout_p, window_size, softcap, alibi_slopes) == (0.0, (-1, -1), 0.0, None)
        assert cu_seqlens_k.dtype == torch.int32 and cu_seqlens_k.is_contiguous()
        assert cu_seqlens_k.device == q.device
        with Counted.as_one("flash_attention_2"):
            ends_k = real(cu_seqlens_k)
            keys_E = ends_k.diff()
            assert int(ends_k[0]) == 0 and int(keys_E.max()) == max_seqlen_k
            out, lse = by_pages(
                *(q, k, v, cu_seqlens_q, on(keys_E, q.device), block_table, max_seqlen_q),
                causal=causal,
                scale=softmax_scale,
                multiple=self.page,
            )
        self.calls.append((len(keys_E), causal))
        return out, lse, None


class Version3:
    """flash-attn 3's call for caches. Attributes: calls: (sequences, causal) of each."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []

    def __call__(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        k: torch.Tensor | None = None,
        v: torch.Tensor | None = None,
        cache_seqlens: torch.Tensor | None = None,
        page_table: torch.Tensor | None = None,
        cu_seqlens_q: torch.Tensor | None = None,
        max_seqlen_q: int | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        num_splits: int = 0,
        return_softmax_lse: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert k is None and v is None and return_softmax_lse and num_splits == 0
        assert cache_seqlens is not None and page_table is not None and cu_seqlens_q is not None
        assert max_seqlen_q is not None and softmax_scale is not None
        self.calls.append((len(cache_seqlens), causal))
        return by_pages(
            *(q, k_cache, v_cache, cu_seqlens_q, cache_seqlens, page_table, max_seqlen_q),
            causal=causal,
            scale=softmax_scale,
            multiple=1,
        )


def runs_3(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    seqused_k: torch.Tensor,
    softmax_scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """flash-attn 3's call for runs."""
    held = Packed(cu_seqlens_q, cu_seqlens_k, seqused_k, max_seqlen_q, max_seqlen_k)
    return PackingReference().packed(q, k, v, held, causal=causal, scale=softmax_scale)


class FlashAttnAnywhere(FlashAttnKernel):
    """The flash-attn kernel with stand-ins for its package, on any device and in any dtype.

    Attributes: dense: how often it was called for one block of keys.
    """

    name = "flash_attn_anywhere"
    dense = 0

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
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
        self.dense += 1
        with Counted.as_one("flash_attention"):
            q, k, v = map(real, (q_BHLD, k_BKMD, v_BKMD))
            out_BHLD, lse_BHL = _EXACT(q, k, v, causal=causal, scale=scale)
            return Partial(on(out_BHLD, q_BHLD.device), on(lse_BHL, q_BHLD.device))


def install(
    patch: pytest.MonkeyPatch, varlen_2: Any = None, runs: Any = None, paged_3: Any = None
) -> FlashAttnAnywhere:
    """The kernel over stand-ins for what is installed."""
    found = flash_attn._Packing(runs, None, paged_3)
    if varlen_2 is not None:

        def paged_2(*given: Any, **named: Any) -> Any:
            return varlen_2(*given, **named, return_attn_probs=True)

        found = found._replace(paged_2=paged_2)
        patch.setattr(flash_attn, "PAGE_2", varlen_2.page)
    if paged_3 is not None:

        def cached(*given: Any, **named: Any) -> Any:
            return paged_3(*given, **named, return_softmax_lse=True)

        found = found._replace(paged_3=cached)
    patch.setattr(flash_attn, "_load_packing", lambda hopper: found)
    return FlashAttnAnywhere()


def scatter(patch: pytest.MonkeyPatch, block: int, seed: int = 0) -> None:
    """Every block of an arena is taken from anywhere."""
    rng = random.Random(seed)
    given: Callable[..., Any] = Arena._cut

    def take_pieces(self: Arena, count: int, behind: int | None = None) -> list[tuple[int, int]]:
        if count > (free := sum(length for _, length in self._holes)):
            raise MemoryError(f"{count} slots are asked for, {free} are free")
        pieces = []
        for _ in range(count // block):
            at, length = rng.choice(self._holes)
            slot = at + rng.randrange(length // block) * block
            given(self, at, length)
            self.give(at, slot - at)
            self.give(slot + block, at + length - slot - block)
            pieces.append((slot, block))
        return pieces

    patch.setattr(Arena, "take_pieces", take_pieces)
