"""What sessions on an engine have in common, whichever engine: requests in flight, and their ends.

Knows no scheme, and not how an engine is driven: that is two hooks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from longctx.engine import Answer, EngineBrokenError, EngineRequest, Generation
from longctx.engine.errors import ContextLengthError
from longctx.eval.protocol import (
    Completion,
    ContextOverflowError,
    Outcome,
    Request,
    Session,
    TargetLostError,
)


class EngineSession(Session):
    """Keeps as many requests in flight as the engine takes.

    Attributes:
        engine: what `submit` is asked of, inside the block.
        share_prefix: whether prompts go on from what others have computed.
    """

    engine: Any
    share_prefix = True

    @abstractmethod
    def advance(self, flying: Sequence[Generation]) -> None:
        """Bring the engine on: by a step, or until one of these is done."""

    def has_room(self) -> bool:
        """Whether one more would begin at once, or nearly."""
        return True

    def generate(self, request: Request) -> Completion:
        ((_, outcome),) = self.answers([request])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        source = iter(requests)
        flying: list[tuple[Request, Generation]] = []
        more = True
        while more or flying:
            while more and len(flying) < self.concurrency and self.has_room():
                request = next(source, None)
                if request is None:
                    more = False
                    break
                try:
                    flying.append((request, self.engine.submit(self._asked(request))))
                except Exception as error:
                    yield request, _outcome(error)
            if flying:
                self.advance([handle for _, handle in flying])
            done = [each for each in flying if each[1].done]
            flying = [each for each in flying if not each[1].done]
            for request, handle in done:
                try:
                    yield request, self.completion(handle.result(timeout=0))
                except Exception as error:
                    yield request, _outcome(error)

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        handle = self.engine.submit(
            EngineRequest(
                ids, max_new_tokens=0, prompt_logprobs=True, request_length=request_length
            )
        )
        while not handle.done:
            self.advance([handle])
        return np.asarray(handle.result(timeout=0).prompt_logprobs, dtype=np.float64)

    def _asked(self, request: Request) -> EngineRequest:
        return EngineRequest(
            request.ids,
            max_new_tokens=request.max_new_tokens,
            request_length=request.request_length,
            share_prefix=self.share_prefix,
        )

    def completion(self, answer: Answer) -> Completion:
        """What the harness keeps of an answer."""
        usage = answer.usage
        return Completion(
            text=answer.text,
            finish_reason="stop" if answer.finish_reason == "stop" else "length",
            ttft_s=usage.total_s if usage.first_token_s is None else usage.first_token_s,
            total_s=usage.total_s,
            cached_tokens=usage.cached_tokens,
        )


def _outcome(error: Exception) -> Exception:
    if isinstance(error, ContextLengthError):
        return ContextOverflowError(str(error))
    return TargetLostError(str(error)) if isinstance(error, EngineBrokenError) else error
