"""Random batches over a GPU's pages, their dense oracle, and a stand-in for vLLM's kernel."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from fake_cuda import at as on
from fake_cuda import real
from oracle import rotate_dense

from longctx.attention import ChunkMap, kernels
from longctx.attention.chunks import Turns
from longctx.attention.rope import base_inv_freq, temperature, temperature_bucket
from longctx.vllm.steps import VllmRow

DIM, HEADS, KV_HEADS = 16, 6, 2


class Varlen:
    """vLLM's `flash_attn_varlen_func` over pages, by the reference, a sequence at a time.

    A sequence without keys has out 0 and lse +inf, as FlashAttention has it.
    """

    def __init__(self) -> None:
        self.calls: list[bool] = []

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        max_seqlen_q: int,
        cu_seqlens_q: torch.Tensor,
        max_seqlen_k: int,
        cu_seqlens_k: torch.Tensor | None = None,
        seqused_k: torch.Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        block_table: torch.Tensor | None = None,
        return_softmax_lse: bool = False,
        fa_version: int = 2,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert cu_seqlens_k is None and seqused_k is not None and block_table is not None
        assert softmax_scale is not None and return_softmax_lse and fa_version in (2, 3, 4)
        assert q.ndim == 3 and q.stride(-1) == 1 and k.shape == v.shape and k.stride(-1) == 1
        for table in (cu_seqlens_q, seqused_k, block_table):
            assert table.dtype == torch.int32 and table.is_contiguous()
        count = len(seqused_k)
        assert cu_seqlens_q.shape == (count + 1,) and block_table.shape[0] == count
        pages, page = k.shape[:2]
        assert int(block_table.min()) >= 0 and int(block_table.max()) < pages
        assert block_table.shape[1] * page >= max_seqlen_k == int(seqused_k.max())
        ends = cu_seqlens_q.tolist()
        assert ends[0] == 0 and ends[-1] == len(q)
        assert max(b - a for a, b in itertools.pairwise(ends)) == max_seqlen_q
        self.calls.append(causal)
        out, lse = torch.zeros_like(q), q.new_full(q.shape[1::-1], torch.inf, dtype=torch.float32)
        for at, (first, stop) in enumerate(itertools.pairwise(ends)):
            keys = int(seqused_k[at])
            if keys == 0:
                continue
            mine = [x[block_table[at].long()].flatten(0, 1)[:keys] for x in (k, v)]
            q_1HLD, k_1KMD, v_1KMD = (x.transpose(0, 1)[None] for x in (q[first:stop], *mine))
            part = kernels.get("reference")(
                q_1HLD, k_1KMD, v_1KMD, causal=causal, scale=softmax_scale
            )
            out[first:stop] = part.out_BHLD[0].transpose(0, 1)
            lse[:, first:stop] = part.lse_BHL[0]
        return out, lse


class DeviceVarlen(Varlen):
    """The same for tensors that are said to lie on a GPU, all of them on one."""

    def __call__(self, q: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        tensors = [x for x in given.values() if isinstance(x, torch.Tensor)]
        assert {x.device for x in tensors} == {q.device} and q.device.type == "cuda"
        out, lse = super().__call__(real(q), **{name: real(x) for name, x in given.items()})
        return on(out, q.device), on(lse, q.device)


@dataclass
class Batch:
    requests: list[VllmRow]
    prompts: list[int]
    turns: Turns
    page: int
    table_RP: torch.Tensor
    q_THD: torch.Tensor
    cache: torch.Tensor  # [pages, K, page, 2 D], as vLLM has it
    want_THD: torch.Tensor

    def halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.cache.transpose(1, 2).split(DIM, dim=-1)
        return keys, values


def dense(
    q_HLD: torch.Tensor,
    k_KMD: torch.Tensor,
    v_KMD: torch.Tensor,
    chunk_len: int,
    cap: int,
    inv_freq_F: torch.Tensor,
    m: float,
) -> torch.Tensor:
    """Unrotated queries of the last L positions, each turned by its distance to each key."""
    group, past = len(q_HLD) // len(k_KMD), k_KMD.shape[1] - q_HLD.shape[1]
    q_HLD = q_HLD.double()
    k_HMD, v_HMD = (x.double().repeat_interleave(group, 0) for x in (k_KMD, v_KMD))
    j = torch.arange(k_KMD.shape[1])
    i, r = j[past:, None], j % chunk_len
    chunks = i // chunk_len - j // chunk_len
    own, capped = i % chunk_len, torch.tensor(min(2 * chunk_len - 1, cap))
    before = (own + chunk_len).clamp(max=cap)
    query = torch.where(chunks == 0, own, torch.where(chunks == 1, before, capped))
    angles_LMF = (query - r).double()[..., None] * inv_freq_F.double()
    (q1, q2), (k1, k2) = (x.chunk(2, dim=-1) for x in (q_HLD, k_HMD))
    terms = "hlf,hmf,lmf->hlm"
    logits_HLM = (
        torch.einsum(terms, q1, k1, angles_LMF.cos())
        + torch.einsum(terms, q2, k2, angles_LMF.cos())
        + torch.einsum(terms, q1, k2, angles_LMF.sin())
        - torch.einsum(terms, q2, k1, angles_LMF.sin())
    )
    logits_HLM = (logits_HLM * DIM**-0.5 * m).masked_fill(i < j, -torch.inf)
    return logits_HLM.softmax(-1) @ v_HMD


_MIXED = {
    "mixed": ("prefill", "decode", "block"),
    "mixed, some preempted": ("prefill", "decode", "block", "preempted"),
}


def batch_of(
    kind: str, count: int, page: int, method: str, seed: int, chunk_len: int | None = None
) -> Batch:
    """
    Args:
        kind: what its requests are at: a prompt's beginning (prefill) or a later part of it
            (block), a token of an answer (decode), or prompt and answer once more (preempted); or
            a mixture.
        chunk_len: of the chunks; by default so many pages as are about 112 tokens.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    local = 16
    chunk_len = chunk_len or max(page, 112 // page * page)
    chunk = chunk_len + local
    inv_freq_F = base_inv_freq(1e4, DIM)
    spans: list[tuple[int, int]] = []
    answers: list[bool] = []  # whether tokens of its answer are among a request's
    for _ in range(count):
        now = rng.choice(_MIXED[kind]) if kind in _MIXED else kind
        past = 0 if now in ("prefill", "preempted") else rng.randrange(1, 3 * chunk)
        length = 1 if now == "decode" else rng.randrange(1, 2 * chunk)
        spans.append((past, length if count < 8 else min(length, 40)))
        answers.append(now in ("decode", "preempted"))
    width = max(-(-(past + length) // page) for past, length in spans) + 2
    free = list(range(count * width))
    rng.shuffle(free)
    table_RP = torch.tensor(free, dtype=torch.int32).view(count, width)
    cache = torch.full((count * width, KV_HEADS, page, 2 * DIM), torch.nan)
    requests, prompts, queries, wanted, first = [], [], [], [], 0
    for at, (past, length) in enumerate(spans):
        end = past + length
        prompt = rng.randrange(1, end + 1) if answers[at] else end
        m = 1.0
        if method == "yarn+dca":
            m = temperature(temperature_bucket(prompt, chunk), chunk) ** 2
        q, k, v = (
            torch.randn(1, heads, end, DIM, generator=generator)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        p = torch.arange(end)
        r = p % chunk_len
        out_HLD = dense(q[0, :, past:], k[0], v[0], chunk_len, chunk, inv_freq_F, m)
        wanted.append(out_HLD.transpose(0, 1))
        queries.append(rotate_dense(q, r, inv_freq_F)[0, :, past:].transpose(0, 1))
        both = torch.cat((rotate_dense(k, r, inv_freq_F)[0], v[0]), dim=-1).float()
        cache[table_RP[at].long()[p // page], :, p % page] = both.transpose(0, 1)
        requests.append(VllmRow(first, length, end, (), m))
        prompts.append(prompt)
        first += length
    turns = Turns(ChunkMap(chunk, local), inv_freq_F)
    parts = (torch.cat(queries).float(), cache, torch.cat(wanted))
    return Batch(requests, prompts, turns, page, table_RP, *parts)
