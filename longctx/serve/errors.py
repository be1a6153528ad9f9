"""Every failure in OpenAI's shape: {"error": {message, type, param, code}}.

The engine's exception classes become a status and a code; nobody parses a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from longctx.engine import (
    ConstraintError,
    ContextLengthError,
    EngineBrokenError,
    EngineClosedError,
    InsufficientMemoryError,
    NonFiniteLogitsError,
    QueueFullError,
)
from longctx.errors import UserError

# Of a defect: the one code whose cause is in the log alone.
INTERNAL = "internal_error"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """An answer that is an error. `more` stands beside code and message, for clients to read."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.more = status, code, param, more
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": {**error, **self.more}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def bad(param: str, message: str) -> ApiError:
    """A field that makes no sense."""
    return ApiError(400, message, code="invalid_value", param=param)


def overloaded(message: str, code: str, wait_s: float) -> ApiError:
    """429, with how long the backlog will take."""
    seconds = str(max(1, min(3600, math.ceil(wait_s))))
    return ApiError(429, message, code=code, headers={"Retry-After": seconds})


def unavailable(message: str, code: str, wait_s: int = 5) -> ApiError:
    return ApiError(503, message, code=code, headers={"Retry-After": str(wait_s)})


def broken() -> ApiError:
    """For as long as the process still answers."""
    return unavailable("The server's device fails, so that it ends: ask again.", "device_failed")


def too_long(limit: int, prompt: int, answer: int, param: str, *, exact: bool = True) -> ApiError:
    """Where `exact` is not, the prompt has so many tokens or more: it was not tokenised."""
    least = "" if exact else "at least "
    more: dict[str, Any] = {} if exact else {"at_least": True}
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. The request asks for "
        f"{least}{prompt + answer} ({least}{prompt} in the prompt, {answer} for the "
        "answer): shorten the prompt or lower max_tokens.",
        code="context_length_exceeded",
        param=param,
        max_context=limit,
        prompt_tokens=prompt,
        max_tokens=answer,
        **more,
    )


_CONVERSATION = (
    *("messages", "tools", "tool_choice", "chat_template_kwargs", "continue_final_message"),
)


def of_conversation(error: UserError) -> ApiError:
    """What is wrong with messages or tools; the message begins with the field."""
    param = str(error).split(":", 1)[0].split(".")[0].split("[")[0]
    return bad(param if param in _CONVERSATION else "messages", str(error))


def from_engine(error: Exception, *, param: str = "messages", wait_s: float = 1.0) -> ApiError:
    """What the client is told of an engine's refusal or failure.

    Args:
        param: the field that is to blame: the prompt's, or the schema's.
        wait_s: seconds that the backlog will take.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return too_long(error.limit, error.prompt_tokens, error.max_new_tokens, param)
    if isinstance(error, InsufficientMemoryError):
        return ApiError(
            400,
            f"This server has memory for {error.fitting_tokens} tokens. The request asks for "
            f"{error.asked_tokens}: shorten it, or start the server with a larger --kv-budget.",
            code="insufficient_memory",
            param=param,
            fitting_tokens=error.fitting_tokens,
            asked_tokens=error.asked_tokens,
            kv_budget_bytes=error.budget_bytes,
        )
    if isinstance(error, QueueFullError):
        message = f"{error.waiting} requests are waiting already: try again later."
        return overloaded(message, "queue_full", wait_s)
    if isinstance(error, ConstraintError):
        return ApiError(400, str(error), code="invalid_json_schema", param=param)
    if isinstance(error, NonFiniteLogitsError):
        message = (
            "The model computed no answer: its logits are not finite (NaN or infinite). Shorten or "
            "change the prompt, or have the server started with another --dtype."
        )
        return ApiError(500, message, code="logits_not_finite")
    if isinstance(error, EngineBrokenError):
        return broken()
    if isinstance(error, EngineClosedError):
        return unavailable("The server is shutting down.", "shutting_down")
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="invalid_value", param=param)
    return ApiError(500, "The request failed in the server; its log says why.", code=INTERNAL)
