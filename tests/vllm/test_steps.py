"""vLLM's steps as rows: pages read in place or brought together, equal to the oracle."""

from __future__ import annotations

import random

import pytest
import torch
from oracle import dca_positions, dense_attention, relative_error, rotate_dense

from longctx.attention import ChunkMap, kernels
from longctx.attention.chunks import Turns
from longctx.attention.rope import base_inv_freq
from longctx.attention.rows import Run
from longctx.attention.step import attend_step, plan_step
from longctx.vllm.steps import MOST_RUNS, VllmRow, rows_of

CHUNK, LOCAL, DIM, HEADS, KV_HEADS, PAGE = 32, 8, 16, 6, 2, 16


def test_neighbouring_pages_are_one_run_and_scattered_ones_are_brought_together() -> None:
    whole = VllmRow(0, 20, 40, [4, 5, 2], 1.5)
    scattered = VllmRow(20, 2, 16 * 9, [2 * n for n in range(9, 0, -1)], 1.0)
    decoded = scattered._replace(first=22, length=1)
    empty = VllmRow(23, 0, 7, [1], 1.0)
    step = rows_of([whole, scattered, decoded, empty], PAGE)
    assert [row.runs for row in step.rows[:2]] == [
        (Run(0, 0, 32, 64), Run(0, 32, 40, 32)),
        (Run(1, 0, 144, 0),),
    ]
    assert len(step.rows) == 3 and len(step.rows[2].runs) == 9  # a token reads pieces in place
    assert step.gathered[0].tolist()[:17] == [*range(18 * 16, 18 * 16 + 16), 16 * 16]
    assert [(row.start, row.columns, row.logit_scale) for row in step.rows] == [
        (20, slice(0, 20), 1.5),
        (142, slice(20, 22), 1.0),
        (143, slice(22, 23), 1.0),
    ]


@pytest.mark.parametrize("pages", ["in order", "shuffled"])
@pytest.mark.parametrize("seed", range(3))
def test_steps_equal_the_oracle(pages, seed) -> None:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    free = list(range(64))
    if pages == "shuffled":
        rng.shuffle(free)
    cache_KND = torch.full((KV_HEADS, 64 * PAGE, 2 * DIM), torch.nan)
    inv_freq_F, requests, queries, wanted, first = base_inv_freq(1e4, DIM), [], [], [], 0
    for length, past in ((150, 0), (1, 40), (7, 130), (1, 170)):
        end = past + length
        table, free = free[: -(-end // PAGE)], free[-(-end // PAGE) :]
        q, k, v = (
            torch.randn(1, heads, end, DIM, generator=generator)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        m = 1.0 + rng.random()
        p = torch.arange(end)
        r = p % (CHUNK - LOCAL)
        rel = dca_positions(end, CHUNK, LOCAL, CHUNK)
        out = dense_attention(q, k, v, rel, inv_freq_F, DIM**-0.5 * m)
        wanted.append(out[0, :, past:].transpose(0, 1))
        queries.append(rotate_dense(q, r, inv_freq_F)[0, :, past:])
        slots = torch.tensor(table)[p // PAGE] * PAGE + p % PAGE
        cache_KND[:, slots] = torch.cat((rotate_dense(k, r, inv_freq_F)[0], v[0]), dim=-1).float()
        requests.append(VllmRow(first, length, end, table, m))
        first += length
    step = rows_of(requests, PAGE)
    assert bool(step.gathered) == (pages == "shuffled")
    assert all(len(row.runs) <= MOST_RUNS for row in step.rows if row.length > 1)
    stacks = [
        (cache_KND[None, ..., part], *(cache_KND[None, :, s][..., part] for s in step.gathered))
        for part in (slice(0, DIM), slice(DIM, None))
    ]
    plan = plan_step(step.rows, Turns(ChunkMap(CHUNK, LOCAL), inv_freq_F))
    q_1HTD = torch.cat(queries, dim=1)[None].float()
    got = attend_step(plan, q_1HTD, *stacks, kernels.get("torch_cpu"), DIM**-0.5)
    assert relative_error(got[0], torch.cat(wanted)) < 1e-5
