"""Prompts and tokens of an engine over keys and values in int8, beside the same over float32.

    python benchmarks/int8_keys.py --lengths 2K,8K
    python benchmarks/int8_keys.py --model models/smollm2-135m --json

Each engine reads a prompt of random tokens, then answers with --tokens tokens. Engines take turns;
a figure is the median of --rounds, in CPU time of the process where there is one thread, else by
the wall clock. Without --model the model is a random one of --layers layers of SmolLM2-135M's shape
and a small vocabulary. The last line is rounding alone: keys of one token of one layer, in C and in
torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

from decode import interleaved, parse_length

KEPT = ("float32", "int8")


def random_model(layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def answered(model: Any, kept: str, prompt: list[int], tokens: int, clock: Any) -> tuple[Any, ...]:
    """Seconds of the prompt, seconds of each token behind the first, and the tokens."""
    import torch

    from longctx.attention import resolve
    from longctx.engine import Engine, EngineRequest

    told: list[int] = []

    def heard(event: Any) -> None:
        told.extend(getattr(event, "token_ids", ()))

    settings = {"kv_dtype": getattr(torch, kept), "max_context": len(prompt) + tokens + 64}
    scheme = resolve(model.config, "none")
    with Engine(model, None, scheme, kernel="native", speculate="off", **settings) as engine:
        request = EngineRequest(prompt, max_new_tokens=tokens, ignore_eos=True)
        began = clock()
        engine.submit(request, heard)
        while not told:
            engine.step()
        read, each = clock() - began, []
        while len(told) < tokens:
            began = clock()
            engine.step()
            each.append(clock() - began)
    return read, each, told


def compared(model: Any, length: int, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    clock = time.process_time if options.threads == 1 else time.perf_counter
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(10, 1000, (length,), generator=generator).tolist()
    reads: dict[str, list[float]] = {kept: [] for kept in KEPT}
    tokens: dict[str, list[float]] = {kept: [] for kept in KEPT}
    answers = {}
    for turn in range(options.rounds):
        for kept in KEPT[:: 1 if turn % 2 == 0 else -1]:
            read, each, answers[kept] = answered(model, kept, prompt, options.tokens, clock)
            reads[kept].append(read)
            tokens[kept].extend(each)
    row: dict[str, Any] = {"length": length, "same_answers": answers["float32"] == answers["int8"]}
    for name, found in (("prompt", reads), ("token", tokens)):
        middle = {kept: statistics.median(each) for kept, each in found.items()}
        row[name] = {**middle, "ratio": middle["int8"] / middle["float32"]}
    return row


def rounding(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds, CPU time, of the 3 keys of 64 of a token; `torch` outside of the library."""
    import torch

    from longctx.attention.int8_keys import round_into, row_bytes

    x_KLD = torch.randn(1, 3, 64).transpose(0, 1)
    rows_KLR = torch.empty(3, 1, row_bytes(64), dtype=torch.int8)

    def arm(inference: bool) -> Callable[[], None]:
        def call() -> None:
            with torch.inference_mode(inference), torch.no_grad():
                for _ in range(100):
                    round_into(rows_KLR, x_KLD)

        return call

    times = interleaved({"native": arm(True), "torch": arm(False)}, 5 * options.rounds, 1)
    return {name: each["cpu_s"] * 1e4 for name, each in times.items()}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="2K,8K", help="tokens, K = 1024")
    parser.add_argument("--model", help="a directory, computed in float32; default: a random one")
    parser.add_argument("--layers", type=int, default=4, help="of the random model")
    parser.add_argument("--tokens", type=int, default=33, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(part) for part in options.lengths.split(",")]
    return options


def main() -> None:
    options = parse()
    import torch

    from longctx.attention import cpu, kernels

    reason = kernels.get("native").unavailable(torch.device("cpu"), torch.float32)
    if reason is not None:
        sys.exit(f"native {reason}")
    torch.set_num_threads(options.threads)
    if options.model:
        from longctx.models.source import load_config, load_model, locate

        source = locate(options.model)
        model = load_model(source, load_config(source), torch.float32, "cpu")
    else:
        model = random_model(options.layers)
    results = []
    for length in options.lengths:
        row = compared(model, length, options)
        results.append(row)
        if options.json:
            continue
        for name in ("prompt", "token"):
            each = row[name]
            print(
                f"{name:6} {length:>6}  float32 {each['float32'] * 1e3:10.2f} ms"
                f"  int8 {each['int8'] * 1e3:10.2f} ms  {each['ratio']:5.2f} x",
                flush=True,
            )
    rounded = rounding(options)
    if options.json:
        about = {"processor": cpu.describe(), "threads": options.threads, "model": options.model}
        print(json.dumps({"about": about, "results": results, "rounding_us": rounded}))
    else:
        print(f"rounding      C {rounded['native']:5.1f} us  torch {rounded['torch']:5.1f} us")


if __name__ == "__main__":
    main()
