"""What `longctx doctor` asks of attention: small inputs, the right answers, the bounds.

Answers are textbook formulas in float64 on the CPU, on the very numbers that the kernel gets, and
share no code with what they check. Knows no kernel, no process and no table.

Shape legend: B batch, H query heads, K key/value heads, G = H / K, L queries, M keys, D head
dimension, F = D / 2 frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Case:
    """One call of a kernel. Causal is aligned to the last key."""

    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    dim: int
    causal: bool
    strided: bool = False

    @property
    def scale(self) -> float:
        return self.dim**-0.5

    @property
    def operations(self) -> int:
        """Two multiplications and two additions for every number of every pair that is seen."""
        hidden = self.queries * (self.queries - 1) // 2 if self.causal else 0
        pairs = self.queries * self.keys - hidden
        return 4 * self.batch * self.heads * self.dim * pairs

    def key_bytes(self, itemsize: int) -> int:
        """Keys and values, each read once."""
        return 2 * self.batch * self.kv_heads * self.keys * self.dim * itemsize


PREFILL = Case("prefill", 1, 28, 4, 256, 256, 128, causal=True)
DECODE = Case("decode", 1, 28, 4, 1, 4096, 128, causal=True)
CASES = (
    Case("square", 1, 4, 2, 96, 96, 64, causal=True),
    Case("history", 1, 4, 2, 40, 136, 64, causal=True),
    Case("not causal", 1, 4, 2, 40, 136, 64, causal=False),
    Case("one token", 1, 4, 2, 1, 200, 64, causal=False),
    Case("one head each", 2, 3, 3, 33, 65, 64, causal=True),
    Case("strided views", 2, 4, 2, 40, 136, 64, causal=True, strided=True),
    Case("no keys", 1, 4, 2, 3, 0, 64, causal=False),
    PREFILL,
    DECODE,
)


class Inputs(NamedTuple):
    q_BHLD: torch.Tensor
    k_BKMD: torch.Tensor
    v_BKMD: torch.Tensor


class KernelOutput(NamedTuple):
    out_BHLD: torch.Tensor
    lse_BHL: torch.Tensor


class Bounds(NamedTuple):
    out: float
    lse: float


def bounds(dtype: torch.dtype) -> Bounds:
    """Relative L2 errors that a kernel of this dtype is held to, a function of its epsilon.

    Every kernel multiplies numbers of `dtype` exactly and adds them up in float32: logits, and so
    the lse, are right to a few float32 epsilons times the logits' size, here up to 20; hence 64 of
    them. Only the probabilities and the result (and in Dual Chunk Attention the turned queries)
    are rounded to `dtype`: each of these moves the result by a fifth of an epsilon, in L2, so two
    epsilons hold all of them several times over. For the lse an eighth of an epsilon leaves room
    for devices that round logits on the way.

    Mistakes are far outside. With the inputs below, a lse in base 2 is 0.44 off, and keys scaled
    by 1.1 put it 0.08 off; bfloat16, which has the widest bounds, is held to 0.001.
    """
    eps, single = torch.finfo(dtype).eps, 64 * torch.finfo(torch.float32).eps
    return Bounds(2 * eps + single, eps / 8 + single)


def inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Seeded normal numbers; queries three times as large, so that few keys matter and all do."""
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(case.batch, heads, tokens, case.dim, generator=generator)

    q = (3 * normal(case.heads, case.queries)).to(dtype).to(device)
    k = normal(case.kv_heads, case.keys).to(dtype).to(device)
    v = normal(case.kv_heads, case.keys).to(dtype).to(device)
    return _strided(q, k, v) if case.strided else Inputs(q, k, v)


def _strided(q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor) -> Inputs:
    """The same numbers as views: tokens before heads, a part of a cache, every second number.

    What lies between the numbers is large, so that a kernel that reads it shows.
    """
    cache = k_BKMD.new_full((*k_BKMD.shape[:2], k_BKMD.shape[2] + 48, k_BKMD.shape[3]), 100.0)
    part = cache[:, :, 16 : 16 + k_BKMD.shape[2]]
    part.copy_(k_BKMD)
    second = v_BKMD.new_full((*v_BKMD.shape, 2), 100.0)[..., 0]
    second.copy_(v_BKMD)
    return Inputs(q_BHLD.transpose(1, 2).contiguous().transpose(1, 2), part, second)


def attention(given: Inputs, *, causal: bool, scale: float) -> KernelOutput:
    """Softmax attention over all keys, or over those up to the query's own."""
    q, k, v = (x.detach().cpu().double() for x in given)
    # A key head's queries, group by group, are rows of one product.
    q_BKRD = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    logits_BHLM = (scale * q_BKRD @ k.mT).reshape(*q.shape[:3], k.shape[2])
    queries, keys = logits_BHLM.shape[-2:]
    if causal:
        own_L1 = torch.arange(keys - queries, keys)[:, None]
        logits_BHLM.masked_fill_(torch.arange(keys) > own_L1, -math.inf)
    lse_BHL = logits_BHLM.logsumexp(-1)
    weights_BKRM = logits_BHLM.softmax(-1).reshape(*q_BKRD.shape[:3], keys)
    return KernelOutput((weights_BKRM @ v).reshape(q.shape), lse_BHL)


@dataclass(frozen=True)
class Chunks:
    """A prompt of some chunks for Dual Chunk Attention, and blocks of it: (start, length)."""

    length: int = 240
    chunk_size: int = 80
    local_size: int = 16
    theta: float = 10000.0
    blocks: tuple[tuple[str, int, int], ...] = (
        ("prompt", 0, 240),
        ("block", 50, 100),
        ("token", 239, 1),
    )

    @property
    def chunk_len(self) -> int:
        return self.chunk_size - self.local_size

    @property
    def whole(self) -> Case:
        return Case("prompt", 1, 4, 2, self.length, self.length, 64, causal=True)

    def inv_freq(self) -> torch.Tensor:
        dim = self.whole.dim
        return self.theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


CHUNKS = Chunks()


def dual_chunk(given: Inputs, chunks: Chunks) -> torch.Tensor:
    """Dual Chunk Attention of a whole prompt, dense: every pair's own relative position.

    Args:
        given: q and k rotated at p mod S, as a model's rotary and its cache hold them.
    """
    q, k, v = (x.detach().cpu().double() for x in given)
    p = torch.arange(chunks.length)
    turn_LF = torch.outer((p % chunks.chunk_len).double(), chunks.inv_freq())
    group = q.shape[1] // k.shape[1]
    q1_BHLF, q2_BHLF = _turned_back(q, turn_LF)
    k1_BHMF, k2_BHMF = _turned_back(k.repeat_interleave(group, 1), turn_LF)
    relative_LM = relative_positions(chunks).double()
    logits_BHLM = q.new_zeros(*q.shape[:3], chunks.length)
    for f, freq in enumerate(chunks.inv_freq()):
        q1, q2 = q1_BHLF[..., f, None], q2_BHLF[..., f, None]
        k1, k2 = k1_BHMF[..., None, :, f], k2_BHMF[..., None, :, f]
        angle_LM = relative_LM * freq
        logits_BHLM += (q1 * k1 + q2 * k2) * angle_LM.cos()
        logits_BHLM += (q1 * k2 - q2 * k1) * angle_LM.sin()
    logits_BHLM *= chunks.whole.scale
    logits_BHLM.masked_fill_(p[None, :] > p[:, None], -math.inf)
    return logits_BHLM.softmax(-1) @ v.repeat_interleave(group, 1)


def relative_positions(chunks: Chunks) -> torch.Tensor:
    """What the softmax sees between query i and key j <= i (DCA, arXiv 2402.17463, section 3)."""
    chunk_len, cap = chunks.chunk_len, chunks.chunk_size
    p = torch.arange(chunks.length)
    r, c = p % chunk_len, p // chunk_len
    apart = c[:, None] - c[None, :]
    near = (r + chunk_len).clamp(max=cap)[:, None] - r[None, :]
    far = min(2 * chunk_len - 1, cap) - r[None, :].expand_as(near)
    same = r[:, None] - r[None, :]
    return torch.where(apart == 0, same, torch.where(apart == 1, near, far))


def _turned_back(x_BHLD: torch.Tensor, turn_LF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves of what was rotated by `turn_LF`."""
    x1, x2 = x_BHLD.chunk(2, dim=-1)
    cos, sin = turn_LF.cos(), turn_LF.sin()
    return x1 * cos + x2 * sin, x2 * cos - x1 * sin


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative L2 error; infinite where a shape or an infinity differs, NaN where `got` has one."""
    got = got.detach().cpu().double()
    if got.shape != want.shape:
        return math.inf
    endless = want.isinf()
    if not torch.equal(got[endless], want[endless]):
        return math.inf
    off, size = (got - want)[~endless].norm().item(), want[~endless].norm().item()
    return float(off / size if size else off)
