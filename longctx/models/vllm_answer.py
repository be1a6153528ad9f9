"""One answer of vLLM as the engine's events: text, stop strings, log-probabilities, usage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from longctx.engine.detokenize import Detokenizer
from longctx.engine.request import (
    Delta,
    EngineRequest,
    Event,
    Finished,
    FinishReason,
    Progress,
    TokenLogprob,
    Usage,
)


def sampling_params(request: EngineRequest, eos_ids: frozenset[int]) -> Any:
    """vLLM's SamplingParams. Text is none of its business, so it looks for no stop strings."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    asked, structured = request.sampling, None
    if request.json_schema is not None:
        schema = request.json_schema
        structured = (
            StructuredOutputsParams(json=schema)
            if schema
            else StructuredOutputsParams(json_object=True)
        )
    return SamplingParams(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=dict(asked.logit_bias) or None,
        seed=asked.seed,
        max_tokens=max(1, request.max_new_tokens),
        stop_token_ids=sorted(_stop_ids(request, eos_ids)),
        ignore_eos=True,  # the ids above are all that end it
        logprobs=request.top_logprobs if request.logprobs else None,
        prompt_logprobs=1 if request.prompt_logprobs else None,
        skip_reading_prefix_cache=None if request.share_prefix else True,
        structured_outputs=structured,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _stop_ids(request: EngineRequest, eos_ids: frozenset[int]) -> frozenset[int]:
    return request.stop_ids | (frozenset() if request.ignore_eos else eos_ids)


class VllmAnswer:
    """
    Args:
        decode: tokens to text.

    Attributes:
        ended: nothing more is wanted of vLLM.
    """

    def __init__(
        self,
        request: EngineRequest,
        eos_ids: frozenset[int],
        decode: Callable[[list[int]], str],
    ) -> None:
        self.request = request
        self.ended = False
        self._stops = _stop_ids(request, eos_ids)
        self._detokenizer = Detokenizer(decode, request.stop)
        self._reason: FinishReason = "length"
        self._stop: str | int | None = None
        self._cached = self._answered = 0
        self._began = time.perf_counter()
        self._waited = 0.0
        self._first: float | None = None
        self._prompt_logprobs: tuple[float, ...] = ()
        self._prompt_likeliest: tuple[int, ...] = ()

    def begun(self) -> Progress:
        return Progress(len(self.request.prompt_ids), 0, 0)

    def heard(self, request_output: Any) -> list[Event]:
        """Events of what vLLM hands out next."""
        events: list[Event] = []
        total = len(self.request.prompt_ids)
        if self._first is None:
            self._first = time.perf_counter() - self._began
            self._cached = min(request_output.num_cached_tokens or 0, total)
            if (times := request_output.metrics) is not None and times.scheduled_ts:
                self._waited = max(0.0, times.scheduled_ts - times.queued_ts)
            events.append(Progress(total, self._cached, total))
        if self.request.prompt_logprobs and request_output.prompt_logprobs:
            self._score(request_output.prompt_logprobs)
        (completion,) = request_output.outputs
        last = completion.finish_reason is not None
        if self.request.max_new_tokens > 0:
            tokens = list(completion.token_ids)
            of_tokens = completion.logprobs or [None] * len(tokens)
            for at, (token, logprobs) in enumerate(zip(tokens, of_tokens, strict=False)):
                events.append(self._token(token, logprobs, last and at + 1 == len(tokens)))
                if self.ended:
                    break
        if last and not self.ended:
            self.ended = True
            if completion.finish_reason == "stop":  # by a grammar: what it says is complete
                self._reason = "stop"
        return events

    def _token(self, token: int, logprobs: Any, last: bool) -> Delta:
        self._answered += 1
        found = () if logprobs is None else (self._logprob(token, logprobs),)
        if token in self._stops:
            self.ended, self._reason = True, "stop"
            text = self._detokenizer.finish()
            self._stop = self._detokenizer.stopped or token
            return Delta(text, (token,), found)
        text = self._detokenizer.push(token)
        if last and self._detokenizer.stopped is None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped is not None:
            self.ended, self._reason, self._stop = True, "stop", self._detokenizer.stopped
        return Delta(text, (token,), found)

    def _logprob(self, token: int, logprobs: Any) -> TokenLogprob:
        ranked = sorted(logprobs.items(), key=lambda each: each[1].rank)
        top = [(other, about.logprob) for other, about in ranked[: self.request.top_logprobs]]
        return TokenLogprob(token, logprobs[token].logprob, tuple(top))

    def _score(self, of_prompt: Sequence[Any]) -> None:
        first = self.request.prompt_logprobs_from
        pairs = zip(self.request.prompt_ids[first:], of_prompt[first:], strict=True)
        found = [(about[token].logprob, _likeliest(about)) for token, about in pairs]
        self._prompt_logprobs = tuple(logprob for logprob, _ in found)
        self._prompt_likeliest = tuple(token for _, token in found)

    def finished(self) -> Finished:
        asked = self.request.prompt_logprobs
        return Finished(
            self._reason,
            self._usage(),
            self._stop,
            self._prompt_logprobs if asked else None,
            self._prompt_likeliest if asked else None,
        )

    def cancelled(self) -> Finished:
        return Finished("cancelled", self._usage())

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            cached_tokens=self._cached,
            completion_tokens=self._answered,
            admitted_s=self._waited,
            first_token_s=self._first if self._answered else None,
            total_s=time.perf_counter() - self._began,
        )


def _likeliest(about: Any) -> int:
    token: int = min(about, key=lambda each: about[each].rank)
    return token
