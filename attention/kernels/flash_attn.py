"""The flash-attn package: FlashAttention-2, and FlashAttention-3 on Hopper where importable.

Only the packages' public functions are called. Facts relied on, which the contract test checks
on the real package (tests/flash_attn_contract): tensors are (B, L, H, D); causal is aligned
bottom-right; grouped queries are native; lse is (B, H, L) float32, natural log. A row without
keys has another lse in every backend (+inf, 0), so such calls are answered before the package.
FlashAttention-3 is called by its documented interface and has no test without a Hopper GPU.

Packed sequences: version 3's public function takes `seqused_k`, so runs of keys may overlap, have
gaps and no order; where they are too many, its function for caches takes pages of any size. Version
2's takes cumulative lengths alone, that is runs side by side in order, or a table of pages of a
multiple of 256 keys (flash_api.cpp, mha_varlen_fwd), with the lengths' sums beside it. It finds a
page by its number times the stride of the tensor's pages, so these may overlap: with one from every
slot on, a run may begin anywhere. From 2.6 on its lse is (H, N); before, calls are part by part.

The package is imported at the first question, not at import. Does not know gradients: lse
carries none, the caller forbids backward. Shape legend in base.py.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch

from longctx.attention.kernels.base import (
    Packed,
    Pages,
    Partial,
    broken,
    check_shapes,
    empty_partial,
    paged_view,
)
from longctx.attention.kernels.torch_cuda import flash_ready, no_flash

PAGE_2, PAGE_3 = 256, 64
_FIRST_WITH_LSE = (2, 6)  # of version 2: the release whose packed lse is (H, N)

# (q_BLHD, k_BMKD, v_BMKD, *, softmax_scale, causal) -> out_BLHD, lse_BHL and what else there is
_Attend = Callable[..., tuple[torch.Tensor, ...]]


class _Packing(NamedTuple):
    """What the installed package has for packed sequences; of runs or pages at least one.

    Attributes:
        runs: version 3's, with `seqused_k`.
        paged_2, paged_3: with a table of pages, as that version is called.
    """

    runs: _Attend | None = None
    paged_2: _Attend | None = None
    paged_3: _Attend | None = None


class FlashAttnKernel:
    """Flash attention by the flash-attn package, for float16 and bfloat16.

    Args:
        devices: device types to accept. The package is for CUDA; a test that gives it a CPU
            implementation says so here.
    """

    name = "flash_attn"

    def __init__(self, devices: tuple[str, ...] = ("cuda",)) -> None:
        self._devices = devices

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type not in self._devices:
            return f"runs on {' or '.join(self._devices)}, not on {device.type}"
        reason = no_flash(device, dtype)
        if reason is not None:
            return reason
        attend = _load(_is_hopper(device))
        return attend if isinstance(attend, str) else None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        """As the interface says.

        Raises:
            RuntimeError: no package can be imported; the message says why.
        """
        check_shapes(q_BHLD, k_BKMD, v_BKMD, causal)
        if q_BHLD.numel() == 0 or k_BKMD.shape[2] == 0:
            return empty_partial(q_BHLD)
        attend = _load(_is_hopper(q_BHLD.device))
        if isinstance(attend, str):
            raise RuntimeError(f"kernel 'flash_attn' {attend}")
        q_BLHD, k_BMKD, v_BMKD = (flash_ready(x).transpose(1, 2) for x in (q_BHLD, k_BKMD, v_BKMD))
        out_BLHD, lse_BHL, *_ = attend(q_BLHD, k_BMKD, v_BMKD, softmax_scale=scale, causal=causal)
        return Partial(out_BLHD.transpose(1, 2), lse_BHL)

    def packs(self, head_dim: int) -> bool:
        return head_dim % 8 == 0 and head_dim <= 256 and _load_packing(_hopper_first()) is not None

    def pages(self) -> Pages | None:
        found = _load_packing(_hopper_first())
        if found is None or not (found.paged_2 or found.paged_3):
            return None
        return Pages(PAGE_2 if found.paged_2 else PAGE_3, runs=found.runs is not None)

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
        found = _load_packing(_hopper_first())
        assert found is not None, "asked without packs()"
        q_NHD, keys, values = (flash_ready(x) for x in (q_NHD, k_MKD, v_MKD))
        how = {"softmax_scale": scale, "causal": causal}
        ends_q, starts_k, keys_E, most_q, most_k, pages_EP, ends_k = sequences
        if pages_EP is None:
            assert found.runs is not None, "asked for runs, without pages().runs"
            held = {"seqused_k": keys_E, **how}
            out = found.runs(q_NHD, keys, values, ends_q, starts_k, most_q, most_k, **held)
        elif found.paged_2 is not None:
            pages = (paged_view(x, PAGE_2) for x in (keys, values))
            held = {"block_table": pages_EP, **how}
            out = found.paged_2(q_NHD, *pages, ends_q, ends_k, most_q, most_k, **held)
        else:
            assert found.paged_3 is not None, "asked for pages, without pages()"
            pages = (paged_view(x, PAGE_3) for x in (keys, values))
            queries = {"cu_seqlens_q": ends_q, "max_seqlen_q": most_q}
            held = {"cache_seqlens": keys_E, "page_table": pages_EP, **how}
            out = found.paged_3(q_NHD, *pages, **queries, **held)
        out_NHD, lse_HN, *_ = out
        return out_NHD, lse_HN


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def _hopper_first() -> bool:
    """Of the first GPU: packs() is asked before there are tensors."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability(0)[0] == 9


@cache
def _load_packing(hopper: bool) -> _Packing | None:
    """What there is for packed sequences, of the version that `_load` takes; None: nothing."""
    try:
        if hopper and (cached := _public("flash_attn_interface", "flash_attn_with_kvcache")):
            return _packing_3(cached)
        version_2 = _public("flash_attn", "flash_attn_varlen_func")
    except Exception:  # `unavailable` says of a broken package what is wrong
        return None
    if version_2 is None or torch.version.hip is not None:  # there it is another kernel
        return None
    if _release("flash_attn") < _FIRST_WITH_LSE or not _takes(
        version_2, "block_table", "return_attn_probs"
    ):
        return None
    return _Packing(paged_2=partial(version_2, return_attn_probs=True))


def _packing_3(cached: _Attend) -> _Packing | None:
    """Of version 3: runs where it gives their lse, and pages beside them."""
    attend = _public("flash_attn_interface", "flash_attn_varlen_func")
    if attend is None or not _takes(attend, "seqused_k", "return_attn_probs", "num_splits"):
        return None
    # 0: it splits long runs of keys itself, as it does in flash_attn_with_kvcache.
    runs = partial(attend, return_attn_probs=True, num_splits=0)
    needed = ("cache_seqlens", "page_table", "cu_seqlens_q", "max_seqlen_q", "return_softmax_lse")
    if not _takes(cached, *needed):
        return _Packing(runs)
    return _Packing(runs, paged_3=partial(cached, return_softmax_lse=True))


def _takes(attend: _Attend, *names: str) -> bool:
    return {*names} <= {*inspect.signature(attend).parameters}


def _release(package: str) -> tuple[int, ...]:
    """Major and minor number; () where the package does not say."""
    said = getattr(importlib.import_module(package), "__version__", "")
    return tuple(int(each) for each in re.findall(r"\d+", said)[:2])


@cache
def _load(hopper: bool) -> _Attend | str:
    """The function to call, or a clause that says why there is none.

    "Is not installed" is said only of a package that is not there: a wheel for another torch is an
    ImportError too.
    """
    try:
        # flash_attn_func of version 3 has returned (out, lse), then out alone, then what
        # return_attn_probs asks for; this one has had return_softmax_lse all along. Without
        # cache_seqlens all of K and V is the cache, and nothing is written to it.
        if hopper and (version_3 := _public("flash_attn_interface", "flash_attn_with_kvcache")):
            return partial(version_3, return_softmax_lse=True)
        # return_attn_probs is the public way to the lse; without dropout no probabilities are
        # written, whatever its name says.
        if version_2 := _public("flash_attn", "flash_attn_func"):
            return partial(version_2, return_attn_probs=True)
    except Exception as error:
        return broken(error)
    return "is not installed"


def _public(package: str, function: str) -> _Attend | None:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return None
        raise
    if getattr(module, "__file__", None) is None:  # flash-attn-4 alone shares the name's folder
        return None
    attend: _Attend = getattr(module, function)
    return attend
