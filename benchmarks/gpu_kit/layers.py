"""Section 5: single layers of the larger models, and a context of a million tokens."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np
import serving_arms
import torch

from gpu_kit import model, shapes
from gpu_kit.kit import Kit
from longctx.engine import Engine, EngineRequest
from longctx.engine.buffer import Segment


def run(kit: Kit) -> None:
    kit.ceilings()
    for name in shapes.NAMES[1:]:
        kit.attempt(name, partial(one_layer, kit, name), need_s=8)
    kit.attempt("Qwen2-7B, a million tokens", partial(million, kit), need_s=12)


def one_layer(kit: Kit, name: str) -> None:
    made = shapes.build(shapes.config_of(name, dry=kit.dry), kit.device, kit.dtype)
    model.engine(kit, name, made, model.METHOD)


def million(kit: Kit) -> None:
    """Decoding behind random keys that stand where an equal prompt would have left them."""
    length, steps = kit.sizes.million, kit.sizes.decoded
    config = shapes.config_of("Qwen2-7B", dry=kit.dry)
    made = shapes.build(config, kit.device, kit.dtype)
    prompt = shapes.prompt_of(length + 1, config.vocab_size)
    per_token = int(shapes.kv_bytes(config, 1, kit.dtype.itemsize))
    budget = per_token * (length + steps + 256)  # whole blocks, and what is new behind the prompt
    options: dict[str, Any] = {"max_context": length + steps + 2, "kv_budget_bytes": budget}
    now, times = model.clock(kit), []
    with (
        serving_arms.Peak(kit.device.type) as peak,
        Engine(made, None, model.METHOD, **options) as engine,
    ):
        fill(engine, prompt[:length])
        handle = engine.submit(EngineRequest(prompt, max_new_tokens=steps, ignore_eos=True))
        engine.step()
        while not handle.done:
            began = now()
            engine.step()
            times.append(now() - began)
        usage = handle.result(timeout=0).usage
    assert usage.cached_tokens == length, f"{usage.cached_tokens} of {length} tokens were found"
    floor = kit.ceilings().ms_of_bytes(shapes.decode_bytes(made, length))
    what = f"Qwen2-7B, decode behind {length} keys"
    kit.row(what, 1e3 * statistics.median(times), "ms", floor)
    if peak.mib is not None:
        note = f"keys and values: {per_token * length / 2**20:.0f} MiB"
        kit.row(f"{what}: peak above the model", float(peak.mib), "MiB", note=note)


@torch.inference_mode()
def fill(engine: Any, prompt: list[int]) -> None:
    """Random keys and values of the prompt, kept as those of an earlier request."""
    scheduler, runner = engine._scheduler, engine._runner
    config, buffer = runner.model.config, scheduler.pool.allocate(0, len(prompt))
    size = (config.num_key_value_heads, 1, shapes.head_dim(config))
    one_K1D = torch.zeros(size, device=engine.device, dtype=engine.kv_dtype)
    for layer in range(config.num_hidden_layers):
        buffer.write(layer, 0, one_K1D, one_K1D)  # makes the tensors
        for stack in buffer.stack(layer):
            stack.normal_()
    tokens_N = np.asarray(prompt, dtype=np.int64)
    bucket = runner.bucket(len(prompt) + 1)
    scheduler.prefixes.insert(bucket, tokens_N, [Segment(buffer, len(prompt))])
    buffer.release()
