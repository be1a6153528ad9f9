"""Rows of one query that the C library is asked for, and what it gives in each instruction set."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import NamedTuple

import torch

from longctx.attention import ChunkMap, kernels
from longctx.attention.chunks import Turns
from longctx.attention.int8_keys import round_into, row_bytes
from longctx.attention.native import library, rows
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import Run, StepPlan, StepRow, attend_step, plan_step

LOADED = library.load()
REFERENCE = kernels.get("reference")
# HEADS, KV_HEADS, DIM: groups that go at once and in equal and unequal parts, head dims that are no
# multiple of a register too.
SHAPES = [(4, 4, 64), (9, 3, 64), (14, 2, 64), (28, 4, 128), (8, 1, 32), (6, 2, 80), (10, 2, 18)]
SHAPES += [(12, 2, 64), (16, 1, 48)]
FLOAT32 = torch.float32


def levels() -> list[int]:
    assert isinstance(LOADED, library.Library)
    return list(range(LOADED.decode.longctx_level() + 1))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Rows of int8_keys.py."""
    kept = torch.empty(*x.shape[:-1], row_bytes(x.shape[-1]), dtype=torch.int8)
    round_into(kept, x)
    return kept


class Case(NamedTuple):
    rows: list[StepRow]
    q: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    turns: Turns | None

    def plan(self) -> StepPlan:
        return plan_step(self.rows, self.turns)

    def exact(self) -> torch.Tensor:
        """In float64, by the path that knows no library."""
        turns = self.turns and Turns(self.turns.chunk_map, self.turns.inv_freq_F, torch.float64)
        tensors = [[x.double() for x in stacks] for stacks in (self.keys, self.values)]
        plan = plan_step(self.rows, turns)
        return attend_step(plan, self.q.double(), *tensors, REFERENCE, self.q.shape[3] ** -0.5)


def decoded(case: Case, level: int = 2, threads: int = 1) -> torch.Tensor:
    assert isinstance(LOADED, library.Library)
    torch.set_num_threads(threads)
    plan, chosen = case.plan(), replace(LOADED, level=min(level, levels()[-1]))
    given = case.q, case.keys, case.values
    step = rows.lay_out(plan.single, plan.turns, LOADED.split, *given)
    batch, heads, columns, dim = case.q.shape
    out = torch.full((batch, columns, heads, dim), 7.0).to(case.q.dtype)
    rows.attend(chosen, step, *given, out, dim**-0.5)
    return out


def drawn(
    seed: int,
    shape: tuple[int, int, int],
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] = (FLOAT32, FLOAT32, FLOAT32),
    *,
    most: int = 1500,
    chunked: bool = True,
) -> Case:
    """1 to 16 rows; keys in stacks of their own with other strides, cut into runs, NaN around."""
    heads, kv_heads, dim = shape
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    count = rng.choice((1, 1, 2, 5, 16))
    step_rows, keys, values = [], [], []
    for column in range(count):
        end = rng.choice((1, 2, 63, 64, 65, rng.randrange(1, most)))
        cuts = sorted({0, end, *(rng.randrange(1, end + 1) for _ in range(rng.randrange(4)))})
        runs = []
        for low, high in itertools.pairwise(cuts):
            pad = rng.randrange(3)
            for stacks, dtype in ((keys, dtypes[1]), (values, dtypes[2])):
                tokens = high - low + 2 * pad
                x = torch.full((1, kv_heads, tokens, dim), torch.nan)
                x[:, :, pad : pad + high - low] = torch.randn(
                    1, kv_heads, high - low, dim, generator=generator
                )
                if column % 2:  # a slot behind the other has all heads
                    x = x.transpose(1, 2).contiguous().transpose(1, 2)
                stacks.append(x.to(dtype))
            runs.append(Run(len(keys) - 1, low, high, pad))
        scale = rng.choice((1.0, 1.3))
        place = slice(column, column + 1)
        step_rows.append(StepRow(end - 1, 1, tuple(runs), scale, columns=place))
    # Heads and columns as a projection gives them, and as a cache's user may.
    q = torch.randn(1, count, heads, dim, generator=generator).to(dtypes[0]).transpose(1, 2)
    cap = rng.choice(("chunk_size", "chunk_size-1"))
    turns = Turns(ChunkMap(256, 64, cap), base_inv_freq(1e4, dim)) if chunked else None
    return Case(step_rows, q, keys, values, turns)
