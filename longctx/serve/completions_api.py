"""POST /v1/completions: raw prompts, of which the client decides every token.

Special tokens that a prompt spells are special tokens here: this is the route without a template.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from longctx.engine import Delta, EngineRequest, Finished, TokenLogprob
from longctx.serve.answers import answer, read
from longctx.serve.constraints import wish_of
from longctx.serve.errors import ApiError, bad
from longctx.serve.frames import Frames
from longctx.serve.jobs import Heard, Job
from longctx.serve.schema import CompletionRequest
from longctx.serve.service import Service, too_many
from longctx.serve.sse import unless_gone
from longctx.serve.tokens import CompletionLogprobs, LogprobRow, TokenText

DEFAULT_MAX_TOKENS = 16  # the API's own


async def completions(request: Request, service: Service) -> Response:
    """Continue prompts."""
    service.ready()
    body = await read(request, service, CompletionRequest)
    service.check_model(body.model)
    if body.stream and body.echo and body.logprobs is not None:
        raise ApiError(
            400,
            "echo with logprobs is not streamed: leave stream out.",
            code="unsupported_parameter",
            param="stream",
        )
    n, limits = body.n or 1, service.settings.limits
    if n > limits.max_n:
        raise too_many("n", n, limits.max_n)
    if _count(body.prompt) > limits.max_prompts:  # before they are tokenised
        raise too_many("prompt", _count(body.prompt), limits.max_prompts)
    wish = wish_of(body, limits.max_schema)
    size, run = request.state.size, service.workers.run
    prompts = await unless_gone(request.receive, run(size, _encode, service, body))
    if not prompts or not all(prompts):
        raise bad("prompt", "prompt is empty: give at least one token.")
    job = Job(
        f"cmpl-{secrets.token_hex(12)}",
        "text_completion",
        [len(ids) for ids in prompts for _ in range(n)],
        n,
        request.state.request_id,
    )
    generations = [(ids, index) for ids in prompts for index in range(n)]
    text = None if body.logprobs is None else service.text
    echoed = None
    if body.echo:
        texts = await run(size, _decode, service.text, prompts)
        echoed = [one for one in texts for _ in range(n)]
    shape = CompletionShape(job, service.name, text, [ids for ids, _ in generations], echoed)

    def requests() -> list[EngineRequest]:
        return [
            service.request(
                body,
                ids,
                index,
                max_tokens=body.max_tokens,
                default=DEFAULT_MAX_TOKENS,
                logprobs=body.logprobs,
                held=None if wish is None else wish.held,
                prompt_logprobs=bool(body.echo) and body.logprobs is not None,
            )
            for ids, index in generations
        ]

    held_param = "response_format" if wish is None else wish.param
    return await answer(
        request, service, body, job, requests, shape, param="prompt", schema_param=held_param
    )


def _count(prompt: str | list[Any]) -> int:
    """Prompts: a text and a list of ids are one."""
    return 1 if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else len(prompt)


def _encode(service: Service, body: CompletionRequest) -> list[list[int]]:
    prompt = body.prompt
    texts = [prompt] if isinstance(prompt, str) else prompt
    if texts and isinstance(texts[0], int):
        return [list(texts)]
    for one in texts:
        if isinstance(one, str):
            service.check_length([one], body.max_tokens, "prompt")
    return [
        service.token_ids(one, body.add_special_tokens is not False, "prompt")
        if isinstance(one, str)
        else list(one)  # type: ignore[arg-type]
        for one in texts
    ]


def _decode(text: TokenText, prompts: Sequence[Sequence[int]]) -> list[str]:
    return [text.decode(ids, special=True) for ids in prompts]


class CompletionShape(Frames):
    """Answers and chunks of text_completion.

    Args:
        text: of tokens, where log-probabilities were asked for.
        echoed: prompts to stand before the answers.
    """

    def __init__(
        self,
        job: Job,
        model: str,
        text: TokenText | None,
        prompts: Sequence[Sequence[int]],
        echoed: Sequence[str] | None,
    ) -> None:
        super().__init__(job, model, "text_completion")
        self._prompts, self._echoed = prompts, echoed
        count = len(job.prompts)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._finish: list[str | None] = [None] * count
        self._ends: list[Finished | None] = [None] * count
        self._columns = None if text is None else [CompletionLogprobs(text) for _ in range(count)]
        self._begun = [False] * count

    def chunks(self, heard: Heard) -> Sequence[dict[str, Any]]:
        index, event = heard.at, heard.event
        rows: list[LogprobRow] = []
        if isinstance(event, Delta):
            self._texts[index].append(event.text)
            if self._echoed is not None:
                self._logprobs[index] += event.logprobs
            text, rows = event.text, _rows(event.logprobs)
        elif isinstance(event, Finished):
            self._finish[index] = event.reason
            self._ends[index] = event
            text = ""
        else:
            return []
        if self._echoed is not None and not self._begun[index]:
            text = self._echoed[index] + text
        self._begun[index] = True
        logprobs = None
        # With an echo, the prompt's come first, and are known at the end: no stream has them.
        if self._columns is not None and self._echoed is None and rows:
            logprobs = self._columns[index].answer(rows)
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": self._finish[index],
        }
        return [{**self.frame(), "choices": [choice]}]

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, texts in enumerate(self._texts):
            text = "".join(texts)
            if self._echoed is not None:
                text = self._echoed[index] + text
            choices.append(
                {
                    "index": index,
                    "text": text,
                    "logprobs": self._whole_logprobs(index),
                    "finish_reason": self._finish[index],
                }
            )
        return {**self.frame(), "choices": choices, "usage": usage}

    def _whole_logprobs(self, index: int) -> dict[str, Any] | None:
        if self._columns is None:
            return None
        columns, end = self._columns[index], self._ends[index]
        if self._echoed is not None and end is not None:
            scores = [None, *(end.prompt_logprobs or ())]
            top = [(), *(end.prompt_top or [()] * (len(scores) - 1))]
            columns.prompt(
                [LogprobRow(*row) for row in zip(self._prompts[index], scores, top, strict=True)]
            )
            columns.answer(_rows(self._logprobs[index]))
        return columns.found


def _rows(logprobs: Sequence[TokenLogprob]) -> list[LogprobRow]:
    return [LogprobRow(one.token_id, one.logprob, one.top) for one in logprobs]
