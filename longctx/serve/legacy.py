"""The form before tools: `functions`, `function_call`, messages of the role `function`."""

from __future__ import annotations

from typing import Any

from longctx.serve.errors import bad
from longctx.serve.schema import ChatRequest


def is_legacy(body: ChatRequest) -> bool:
    """Whether the answer, too, must be in that form."""
    return body.functions is not None or body.function_call is not None


def modern(body: ChatRequest) -> ChatRequest:
    """The same request with tools.

    Raises:
        ApiError: both forms at once.
    """
    messages = _messages(body.messages)
    if not is_legacy(body):
        return body if messages is body.messages else body.model_copy(update={"messages": messages})
    if body.tools is not None or body.tool_choice is not None:
        raise bad(
            "functions",
            "functions and function_call are the form before tools and tool_choice: give one form.",
        )
    choice = body.function_call
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    tools = [{"type": "function", "function": function} for function in body.functions or []]
    changed = {
        "messages": messages,
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    return body.model_copy(update=changed)


def _messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls get ids; an answer belongs to the latest call of its function."""
    if not any("function_call" in each or each.get("role") == "function" for each in messages):
        return messages
    made: list[dict[str, Any]] = []
    latest: dict[Any, str] = {}
    for index, message in enumerate(messages):
        call = message.get("function_call")
        if message.get("role") == "assistant" and isinstance(call, dict):
            id = latest[str(call.get("name"))] = f"call_{index}"
            rest = {key: value for key, value in message.items() if key != "function_call"}
            made.append({**rest, "tool_calls": [{"id": id, "type": "function", "function": call}]})
        elif message.get("role") == "function":
            id = latest.get(str(message.get("name")), "")
            if not id:
                raise bad(
                    "messages",
                    f"messages[{index}].name: there is no call of that function before it: keep "
                    "the assistant's message that calls it.",
                )
            made.append({"role": "tool", "tool_call_id": id, "content": message.get("content")})
        else:
            made.append(message)
    return made
