"""The serving engine against transformers' own generate: same model, same prompts, one run.

    python benchmarks/serving.py --lengths 2K,8K
    python benchmarks/serving.py --model random --lengths 512 --json
    python benchmarks/serving.py --dtype bfloat16 --threads 2 --methods none,yarn+dca --gguf M.gguf
    python benchmarks/serving.py --quantize int8 --requests 4 --gguf M-Q8_0.gguf --rounds 5

Arms, for every length: generate with sdpa, the engine under each method; both with one request and
with --requests at once (generate gets them as one batch of equal lengths, its best case); and the
engine with as many questions about one document. With --quantize int8 the engine under each method
once more, on weights of bytes; with --kv-dtype once more, on keys and values in that. Where they
are installed and asked for, llama.cpp (--gguf, with a sequence for each request) and vLLM (--vllm).
Prompts are random tokens.

Prefill is prompt tokens over the time until all have their first token, by the best round; decode
is tokens of all requests per second, by the fastest step, which neighbours on the machine disturb
least; p50 and p99 are over all steps of all rounds, and over all requests' first tokens. Time is
CPU time of the process on a CPU with one thread, and wall clock otherwise. Arms are interleaved.
Memory is the peak of the process above what it held before (of the device, on CUDA).

On a CPU the machine's ceilings are measured first (serving_ceilings.py), and each row says what
share of its floor it reaches: the time that its work would take at these, over the time it took.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

import serving_arms
import serving_ceilings
import serving_llama
from serving_arms import TAIL, Peak, Run

PLAIN, LLAMA, INT8, KEYS = "generate", "llama.cpp", " int8", ", keys "


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def load(options: argparse.Namespace, quantize: str = "none") -> Any:
    import torch

    from longctx.models import quantize as quantizing

    dtype = getattr(torch, options.dtype)
    if options.model != "random":
        from longctx.models.source import load_config, locate

        source = locate(options.model)
        config, device = load_config(source), options.device
        return quantizing.load(source, config, dtype, device, quantize, device)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=1024, max_position_embeddings=32768, **sizes, **heads)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(options.device, dtype).eval()
    if quantize != "none":
        quantizing.round_linears(model)
    return model


def clock_of(options: argparse.Namespace) -> serving_arms.Clock:
    one = options.device == "cpu" and options.threads == 1
    return time.process_time if one else time.perf_counter


def prompts_of(count: int, length: int, vocabulary: int, *, document: bool) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, vocabulary, (count, length), generator=generator)
    if document:
        rows[1:, : length - TAIL] = rows[0, : length - TAIL].clone()
    return rows.tolist()


def arms_of(
    model: Any, int8: Any, gguf: Any, length: int, options: argparse.Namespace
) -> dict[tuple[str, int], Any]:
    """What is compared at one length: (arm, requests) -> (what opens it, prompts).

    `int8` is the model in bytes, `gguf` what llama.cpp has loaded; or None."""
    many, vocabulary = options.requests, model.config.vocab_size
    one = prompts_of(1, length, vocabulary, document=False)
    several = prompts_of(many, length, vocabulary, document=False)
    questions = prompts_of(many, length, vocabulary, document=True)
    clock, tokens, context = clock_of(options), options.tokens, length + options.tokens
    plain = partial(serving_arms.generate, model, clock, tokens)

    def engine(method: str, of: Any = model, kv_dtype: str | None = None) -> Any:
        opened = partial(serving_arms.engine, of, clock, tokens, method)
        return partial(opened, options.chunk_budget, context, kv_dtype)

    def engines(prompts: list[list[int]]) -> dict[tuple[str, int], Any]:
        made = [(f"engine {method}", engine(method)) for method in options.methods]
        if int8 is not None:
            made += [(f"engine {each}{INT8}", engine(each, int8)) for each in options.methods]
        if options.kv_dtype:
            of, behind = (model, "") if int8 is None else (int8, INT8)
            made += [
                (
                    f"engine {each}{behind}{KEYS}{options.kv_dtype}",
                    engine(each, of, options.kv_dtype),
                )
                for each in options.methods
            ]
        return {(name, len(prompts)): (opened, prompts) for name, opened in made}

    arms: dict[tuple[str, int], Any] = {(PLAIN, 1): (plain, one)}
    arms.update(engines(one))
    llama = partial(serving_llama.llama_cpp, gguf, clock, tokens, options.threads, context)
    if gguf is not None:
        arms[LLAMA, 1] = (partial(llama, 1), one)
    if options.vllm:
        made = partial(serving_arms.vllm, options.model, options.dtype, clock, tokens, context)
        arms["vllm", 1] = (made, one)
    if many > 1:
        arms[PLAIN, many] = (plain, several)
        arms.update(engines(several))
        first = options.methods[0]
        arms[f"engine {first}, one document", many] = (engine(first), questions)
        if gguf is not None:
            arms[LLAMA, many] = (partial(llama, many), several)
        if options.vllm:
            arms["vllm", many] = (made, several)
    return arms


def run_length(
    model: Any, int8: Any, gguf: Any, length: int, options: argparse.Namespace, ceilings: Any
) -> list[dict[str, Any]]:
    arms = arms_of(model, int8, gguf, length, options)
    runs: dict[tuple[str, int], list[Run]] = {name: [] for name in arms}
    peaks: dict[tuple[str, int], list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, (opened, prompts) in arms.items():
            with Peak(options.device) as peak, opened() as run:
                runs[name].append(run(prompts))
            if peak.mib is not None:
                peaks[name].append(peak.mib)
    best = {name: min(max(run.first) for run in found) for name, found in runs.items()}
    step = {name: min(min(run.steps) for run in found) for name, found in runs.items()}
    rows = []
    for (arm, count), found in runs.items():
        name, plain = (arm, count), (PLAIN, count)
        firsts = [second for run in found for second in run.first]
        steps = [second for run in found for second in run.steps]
        seconds = [run.second for run in found if run.second is not None]
        ours = PLAIN in arm or "engine" in arm
        floors = (None, None)
        if ceilings is not None and ours and "document" not in arm:
            of = int8 if arm.partition(KEYS)[0].endswith(INT8) else model
            kept = arm.partition(KEYS)[2] or options.dtype
            floors = (
                count * serving_ceilings.prefill_floor(of, length, ceilings, int8=of is int8),
                serving_ceilings.step_floor(of, length, count, ceilings, kept),
            )
        same = arm == "engine none" and found[-1].answers == runs[plain][-1].answers
        rows.append(
            {
                "arm": arm,
                "requests": count,
                "length": length,
                "first_token_s": round(best[name], 4),
                "rounds": [
                    {"first_token_s": max(run.first), "step_s": quantile(run.steps, 0.5)}
                    for run in found
                ],
                "first_token_p50_s": round(quantile(firsts, 0.5), 4),
                "first_token_p99_s": round(quantile(firsts, 0.99), 4),
                "second_question_s": round(min(seconds), 4) if seconds else None,
                "prefill_tok_s": round(count * length / best[name], 1),
                "decode_tok_s": round(count / step[name], 2),
                "step_p50_ms": round(1e3 * quantile(steps, 0.5), 2),
                "step_p99_ms": round(1e3 * quantile(steps, 0.99), 2),
                "prefill_floor": None if floors[0] is None else round(floors[0] / best[name], 3),
                "decode_floor": None if floors[1] is None else round(floors[1] / step[name], 3),
                "peak_mib": min(peaks[name], default=None),
                "prefill_ratio": round(best[plain] / best[name], 3),
                "decode_ratio": round(step[plain] / step[name], 3),
                "decode_ratio_one": round(count / step[name] * step[PLAIN, 1], 3),
                "same_tokens": same if arm == "engine none" else None,
            }
        )
    return rows


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so many of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def print_row(row: dict[str, Any]) -> None:
    second = row["second_question_s"]
    again = f", again {second:.2f} s ({second / row['first_token_s']:.1%})" if second else ""
    print(
        f"{row['length']:>7} x {row['requests']:<3} {row['arm']:26} "
        f"first token {row['first_token_s']:.2f} s{again}; "
        f"prefill {row['prefill_tok_s']:.1f} tok/s ({row['prefill_ratio']:.2f}x); "
        f"decode {row['decode_tok_s']:.2f} tok/s ({row['decode_ratio']:.2f}x; "
        f"{row['decode_ratio_one']:.2f}x one generate), "
        f"step p50 {row['step_p50_ms']:.1f} p99 {row['step_p99_ms']:.1f} ms; "
        f"peak {row['peak_mib']} MiB"
        + (
            f"; of the floor {row['prefill_floor']:.2f} in prefill, {row['decode_floor']:.2f} in "
            "decode"
            if row["prefill_floor"] is not None
            else ""
        ),
        flush=True,
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from longctx.attention import METHODS
    from longctx.options.engine import EngineSettings
    from longctx.options.shared import QUANTIZE

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2-135m", help="directory, or `random`")
    parser.add_argument("--lengths", default="2K", help="tokens of a prompt, K = 1024")
    parser.add_argument("--requests", type=int, default=8, help="at once, in the second arms")
    parser.add_argument("--tokens", type=int, default=16, help="decoded per request")
    parser.add_argument("--methods", default="none", help=f"of the engine: {', '.join(METHODS)}")
    parser.add_argument("--chunk-budget", type=parse_length, default=EngineSettings.chunk_budget)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gguf", type=Path, help="the same model as a file for llama.cpp")
    parser.add_argument("--quantize", default="none", choices=QUANTIZE, help="int8: its arms too")
    parser.add_argument(
        "--kv-dtype",
        choices=["bfloat16", "int8"],
        help="an arm with keys in it, on int8 weights too",
    )
    parser.add_argument("--vllm", action="store_true", help="vLLM on the same directory")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(text) for text in options.lengths.split(",")]
    options.methods = options.methods.split(",")
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"--methods {', '.join(unknown)}: choose from {', '.join(METHODS)}")
    if options.tokens < 4:
        parser.error(f"--tokens {options.tokens}: at least 4, or there is no step to time")
    if min(options.lengths) <= TAIL:
        parser.error(f"--lengths {min(options.lengths)}: longer than a question of {TAIL} tokens")
    for flag, wanted, package in (
        ("--gguf", options.gguf, "llama_cpp"),
        ("--vllm", options.vllm, "vllm"),
    ):
        if wanted and find_spec(package) is None:
            parser.error(f"{flag}: {package} is not installed")
    return options


def main() -> None:
    options = parse()
    import torch

    torch.set_num_threads(options.threads)
    model = load(options)
    int8 = None if options.quantize == "none" else load(options, options.quantize)
    gguf = None if options.gguf is None else serving_llama.load(options.gguf)
    ceilings = None
    if options.device == "cpu":
        clock, dtype = clock_of(options), getattr(torch, options.dtype)
        ceilings = serving_ceilings.measure(model.config, dtype, clock)
        if not options.json:
            print(f"ceilings: {ceilings}", flush=True)
    results: list[dict[str, Any]] = []
    for length in options.lengths:
        rows = run_length(model, int8, gguf, length, options, ceilings)
        results.extend(rows)
        if not options.json:
            for row in rows:
                print_row(row)
    if options.json:
        about = {
            "machine": platform.machine(),
            "model": options.model,
            "methods": options.methods,
            "chunk_budget": options.chunk_budget,
            "threads": options.threads,
            "dtype": options.dtype,
            "device": options.device,
            "clock": clock_of(options).__name__,
            "rounds": options.rounds,
            "quantize": options.quantize,
            "gguf": None if options.gguf is None else options.gguf.name,
            "ceilings": None if ceilings is None else asdict(ceilings),
        }
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
