"""Bodies of /v1/responses, and their items as the messages of a chat. Knows no answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from longctx.serve import unbuilt
from longctx.serve.errors import ApiError, bad
from longctx.serve.schema import (
    Body,
    ChatRequest,
    Count,
    Generate,
    JsonSchema,
    Objects,
    ResponseFormat,
    Texts,
)

Item = dict[str, Any]
_LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text")
# What the fields of a chat are called here.
NAMES = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens"}


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None


class ResponsesRequest(Generate):
    refused: ClassVar[unbuilt.Table] = unbuilt.RESPONSES
    input: str | Objects
    document_ids: Texts | None = Field(None, description="Of /v1/documents; read before all else.")
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Count | None = None
    text: TextConfig | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: Texts | None = None
    top_logprobs: Count | None = None
    store: bool | None = True
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or _LOGPROBS in (self.include or ())

    def items(self) -> list[Item]:
        """The input; a text is a user's message."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return self.input


def as_chat(body: ResponsesRequest, items: Sequence[Item]) -> ChatRequest:
    """The same request of a chat.

    Args:
        items: the whole conversation, earlier responses included.

    Raises:
        ApiError: an item or a tool of a kind that is not served.
    """
    messages = _messages(items)
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    most = body.max_tokens if body.max_output_tokens is None else body.max_output_tokens
    common = {name: getattr(body, name) for name in Generate.model_fields}
    return ChatRequest.model_construct(
        **{
            **common,
            "messages": messages,
            "document_ids": body.document_ids,
            "max_tokens": most,
            "tools": body.tools and [_tool(at, tool) for at, tool in enumerate(body.tools)],
            "tool_choice": _choice(body.tool_choice),
            "parallel_tool_calls": body.parallel_tool_calls,
            "response_format": _format(body.text) or body.response_format,
            "logprobs": body.wants_logprobs,
            "top_logprobs": body.top_logprobs if body.wants_logprobs else None,
            "chat_template_kwargs": body.chat_template_kwargs,
        }
    )


def _messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Calls belong to the assistant's message before them. Thoughts of other models are left out:
    the models that are served here have none."""
    made: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        kind = item.get("type") or "message"
        if kind == "message":
            made.append({"role": item.get("role"), "content": _content(item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": None})
            made[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = _content(item.get("output"))
            made.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":
            raise bad(
                "input",
                f"input[{index}].type: {str(kind)[:80]!r} is not served: pass messages, function "
                "calls and their outputs.",
            )
    return made


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        else part
        for part in content
    ]


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise bad(
            "tools",
            f"tools[{index}].type: {str(tool.get('type'))[:80]!r} is not served: pass functions.",
        )
    told = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name)}
    return {"type": "function", "function": told}


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("tools"), list):
        return {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": choice.get("mode"),
                "tools": [*map(_choice, choice["tools"])],
            },
        }
    return choice


def _format(text: TextConfig | None) -> ResponseFormat | None:
    given = None if text is None else text.format
    if given is None:
        return None
    schema = JsonSchema.model_construct(name=given.name, schema_=given.schema_, strict=given.strict)
    return ResponseFormat.model_construct(type=given.type, json_schema=schema)


def renamed(error: ApiError) -> ApiError:
    """The same error, of this route's field."""
    error.param = NAMES.get(error.param or "", error.param)
    return error
