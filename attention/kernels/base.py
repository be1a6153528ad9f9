"""The one interface that every attention kernel implements.

Shape legend: B batch, H query heads, K key/value heads (H % K == 0), L query tokens,
M key tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from longctx.attention.chunks import ChunkQueries, Turns
from longctx.attention.rows import StepRow

BROKEN = "is installed but cannot be imported"  # `auto` warns where a reason says so


class Partial(NamedTuple):
    """Attention over a part of the keys, ready to be merged with other parts.

    out_BHLD: softmax-weighted values, in the dtype of the query (a kernel may return fp32).
    lse_BHL: natural log of the sum of exp(scale * q.k) over this part's keys, float32
        (float64 for float64 input); -inf where a query has no key, and then its out is 0.
    """

    out_BHLD: torch.Tensor
    lse_BHL: torch.Tensor


class Kernel(Protocol):
    """Exact softmax attention that also returns the log-sum-exp.

    Every provider gives the same answer for the same call:

    - grouped-query attention is native: query head h reads key head h // (H / K);
    - `causal` is aligned bottom-right, the last query sees the last key:

          L=2, M=4      1 1 1 0
                        1 1 1 1

      and needs L <= M;
    - L == 0 or M == 0 is allowed (out 0, lse -inf);
    - inputs may be strided views; the provider copies only where its backend must.
    """

    name: str

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this kernel cannot run there, in one clause; None where it can, and was tried.

        What it needs is imported here, not with the file. Where that is installed and fails,
        the reason is `broken(error)`.
        """
        ...

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        """Attend q to k and v; logits are multiplied by `scale`.

        Raises:
            ValueError: heads not divisible, head dims that differ, or causal with L > M.
        """
        ...


class Packed(NamedTuple):
    """Sequences that lie one behind the other in q, each with its own run of keys.

    Sequence e has the queries ends_q[e] .. ends_q[e + 1] - 1, and the keys of `keys_E[e]` slots
    from `starts_k[e]` on; runs may overlap, and have no order. E sequences, P pages of the longest;
    int32, on the device.

    Attributes:
        pages_EP: the first slot of each page of keys, in order, where keys are read by pages: a
            sequence's may lie apart at every page's end then. 0 behind its last one. None: the keys
            of each sequence are one run.
        ends_k: [E + 1], the first 0: sums of `keys_E`; with `pages_EP` alone.
    """

    ends_q: torch.Tensor  # [E + 1], the first 0
    starts_k: torch.Tensor  # [E + 1], the last unused
    keys_E: torch.Tensor
    most_q: int
    most_k: int
    pages_EP: torch.Tensor | None = None
    ends_k: torch.Tensor | None = None


class Pages(NamedTuple):
    """How a kernel of packed sequences reads keys by pages.

    Attributes:
        tokens: of a page.
        runs: whether it reads runs without a table of pages too, which costs it less.
    """

    tokens: int
    runs: bool


class PackingKernel(Kernel, Protocol):
    """A kernel that takes many sequences of different lengths in one call."""

    def packs(self, head_dim: int) -> bool:
        """Whether it can, here and for such heads."""
        ...

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
        """out [N, H, D] in q's dtype and lse [H, N] float32, natural log.

        `causal` is aligned bottom-right in each sequence. One without keys has out 0; its lse is
        whatever the backend says, and the caller does not read it.
        """
        ...


class PagingKernel(PackingKernel, Protocol):
    """One whose packed call finds keys by a table of pages (`Packed.pages_EP`)."""

    def pages(self) -> Pages | None:
        """None: what is installed here has no such call."""
        ...


class DecodingKernel(Kernel, Protocol):
    """A kernel that takes a step's rows of one query over all their keys in one call."""

    def decodes(
        self, q_BHLD: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
    ) -> bool:
        """Whether it reads these tensors where they lie."""
        ...

    def decode(
        self,
        single: Sequence[tuple[StepRow, ChunkQueries]],
        turns: Turns | None,
        kept: dict[Any, Any],
        q_BHLD: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        scale: float,
    ) -> torch.Tensor:
        """[B, L, H, D] in q's dtype, 0 where no row has its query.

        Args:
            single: rows of one query, and the chunks that it meets; a row may stand for several
                of the batch.
            kept: the step's; tables made by its first layer are found there by the others.
            keys, values: the stacks that the runs name, [B, K, M, D] each.
        """
        ...


def paged_view(x_MKD: torch.Tensor, page: int) -> torch.Tensor:
    """[M - page + 1, page, K, D]: a page from every slot on, a view.

    Backends look up pages by their number and take the distance of two pages from the tensor's
    stride, so pages may overlap: page p begins with slot p, wherever a run of keys does.
    """
    slots, heads, dim = x_MKD.shape
    slot, head, _ = x_MKD.stride()
    return x_MKD.as_strided((slots - page + 1, page, heads, dim), (slot, slot, head, 1))


def broken(error: Exception) -> str:
    """The reason of a kernel whose package is there and cannot be imported.

    Must not look like a missing one: the run would go on, slower, and nobody would know.
    """
    return f"{BROKEN} ({type(error).__name__}: {' '.join(str(error).split())})"


def check_shapes(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, causal: bool
) -> None:
    """Reject what backends would read out of bounds or compute wrongly without a word."""
    heads, kv_heads = q_BHLD.shape[1], k_BKMD.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"query heads ({heads}) must be a multiple of key/value heads ({kv_heads})"
        )
    if k_BKMD.shape != v_BKMD.shape:
        raise ValueError(f"k {tuple(k_BKMD.shape)} and v {tuple(v_BKMD.shape)} must agree")
    if q_BHLD.shape[0] != k_BKMD.shape[0] or q_BHLD.shape[3] != k_BKMD.shape[3]:
        raise ValueError(
            f"q {tuple(q_BHLD.shape)} and k {tuple(k_BKMD.shape)} differ in batch or head_dim"
        )
    if causal and q_BHLD.shape[2] > k_BKMD.shape[2]:
        raise ValueError(
            f"causal attention is aligned to the last key: {q_BHLD.shape[2]} queries need at "
            f"least as many keys, got {k_BKMD.shape[2]}"
        )


def empty_partial(q_BHLD: torch.Tensor) -> Partial:
    """What attention over no keys is: out 0, lse -inf."""
    lse_dtype = torch.float64 if q_BHLD.dtype == torch.float64 else torch.float32
    return Partial(
        torch.zeros_like(q_BHLD),
        torch.full(q_BHLD.shape[:3], -torch.inf, dtype=lse_dtype, device=q_BHLD.device),
    )
