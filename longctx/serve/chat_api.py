"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from longctx.chat.renderer import ForcedCall
from longctx.chat.tools import CLOSE, ContentPiece, Piece, ToolCallParser, ToolCallStart
from longctx.engine import Delta, EngineRequest, Finished
from longctx.errors import UserError
from longctx.serve.answers import answer, read
from longctx.serve.errors import ApiError, of_conversation
from longctx.serve.jobs import Heard, Job
from longctx.serve.schema import ChatRequest
from longctx.serve.service import Service, too_many
from longctx.serve.tokens import TokenText, chat_logprobs


async def chat(request: Request, service: Service) -> Response:
    """Answer a conversation."""
    service.ready()
    body = await read(request, service, ChatRequest)
    service.check_model(body.model)
    limits = service.settings.limits
    n = body.n or 1
    if n > limits.max_n:
        raise too_many("n", n, limits.max_n)
    service.check_conversation(body.messages, body.tools)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(
            400,
            "top_logprobs needs logprobs: true.",
            code="invalid_value",
            param="top_logprobs",
        )
    renderer = service.renderer
    schema = service.schema_of(body.response_format)

    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens

    def render() -> tuple[list[int], ForcedCall | None]:
        choice = body.tool_choice
        forced = renderer.forced_call(body.tools, choice)
        ids = renderer.encode(
            body.messages,
            tools=body.tools,
            tool_choice=choice,
            check=lambda texts: service.check_length(texts, most, "messages"),
        )
        return ids, forced

    try:
        ids, forced = await service.workers.run(request.state.size, render)
    except UserError as error:
        raise of_conversation(error) from error
    if forced is not None and schema is not None:
        raise ApiError(
            400,
            "response_format cannot hold for an answer that must be a tool call: leave one out.",
            code="invalid_value",
            param="response_format",
        )
    if forced is not None:
        schema = forced.schema
    job = Job(
        f"chatcmpl-{secrets.token_hex(12)}",
        "chat.completion",
        [len(ids)] * n,
        n,
        request.state.request_id,
    )
    parse_tools = bool(body.tools) and body.tool_choice != "none"
    shape = ChatShape(
        job,
        service.name,
        service.text if body.logprobs else None,
        parse_tools=parse_tools,
        forced=forced,
    )
    # A forced call is one by its schema.
    single = parse_tools and forced is None and body.parallel_tool_calls is False
    one_call = (CLOSE,) if single else ()

    def requests() -> list[EngineRequest]:
        return [
            service.request(
                body,
                ids,
                index,
                max_tokens=most,
                default=service.settings.default_max_tokens,
                schema=schema,
                logprobs=(body.top_logprobs or 0) if body.logprobs else None,
                stop=one_call,
            )
            for index in range(n)
        ]

    schema_param = "response_format" if forced is None else "tools"
    return await answer(
        request,
        service,
        body,
        job,
        requests,
        shape,
        param="messages",
        schema_param=schema_param,
    )


@dataclass
class _Choice:
    """One answer so far."""

    parser: ToolCallParser | None
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    begun: bool = False


class ChatShape:
    """Answers and chunks of chat.completion.

    Args:
        text: of tokens, where log-probabilities were asked for.
    """

    def __init__(
        self,
        job: Job,
        model: str,
        text: TokenText | None,
        *,
        parse_tools: bool,
        forced: ForcedCall | None,
    ) -> None:
        self._job, self._model, self._text = job, model, text
        self._choices = []
        for _ in job.prompts:
            parser = ToolCallParser() if parse_tools else None
            if parser is not None and forced is not None:
                parser.feed(forced.prefix)
            self._choices.append(_Choice(parser))

    def frame(self) -> dict[str, Any]:
        return {
            "id": self._job.id,
            "object": "chat.completion.chunk",
            "created": int(self._job.created),
            "model": self._model,
            "choices": [],
        }

    def chunks(self, heard: Heard) -> Sequence[dict[str, Any]]:
        choice, event = self._choices[heard.at], heard.event
        found: list[dict[str, Any]] = []

        def add(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> None:
            one: dict[str, Any] = {"index": heard.at, "delta": delta, "finish_reason": finish}
            one["logprobs"] = logprobs
            found.append({**self.frame(), "choices": [one]})

        if isinstance(event, Delta | Finished) and not choice.begun:
            choice.begun = True
            add({"role": "assistant", "content": ""})
        if isinstance(event, Delta):
            logprobs = None
            if self._text is not None:
                entries = chat_logprobs(self._text, event.logprobs)
                choice.logprobs += entries
                logprobs = {"content": entries}
            deltas = self._deltas(choice, event.text, last=False)
            if logprobs is not None and not deltas:
                deltas = [{"content": ""}]
            for at, delta in enumerate(deltas):
                add(delta, logprobs=logprobs if at == 0 else None)
        elif isinstance(event, Finished):
            for delta in self._deltas(choice, "", last=True):
                add(delta)
            choice.finish = event.reason
            if choice.calls and event.reason == "stop":
                choice.finish = "tool_calls"
            add({}, choice.finish)
        return found

    def _deltas(self, choice: _Choice, text: str, *, last: bool) -> list[dict[str, Any]]:
        if choice.parser is None:
            pieces: Sequence[Piece] = [ContentPiece(text)] if text else []
        else:
            pieces = choice.parser.feed(text) if text else []
            if last:
                pieces = [*pieces, *choice.parser.close()]
        return [_delta(choice, piece) for piece in pieces]

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, choice in enumerate(self._choices):
            content = "".join(choice.text)
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if choice.calls:
                message["content"] = content or None
                message["tool_calls"] = choice.calls
            logprobs = None
            if self._text is not None:
                logprobs = {"content": choice.logprobs, "refusal": None}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish,
                }
            )
        return {
            **self.frame(),
            "object": "chat.completion",
            "choices": choices,
            "usage": usage,
        }


def _delta(choice: _Choice, piece: Piece) -> dict[str, Any]:
    """Of one piece; remembers it for the answer in one piece."""
    if isinstance(piece, ContentPiece):
        choice.text.append(piece.text)
        return {"content": piece.text}
    if isinstance(piece, ToolCallStart):
        function = {"name": piece.name, "arguments": ""}
        choice.calls.append({"id": piece.id, "type": "function", "function": function})
        start = {"index": piece.index, "id": piece.id, "type": "function"}
        return {"tool_calls": [{**start, "function": dict(function)}]}
    choice.calls[piece.index]["function"]["arguments"] += piece.text
    return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
