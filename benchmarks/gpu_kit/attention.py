"""Section 3: attention alone, Dual Chunk against plain, by one kernel through one plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_checks import Shape, normal

from gpu_kit.kit import Kit
from longctx.attention import ChunkMap, kernels
from longctx.attention.chunks import Turns
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import Run, StepRow, attend_step, plan_step

_MOST_FLOPS = 3e15  # of one call: 512K in the 7B shape takes seconds, in the larger one too many


def run(kit: Kit) -> None:
    sizes = kit.sizes
    kit.ceilings()
    for length in sizes.lengths:
        for rows in sizes.rows:
            for name, shape in sizes.shapes.items():
                what = f"{name} decode, {rows} rows of {length}"
                kit.attempt(what, partial(decode, kit, what, shape, length, rows), need_s=4)
    for length in sizes.lengths:
        for name, shape in sizes.shapes.items():
            flops = 2.0 * shape.heads * shape.dim * length**2
            if flops > _MOST_FLOPS:
                continue
            what = f"{name} prefill of {length}"
            # Two arms at a third of what the card multiplies.
            need = 3 + 6e-3 * kit.ceilings().ms_of_flops(flops)
            kit.attempt(what, partial(prefill, kit, what, shape, length), need_s=need)


def _plans(kit: Kit, shape: Shape, rows: list[StepRow]) -> dict[str, Any]:
    fold = kit.sizes.fold
    inv_freq_F = base_inv_freq(fold.theta, shape.dim).to(kit.device)
    turns = Turns(ChunkMap(fold.chunk, fold.local), inv_freq_F)
    return {"plain": plan_step(rows), "dca": plan_step(rows, turns)}


def _measure(
    kit: Kit, shape: Shape, rows: list[StepRow], queries: int, slots: int
) -> dict[str, float]:
    """Milliseconds of each arm. Sets of inputs are rotated, so that none lies in the cache."""
    nbytes = 2 * shape.kv_heads * slots * shape.dim * kit.dtype.itemsize
    kernel = kernels.resolve("auto", kit.device, kit.dtype)
    plans = _plans(kit, shape, rows)
    arms: dict[str, list[Callable[[], Any]]] = {name: [] for name in plans}
    for at in range(kit.sets(nbytes)):

        def draw(heads: int, count: int, seed: int) -> torch.Tensor:
            size = (1, heads, count, shape.dim)
            return normal(*size, dtype=kit.dtype, seed=seed, device=kit.device)

        q, k, v = (
            draw(shape.heads, queries, 3 * at),
            *(draw(shape.kv_heads, slots, 3 * at + n) for n in (1, 2)),
        )
        for name, plan in plans.items():
            arms[name].append(partial(attend_step, plan, q, (k,), (v,), kernel, shape.dim**-0.5))
    with torch.inference_mode():
        return kit.medians_ms(arms, kit.sizes.timed_s)


def decode(kit: Kit, what: str, shape: Shape, length: int, count: int) -> None:
    rows = [
        StepRow(length - 1, 1, (Run(0, 0, length, at * length),), columns=slice(at, at + 1))
        for at in range(count)
    ]
    times = _measure(kit, shape, rows, count, count * length)
    nbytes = 2.0 * shape.kv_heads * count * length * shape.dim * kit.dtype.itemsize
    floor = kit.ceilings().ms_of_bytes(nbytes)
    for arm, ms in times.items():
        note = f"{nbytes / ms / 1e6:.0f} GB/s{_ratio(arm, times)}"
        kit.row(f"{what}, {arm}", ms, "ms", floor, note=note)


def prefill(kit: Kit, what: str, shape: Shape, length: int) -> None:
    times = _measure(kit, shape, [StepRow(0, length, (Run(0, 0, length, 0),))], length, length)
    flops = 2.0 * shape.heads * shape.dim * length * (length + 1)
    floor = kit.ceilings().ms_of_flops(flops)
    for arm, ms in times.items():
        note = f"{flops / ms / 1e9:.0f} TFLOP/s{_ratio(arm, times)}"
        kit.row(f"{what}, {arm}", ms, "ms", floor, note=note)


def _ratio(arm: str, times: dict[str, float]) -> str:
    return "" if arm == "plain" else f"; {times[arm] / times['plain']:.3f} times plain"
