"""The serving engine against transformers' own generate: same model, same prompts, one run.

    python benchmarks/serving.py --lengths 2K,8K
    python benchmarks/serving.py --model random --lengths 512 --json

Arms, for every length: generate with sdpa, the engine; both with one request and with --requests at
once (generate gets them as one batch of equal lengths, its best case); and the engine with as many
questions about one document. Prompts are random tokens. Prefill is prompt tokens over the time
until all have their first token; decode is tokens of all requests per second, by the fastest step.
Time is CPU time of the process on a CPU with one thread, where neighbours disturb it least, and
wall clock otherwise. Arms are interleaved and the best of --rounds counts. Memory is the peak of
the process above what it held before (of the device, on CUDA).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

TAIL = 16  # tokens of a question about the document
PLAIN = "generate"


def parse_length(text: str) -> int:
    """ "16K" -> 16384; plain numbers are tokens."""
    text = text.strip().upper()
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def load(options: argparse.Namespace) -> Any:
    import torch

    dtype = getattr(torch, options.dtype)
    if options.model != "random":
        from longctx import models

        source = models.locate(options.model)
        return models.load_model(source, models.load_config(source), dtype, options.device)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=1024, max_position_embeddings=32768, **sizes, **heads)
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(options.device, dtype).eval()


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    one = options.device == "cpu" and options.threads == 1
    return time.process_time if one else time.perf_counter


class Peak:
    """Most memory above what was held before, MiB; `with Peak(device) as peak: ...; peak.mib`."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self.mib: float | None = None

    def __enter__(self) -> Peak:
        import torch

        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            self._trim()
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                self._before = None
                return self
        self._before = self._held("VmRSS")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._before is not None:
            self.mib = round((self._held("VmHWM") - self._before) / 2**20, 1)

    def _held(self, name: str) -> int | None:
        import torch

        if self._cuda:
            peak = name == "VmHWM"
            return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
        status = Path("/proc/self/status").read_text().splitlines()
        return next((int(row.split()[1]) * 1024 for row in status if row.startswith(name)), None)

    @staticmethod
    def _trim() -> None:
        """Give what is free back to the system, or one arm would live in another's memory."""
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def prompts_of(count: int, length: int, vocabulary: int, *, document: bool) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, vocabulary, (count, length), generator=generator)
    if document:
        rows[:, : length - TAIL] = rows[0, : length - TAIL]
    return rows.tolist()


def run_generate(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    import torch
    from transformers.generation.stopping_criteria import StoppingCriteria

    clock, times = clock_of(options), []

    class Clock(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            ids[0, -1].item()
            times.append(clock())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    ids = torch.tensor(prompts, device=model.device)
    began = clock()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=options.tokens,
        min_new_tokens=options.tokens,
        do_sample=False,
        stopping_criteria=[Clock()],
        pad_token_id=0,
    )
    steps = [b - a for a, b in itertools.pairwise(times)]
    return times[0] - began, min(steps), out[:, len(prompts[0]) :].tolist()


def run_engine(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> Any:
    from longctx.engine import Engine, EngineRequest

    with Engine(
        model,
        None,
        options.method,
        chunk_budget=options.chunk_budget,
        max_context=len(prompts[0]) + options.tokens,
    ) as engine:

        def ask(tokens: int) -> list[Any]:
            requests = [EngineRequest(p, max_new_tokens=tokens, ignore_eos=True) for p in prompts]
            return [engine.submit(request) for request in requests]

        clock = clock_of(options)
        began = clock()
        ask(1)
        engine.run_until_idle()
        first = clock() - began
        # Asked again, all is cached: the requests decode side by side from their second step on.
        handles, steps = ask(options.tokens), []
        engine.step()
        while engine.stats().running == len(prompts):
            at = clock()
            engine.step()
            steps.append(clock() - at)
        engine.run_until_idle()
        answers = [list(handle.result(timeout=0).token_ids) for handle in handles]
    return first, min(steps), answers


def run_length(model: Any, length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    many, vocabulary = options.requests, model.config.vocab_size
    one = prompts_of(1, length, vocabulary, document=False)
    several = prompts_of(many, length, vocabulary, document=False)
    questions = prompts_of(many, length, vocabulary, document=True)
    arms: dict[tuple[str, int], tuple[Callable[..., Any], list[list[int]]]] = {
        (PLAIN, 1): (run_generate, one),
        ("engine", 1): (run_engine, one),
    }
    if many > 1:
        arms[PLAIN, many] = (run_generate, several)
        arms["engine", many] = (run_engine, several)
        arms["engine, one document", many] = (run_engine, questions)
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name, (run, prompts) in arms.items():
            with Peak(options.device) as peak:
                first, step, answers = run(model, prompts, options)
            found = {"first_s": first, "step_s": step, "peak_mib": peak.mib, "answers": answers}
            for key, value in best.get(name, {}).items():
                if key != "answers" and value is not None:
                    found[key] = min(found[key], value)
            best[name] = found
    rows = []
    for (arm, count), found in best.items():
        base = best[PLAIN, count]
        same = arm == "engine" and found["answers"] == base["answers"]
        rows.append(
            {
                "arm": arm,
                "requests": count,
                "length": length,
                "first_token_s": round(found["first_s"], 4),
                "prefill_tok_s": round(count * length / found["first_s"], 1),
                "decode_tok_s": round(count / found["step_s"], 2),
                "peak_mib": found["peak_mib"],
                "prefill_ratio": round(base["first_s"] / found["first_s"], 3),
                "decode_ratio": round(base["step_s"] / found["step_s"], 3),
                "decode_ratio_one": round(
                    count / found["step_s"] * best[PLAIN, 1]["step_s"], 3
                ),  # over generate with one request
                "same_tokens": same if arm == "engine" else None,
            }
        )
    return rows


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['length']:>7} x {row['requests']:<3} {row['arm']:21} "
        f"first token {row['first_token_s']:8.2f} s  prefill {row['prefill_tok_s']:8.1f} tok/s "
        f"({row['prefill_ratio']:.2f}x)  decode {row['decode_tok_s']:7.2f} tok/s "
        f"({row['decode_ratio']:.2f}x; {row['decode_ratio_one']:.2f}x one generate)  "
        f"peak {row['peak_mib']} MiB",
        flush=True,
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from longctx.attention import METHODS
    from longctx.engine.engine import DEFAULT_CHUNK_BUDGET

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2-135m", help="directory, or `random`")
    parser.add_argument("--lengths", default="2K", help="tokens of a prompt, K = 1024")
    parser.add_argument("--requests", type=int, default=8, help="at once, in the second arms")
    parser.add_argument("--tokens", type=int, default=16, help="decoded per request")
    parser.add_argument("--method", default="none", choices=METHODS, help="of the engine")
    parser.add_argument("--chunk-budget", type=parse_length, default=DEFAULT_CHUNK_BUDGET)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = [parse_length(text) for text in options.lengths.split(",")]
    if options.tokens < 4:
        parser.error(f"--tokens {options.tokens}: at least 4, or there is no step to time")
    if min(options.lengths) <= TAIL:
        parser.error(f"--lengths {min(options.lengths)}: longer than a question of {TAIL} tokens")
    return options


def main() -> None:
    options = parse()
    import torch

    torch.set_num_threads(options.threads)
    model = load(options)
    model.set_attn_implementation("sdpa")
    results: list[dict[str, Any]] = []
    for length in options.lengths:
        rows = run_length(model, length, options)
        results.extend(rows)
        if not options.json:
            for row in rows:
                print_row(row)
    if options.json:
        about = {
            "machine": platform.machine(),
            "model": options.model,
            "method": options.method,
            "chunk_budget": options.chunk_budget,
            "threads": options.threads,
            "dtype": options.dtype,
            "device": options.device,
            "clock": clock_of(options).__name__,
            "rounds": options.rounds,
        }
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
