"""Prompt-lookup speculation on questions about a document: tokens a second with and without.

    python benchmarks/speculation.py models/smollm2-135m --length 2000
    python benchmarks/speculation.py                        # the embedded model

Documents are numbered notes of a made-up town, questions ask to repeat a passage, as an answer that
quotes does, to list what was said, and to write something new, where guesses cannot be right.
Greedy, one request at a time and together; each setting on an engine of its own over one model,
interleaved. On a CPU seconds are the thread's own, so that neighbours count less. Tokens must be
the same; exit code 1 where they are not. Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
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
}


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


def measured(engine: Any, prompts: list[list[int]], answer: int) -> tuple[list[Any], float]:
    """Answers of requests that run together, and the seconds from the last prompt's end on."""
    from longctx.engine import EngineRequest

    clock = time.perf_counter if engine.device.type == "cuda" else time.thread_time
    for prompt in prompts:  # the prompts are computed before, and found
        engine.submit(EngineRequest(prompt, max_new_tokens=0))
    engine.run_until_idle()
    handles = [
        engine.submit(EngineRequest(each, max_new_tokens=answer, ignore_eos=True))
        for each in prompts
    ]
    began = clock()
    engine.run_until_idle()
    took = clock() - began
    return [handle.result(timeout=0) for handle in handles], took


def table(options: argparse.Namespace) -> Iterator[str]:
    import torch

    from longctx.engine import Engine

    torch.set_num_threads(1)
    model, tokenizer = loaded(options.model, options.dtype)
    model.to(options.device)
    yield f"{options.model}, {options.dtype}, {options.length} tokens.\n"
    yield "| question | together | setting | tokens/s | of off | accepted | rejected | same |"
    yield "|---|---:|---|---:|---:|---:|---:|---|"
    for name, question in QUESTIONS.items():
        for together in options.together:
            prompts = [
                tokenizer.encode(document(tokenizer, options.length, seed) + question)
                for seed in range(together)
            ]
            want: list[Any] = []
            rates: dict[str, float] = {}
            for setting in options.speculate:
                best, answers = 0.0, list[Any]()
                for _ in range(options.rounds):
                    with Engine(
                        model, None, "none", max_context=2 * options.length + 2 * options.answer,
                        speculate=setting,
                    ) as engine:  # fmt: skip
                        answers, took = measured(engine, prompts, options.answer)
                    best = max(best, together * options.answer / took)
                ids = [answer.token_ids for answer in answers]
                want, rates[setting] = want or ids, best
                options.differ += ids != want
                accepted = sum(answer.usage.accepted_tokens for answer in answers)
                rejected = sum(answer.usage.rejected_tokens for answer in answers)
                yield (
                    f"| {name} | {together} | {setting} | {best:.1f} | "
                    f"{best / rates[options.speculate[0]]:.2f} | {accepted} | {rejected} | "
                    f"{'yes' if ids == want else 'NO'} |"
                )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--speculate", nargs="+", default=["off", "auto", "8"])
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
