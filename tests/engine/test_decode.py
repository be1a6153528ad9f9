"""Decoding sequences read shared keys once, and get the softmax that each would get alone."""

from __future__ import annotations

import pytest
import torch

from longctx.attention.chunks import Turns
from longctx.attention.kernels import get
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.positions import ChunkMap
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import attend_step
from longctx.engine.batch_attention import RowInput, plan_batch
from longctx.engine.buffer import KvBuffer, Segment
from longctx.engine.kv import KvPool

KV_HEADS, HEADS, DIM = 2, 6, 8
CHUNKS = ChunkMap(24, 8)  # chunk_len 16


def filled(pool: KvPool, origin: int, tokens: int) -> KvBuffer:
    buffer = pool.allocate(origin, tokens + 3)
    k_KLD, v_KLD = torch.randn(2, KV_HEADS, tokens, DIM, dtype=torch.float64)
    buffer.write(0, origin, k_KLD, v_KLD)
    return buffer


class Counting:
    """The reference kernel, and how many keys it was given."""

    name = "counting"

    def __init__(self) -> None:
        self.keys = 0

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> None:
        return None

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
    ) -> Partial:
        self.keys += k.shape[2]
        return get("reference")(q, k, v, causal=causal, scale=scale)


@pytest.mark.parametrize("chunks", [None, CHUNKS], ids=["plain", "dca"])
def test_shared_keys_are_read_once_and_change_nothing(chunks: ChunkMap | None) -> None:
    torch.manual_seed(0)
    pool = KvPool(1, 1, 1000)
    document, other = filled(pool, 0, 53), filled(pool, 0, 20)
    inv_freq = base_inv_freq(1e4, DIM)
    turns = chunks and Turns(chunks, inv_freq, torch.float64)
    rows: list[RowInput] = []
    # Three rows on one document, one of them in a later chunk; one row alone; one on less of it.
    for shared, stop, tokens in ((document, 53, 4), (document, 53, 5), (document, 53, 14),
                                 (other, 20, 9), (document, 53, 4)):  # fmt: skip
        own = filled(pool, stop, tokens)
        segments = (Segment(shared, stop), Segment(own, stop + tokens))
        rows.append(RowInput(stop + tokens - 1, 1, own, segments, 1.1))

    def attend(members: list[RowInput], q_1HRD: torch.Tensor, kernel: Kernel) -> torch.Tensor:
        plan = plan_batch(members, turns, kernel)
        keys, values = zip(*(home.stack(0) for home in plan.homes), strict=True)
        return attend_step(plan.step, q_1HRD, keys, values, kernel, 0.3)

    q_1HRD = torch.randn(1, HEADS, len(rows), DIM, dtype=torch.float64)
    kernel = Counting()
    out_1RHD = attend(rows, q_1HRD, kernel)
    for at, row in enumerate(rows):
        alone_11HD = attend([row], q_1HRD[:, :, at : at + 1], get("reference"))
        assert torch.allclose(out_1RHD[:, at : at + 1], alone_11HD, atol=1e-12)
    each = sum(row.start + 1 for row in rows)
    if chunks is None:
        assert kernel.keys == 53 + 20 + (4 + 5 + 14 + 9 + 4)
    else:
        assert kernel.keys < each - 2 * 48  # of the document's three chunks but the last part
