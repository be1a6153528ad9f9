"""A kernel of packed sequences for the CPU: each sequence by the reference, one after the other.

A sequence without keys gets what a CUDA kernel gives it: out 0, lse +inf.
"""

from __future__ import annotations

import itertools

import torch

from longctx.attention.kernels.base import Packed
from longctx.attention.kernels.reference import ReferenceKernel


class PackingReference(ReferenceKernel):
    """Attributes: calls: (sequences, causal) of each packed call."""

    name = "packing_reference"

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []

    def packs(self, head_dim: int) -> bool:
        return True

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
        ends, starts, keys = (x.tolist() for x in sequences[:3])
        assert ends[0] == 0 and ends[-1] == len(q_NHD) and len(starts) == len(ends)
        lengths = [b - a for a, b in itertools.pairwise(ends)]
        assert (max(lengths), max(keys)) == (sequences.most_q, sequences.most_k)
        self.calls.append((len(keys), causal))
        out_NHD = torch.zeros_like(q_NHD)
        lse_HN = q_NHD.new_full(q_NHD.shape[1::-1], torch.inf, dtype=torch.float32)
        for first, stop, at, count in zip(ends, ends[1:], starts, keys, strict=False):
            assert stop > first
            if not count:
                continue
            q, k, v = (
                x.transpose(0, 1)[None]
                for x in (q_NHD[first:stop], k_MKD[at : at + count], v_MKD[at : at + count])
            )
            out, lse = self(q, k, v, causal=causal, scale=scale)
            out_NHD[first:stop] = out[0].transpose(0, 1)
            lse_HN[:, first:stop] = lse[0]
        return out_NHD, lse_HN


def by_pages(
    q_NHD: torch.Tensor,
    k_PMKD: torch.Tensor,
    v_PMKD: torch.Tensor,
    ends_q: torch.Tensor,
    keys_E: torch.Tensor,
    pages_EP: torch.Tensor,
    most_q: int,
    *,
    causal: bool,
    scale: float,
    multiple: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A packed call that finds keys by pages; refuses what FlashAttention refuses, and what it does
    not look at and reads out of bounds.

    Args:
        multiple: of how many keys a page must be.
    """
    tables = (ends_q, keys_E, pages_EP)
    assert all(x.dtype == torch.int32 and x.is_contiguous() for x in tables)
    assert q_NHD.ndim == 3 and k_PMKD.ndim == 4 and k_PMKD.shape == v_PMKD.shape
    assert all(x.stride(-1) == 1 for x in (q_NHD, k_PMKD, v_PMKD))
    pages, page, kv_heads, dim = k_PMKD.shape
    assert page % multiple == 0, f"pages of {page}, not of a multiple of {multiple}"
    assert q_NHD.shape[1] % kv_heads == 0 and q_NHD.shape[2] == dim
    count = len(keys_E)
    assert ends_q.shape == (count + 1,) and pages_EP.shape[0] == count > 0
    assert int(keys_E.min()) >= 0 and int(pages_EP.min()) >= 0 and int(pages_EP.max()) < pages
    assert int(keys_E.max()) <= pages_EP.shape[1] * page
    ends = ends_q.tolist()
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    assert ends[0] == 0 and ends[-1] == len(q_NHD) and min(lengths) > 0
    assert max(lengths) == most_q
    exact = ReferenceKernel()
    out_NHD = torch.zeros_like(q_NHD)
    lse_HN = q_NHD.new_full(q_NHD.shape[1::-1], torch.inf, dtype=torch.float32)
    for number, (first, stop) in enumerate(itertools.pairwise(ends)):
        keys = int(keys_E[number])
        if keys == 0:
            continue
        mine = pages_EP[number, : -(-keys // page)].long()
        k_MKD, v_MKD = (x[mine].flatten(0, 1)[:keys] for x in (k_PMKD, v_PMKD))
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD[first:stop], k_MKD, v_MKD))
        out, lse = exact(q, k, v, causal=causal, scale=scale)
        out_NHD[first:stop] = out[0].transpose(0, 1)
        lse_HN[:, first:stop] = lse[0]
    return out_NHD, lse_HN
