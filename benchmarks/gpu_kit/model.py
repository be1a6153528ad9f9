"""Section 4: a whole model of Qwen2-7B's shape through the engine, and transformers beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import serving_arms
from torch.profiler import ProfilerActivity, profile

from gpu_kit import shapes
from gpu_kit.kit import Kit
from longctx.engine import Engine, EngineRequest

METHOD = "yarn+dca"
_TOP = 12


def run(kit: Kit) -> None:
    kit.ceilings()
    name = "Qwen2-7B"
    config = shapes.config_of(name, dry=kit.dry)
    model = kit.attempt(
        f"{name}, made", partial(shapes.build, config, kit.device, kit.dtype), 5, anew=True
    )
    if model is None:
        return
    kit.attempt(f"{name}, engine", partial(engine, kit, name, model, METHOD), need_s=25)
    kit.attempt(f"{name}, by kernel", partial(by_kernel, kit, name, model), need_s=15)
    theirs = kit.attempt(f"{name}, generate", partial(generate, kit, name, model), need_s=20)
    what = f"{name}, engine, none"
    ours = kit.attempt(what, partial(engine, kit, name, model, "none"), need_s=25)
    if ours and theirs:
        pairs = list(zip(ours[0], theirs[0], strict=False))
        same = sum(a == b for a, b in pairs)
        note = "random weights, so near ties; a difference moves all behind it"
        kit.row(f"{what}: tokens as generate's", f"{same}/{len(pairs)}", note=note)


def clock(kit: Kit) -> Callable[[], float]:
    def now() -> float:
        kit.synchronise()
        return time.perf_counter()

    return now


def engine(kit: Kit, name: str, model: Any, method: str) -> list[list[int]] | None:
    """The prompt in steps of the budget, then token by token; the answers."""
    sizes = kit.sizes
    context = sizes.prompt + sizes.decoded + 1
    made = serving_arms.engine(
        model, clock(kit), sizes.decoded, method, sizes.chunk_budget, context
    )
    with serving_arms.Peak(kit.device.type) as peak, made as ask:
        ask([shapes.prompt_of(min(600, sizes.prompt // 2), model.config.vocab_size, 1)])
        found = ask([shapes.prompt_of(sizes.prompt, model.config.vocab_size)])
    figures(kit, f"{name}, engine, {method}", model, found, peak)
    if found.second is not None:
        kit.row(f"{name}, engine, {method}: another question, first token", found.second, "s")
    answers: list[list[int]] | None = found.answers
    return answers


def generate(kit: Kit, name: str, model: Any) -> list[list[int]] | None:
    sizes = kit.sizes
    made = serving_arms.generate(model, clock(kit), min(sizes.decoded, 12))
    with serving_arms.Peak(kit.device.type) as peak, made as ask:
        ask([shapes.prompt_of(min(600, sizes.prompt // 2), model.config.vocab_size, 1)])
        found = ask([shapes.prompt_of(sizes.prompt, model.config.vocab_size)])
    figures(kit, f"{name}, transformers, sdpa", model, found, peak)
    answers: list[list[int]] | None = found.answers
    return answers


def figures(kit: Kit, what: str, model: Any, found: Any, peak: Any) -> None:
    length, ceilings = kit.sizes.prompt, kit.ceilings()
    least_s = ceilings.ms_of_flops(shapes.prefill_flops(model, length)) / 1e3
    rate = length / found.first[0]
    kit.row(f"{what}: prefill of {length}", rate, "tok/s", length / least_s)
    step_ms = 1e3 * statistics.median(found.steps)
    floor = ceilings.ms_of_bytes(shapes.decode_bytes(model, length))
    note = f"best {1e3 * min(found.steps):.2f} ms of {len(found.steps)}"
    kit.row(f"{what}: decode behind it", step_ms, "ms", floor, note=note)
    if peak.mib is not None:
        kept = shapes.kv_bytes(model.config, length, kit.dtype.itemsize) / 2**20
        note = f"keys and values of the prompt: {kept:.0f} MiB"
        kit.row(f"{what}: peak above the model", float(peak.mib), "MiB", note=note)


def by_kernel(kit: Kit, name: str, model: Any) -> None:
    """Where the time of a step goes: the prompt's last step, and a decoding one."""
    sizes, vocabulary = kit.sizes, model.config.vocab_size
    prompt = shapes.prompt_of(sizes.prompt, vocabulary)
    context = sizes.prompt + 8
    options: dict[str, Any] = {"chunk_budget": sizes.chunk_budget, "max_context": context}
    with Engine(model, None, METHOD, **options) as made:
        before = prompt[: sizes.prompt - sizes.chunk_budget]
        made.submit(EngineRequest(before, max_new_tokens=0, request_length=sizes.prompt))
        made.run_until_idle()
        made.submit(EngineRequest(prompt, max_new_tokens=6, ignore_eos=True))
        profiled(kit, f"{name}, the prompt's last {sizes.chunk_budget}", made.step)
        made.step()
        profiled(kit, f"{name}, a decoding step", made.step)
        made.run_until_idle()


def profiled(kit: Kit, what: str, step: Callable[[], Any]) -> None:
    """One call under torch's profiler: launches, time on the device, and the longest kernels."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kit.cuda else [])]
    kit.synchronise()
    began = time.perf_counter()
    with profile(activities=activities) as found:
        step()
        kit.synchronise()
    wall_ms = 1e3 * (time.perf_counter() - began)
    totals: dict[str, list[float]] = {}
    for event in found.events():
        on_device = event.device_type.name == "CUDA"
        if on_device != kit.cuda:
            continue
        spent = event.time_range.elapsed_us() if kit.cuda else event.self_cpu_time_total
        totals.setdefault(event.name, []).append(spent / 1e3)
    busy_ms = sum(map(sum, totals.values()))
    kit.row(f"{what}: launches", float(sum(map(len, totals.values()))), "")
    kit.row(f"{what}: on the device", busy_ms, "ms", note=f"{wall_ms:.1f} ms under the profiler")
    for kernel, times in sorted(totals.items(), key=lambda each: -sum(each[1]))[:_TOP]:
        note = f"{len(times)} calls, {100 * sum(times) / max(busy_ms, 1e-9):.0f} %"
        kit.row(f"{what}: {kernel[:90]}", sum(times), "ms", note=note)
