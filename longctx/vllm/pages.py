"""One step over a paged cache of a GPU: all rows and parts in one or two calls of a paged kernel.

`attention/packed.py` lays a step out for kernels that read runs of keys from one tensor. Here a
run's address stands for a request's row and place in vLLM's block table, where vLLM's kernel looks
up the pages: nothing is gathered, and one layout serves every layer. Host numbers go to the device
once a step, and none comes back. Imports nothing of vLLM.

Shape legend: R requests, T tokens, E packed sequences, H query heads, K key/value heads, D head
dimension, P pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longctx.attention import packed
from longctx.attention.chunks import Turns
from longctx.attention.kernels.base import Packed
from longctx.attention.rope import temperature_bucket
from longctx.attention.rows import Run, StepRow
from longctx.attention.upload import upload
from longctx.vllm.steps import VllmRow

_MOST_ADDRESSES = 2**31 - 1  # int32, as the layouts have them


@dataclass(frozen=True)
class PagedStep:
    """A step's layout, and the pages [E, P] of each call's sequences, int32 on the device."""

    layout: packed.PackedStep
    tables: dict[int, torch.Tensor]
    tokens: int


def plan_pages(
    requests: Sequence[VllmRow],
    turns: Turns,
    block_table_RP: torch.Tensor,
    page: int,
    m_T: torch.Tensor | None = None,
) -> PagedStep | None:
    """Lay a step out; None where no request has a token.

    Args:
        requests: in the order of the table's rows; their own `pages` are not read.
        block_table_RP: int32, on the device that computes.
        page: slots of a page; divides a chunk.
        m_T: m^2 of every token, on that device, where the host does not know it.

    Raises:
        ValueError: a page that does not divide a chunk, or more addresses than int32 has.
    """
    width = block_table_RP.shape[1] * page
    chunk_len = turns.chunk_map.chunk_len
    if chunk_len % page:
        raise ValueError(
            f"pages of {page} tokens do not divide chunks of S={chunk_len} (chunk_size less "
            f"local_size): use a --block-size that does"
        )
    if len(requests) * width > _MOST_ADDRESSES:
        raise ValueError(
            f"{len(requests)} requests of up to {width} tokens at once: lower --max-num-seqs or "
            "--max-model-len"
        )
    rows = [
        StepRow(
            each.end - each.length,
            each.length,
            (Run(0, 0, each.end, at * width),),
            each.logit_scale,
            columns=slice(each.first, each.first + each.length),
        )
        for at, each in enumerate(requests)
        if each.length > 0
    ]
    if not rows:
        return None
    tokens = max(row.columns.stop for row in rows if isinstance(row.columns, slice))
    device = block_table_RP.device
    layout = packed.lay_out(rows, turns, 1, tokens, 0, device, m_T)
    assert layout is not None  # one run a row never lies in too many pieces
    tables = {
        id(sequences): _pages(sequences, block_table_RP, page, width)
        for slab in layout.slabs
        for sequences, _ in slab.calls
    }
    return PagedStep(layout, tables, tokens)


def _pages(sequences: Packed, block_table_RP: torch.Tensor, page: int, width: int) -> torch.Tensor:
    """[E, P]: the pages from each sequence's first key on; behind its last one, any page."""
    starts_E = sequences.starts_k[:-1].long()
    count = max(1, -(-sequences.most_k // page))
    columns_P = torch.arange(count, device=starts_E.device)
    columns_EP = (starts_E % width // page).unsqueeze(1) + columns_P
    columns_EP = columns_EP.clamp(max=block_table_RP.shape[1] - 1)
    pages_EP = block_table_RP[(starts_E // width).unsqueeze(1), columns_EP]
    return pages_EP.to(torch.int32).contiguous()


class PagedKernel:
    """vLLM's varlen function for the layouts of one step.

    Args:
        varlen: of `vllm.vllm_flash_attn`, or what has its contract.
        version: of FlashAttention, as vLLM chose it.
    """

    def __init__(self, step: PagedStep, varlen: Callable[..., Any], version: int) -> None:
        self._tables, self._varlen, self._version = step.tables, varlen, version

    def packed(
        self,
        q_NHD: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sequences: Packed,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `PackingKernel.packed`; keys and values are [pages, page, K, D]."""
        out_NHD, lse_HN = self._varlen(
            q=q_NHD,
            k=keys,
            v=values,
            max_seqlen_q=sequences.most_q,
            cu_seqlens_q=sequences.ends_q,
            max_seqlen_k=sequences.most_k,
            seqused_k=sequences.keys_E,
            softmax_scale=scale,
            causal=causal,
            block_table=self._tables[id(sequences)],
            return_softmax_lse=True,
            fa_version=self._version,
        )
        return out_NHD, lse_HN


class DeviceTemperatures:
    """m^2 of prompts whose lengths only the device knows.

    Args:
        longest: tokens of the longest prompt.
        scale: m^2 at a bucket's edge.
    """

    def __init__(
        self,
        original_length: int,
        longest: int,
        scale: Callable[[int], float],
        device: torch.device,
    ) -> None:
        edges = [original_length]
        while edges[-1] < longest:
            edges.append(temperature_bucket(edges[-1] + 1, original_length))
        self._edges = upload(torch.tensor(edges), device)
        self._m = upload(torch.tensor([scale(edge) for edge in edges]), device)

    def of_tokens(self, prompts_R: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """[T] for requests that have so many tokens of the step each."""
        bucket_R = torch.bucketize(prompts_R[: len(lengths)].long(), self._edges)
        m_R = self._m[bucket_R.clamp(max=len(self._m) - 1)]
        of_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        return m_R[upload(of_T, m_R.device)]
