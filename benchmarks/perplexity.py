"""Perplexity of the same tokens behind more and more text: `python benchmarks/perplexity.py`.

Each document is generated prose that the embedded model was not trained on. Its last 256 tokens are
predicted from the L - 256 tokens before them, for every length L and method: a method that breaks
beyond the trained window shows as a rising line, one that reads on as a flat one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import torch

from longctx import models, tiny
from longctx.attention import resolve
from longctx.eval import prose
from longctx.eval.config import parse_lengths, parse_methods, show_length
from longctx.local_target import local_arm

SCORED = 256


def documents(tokenizer: object, count: int, length: int) -> list[list[int]]:
    """The end of `count` texts, `length` tokens each. Training used seeds from 1,000,000 on."""
    found = []
    for seed in range(1, count + 1):
        text = prose.haystack(length, seed).text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        found.append(ids[:length])
        assert len(found[-1]) == length
    return found


def perplexities(
    name: str, methods: Sequence[str], lengths: Sequence[int], count: int
) -> dict[str, list[float]]:
    """Per method, one perplexity for each length."""
    source = models.locate(name)
    config = models.load_config(source)
    tokenizer = models.load_tokenizer(source)
    dtype = models.resolve_dtype("auto", source, config, "cpu")
    model = models.load_model(source, config, dtype, "cpu")
    texts = documents(tokenizer, count, max(lengths))
    table: dict[str, list[float]] = {}
    for method in methods:
        table[method] = []
        for length in lengths:
            # A static factor is chosen for the length at hand, as a user would.
            scheme = resolve(config, method, request_length=length)
            arm = local_arm(
                model,
                scheme,
                decode=str,
                stop_ids=frozenset(),
                kernel="auto",
                prefill_chunk=2048,
                prefix_sharing=False,
            )
            losses = []
            with arm.open() as target:
                for ids in texts:
                    found = target.logprobs(ids[-length:], request_length=length)
                    losses.append(-float(found[-SCORED:].mean()))
            table[method].append(math.exp(sum(losses) / len(losses)))
            print(f"{method} {show_length(length)}: {table[method][-1]:.3f}", file=sys.stderr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=tiny.EMBEDDED)
    parser.add_argument("--methods", default="none,yarn,dca,yarn+dca")
    parser.add_argument("--lengths", default="512,1K,2K,4K,8K")
    parser.add_argument("--documents", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    lengths = parse_lengths(options.lengths)
    if min(lengths) <= SCORED:
        parser.error(f"--lengths {options.lengths}: more than {SCORED} tokens are needed")
    methods = parse_methods(options.methods)
    table = perplexities(options.model, methods, lengths, options.documents)
    print("| method | " + " | ".join(map(show_length, lengths)) + " |")
    print("| --- |" + " ---: |" * len(lengths))
    for method, row in table.items():
        print(f"| {method} | " + " | ".join(f"{value:.2f}" for value in row) + " |")


if __name__ == "__main__":
    main()
