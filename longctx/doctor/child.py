"""The process in which `longctx doctor` runs what it checks: a crash takes only this one along.

    python -m longctx.doctor.child '{"device": "cpu", "tasks": [...]}'

Writes a JSON object per line: `at` names what is about to run, so that the parent knows what a
crash or a hang happened in; `row` is what a task found; `facts` is what there is to check. What it
runs is named by a dotted path, `module:object`. Does not know which verdict a row gets.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from longctx.attention import cpu
from longctx.attention.dca import attend, plan_block
from longctx.attention.kernels import Kernel
from longctx.attention.positions import ChunkMap
from longctx.doctor import cases, info

# A projection of a small model: hidden size, intermediate size, and tokens of a prompt's chunk.
LINEAR_IN, LINEAR_OUT, LINEAR_TOKENS = 576, 1536, 512
# Enough calls for the fastest to be undisturbed, and an end for what takes long.
_CALLS, _SECONDS = 6, 0.1


class Timing(NamedTuple):
    """Of one call: seconds, and what it worked through, operations or bytes."""

    seconds: float
    work: int


def main(job: Mapping[str, Any]) -> None:
    """Run a job of the parent's.

    Args:
        job: either `factories` (and `processor`), to tell facts, or `device` and `tasks`.
    """
    with torch.inference_mode():
        if "tasks" not in job:
            _tell(facts=facts(job["factories"], processor=job["processor"]))
            return
        for task in job["tasks"]:
            _tell(at="its start")
            try:
                row = _RUN[task["kind"]](task, torch.device(job["device"]))
            except Exception as error:
                # After an error a CUDA context gives nothing but errors: the parent goes on with
                # the other tasks in a new process.
                words = " ".join(str(error).split())
                _tell(row={"raised": f"{type(error).__name__}: {words}"})
                return
            _tell(row=row)


def facts(factories: Mapping[str, str], *, processor: bool) -> dict[str, Any]:
    """What `longctx info` tells, the same of planted kernels, and what `--dtype auto` means."""
    planted = {name: load(path)() for name, path in factories.items()}
    found = info.collect(processor=processor)
    told = asdict(found)
    told["kernels"] += [
        asdict(info.KernelStatus(entry.device, name, dtype, reason is None, reason))
        for name, kernel in planted.items()
        for entry in found.devices
        for dtype in info.DTYPES
        for reason in [kernel.unavailable(torch.device(entry.device), getattr(torch, dtype))]
    ]
    auto = "bfloat16" if cpu.native_bf16() else "float32"  # where it fits the memory
    return {"info": told, "auto_dtype": auto}


def load(path: str) -> Any:
    """What `module:object` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def run_kernel(task: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Every case of one kernel in one dtype."""
    kernel, dtype = _kernel(task), getattr(torch, task["dtype"])
    found, timings = [], []
    for case in cases.CASES:
        _tell(at=case.name)
        given = cases.inputs(case, dtype, device)
        want = cases.attention(given, causal=case.causal, scale=case.scale)

        def call(given: cases.Inputs = given, case: cases.Case = case) -> Any:
            return kernel(*given, causal=case.causal, scale=case.scale)

        got = call()
        out = cases.distance(got.out_BHLD, want.out_BHLD)
        found.append((case.name, out, cases.distance(got.lse_BHL, want.lse_BHL)))
        if case is cases.PREFILL:
            timings.append(Timing(_fastest(call, device), case.operations))
        elif case is cases.DECODE:
            timings.append(Timing(_fastest(call, device), case.key_bytes(dtype.itemsize)))
    return _row(dtype, found, *timings)


def run_dual_chunk(task: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The whole step of Dual Chunk Attention over one kernel: prompt, block and decoded token."""
    kernel, dtype, chunks = _kernel(task), getattr(torch, task["dtype"]), cases.CHUNKS
    q, k, v = cases.inputs(chunks.whole, dtype, device)
    want = cases.dual_chunk(cases.Inputs(q, k, v), chunks)
    chunk_map, inv_freq_F = ChunkMap(chunks.chunk_size, chunks.local_size), chunks.inv_freq()
    found, seconds = [], []
    for name, start, length in chunks.blocks:
        _tell(at=name)
        block, keys = slice(start, start + length), slice(0, start + length)
        plan = plan_block(chunk_map, start, length, inv_freq_F.to(device))

        def call(plan: Any = plan, block: slice = block, keys: slice = keys) -> Any:
            scale = chunks.whole.scale
            return attend(q[:, :, block], k[:, :, keys], v[:, :, keys], plan, kernel, scale)

        found.append((name, cases.distance(call(), want[:, :, block]), None))
        seconds.append(_fastest(call, device))
    whole = chunks.whole
    return _row(
        dtype,
        found,
        Timing(seconds[0], whole.operations),
        Timing(seconds[-1], whole.key_bytes(dtype.itemsize)),
    )


def run_linear(task: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A linear layer, plain or packed: a chunk of a prompt, one token, with a bias and without.

    Raises:
        RuntimeError: packing is offered, and no weight was packed.
    """
    dtype = getattr(torch, task["dtype"])
    generator = torch.Generator().manual_seed(0)
    layers = torch.nn.ModuleList(
        torch.nn.Linear(LINEAR_IN, LINEAR_OUT, bias=bias) for bias in (False, True)
    )
    for parameter in layers.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layers.to(device, dtype)
    weights = [[x.detach().cpu().double() for x in layer.parameters()] for layer in layers]
    if task["factory"]:
        _tell(at="packing")
        packed = load(task["factory"])(layers)
        if len(packed) == 0:
            raise RuntimeError("packing is offered, and no weight was packed")
    found, seconds = [], []
    for tokens in (LINEAR_TOKENS, 1):
        x = torch.randn(1, tokens, LINEAR_IN, generator=generator).to(device, dtype)
        for layer, (weight, *bias) in zip(layers, weights, strict=True):
            name = f"{'a token' if tokens == 1 else f'{tokens} tokens'}{', bias' if bias else ''}"
            _tell(at=name)
            want = torch.nn.functional.linear(x.cpu().double(), weight, *bias)
            found.append((name, cases.distance(layer(x), want), None))
        seconds.append(_fastest(lambda x=x: layers[0](x), device))  # type: ignore[misc]
    size = LINEAR_IN * LINEAR_OUT
    return _row(
        dtype,
        found,
        Timing(seconds[0], 2 * LINEAR_TOKENS * size),
        Timing(seconds[1], size * dtype.itemsize),
    )


_RUN: dict[str, Callable[[Mapping[str, Any], torch.device], dict[str, Any]]] = {
    "kernel": run_kernel,
    "dca": run_dual_chunk,
    "linear": run_linear,
}


def _kernel(task: Mapping[str, Any]) -> Kernel:
    from longctx.attention import kernels

    kernel: Kernel = load(task["factory"])() if task["factory"] else kernels.get(task["kernel"])
    return kernel


def _row(
    dtype: torch.dtype,
    found: Sequence[tuple[str, float, float | None]],
    prefill: Timing,
    decode: Timing,
) -> dict[str, Any]:
    return {
        "bounds": cases.bounds(dtype),
        "cases": found,
        "times": {
            "prefill_ms": 1e3 * prefill.seconds,
            "prefill_gflops": prefill.work / prefill.seconds / 1e9,
            "decode_ms": 1e3 * decode.seconds,
            "decode_gbps": decode.work / decode.seconds / 1e9,
        },
    }


def _fastest(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of a few calls; what checks the numbers has warmed up."""
    times: list[float] = []
    while len(times) < _CALLS and sum(times) < _SECONDS:
        _finish(device)
        began = time.perf_counter()
        call()
        _finish(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _tell(**told: Any) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
