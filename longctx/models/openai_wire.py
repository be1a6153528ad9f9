"""The OpenAI protocol as bytes: what is sent, how answers are read, what refusals mean.

    POST /chat/completions   messages; the server applies its own template
    POST /completions        token ids; exactly our prompt

Knows no retries and keeps no connection.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from longctx.eval.protocol import ContextOverflowError, Request, TargetLostError

Api = Literal["chat", "completions"]
APIS: tuple[Api, ...] = ("chat", "completions")
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}

# Fields that a server may refuse, and that can be left out: greedy decoding needs none of them.
OPTIONAL = ("repetition_penalty", "seed", "stream_options")
_TRANSIENT = (408, 409, 425, 429)
_OVERFLOW_CODES = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "string_above_max_length",
)
# vLLM, llama.cpp, TGI and SGLang have words and no code for it.
_OVERFLOW_WORDS = re.compile(
    r"context[ _](length|size|window)|maximum (context|input|sequence|allowed) |max_model_len"
    r"|(input|prompt)[^.]{0,40}(too long|longer than)|max_new_tokens` must be <=",
    re.IGNORECASE,
)
_SHOWN = 300


class TransientError(Exception):
    """Asking again may help. `retry_after` is what the server said, in seconds."""

    def __init__(self, text: str, retry_after: float | None = None, slow: bool = False) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        self.slow = slow


class RefusedError(Exception):
    """This request will be refused again."""


class FieldRefusedError(RefusedError):
    """The server does not take one of the fields that can be left out or renamed."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass
class EndpointAnswer:
    """Filled while it is read. `finish_reason` None: the end has not come."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    first_token_s: float | None = None

    def whole_text(self) -> str:
        """Thinking stands in tags, as models write it; it is open where the budget ended in it."""
        if not self.reasoning:
            return self.text
        closed = self.text or self.finish_reason != "length"
        return f"<think>{self.reasoning}{'</think>' if closed else ''}{self.text}"


@dataclass(frozen=True)
class Dialect:
    """What this server takes: fields that it refused once are not sent again."""

    left_out: frozenset[str] = field(default_factory=frozenset)

    def without(self, name: str) -> Dialect:
        return Dialect(self.left_out | {name})


def body_of(request: Request, api: Api, model: str, dialect: Dialect) -> dict[str, Any]:
    """Greedy, said in full: a server's defaults may sample and penalise."""
    budget = "max_completion_tokens" if "max_tokens" in dialect.left_out else "max_tokens"
    body: dict[str, Any] = {
        "model": model,
        **_prompt(request, api),
        budget: request.max_new_tokens,
        "temperature": 0,
        "seed": 0,
        "repetition_penalty": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {name: value for name, value in body.items() if name not in dialect.left_out}


def _prompt(request: Request, api: Api) -> dict[str, Any]:
    conversation = request.conversation
    if api == "completions":
        return {"prompt": list(request.ids)}
    if conversation is None or conversation.answer_prefix:
        raise ValueError("a chat endpoint takes a conversation without an answer prefix")
    roles = (("system", conversation.system), ("user", conversation.user))
    return {
        "messages": [{"role": role, "content": text} for role, text in roles if text is not None]
    }


def read_whole(data: bytes, seconds: float) -> EndpointAnswer:
    """An answer in one piece.

    Raises:
        TransientError: it is cut off, or not what the protocol says.
    """
    answer = EndpointAnswer(first_token_s=seconds)
    _take(answer, _json(data), "message")
    if answer.finish_reason is None:
        raise TransientError("the answer has no finish_reason")
    return answer


def read_stream(lines: Iterable[str], clock: Any) -> EndpointAnswer:
    """An answer in server-sent events; `clock()` gives seconds since the question.

    Raises:
        TransientError: the stream ended before the answer did, or is not what the protocol says.
    """
    answer = EndpointAnswer()
    for line in lines:
        if not line.startswith("data:"):
            continue  # comments keep the connection alive
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        before = len(answer.text) + len(answer.reasoning)
        _take(answer, _json(data.encode()), "delta")
        if answer.first_token_s is None and len(answer.text) + len(answer.reasoning) > before:
            answer.first_token_s = clock()
    if answer.finish_reason is None:
        raise TransientError("the stream ended before the answer did")
    return answer


def _json(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        shown = data[:80].decode(errors="replace")
        raise TransientError(f"the answer is no JSON: {shown!r}") from None
    if not isinstance(content, dict):
        raise TransientError("the answer is no JSON object")
    return content


def _take(answer: EndpointAnswer, content: Mapping[str, Any], part: str) -> None:
    if content.get("error"):
        # A stream has its status behind it: what goes wrong then arrives as an event.
        raise refusal(500, content, None)
    try:
        usage = content.get("usage")
        if usage:
            counted = usage.get("prompt_tokens")
            answer.prompt_tokens = counted if isinstance(counted, int) else None
        choices = content.get("choices")
        if choices is None and part == "message":
            raise TransientError("the answer has no choices")
        for choice in (choices or [])[:1]:
            said = choice.get(part) or {}
            answer.text += said.get("content") or said.get("refusal") or choice.get("text") or ""
            answer.reasoning += said.get("reasoning_content") or said.get("reasoning") or ""
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    except (AttributeError, TypeError, KeyError):
        raise TransientError("the answer is not what the protocol says") from None


def refusal(status: int, content: Any, retry_after: str | None) -> Exception:
    """What an HTTP status and a body say about asking again."""
    message, code = _message(content)
    told = f"HTTP {status}: {message[:_SHOWN]}" if message else f"HTTP {status}"
    refused = status in (400, 413, 422)
    if code in _OVERFLOW_CODES or (refused and _OVERFLOW_WORDS.search(message)):
        return ContextOverflowError(message[:_SHOWN] or told)
    if refused and (name := _refused_field(message)):
        return FieldRefusedError(name, told)
    if code == "insufficient_quota" or status in (401, 402, 403, 404):
        return TargetLostError(told)
    if status in _TRANSIENT or status >= 500:
        return TransientError(told, seconds_of(retry_after))
    return RefusedError(told)


def filtered(status: int, content: Any) -> bool:
    """Whether the server will not have this prompt read: an answer, if not the one hoped for."""
    return status == 400 and _message(content)[1] in ("content_filter", "content_policy_violation")


def _message(content: Any) -> tuple[str, str]:
    """The words and the code of an error, wherever a server puts them."""
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return " ".join(str(error or "").split()), ""
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    return " ".join(str(message).split()), str(code or "")


def _refused_field(message: str) -> str | None:
    if "max_completion_tokens" in message and "max_tokens" in message:
        return "max_tokens"
    return next((name for name in OPTIONAL if name in message), None)


def seconds_of(retry_after: str | None) -> float | None:
    """`Retry-After`: seconds, or a date. What is neither says nothing."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
