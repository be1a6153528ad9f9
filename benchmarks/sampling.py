"""What drawing the tokens of one step costs, on the CPU or a GPU, at Qwen2's vocabulary.

    python benchmarks/sampling.py                       # rows 1, 8, 32; prompts of 2K and 100K
    python benchmarks/sampling.py --rows 8 --device cuda

Logits fall with the logarithm of their rank, about as a language model's do; prompts repeat their
tokens as text does (Zipf). A step draws a token for every row and notes it; the first step, which
brings the prompt's tokens to the device, is shown by itself. Milliseconds, the least and the median
of the steps, and how many of the first rule's steps the least is; on a CPU of the thread's own
time, so that neighbours count less. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]  # run from an uninstalled clone

VOCABULARY = 151_936
RULES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "Qwen2's own": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    "top_p 0.8": {"temperature": 0.7, "top_p": 0.8},
    "temperature 1": {"temperature": 1.0},
    "greedy, penalties": {"repetition_penalty": 1.05, "presence_penalty": 0.5},
    "top_p 0.8, penalties": {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05},
}


def logits_of(rows: int, vocabulary: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, vocabulary]: p of the rank to the power -1.5, spread over the vocabulary."""
    rank_V = torch.arange(1, vocabulary + 1).float()
    order_RV = torch.rand(rows, vocabulary, generator=generator).argsort(-1)
    jitter_RV = torch.randn(rows, vocabulary, generator=generator) * 0.1
    return (18 - 1.5 * rank_V.log()).expand(rows, -1).gather(1, order_RV) + jitter_RV


def prompt_of(length: int, vocabulary: int, generator: torch.Generator) -> list[int]:
    uniform = torch.rand(length, generator=generator, dtype=torch.float64)
    return (vocabulary**uniform).long().sub(1).clamp(0, vocabulary - 1).tolist()


def step_times(
    rule: str, logits_RV: torch.Tensor, prompt: list[int], steps: int
) -> tuple[float, float, float]:
    """Milliseconds of the first step, the least of the later ones, and their median."""
    from longctx.engine.request import Sampling
    from longctx.engine.sampling import RowSampler, draw

    samplers = [
        RowSampler(Sampling(seed=row, **RULES[rule]), prompt) for row in range(len(logits_RV))
    ]
    clock = time.perf_counter if logits_RV.is_cuda else time.thread_time
    times = []
    for step in range(steps + 1):
        mine_RV = logits_RV.roll(step, 1)
        if mine_RV.is_cuda:
            torch.cuda.synchronize()
        began = clock()
        for sampler, drawn in zip(samplers, draw(mine_RV, samplers), strict=True):
            assert not isinstance(drawn, Exception), drawn
            sampler.note(drawn.token)
        times.append(1e3 * (clock() - began))
    return times[0], min(times[1:]), statistics.median(times[1:])


def table(options: argparse.Namespace) -> Iterator[str]:
    yield f"{options.vocabulary} ids, {options.device}, {torch.get_num_threads()} threads.\n"
    yield "| rows | prompt | rule | first step | step | median | of the first |"
    yield "|---:|---:|---|---:|---:|---:|---:|"
    for rows in options.rows:
        generator = torch.Generator().manual_seed(rows)
        logits_RV = logits_of(rows, options.vocabulary, generator).to(options.device)
        for length in options.prompts:
            prompt = prompt_of(length, options.vocabulary, generator)
            unit = 0.0
            for rule in options.rules:
                first, step, median = step_times(rule, logits_RV, prompt, options.steps)
                unit = unit or step
                yield (
                    f"| {rows} | {length} | {rule} | {first:.1f} | {step:.2f} | {median:.2f} | "
                    f"{step / unit:.2f} |"
                )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompts", type=int, nargs="+", default=[2_000, 100_000])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--device", default="cpu")
    torch.set_num_threads(1)
    for line in table(parser.parse_args(arguments)):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
