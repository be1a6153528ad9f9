"""How fast prompts are built and checked: python benchmarks/prompts.py [--count N].

The haystack is tokenised once, when the builder is made; that time is told apart. Every prompt is
checked as in a run: exact length, needle found in the tokens, its value nowhere else.
"""

from __future__ import annotations

import argparse
import time

from longctx import tiny
from longctx.chat.encoder import ChatEncoder
from longctx.eval import tasks
from longctx.eval.needle.config import parse_lengths
from longctx.eval.prompt import PromptBuilder
from longctx.eval.spec import PromptSpec
from longctx.eval.texts import prose
from longctx.models import source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--length", default="32K")
    parser.add_argument("--task", default="needle", choices=tasks.TASKS)
    parser.add_argument("--model", default=tiny.EMBEDDED, help="whose tokenizer")
    options = parser.parse_args()
    (length,) = parse_lengths(options.length, "--length")
    task = tasks.get(options.task)
    settings = tasks.options_of(options.task, {})
    chat = ChatEncoder(source.load_tokenizer(source.locate(options.model, weights=False)))
    haystack = prose.haystack(length)
    began = time.perf_counter()
    builder = PromptBuilder(haystack, chat, allow_repeat=False)
    tokenised = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(options.count):
        recipe = PromptSpec(
            length=length,
            depth=float(number % 11 * 10) if task.about.has_depth else None,
            seed=0,
            repeat=number // 11,
            answer_tokens=task.about.answer_tokens,
            answer_prefix=task.answer_prefix("en", settings),
            system=None,
            exact=False,
            allow_repeat=False,
            haystack_sha256=haystack.sha256,
            tokenizer_sha256="",
            template_sha256="",
            task=options.task,
            options=settings,
        )
        prompt = builder.build(recipe)
        assert len(prompt.ids) + prompt.slack + recipe.answer_tokens == length
    seconds = time.perf_counter() - began
    print(
        f"haystack: {builder.haystack_tokens:,} tokens, tokenised once in {tokenised:.2f} s\n"
        f"{options.task}: {options.count} prompts of {length:,} tokens in {seconds:.1f} s: "
        f"{options.count / seconds:.1f} prompts/s"
    )


if __name__ == "__main__":
    main()
