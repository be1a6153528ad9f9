"""A column of needle prompts with and without shared prefill, and of prompts that share no text.

    python benchmarks/prefix_sharing.py --length 8K
    python benchmarks/prefix_sharing.py --model models/smollm2-135m --methods dca --json

The prompts of a column are random tokens that differ in where a needle stands; each asks for one
token, so that prefill is all there is. `with` and `without` sharing are the same prompts, as of
`longctx needle --shared-texts`; `own` are as many with a text each, the command's default. Arms are
interleaved; the figure is a ratio of minima over the pairs, in process CPU time with one thread,
with wall clock beside it. Beside it stands the bound of the grid: the sum of work(L) over that of
work(L, cached), by the formula of longctx/eval/estimate.py, and the same for linear layers and for
attention alone. The bound takes both kinds of work as equally fast. The model is a random one
without --model; always on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

TARGET = 0.9  # share of the bound that is to be reached
HEAD, NEEDLE, TAIL = 16, 24, 24  # tokens of introduction, needle, question


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def random_model(options: argparse.Namespace) -> Any:
    """A random Qwen2 trained on a quarter of the length, so that DCA has chunks to do."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = max(1, options.hidden // 64)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=math.gcd(heads, 2),
        max_position_embeddings=max(64, options.length // 4),
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(getattr(torch, options.dtype)).eval()


def load(options: argparse.Namespace) -> Any:
    import torch

    from longctx.models.source import load_config, load_model, locate

    if options.model is None:
        return random_model(options)
    source = locate(options.model)
    config = load_config(source)
    return load_model(source, config, getattr(torch, options.dtype), "cpu")


def column(
    length: int, depths: list[float], vocabulary: int, *, own: bool = False
) -> tuple[list[list[int]], list[int]]:
    """Prompts in ascending depth, and how many tokens each has in common with the one before.

    With `own` texts that is the introduction alone. Needle tokens come from the upper half of the
    vocabulary and the others from the lower one: what two neighbours share ends exactly where the
    first needle begins.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    half = vocabulary // 2

    def draw(count: int, low: int, high: int) -> list[int]:
        return list(torch.randint(low, high, (count,), generator=generator).tolist())

    text, needle = draw(length - NEEDLE, 0, half), draw(NEEDLE, half, vocabulary)
    texts = [text] + [
        text[:HEAD] + draw(len(text) - HEAD, 0, half) if own else text for _ in depths[1:]
    ]
    room = length - HEAD - NEEDLE - TAIL
    places = [HEAD + round(room * depth / 100) for depth in depths]
    prompts = [one[:place] + needle + one[place:] for one, place in zip(texts, places, strict=True)]
    return prompts, [0, *places[:-1]] if not own else [0] * len(places)


def bounds(shape: Any, length: int, cached: list[int]) -> dict[str, float]:
    """The most that sharing can bring: work of all prompts over work of what is not cached."""
    from longctx.eval.estimate import work

    def ratio(shape: Any) -> float:
        alone = work(shape, length, 0) * len(cached)
        return round(alone / sum(work(shape, length, 0, tokens) for tokens in cached), 4)

    return {
        "bound": ratio(shape),
        "bound_linear": ratio(replace(shape, heads=0, kv_heads=0)),
        "bound_attention": ratio(replace(shape, hidden=0)),
    }


def run_method(model: Any, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Minimum CPU and wall seconds of the column, arms interleaved."""
    from longctx.attention import resolve
    from longctx.eval.protocol import Request
    from longctx.models.served import Asking, ServedSession
    from longctx.models.source import shape_of

    length = options.length
    prompts, common = column(length, options.depths, model.config.vocab_size)
    apart, _ = column(length, options.depths, model.config.vocab_size, own=True)
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": [], "own": []}
    scheme = resolve(model.config, method, request_length=length)
    sessions = {
        name: ServedSession(
            model,
            None,
            scheme,
            Asking("auto", length + 1, options.prefill_chunk, prefix_sharing=name != "without"),
        )
        for name in times
    }
    asked = {
        name: [Request(ids, 1, length) for ids in (apart if name == "own" else prompts)]
        for name in times
    }

    def ask(name: str) -> None:
        """One column, from an empty engine as each column of a sweep."""
        with sessions[name] as session:
            cpu, wall = time.process_time(), time.perf_counter()
            answers = [answer for _, answer in session.answers(asked[name])]
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
        cached = sum(answer.cached_tokens for answer in answers)
        if cached < (0.99 * sum(common) if name == "with" else 0):
            raise RuntimeError(f"{method} {name} sharing took {cached} tokens from the cache")

    for pair in range(-1, options.pairs):  # the first one warms up
        for name in list(times)[:: 1 if pair % 2 == 0 else -1]:
            ask(name)
    best = {
        name: [min(each) for each in zip(*rows[1:], strict=True)] for name, rows in times.items()
    }
    ratio_cpu, ratio_wall = (best["without"][at] / best["with"][at] for at in (0, 1))
    own_cost = best["own"][0] / best["with"][0]
    found = bounds(shape_of(model.config), length, common)
    return {
        "method": method,
        "length": length,
        "depths": options.depths,
        "cpu_s": {name: round(pair[0], 4) for name, pair in best.items()},
        "wall_s": {name: round(pair[1], 4) for name, pair in best.items()},
        "ratio_cpu": round(ratio_cpu, 4),
        "ratio_wall": round(ratio_wall, 4),
        **found,
        "reached": round(ratio_cpu / found["bound"], 4),
        "own_texts_cost": round(own_cost, 4),
        "pairs": options.pairs,
    }


def print_row(row: dict[str, Any]) -> None:
    cpu, mark = row["cpu_s"], "ok" if row["reached"] >= TARGET else "BELOW"
    print(
        f"{row['method']:8} {row['length']:>7}  {len(row['depths'])} depths  "
        f"without {cpu['without']:8.2f} s  with {cpu['with']:8.2f} s  "
        f"ratio {row['ratio_cpu']:.3f} (wall {row['ratio_wall']:.3f})  "
        f"bound {row['bound']:.3f} (linear {row['bound_linear']:.3f}, "
        f"attention {row['bound_attention']:.3f})  {row['reached']:.2f} of it, >= {TARGET} {mark}  "
        f"own texts {cpu['own']:8.2f} s, {row['own_texts_cost']:.3f} x",
        flush=True,
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from longctx.attention import METHODS
    from longctx.eval.needle.config import parse_depths

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory; a random model by default")
    parser.add_argument("--length", type=parse_length, default="4K", help="tokens, K = 1024")
    parser.add_argument("--depths", type=parse_depths, default="11", help="percent, or how many")
    parser.add_argument("--methods", default="none,dca", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--prefill-chunk", type=parse_length, default="2K")
    parser.add_argument("--layers", type=int, default=4, help="of the random model")
    parser.add_argument("--hidden", type=int, default=512, help="of the random model")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--pairs", type=int, default=3, help="interleaved A/B pairs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.methods, options.depths = options.methods.split(","), list(options.depths)
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if options.length < 2 * (HEAD + NEEDLE + TAIL):
        parser.error(f"--length {options.length}: too short for a needle in a text")
    return options


def main() -> None:
    options = parse()
    import torch

    torch.set_num_threads(options.threads)
    model = load(options)
    results = []
    for method in options.methods:
        results.append(run_method(model, method, options))
        if not options.json:
            print_row(results[-1])
    if options.json:
        about = {
            "machine": platform.machine(),
            "model": options.model or f"random, {options.layers} layers of {options.hidden}",
            "threads": options.threads,
            "dtype": options.dtype,
            "prefill_chunk": options.prefill_chunk,
        }
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
