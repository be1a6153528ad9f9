"""Dual Chunk Attention against plain flash attention: same kernel, same shapes, one run.

    python benchmarks/attention.py --lengths 16K,32K
    python benchmarks/attention.py --lengths 16K --only decode --json

Arms are interleaved; each figure is a ratio of minima over the pairs, in process CPU time with one
thread, with wall clock beside it. Prefill is one causal pass over the whole length, decode one
token over the cache (the plain arm packs grouped heads as well). The plan is made outside the timed
calls: a model makes one per forward for all its layers. Memory is the peak resident size of a
whole-model forward on the CPU, in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

SHAPES = {"7B": (28, 4, 128), "0.5B": (14, 2, 64)}  # query heads, key/value heads, head_dim
BOUNDS = {("prefill", "7B"): 1.05, ("prefill", "0.5B"): 1.05}
BOUNDS |= {("decode", "7B"): 1.10, ("decode", "0.5B"): 1.30}
MEMORY_BOUND = 1.05
MEMORY_RUNS = 3


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def measure(arms: dict[str, Callable[[], Any]], pairs: int, repeats: int) -> dict[str, Any]:
    """Minimum CPU and wall seconds per call of each arm, arms interleaved."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for call in arms.values():
        call()  # warm up: allocator, thread pool
    for pair in range(pairs):
        order = list(arms) if pair % 2 == 0 else list(arms)[::-1]
        for name in order:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                arms[name]()
            times[name].append(
                ((time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats)
            )
    best = {
        name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
    }
    return {
        "cpu_s": {name: round(pair[0], 6) for name, pair in best.items()},
        "wall_s": {name: round(pair[1], 6) for name, pair in best.items()},
        "ratio_cpu": round(best["dca"][0] / best["plain"][0], 4),
        "ratio_wall": round(best["dca"][1] / best["plain"][1], 4),
        "pairs": pairs,
    }


def attention_arms(
    phase: str, shape: tuple[int, int, int], length: int, options: argparse.Namespace
) -> tuple[dict[str, Callable[[], Any]], float]:
    """The two arms over the same tensors, and the FLOPs of one call."""
    import torch

    from longctx.attention import ChunkMap, kernels
    from longctx.attention.dca import attend, plan_block
    from longctx.attention.rope import base_inv_freq
    from longctx.attention.step import Run, StepRow, attend_step, plan_step

    heads, kv_heads, dim = shape
    dtype = getattr(torch, options.dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    queries = length if phase == "prefill" else 1
    generator = torch.Generator().manual_seed(0)

    def draw(h: int, n: int) -> torch.Tensor:
        return torch.randn(1, h, n, dim, generator=generator).to(device, dtype)

    q, k, v = draw(heads, queries), draw(kv_heads, length), draw(kv_heads, length)
    kernel = kernels.resolve(options.kernel, device, dtype)
    chunk_map = ChunkMap(options.chunk_size, options.local_size)
    inv_freq_F = base_inv_freq(1e6, dim).to(device)
    plan = plan_block(chunk_map, length - queries, queries, inv_freq_F)
    # A kernel that decodes is asked by steps: what knows no chunks is one of them, and plain.
    row = StepRow(length - 1, 1, (Run(0, 0, length, 0),), batch=slice(0, None))
    plain = plan_step([row]) if phase == "decode" and hasattr(kernel, "decodes") else None

    def plainly() -> torch.Tensor:
        if plain is not None:
            return attend_step(plain, q, (k,), (v,), kernel, dim**-0.5)
        return kernel(q, k, v, causal=True, scale=dim**-0.5).out_BHLD

    def finish(out: torch.Tensor) -> torch.Tensor:
        if out.is_cuda:
            torch.cuda.synchronize()
        return out

    arms = {
        "plain": lambda: finish(plainly()),
        "dca": lambda: finish(attend(q, k, v, plan, kernel, dim**-0.5)),
    }
    pairs_seen = length * (length + 1) / 2 if phase == "prefill" else length
    return arms, 4.0 * heads * dim * pairs_seen


def run_attention(options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(options.threads)
    results = []
    with torch.inference_mode():
        for phase in options.phases:
            for name in options.shapes:
                for length in options.lengths:
                    arms, flops = attention_arms(phase, SHAPES[name], length, options)
                    repeats = 1 if phase == "prefill" else options.decode_repeats
                    result = measure(arms, options.pairs, repeats)
                    result |= {"phase": phase, "shape": name, "length": length}
                    result["gflops_plain"] = round(flops / result["cpu_s"]["plain"] / 1e9, 1)
                    result["bound"] = BOUNDS[phase, name]
                    results.append(result)
                    if not options.json:
                        print_row(result)
    return results


def print_row(row: dict[str, Any]) -> None:
    cpu, mark = row["cpu_s"], "ok" if row["ratio_cpu"] <= row["bound"] else "ABOVE"
    print(
        f"{row['phase']:8} {row['shape']:>5} {row['length']:>7}  "
        f"plain {cpu['plain'] * 1e3:10.2f} ms  dca {cpu['dca'] * 1e3:10.2f} ms  "
        f"ratio {row['ratio_cpu']:.3f} (wall {row['ratio_wall']:.3f})  "
        f"<= {row['bound']:.2f} {mark}  plain {row['gflops_plain']} GFLOP/s",
        flush=True,
    )


# A random model of the 0.5B shape with few layers: attention, MLP and cache as in the real one.
MEMORY_CHILD = """
import resource, sys, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from longctx.attention import extend
method, length, chunk, local = sys.argv[1], *map(int, sys.argv[2:5])
config = Qwen2Config(vocab_size=32000, hidden_size=896, intermediate_size=4864,
    num_hidden_layers=4, num_attention_heads=14, num_key_value_heads=2,
    max_position_embeddings=32768, torch_dtype="bfloat16")
torch.manual_seed(0)
model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval()
handle = extend(model, method, **({} if method == "none" else
    {"chunk_size": chunk, "local_size": local}))
with torch.inference_mode():
    model(torch.randint(0, 32000, (1, length)), logits_to_keep=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident size of a prefill by a whole model: least of three fresh processes per arm.

    The least, because the allocator's slack varies by some percent from one process to the next.
    """
    results = []
    root = Path(__file__).resolve().parent.parent
    for length in options.lengths:
        peak: dict[str, int] = {}
        sizes = [str(n) for n in (length, options.chunk_size, options.local_size)]
        for _ in range(MEMORY_RUNS):
            for arm, method in (("plain", "none"), ("dca", "yarn+dca")):
                done = subprocess.run(
                    [sys.executable, "-c", MEMORY_CHILD, method, *sizes],
                    env=os.environ | {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
                    check=True,
                    capture_output=True,
                    text=True,
                )
                mib = int(done.stdout.split()[-1]) // 1024
                peak[arm] = min(mib, peak.get(arm, mib))
        row = {"phase": "memory", "length": length, "peak_mib": peak, "bound": MEMORY_BOUND}
        row["ratio"] = round(peak["dca"] / peak["plain"], 4)
        results.append(row)
        if not options.json:
            mark = "ok" if row["ratio"] <= MEMORY_BOUND else "ABOVE"
            print(
                f"memory    0.5B {length:>7}  plain {peak['plain']:>10} MiB dca "
                f"{peak['dca']:>10} MiB ratio {row['ratio']:.3f}  <= {MEMORY_BOUND} {mark}",
                flush=True,
            )
    return results


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="16K,32K", help="tokens, K = 1024")
    parser.add_argument("--shapes", default="7B,0.5B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument(
        "--only", default="decode,prefill,memory", help="of decode, prefill, memory"
    )
    parser.add_argument("--chunk-size", type=parse_length, default="8K")
    parser.add_argument("--local-size", type=parse_length, default="1K")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved A/B pairs")
    parser.add_argument("--decode-repeats", type=int, default=50, help="calls per timing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(part) for part in options.lengths.split(",")]
    options.shapes = options.shapes.split(",")
    options.only = options.only.split(",")
    options.phases = [phase for phase in options.only if phase != "memory"]
    unknown = [n for n in options.shapes if n not in SHAPES]
    unknown += [n for n in options.only if n not in ("decode", "prefill", "memory")]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


def main() -> None:
    options = parse()
    results = run_attention(options)
    if "memory" in options.only:
        results += run_memory(options)
    if options.json:
        about = {
            "machine": platform.machine(),
            "processor": cpu_name(),
            "threads": options.threads,
            "dtype": options.dtype,
            "kernel": options.kernel,
            "chunk_size": options.chunk_size,
            "local_size": options.local_size,
        }
        print(json.dumps({"about": about, "results": results}))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if "model name" in x), "unknown")


if __name__ == "__main__":
    main()
