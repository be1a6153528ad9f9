"""Prompt-lookup speculation on questions about a document: tokens a second with and without.

    python benchmarks/speculation.py models/smollm2-135m --length 2000
    python benchmarks/speculation.py                        # the embedded model

Documents are numbered notes of a made-up town, questions ask to repeat a passage, as an answer that
quotes does, to list what was said, and to write something new: greedy, where a small model soon
repeats itself, and drawn at a temperature of 1, where hardly a guess can be right. One request at a
time and together; each setting on an engine of its own over one model, interleaved. On a CPU
seconds are the thread's own, so that neighbours count less. Tokens must be the same but behind one
where two were as good as equal (the gap of their logits below 1e-4), which is counted; exit code 1
where they are not. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]  # run from an uninstalled clone

NAMES = ("the baker", "Mrs Okafor", "the ferryman", "young Ilse", "the harbour master", "Tomas")
DEEDS = ("sold a blue lamp to", "carried the post for", "painted the door of", "argued with")
PLACES = ("at the old mill", "by the east gate", "in the lower market", "under the clock")
QUESTIONS = {
    "repeat": "Repeat the last three notes word for word:\n",
    "list": "List all notes about the baker:\n1.",
    "new": "Write a poem about winter that mentions none of this:\n",
    "drawn": "Write a poem about winter that mentions none of this:\n",
}
TIE = 1e-4


def document(tokenizer: Any, length: int, seed: int) -> str:
    draw, lines = random.Random(seed), list[str]()
    while len(tokenizer.encode("".join(lines))) < length:
        who, deed, whom, where = map(draw.choice, (NAMES, DEEDS, NAMES, PLACES))
        lines.append(
            f"Note {len(lines) + 1}: on day {draw.randrange(1, 99)} {who} {deed} {whom} {where}.\n"
        )
    return "".join(lines)


def loaded(name: str, dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from longctx import tiny

    folder = tiny.WEIGHTS if name == tiny.EMBEDDED else name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model, AutoTokenizer.from_pretrained(folder)


def engine_of(model: Any, options: argparse.Namespace, setting: str) -> Any:
    from longctx.engine import Engine

    context = 2 * options.length + 2 * options.answer
    return Engine(model, None, "none", max_context=context, speculate=setting)


def requests_of(name: str, tokenizer: Any, options: argparse.Namespace, together: int) -> list[Any]:
    from longctx.engine import EngineRequest, Sampling

    prompts = [
        tokenizer.encode(document(tokenizer, options.length, seed) + QUESTIONS[name])
        for seed in range(together)
    ]
    return [
        EngineRequest(
            prompt,
            max_new_tokens=options.answer,
            ignore_eos=True,
            sampling=Sampling(temperature=1.0, seed=seed) if name == "drawn" else Sampling(),
        )
        for seed, prompt in enumerate(prompts)
    ]


def measured(engine: Any, requests: list[Any]) -> tuple[list[Any], float]:
    """Answers of requests that run together, and the seconds from the last prompt's end on."""
    clock = time.perf_counter if engine.device.type == "cuda" else time.thread_time
    for request in requests:  # the prompts are computed before, and found
        engine.submit(replace(request, max_new_tokens=0))
    engine.run_until_idle()
    handles = [engine.submit(request) for request in requests]
    began = clock()
    engine.run_until_idle()
    took = clock() - began
    return [handle.result(timeout=0) for handle in handles], took


def gap(model: Any, options: argparse.Namespace, request: Any, at: int) -> float:
    """By how much the best logit of that token is above the next."""
    with engine_of(model, options, "off") as engine:
        asked = replace(request, max_new_tokens=at + 1, logprobs=True, top_logprobs=2)
        handle = engine.submit(asked)
        engine.run_until_idle()
        (_, first), (_, second) = handle.result(timeout=0).logprobs[at].top[:2]
    return float(first - second)


def compared(
    model: Any, options: argparse.Namespace, requests: list[Any], want: list[Any], got: list[Any]
) -> str:
    ties = 0
    for request, one, other in zip(requests, want, got, strict=True):
        pairs = zip(one.token_ids, other.token_ids, strict=True)
        at = next((n for n, (left, right) in enumerate(pairs) if left != right), None)
        if at is None:
            continue
        if request.sampling.temperature or gap(model, options, request, at) >= TIE:
            options.differ += 1
            return "NO"
        ties += 1
    return f"but {ties} ties" if ties else "yes"


def table(options: argparse.Namespace) -> Iterator[str]:
    import torch

    torch.set_num_threads(1)
    model, tokenizer = loaded(options.model, options.dtype)
    model.to(options.device)
    yield f"{options.model}, {options.dtype}, {options.length} tokens.\n"
    yield "| question | together | setting | tokens/s | of the first | accepted | rejected | same |"
    yield "|---|---:|---|---:|---:|---:|---:|---|"
    for name in options.questions:
        for together in options.together:
            requests = requests_of(name, tokenizer, options, together)
            answers: dict[str, list[Any]] = {}
            least = dict.fromkeys(options.speculate, math.inf)
            for _ in range(options.rounds):
                for setting in options.speculate:
                    with engine_of(model, options, setting) as engine:
                        answers[setting], took = measured(engine, requests)
                    least[setting] = min(least[setting], took)
            first = options.speculate[0]
            for setting in options.speculate:
                usages = [answer.usage for answer in answers[setting]]
                same = compared(model, options, requests, answers[first], answers[setting])
                yield (
                    f"| {name} | {together} | {setting} | "
                    f"{together * options.answer / least[setting]:.1f} | "
                    f"{least[first] / least[setting]:.2f} | "
                    f"{sum(usage.accepted_tokens for usage in usages)} | "
                    f"{sum(usage.rejected_tokens for usage in usages)} | {same} |"
                )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--speculate", nargs="+", default=["off", "auto"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    options.differ = 0
    for line in table(options):
        print(line, flush=True)
    return int(options.differ > 0)


if __name__ == "__main__":
    sys.exit(main())
