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
