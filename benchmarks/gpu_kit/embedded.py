"""Section 2: the embedded model, which was trained: the CPU's answers, and needles found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from gpu_kit.kit import Kit
from longctx import tiny
from longctx.chat.encoder import ChatEncoder
from longctx.engine import Engine, EngineRequest
from longctx.eval import tasks
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.spec import PromptSpec
from longctx.eval.texts import prose
from longctx.models import source

METHOD = "yarn+dca"
_TASK = "needle"


class Questions:
    """Needle prompts of the embedded model."""

    def __init__(self, longest: int) -> None:
        self.source = source.locate(tiny.EMBEDDED)
        self.tokenizer = source.load_tokenizer(self.source)
        self.haystack = prose.haystack(longest)
        self._builder = PromptBuilder(
            self.haystack, ChatEncoder(self.tokenizer), allow_repeat=False
        )
        self._task = tasks.get(_TASK)
        self.answer_tokens = self._task.about.answer_tokens

    def prompt(self, length: int, depth: float) -> Prompt:
        settings = tasks.options_of(_TASK, {})
        recipe = PromptSpec(
            length=length,
            depth=depth,
            seed=0,
            repeat=0,
            answer_tokens=self.answer_tokens,
            answer_prefix=self._task.answer_prefix("en", settings),
            system=None,
            exact=False,
            allow_repeat=False,
            haystack_sha256=self.haystack.sha256,
            tokenizer_sha256="",
            template_sha256="",
            task=_TASK,
            options=settings,
        )
        return self._builder.build(recipe)

    def model(self, device: torch.device, dtype: torch.dtype) -> Any:
        config = source.load_config(self.source)
        return source.load_model(self.source, config, dtype, device.type)

    def answers(
        self, model: Any, method: str, prompts: Sequence[Prompt], kernel: str = "auto"
    ) -> list[tuple[tuple[int, ...], bool]]:
        """Greedy tokens, and whether the number is among them."""
        longest = max(len(prompt.ids) for prompt in prompts) + self.answer_tokens
        options: dict[str, Any] = {
            "kernel": kernel,
            "max_context": longest,
            "kv_budget_bytes": 4 << 30,
        }
        found = []
        with Engine(model, self.tokenizer, method, **options) as engine:
            handles = [
                engine.submit(EngineRequest(prompt.ids, max_new_tokens=self.answer_tokens))
                for prompt in prompts
            ]
            engine.run_until_idle()
            for prompt, handle in zip(prompts, handles, strict=True):
                answer = handle.result(timeout=0)
                right = all(value in answer.text for value in prompt.sample.expected)
                found.append((answer.token_ids, right))
        return found


def run(kit: Kit) -> None:
    questions = kit.attempt("prompts", lambda: Questions(kit.sizes.longest_needle), anew=True)
    if questions is None:
        return
    kit.attempt("greedy tokens", partial(greedy, kit, questions), need_s=8)
    for method in (METHOD, "none"):
        kit.attempt(f"needles, {method}", partial(needles, kit, questions, method), need_s=6)
    kit.attempt("the longest needles", partial(longest, kit, questions), need_s=8)


def greedy(kit: Kit, questions: Questions) -> None:
    """The CPU in float32 says what is right."""
    prompts = [questions.prompt(length, 50.0) for length in kit.sizes.greedy]
    cpu = questions.model(torch.device("cpu"), torch.float32)
    want = questions.answers(cpu, METHOD, prompts)
    arms = [(torch.float16, "auto"), (torch.bfloat16, "auto"), (torch.float32, "reference")]
    for dtype, kernel in arms:
        if kit.dry and dtype == torch.bfloat16:
            continue  # emulated where the CPU has no such arithmetic
        # The reference holds all logits at once.
        few = [at for at, n in enumerate(kit.sizes.greedy) if kernel == "auto" or n <= 4096]
        model = questions.model(kit.device, dtype)
        got = questions.answers(model, METHOD, [prompts[at] for at in few], kernel)
        for at, (tokens, right) in zip(few, got, strict=True):
            pairs = zip(tokens, want[at][0], strict=False)
            different = sum(a != b for a, b in pairs) + abs(len(tokens) - len(want[at][0]))
            # Of 8 bits a near tie may fall the other way; the number must be right all the same.
            most = len(tokens) if dtype == torch.bfloat16 else 0
            kit.row(
                f"{METHOD}, {kit.sizes.greedy[at]} tokens, {str(dtype)[6:]}, {kernel}: different",
                float(different),
                f"of {len(want[at][0])}",
                float(most),
                "ok" if different <= most and right == want[at][1] else "wrong",
                f"needle {'found' if right else 'lost'}, on the CPU "
                f"{'found' if want[at][1] else 'lost'}",
            )


def _dtype(kit: Kit) -> torch.dtype:
    """What the weights are stored in, where the device's kernels take it."""
    return torch.float16 if kit.cuda else kit.dtype


def needles(kit: Kit, questions: Questions, method: str) -> None:
    model = questions.model(kit.device, _dtype(kit))
    depths = kit.sizes.needle_depths
    for length in kit.sizes.needle_lengths:
        prompts = [questions.prompt(length, depth) for depth in depths]
        right = [found for _, found in questions.answers(model, method, prompts)]
        shown = "".join("+" if found else "-" for found in right)
        # As on the CPU (docs/results.md): all of them, and none far beyond the window without it.
        state = ""
        if method == METHOD or length == 512:
            state = "ok" if all(right) else "wrong"
        note = f"{shown} at depths {', '.join(f'{depth:g}' for depth in depths)}"
        kit.row(
            f"{method}, {length} tokens: found",
            f"{sum(right)}/{len(right)}",
            state=state,
            note=note,
        )


def longest(kit: Kit, questions: Questions) -> None:
    length = kit.sizes.longest_needle
    model = questions.model(kit.device, _dtype(kit))
    prompts = [questions.prompt(length, depth) for depth in kit.sizes.needle_depths]
    right = [found for _, found in questions.answers(model, METHOD, prompts)]
    state = "ok" if all(right) else "wrong"
    kit.row(f"{METHOD}, {length} tokens: found", f"{sum(right)}/{len(right)}", state=state)
