"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from longctx.chat.tools import ContentPiece, Piece, ToolCallStart
from longctx.engine import Delta, Finished
from longctx.serve.answers import answer, read
from longctx.serve.conversation import AskedChat, Parser, pieces_of, prepare
from longctx.serve.frames import Frames
from longctx.serve.jobs import Heard, Job
from longctx.serve.legacy import is_legacy, modern
from longctx.serve.schema import ChatRequest
from longctx.serve.service import Service, too_many
from longctx.serve.sse import unless_gone
from longctx.serve.tokens import TokenText, chat_logprobs


async def chat(request: Request, service: Service) -> Response:
    """Answer a conversation."""
    service.ready()
    body = await read(request, service, ChatRequest)
    service.check_model(body.model)
    n, most = body.n or 1, service.settings.limits.max_n
    if n > most:
        raise too_many("n", n, most)
    preparing = prepare(service, modern(body), request.state.size)
    asked = await unless_gone(request.receive, preparing)
    job = Job(
        f"chatcmpl-{secrets.token_hex(12)}",
        "chat.completion",
        [len(asked.ids)] * n,
        n,
        request.state.request_id,
        documents=asked.documents,
    )
    text = service.text if body.logprobs else None
    return await answer(
        request,
        service,
        body,
        job,
        lambda: asked.requests(service, n),
        ChatShape(job, service.name, text, asked, legacy=is_legacy(body)),
        param="messages",
        schema_param=asked.held_param,
        unused=asked.unused,
    )


@dataclass
class _Choice:
    """One answer so far."""

    parser: Parser | None
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    begun: bool = False


class ChatShape(Frames):
    """Answers and chunks of chat.completion.

    Args:
        text: of tokens, where log-probabilities were asked for.
        legacy: a call is a `function_call`, the form before tools.
    """

    def __init__(
        self,
        job: Job,
        model: str,
        text: TokenText | None,
        asked: AskedChat,
        *,
        legacy: bool = False,
    ) -> None:
        super().__init__(job, model, "chat.completion.chunk")
        self._text, self._legacy = text, legacy
        self._choices = [_Choice(asked.parser() if asked.parser else None) for _ in job.prompts]

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
                choice.finish = "function_call" if self._legacy else "tool_calls"
            add({}, choice.finish)
        return found

    def _deltas(self, choice: _Choice, text: str, *, last: bool) -> list[dict[str, Any]]:
        if choice.parser is None:
            pieces: Sequence[Piece] = [ContentPiece(text)] if text else []
        else:
            pieces = pieces_of(choice.parser, text, last=last)
        return [self._delta(choice, piece) for piece in pieces]

    def _delta(self, choice: _Choice, piece: Piece) -> dict[str, Any]:
        """Of one piece; remembers it for the answer in one piece."""
        if isinstance(piece, ContentPiece):
            choice.text.append(piece.text)
            return {"content": piece.text}
        if isinstance(piece, ToolCallStart):
            function = {"name": piece.name, "arguments": ""}
            choice.calls.append({"id": piece.id, "type": "function", "function": function})
            if self._legacy:
                return {"function_call": dict(function)}
            start = {"index": piece.index, "id": piece.id, "type": "function"}
            return {"tool_calls": [{**start, "function": dict(function)}]}
        choice.calls[piece.index]["function"]["arguments"] += piece.text
        if self._legacy:
            return {"function_call": {"arguments": piece.text}}
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, choice in enumerate(self._choices):
            content = "".join(choice.text)
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if choice.calls:
                message["content"] = content or None
                if self._legacy:
                    message["function_call"] = choice.calls[0]["function"]
                else:
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
