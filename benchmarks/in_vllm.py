"""Processor time of longctx's attention inside vLLM's CPU build, against vLLM's own.

    python benchmarks/in_vllm.py --model DIR --lengths 512,4K,8K --pairs 5

Each arm is a process with one engine: `stock` (vLLM's own attention), `dca` (the plugin), and
`embedded` (longctx's engine, without vLLM). They are asked in turn, in an order that changes from
round to round: the seconds of all threads for a prompt's first token, and the median of the steps
that give the tokens after it. Ratios are of neighbours in time; the median of the pairs, and the
least and largest. Both engines of vLLM run without compiled graphs, and keep no prefixes.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ARMS = ("stock", "dca", "embedded")
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
}
_SEED, _WARM = 0, 300
# Prompt and tokens to the clock's word at each token.
Generate = Callable[[list[int], int], list[float]]


class Arm:
    """A process that answers one question after the other."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        given = {**vars(options), "arm": name}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT | os.environ,
        )
        self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # vLLM says more
                return json.loads(line)
        raise SystemExit(f"an arm has ended: {self._process.wait()}")

    def ask(self, length: int, number: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([length, number]) + "\n")
        self._process.stdin.flush()
        found: dict[str, float] = self._read()
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def child(given: dict[str, Any]) -> None:
    options = argparse.Namespace(**given)
    generate = (embedded if options.arm == "embedded" else in_vllm)(options)
    draw = random.Random(_SEED)
    generate([draw.randrange(3, 600) for _ in range(_WARM)], 4)  # what is made once
    print("{}", flush=True)
    for line in sys.stdin:
        length, number = json.loads(line)
        draw = random.Random(f"{length}/{number}")
        ids = [draw.randrange(3, 600) for _ in range(length)]
        began = time.process_time()
        times = generate(ids, 1 + options.new)
        if len(times) != 1 + options.new:
            raise SystemExit(f"{options.arm}: {len(times)} tokens of {1 + options.new}")
        steps = [after - before for before, after in itertools.pairwise(times)]
        told = {"prompt": times[0] - began, "token": statistics.median(steps)}
        print(json.dumps(told), flush=True)


def in_vllm(options: argparse.Namespace) -> Generate:
    from vllm import LLM, SamplingParams

    asked = {"method": "none" if options.arm == "stock" else "dca"}
    llm = LLM(
        options.model,
        dtype=options.dtype,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=options.longest,
        max_num_batched_tokens=options.chunk_budget,
        max_num_seqs=8,
        hf_overrides={"max_position_embeddings": options.longest},
        additional_config={"longctx": asked},
        skip_tokenizer_init=True,
        seed=_SEED,
    )

    engine, numbers = llm.llm_engine, itertools.count()

    def generate(ids: list[int], new: int) -> list[float]:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        engine.add_request(str(next(numbers)), {"prompt_token_ids": ids}, params)
        times: list[float] = []
        while engine.has_unfinished_requests():
            for output in engine.step():
                if len(output.outputs[0].token_ids) > len(times):
                    times.append(time.process_time())
        return times

    return generate


def embedded(options: argparse.Namespace) -> Generate:
    import torch

    from longctx.attention import resolve
    from longctx.engine import Delta, Engine, EngineRequest
    from longctx.models.source import load_config, load_model, locate

    source = locate(options.model)
    config = load_config(source)
    model = load_model(source, config, getattr(torch, options.dtype), "cpu")
    engine = Engine(
        model,
        None,
        resolve(config, "dca"),
        max_context=options.longest,
        chunk_budget=options.chunk_budget,
        speculate="off",
    )

    def generate(ids: list[int], new: int) -> list[float]:
        asked = EngineRequest(ids, max_new_tokens=new, ignore_eos=True, share_prefix=False)
        times: list[float] = []

        def listener(event: Any) -> None:
            if isinstance(event, Delta):
                times.append(time.process_time())

        engine.submit(asked, listener)
        engine.run_until_idle()
        return times

    return generate


def ratio(mine: list[float], other: list[float]) -> str:
    found = sorted(a / b for a, b in zip(mine, other, strict=True) if b > 0)
    if not found:
        return "-"
    return f"{statistics.median(found):.2f} ({found[0]:.2f}-{found[-1]:.2f})"


def measure(options: argparse.Namespace) -> None:
    arms = {name: Arm(name, options) for name in options.arms}
    print("| tokens | of | " + " | ".join(arms) + " | dca / stock |")
    print("| ---: | --- |" + " ---: |" * (len(arms) + 1))
    try:
        for length in options.lengths:
            times: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
            for number in range(options.pairs):
                order = list(arms)
                for name in order if number % 2 else reversed(order):
                    times[name].append(arms[name].ask(length, number))
            for part in ("prompt", "token"):
                of = {name: [each[part] for each in found] for name, found in times.items()}
                row = " | ".join(f"{1e3 * statistics.median(each):.1f} ms" for each in of.values())
                both = ratio(of["dca"], of["stock"]) if {"dca", "stock"} <= of.keys() else ""
                print(f"| {length:,} | {part} | {row} | {both} |", flush=True)
    finally:
        for arm in arms.values():
            arm.close()


def tokens(text: str) -> int:
    return int(text[:-1]) * 1024 if text.upper().endswith("K") else int(text)


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="a directory of a Qwen2")
    parser.add_argument("--lengths", default="512,4K,8K", help="tokens, with commas")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of each length")
    parser.add_argument("--new", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunk-budget", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--arms", default=",".join(ARMS), help="which to run, with commas")
    options = parser.parse_args()
    options.lengths = [tokens(each) for each in options.lengths.split(",")]
    options.longest = max(*options.lengths, _WARM) + options.new + 16
    options.arms = options.arms.split(",")
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"--arms {','.join(unknown)}: use some of {','.join(ARMS)}")
    vllm_is_there = importlib.util.find_spec("vllm") is not None
    if set(options.arms) != {"embedded"} and not vllm_is_there:
        parser.error("vllm is not installed: `make test-vllm` makes an environment that has it")
    measure(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
