"""Decode attention by each CPU kernel, beside what the same machine reads from memory meanwhile.

    python benchmarks/decode.py --lengths 8K,16K,64K
    python benchmarks/decode.py --model models/smollm2-135m --lengths 2K,8K

One layer's attention of one step, through `longctx.attention.step` as the engine calls it: --rows
sequences, a token each, over keys and values that lie side by side, under Dual Chunk Attention. The
ceiling is `sum()` over as many bytes of keys and values, which does nothing else with them. With
--model it is a whole decode step of an engine, prompts of so many tokens, and no ceiling. Kernels
and ceiling are interleaved; a figure is the median of --rounds, in CPU time of the process and by
the wall clock. GB/s go by CPU time where there is one thread, else by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

KERNELS = ("native", "torch_cpu")
BYTES = 64 << 20  # read by the calls of one timing, at least


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def interleaved(
    arms: dict[str, Callable[[], Any]], rounds: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Median seconds of a call of each arm: CPU, wall, and the wall's spread."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for call in arms.values():
        call()
    for turn in range(rounds):
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                arms[name]()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            times[name].append((spent[0] / repeats, spent[1] / repeats))
    found = {}
    for name, pairs in times.items():
        cpus, walls = zip(*pairs, strict=True)
        spread = max(walls) - min(walls)
        middle = {"cpu_s": statistics.median(cpus), "wall_s": statistics.median(walls)}
        found[name] = {**middle, "wall_spread_s": spread}
    return found


def drawn(shape: tuple[int, ...], dtype: Any) -> Any:
    """Random keys or values; int8: rows with their scales."""
    import torch

    from longctx.attention.int8_keys import round_into, row_bytes

    x = torch.randn(shape)
    if dtype != torch.int8:
        return x.to(dtype)
    rows = torch.empty(*shape[:-1], row_bytes(shape[-1]), dtype=dtype)
    round_into(rows, x)
    return rows


def attention(
    length: int, rows: int, dtype_name: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One layer."""
    import torch

    from longctx.attention import ChunkMap, kernels
    from longctx.attention.chunks import Turns
    from longctx.attention.kernels.in_int8 import InInt8
    from longctx.attention.rope import base_inv_freq
    from longctx.attention.step import Run, StepRow, attend_step, plan_step

    torch.manual_seed(0)
    kept = getattr(torch, dtype_name)
    dtype = torch.float32 if kept == torch.int8 else kept  # of queries
    heads, kv_heads, dim = options.heads, options.kv_heads, options.head_dim
    keys, values = (
        [drawn((1, kv_heads, length, dim), kept) for _ in range(rows)] for _ in range(2)
    )
    q_BHLD = torch.randn(1, heads, rows, dim).to(dtype)
    turns = Turns(ChunkMap(options.chunk_size, options.local_size), base_inv_freq(1e6, dim))
    plan = plan_step(
        [
            StepRow(length - 1, 1, (Run(at, 0, length, 0),), columns=slice(at, at + 1))
            for at in range(rows)
        ],
        turns,
    )
    scale = dim**-0.5

    def arm(name: str) -> Callable[[], Any]:
        kernel: Any = kernels.resolve(name, q_BHLD.device, dtype)
        if kept == torch.int8:
            kernel = InInt8(kernel)
        return lambda: attend_step(plan, q_BHLD, keys, values, kernel, scale)

    size = sum(x.nbytes for x in (*keys, *values))
    # As float32 whatever they are: a sum of bf16 is bound by its arithmetic.
    flat = [x.flatten()[: x.nbytes // 4 * 4 // x.itemsize] for x in (*keys, *values)]
    flat = [x.view(torch.float32) for x in flat]
    arms = {"memory": lambda: [x.sum() for x in flat], **{name: arm(name) for name in KERNELS}}
    repeats = max(1, BYTES // size)
    times = interleaved(arms, options.rounds, repeats)
    row: dict[str, Any] = {"length": length, "rows": rows, "dtype": dtype_name, "bytes": size}
    row["times"] = times
    clock = "cpu_s" if options.threads == 1 else "wall_s"  # others' work is in the wall's
    row["gb_s"] = {name: size / each[clock] / 1e9 for name, each in times.items()}
    return row


def step(length: int, rows: int, dtype_name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of an engine, both kernels' engines taking turns with the model."""
    import torch

    from longctx.attention import resolve
    from longctx.engine import Engine, EngineRequest
    from longctx.models.source import load_config, load_model, load_tokenizer, locate

    source = locate(options.model)
    config = load_config(source)
    kept = getattr(torch, dtype_name)
    computed = torch.float32 if kept == torch.int8 else kept
    model = load_model(source, config, computed, "cpu")
    tokenizer = load_tokenizer(source)
    scheme = resolve(config, "yarn+dca")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 1000, (rows, length), generator=generator).tolist()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in KERNELS}
    answers: dict[str, list[list[int]]] = {}
    for turn in range(options.rounds):
        for name in KERNELS[:: 1 if turn % 2 == 0 else -1]:
            told: list[list[int]] = [[] for _ in prompts]

            def heard(event: Any, at: int, told: list[list[int]] = told) -> None:
                told[at].extend(getattr(event, "token_ids", ()))

            asked = {"max_new_tokens": options.tokens, "ignore_eos": True}
            settings = {"kernel": name, "max_context": length + 64, "prompts_first": True}
            settings["speculate"] = "off"  # a token a step
            settings["kv_dtype"] = kept
            with Engine(model, tokenizer, scheme, **settings) as engine:
                for at, ids in enumerate(prompts):
                    engine.submit(EngineRequest(ids, **asked), partial(heard, at=at))
                while not all(told):
                    engine.step()
                while any(len(tokens) < options.tokens for tokens in told):
                    cpu, wall = time.process_time(), time.perf_counter()
                    engine.step()
                    times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
            answers[name] = told
    row: dict[str, Any] = {"length": length, "rows": rows, "dtype": dtype_name}
    row["same_answers"] = answers["native"] == answers["torch_cpu"]
    row["times"] = {
        name: {
            "cpu_s": statistics.median(cpu for cpu, _ in each),
            "wall_s": statistics.median(wall for _, wall in each),
        }
        for name, each in times.items()
    }
    return row


def print_row(row: dict[str, Any]) -> None:
    native, torch_cpu = (row["times"][name] for name in KERNELS)
    line = f"{row['dtype']:9} {row['length']:>6} x{row['rows']:<2} "
    for name in KERNELS:
        line += f" {name} {row['times'][name]['wall_s'] * 1e3:8.2f} ms"
        line += f" (cpu {row['times'][name]['cpu_s'] * 1e3:8.2f})"
    line += f"  {torch_cpu['cpu_s'] / native['cpu_s']:5.2f} x"
    if "gb_s" in row:
        speeds = row["gb_s"]
        line += f"  {speeds['native']:5.1f} of {speeds['memory']:5.1f} GB/s"
        line += f": {speeds['native'] / speeds['memory']:.2f}"
    else:
        line += f"  same answers: {'yes' if row['same_answers'] else 'no'}"
    print(line, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="8K,16K,64K", help="tokens, K = 1024")
    parser.add_argument("--rows", default="1,8", help="sequences of a step")
    parser.add_argument(
        "--dtypes", default="float32,bfloat16,int8", help="int8: of keys and values, over float32"
    )
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--chunk-size", type=parse_length, default="7K")
    parser.add_argument("--local-size", type=parse_length, default="1K")
    parser.add_argument("--model", help="a directory: whole steps of its engine")
    parser.add_argument("--tokens", type=int, default=9, help="of each answer, with --model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(part) for part in options.lengths.split(",")]
    options.rows = [int(part) for part in options.rows.split(",")]
    options.dtypes = options.dtypes.split(",")
    return options


def main() -> None:
    options = parse()
    import torch

    from longctx.attention import cpu, kernels

    reason = kernels.get("native").unavailable(torch.device("cpu"), torch.float32)
    if reason is not None:
        sys.exit(f"native {reason}")
    torch.set_num_threads(options.threads)
    results = []
    with torch.inference_mode():
        for dtype in options.dtypes:
            for length in options.lengths:
                for rows in options.rows:
                    measured = step if options.model else attention
                    results.append(measured(length, rows, dtype, options))
                    if not options.json:
                        print_row(results[-1])
    if options.json:
        about = {"processor": cpu.describe(), "threads": options.threads, "model": options.model}
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
