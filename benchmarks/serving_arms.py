"""The arms of serving.py: who answers the prompts, and when each token came.

An arm takes prompts of equal length and returns a `Run`. Those that are not transformers or the
engine are there where their packages are installed; asked for without, they are an error. That of
llama.cpp is in serving_llama.py.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WARM = 2048  # tokens at most
TAIL = 16  # tokens of a question about the document
Clock = Callable[[], float]
Prompts = list[list[int]]


@dataclass
class Run:
    """Seconds by the arm's clock. `second`: to the first token of another question behind the same
    text, where keys are kept."""

    first: list[float]  # of each request, from the submission of all
    steps: list[float]  # of all requests, a token each
    answers: list[list[int]] | None = None
    second: float | None = None


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


def warm(prompts: Prompts, compute: Callable[[list[int]], Any]) -> None:
    """Compute a prompt's end backwards, and forget it: what is paid once after a start is no part
    of a figure."""
    compute(prompts[0][::-1][:_WARM])


@contextmanager
def generate(model: Any, clock: Clock, tokens: int) -> Iterator[Callable[[Prompts], Run]]:
    """transformers' own generate; several prompts are one batch."""
    import torch
    from transformers.generation.stopping_criteria import StoppingCriteria

    model.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def plain(ids: list[int]) -> None:
        model(torch.tensor([ids], device=model.device), logits_to_keep=1)

    def run(prompts: Prompts) -> Run:
        times: list[float] = []

        class Watch(StoppingCriteria):
            def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
                ids[0, -1].item()
                times.append(clock())
                return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        ids = torch.tensor(prompts, device=model.device)
        warm(prompts, plain)
        began = clock()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=[Watch()],
            pad_token_id=0,
        )
        steps = [b - a for a, b in itertools.pairwise(times)]
        answers = out[:, len(prompts[0]) :].tolist()
        return Run([times[0] - began] * len(prompts), steps, answers)

    yield run


@contextmanager
def engine(
    model: Any,
    clock: Clock,
    tokens: int,
    method: str,
    chunk_budget: int,
    max_context: int,
    kv_dtype: str | None = None,
) -> Iterator[Callable[[Prompts], Run]]:
    """longctx's engine, stepped from here: a token a step, as the others take it."""
    import torch

    from longctx.engine import Delta, Engine, EngineRequest

    settings: dict[str, Any] = {"chunk_budget": chunk_budget, "speculate": "off"}
    if kv_dtype is not None:
        settings["kv_dtype"] = getattr(torch, kv_dtype)
    with Engine(model, None, method, max_context=max_context, **settings) as made:

        def ask(prompts: Prompts, count: int, listener: Any = None) -> list[Any]:
            requests = [EngineRequest(p, max_new_tokens=count, ignore_eos=True) for p in prompts]
            return [made.submit(request, listener) for request in requests]

        def first_tokens(prompts: Prompts) -> list[float]:
            times: list[float] = []
            began = clock()

            def listener(event: Any) -> None:
                if isinstance(event, Delta):
                    times.append(clock() - began)

            ask(prompts, 1, listener)
            made.run_until_idle()
            return times

        def forgotten(ids: list[int]) -> None:
            made.submit(EngineRequest(ids, max_new_tokens=1, share_prefix=False))
            made.run_until_idle()

        def run(prompts: Prompts) -> Run:
            warm(prompts, forgotten)
            first = first_tokens(prompts)
            # Asked again, all is cached: the requests decode side by side from their second step.
            handles, steps = ask(prompts, tokens), []
            made.step()
            while made.stats().running == len(prompts):
                began = clock()
                made.step()
                steps.append(clock() - began)
            made.run_until_idle()
            answers = [list(handle.result(timeout=0).token_ids) for handle in handles]
            other = [n + 1 if n + 1 < model.config.vocab_size else 0 for n in prompts[0][-TAIL:]]
            (second,) = first_tokens([prompts[0][:-TAIL] + other])
            return Run(first, steps, answers, second)

        yield run


@contextmanager
def vllm(
    directory: str, dtype: str, clock: Clock, tokens: int, max_context: int
) -> Iterator[Callable[[Prompts], Run]]:
    """vLLM in this process. Its steps are not seen from outside: their mean stands for each."""
    from vllm import LLM, SamplingParams, TokensPrompt

    made = LLM(directory, dtype=dtype, max_model_len=max_context, enable_prefix_caching=False)

    def run(prompts: Prompts) -> Run:
        def ask(count: int) -> tuple[float, list[list[int]]]:
            sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
            began = clock()
            done = made.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], sampling)
            return clock() - began, [list(each.outputs[0].token_ids) for each in done]

        first, _ = ask(1)
        whole, answers = ask(tokens)
        steps = [(whole - first) / (tokens - 1)] * (tokens - 1)
        return Run([first] * len(prompts), steps, answers)

    yield run
