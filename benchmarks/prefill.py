"""Attention of a prompt's chunk by each CPU kernel, beside torch's matrix product meanwhile.

    python benchmarks/prefill.py --lengths 512,2K,8K
    python benchmarks/prefill.py --queries 4,64 --dtypes float32

One layer's attention of --queries tokens over so many keys: `full`, every query sees every key, as
the parts of Dual Chunk Attention before a query's own chunk; `causal`, the last query sees the last
key. GFLOP/s count the pairs that are seen, two products each; the ceiling is `a @ b` of 1024 x 1024
in float32. Kernels and ceiling are interleaved; a figure is the median of --rounds, in CPU time of
the process where there is one thread, else by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

from decode import KERNELS, interleaved, parse_length

SHAPES = {"7B": (28, 4, 128), "0.5B": (14, 2, 64), "135M": (9, 3, 64)}  # heads, key heads, head_dim
WORK = 5e9  # FLOP of a timing, at least
CEILING = 1024


def chunk(
    name: str, queries: int, keys: int, causal: bool, dtype_name: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One call of each kernel."""
    import torch

    from longctx.attention import kernels

    torch.manual_seed(0)
    heads, kv_heads, dim = SHAPES[name]
    dtype = getattr(torch, dtype_name)
    q_BHLD = torch.randn(1, queries, heads, dim).transpose(1, 2).to(dtype)
    k_BKMD, v_BKMD = torch.randn(2, 1, kv_heads, keys, dim).to(dtype)
    a, b = torch.randn(2, CEILING, CEILING)

    def arm(kernel_name: str) -> Callable[[], Any]:
        kernel = kernels.resolve(kernel_name, q_BHLD.device, dtype)
        return lambda: kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=dim**-0.5)

    unseen = queries * (queries - 1) // 2 if causal else 0
    flops = dict.fromkeys(KERNELS, 4.0 * heads * dim * (queries * keys - unseen))
    flops["matmul"] = 2.0 * CEILING**3
    arms = {"matmul": lambda: a @ b, **{kernel: arm(kernel) for kernel in KERNELS}}
    times = interleaved(arms, options.rounds, max(1, round(WORK / flops["native"])))
    clock = "cpu_s" if options.threads == 1 else "wall_s"  # others' work is in the wall's
    return {
        **{"shape": name, "queries": queries, "keys": keys, "causal": causal, "dtype": dtype_name},
        "times": times,
        "gflops": {arm: flops[arm] / each[clock] / 1e9 for arm, each in times.items()},
    }


def print_row(row: dict[str, Any]) -> None:
    speeds, mask = row["gflops"], "causal" if row["causal"] else "full"
    print(
        f"{row['dtype']:9} {row['shape']:>5} {row['queries']:>5} x {row['keys']:<6} {mask:6}"
        f"  native {speeds['native']:6.1f}  torch_cpu {speeds['torch_cpu']:6.1f} GFLOP/s"
        f"  {speeds['native'] / speeds['torch_cpu']:5.2f} x"
        f"  {speeds['native'] / speeds['matmul']:.2f} of matmul's {speeds['matmul']:.1f}",
        flush=True,
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", default="512")
    parser.add_argument("--lengths", default="512,2K,8K", help="keys, K = 1024")
    parser.add_argument("--shapes", default="7B,0.5B,135M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--masks", default="full,causal", help="of full, causal")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(part) for part in options.lengths.split(",")]
    options.queries = [parse_length(part) for part in options.queries.split(",")]
    for name in ("shapes", "masks", "dtypes"):
        setattr(options, name, getattr(options, name).split(","))
    unknown = [name for name in options.shapes if name not in SHAPES]
    unknown += [name for name in options.masks if name not in ("full", "causal")]
    unknown += [name for name in options.dtypes if name not in ("float32", "bfloat16")]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


def main() -> None:
    options = parse()
    import torch

    from longctx.attention import cpu, kernels

    torch.set_num_threads(options.threads)
    reason = kernels.get("native").unavailable(torch.device("cpu"), torch.float32)
    if reason is not None:
        sys.exit(f"native {reason}")
    results = []
    with torch.inference_mode():
        for dtype in options.dtypes:
            for shape in options.shapes:
                for queries in options.queries:
                    for keys in options.lengths:
                        for mask in options.masks:
                            if mask == "causal" and queries > keys:
                                continue
                            row = chunk(shape, queries, keys, mask == "causal", dtype, options)
                            results.append(row)
                            if not options.json:
                                print_row(row)
    if options.json:
        about = {"processor": cpu.describe(), "threads": options.threads}
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
