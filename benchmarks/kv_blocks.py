"""How a sequence's blocks of keys may lie: side by side, scattered, gathered, or in a few runs.

    python benchmarks/kv_blocks.py --lengths 2K,16K --blocks 16,64,256

One layer's attention of one step, through `longctx.attention.step` as the engine calls it, on a
CPU: a decoded token of one sequence, of --rows sequences, and a block of --prompt tokens of a
prompt, behind so many stored ones. The blocks of a table lie in random order; `gather` copies them
side by side first; `runs of N` are N tokens long. The figure is the best of --rounds, interleaved,
and its ratio to keys that lie side by side.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

TOKENS_OF_A_RUN = 1024


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def cases(options: argparse.Namespace) -> dict[str, tuple[int, int]]:
    """Sequences, and the queries of each."""
    return {
        "decode": (1, 1),
        f"decode x{options.rows}": (options.rows, 1),
        f"prompt of {options.prompt}": (1, options.prompt),
    }


def arm(
    length: int, rows: int, queries: int, block: int, gather: bool, options: argparse.Namespace
) -> Callable[[], Any]:
    """One layer's attention; `block` 0: side by side."""
    import torch

    from longctx.attention.kernels import get
    from longctx.attention.rows import paged
    from longctx.attention.step import Run, StepRow, attend_step, plan_step

    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    heads, kv_heads, dim = options.heads, options.kv_heads, options.head_dim
    whole = length + queries
    pitch = -(-whole // max(block, 1)) * max(block, 1)
    k_1KMD, v_1KMD = torch.randn(2, 1, kv_heads, rows * pitch, dim, dtype=dtype)
    q_1HTD = torch.randn(1, heads, rows * queries, dim, dtype=dtype)
    kernel, scale = get("torch_cpu"), dim**-0.5
    tables: list[list[int]] = []
    if block:
        numbers = list(range(rows * pitch // block))
        random.Random(0).shuffle(numbers)
        each = pitch // block
        tables = [numbers[at * each : (at + 1) * each] for at in range(rows)]
    found = []
    for at in range(rows):
        runs = (Run(0, 0, whole, at * pitch),)
        if block and not gather:
            runs = paged(tables[at], block, whole)
        columns = slice(at * queries, (at + 1) * queries)
        found.append(StepRow(length, queries, runs, columns=columns))
    plan = plan_step(found)
    slots = [number * block + n for table in tables for number in table for n in range(block)]
    index_M = torch.tensor(slots)

    def run() -> Any:
        keys, values = [k_1KMD], [v_1KMD]
        if gather:
            keys, values = ([x.index_select(2, index_M)] for x in (k_1KMD, v_1KMD))
        return attend_step(plan, q_1HTD, keys, values, kernel, scale)

    return run


def measure(length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    results = []
    for case, (rows, queries) in cases(options).items():
        ways = {"side by side": (0, False), f"runs of {TOKENS_OF_A_RUN}": (TOKENS_OF_A_RUN, False)}
        ways |= {f"table of {block}": (block, False) for block in options.blocks}
        ways[f"gather of {options.blocks[0]}"] = (options.blocks[0], True)
        arms = {name: arm(length, rows, queries, *way, options) for name, way in ways.items()}
        best = dict.fromkeys(arms, float("inf"))
        with torch.inference_mode():
            for run in arms.values():
                run()
            for _ in range(options.rounds):
                for name, run in arms.items():
                    began = time.process_time()
                    run()
                    best[name] = min(best[name], time.process_time() - began)
        for name, seconds in best.items():
            ratio = seconds / best["side by side"]
            row = {"length": length, "case": case, "keys": name, "ms": round(1e3 * seconds, 3)}
            results.append(row | {"ratio": round(ratio, 2)})
            if not options.json:
                print(f"{length:>7} {case:16} {name:14} {1e3 * seconds:9.3f} ms {ratio:6.2f}x")
    return results


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="2K,16K", help="stored tokens, K = 1024")
    parser.add_argument("--blocks", default="16,64,256", help="tokens of a block")
    parser.add_argument("--rows", type=int, default=8, help="sequences that decode together")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt's block")
    parser.add_argument("--heads", type=int, default=14)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(text) for text in options.lengths.split(",")]
    options.blocks = [int(text) for text in options.blocks.split(",")]
    if min(options.blocks + options.lengths + [options.rows, options.prompt]) < 1:
        parser.error("lengths, blocks, rows and prompt are at least 1")
    return options


def main() -> None:
    options = parse()
    import torch

    torch.set_num_threads(1)
    results = [row for length in options.lengths for row in measure(length, options)]
    if options.json:
        print(json.dumps({"about": vars(options), "results": results}))


if __name__ == "__main__":
    main()
