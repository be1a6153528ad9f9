"""The engine as a target of the harness: the same questions, asked of what serves.

The one file of the engine that knows the harness. Temperatures are taken at the bucket's edge, as
always in the engine, where the in-process target takes them at the request's own length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from longctx.attention import Scheme
from longctx.engine.engine import Engine
from longctx.engine.errors import ContextLengthError
from longctx.engine.handle import Answer
from longctx.engine.request import EngineRequest
from longctx.eval.protocol import Arm, Completion, ContextOverflowError, Request, Target


class EngineTarget:
    """Greedy answers and log-probabilities from an engine, started or stepped from here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, request: Request) -> Completion:
        device = self._engine.device
        on_cuda = device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        answer = self._ask(
            EngineRequest(
                request.ids,
                max_new_tokens=request.max_new_tokens,
                request_length=request.request_length,
            )
        )
        usage = answer.usage
        return Completion(
            text=answer.text,
            finish_reason="stop" if answer.finish_reason == "stop" else "length",
            ttft_s=usage.total_s if usage.first_token_s is None else usage.first_token_s,
            total_s=usage.total_s,
            peak_mem_bytes=torch.cuda.max_memory_allocated(device) if on_cuda else None,
            cached_tokens=usage.cached_tokens,
        )

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        answer = self._ask(
            EngineRequest(
                ids, max_new_tokens=0, prompt_logprobs=True, request_length=request_length
            )
        )
        return np.asarray(answer.prompt_logprobs, dtype=np.float64)

    def _ask(self, request: EngineRequest) -> Answer:
        try:
            handle = self._engine.submit(request)
        except ContextLengthError as error:
            raise ContextOverflowError(str(error)) from error
        if not self._engine.started:
            self._engine.run_until_idle()
        return handle.result()


def engine_arm(
    model: Any, tokenizer: Any, scheme: Scheme, *, kernel: str = "auto", **options: Any
) -> Arm:
    """A method as an arm: opening it makes an engine, closing it gives the model back.

    Args:
        options: of `Engine`.
    """

    @contextmanager
    def open_arm() -> Iterator[Target]:
        with Engine(model, tokenizer, scheme, kernel=kernel, **options) as engine:
            yield EngineTarget(engine)

    with Engine(model, tokenizer, scheme, kernel=kernel, **options) as engine:
        backend = engine.kernel_name
    return Arm(scheme.method, scheme.to_dict(), open_arm, backend)
