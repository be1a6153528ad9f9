"""Messages and tools of OpenAI's format: checked, brought into one form, and marked.

Marking puts a mark (`longctx.chat.template`) in place of every string that somebody wrote, so that
a template prints marks. Words of JSON Schema stay, because templates look at them. Knows no
template and no tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from reprlib import repr as short  # a client's value may be megabytes
from typing import Any, Literal, NamedTuple

from longctx.chat.template import mark
from longctx.errors import UserError

ROLES = ("system", "developer", "user", "assistant", "tool")
_DEEPEST = 100
# Gateways prefix names with a server's, and keep what they need in a call's id. Both may stand in a
# prompt as the template prints them: no special token is made of these characters alone.
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_.:/+=@~-]{1,512}")
# Keys and values that templates compare with. None of them is a special token of any tokenizer.
_WORDS = {
    *("type", "function", "name", "description", "parameters", "properties", "required", "items"),
    *("enum", "additionalProperties", "object", "string", "number", "integer", "boolean", "array"),
    "null",
}


class Text(NamedTuple):
    """A string that somebody wrote. `required`: it must reach the model. `where`: for errors."""

    text: str
    kind: Literal["content", "data"]
    where: str
    required: bool


@dataclass
class Marked:
    """The strings that marks stand for; mark i is `texts[i]`."""

    texts: list[Text] = field(default_factory=list)

    def add(self, text: str, kind: Literal["content", "data"], where: str, required: bool) -> str:
        """The mark for a string. None for the empty one: templates ask whether there is any."""
        if not text:
            return text
        self.texts.append(Text(text, kind, where, required))
        return mark(len(self.texts) - 1)

    def data(self, value: Any, where: str, required: bool) -> Any:
        """JSON data with a mark for every string in it, keys too."""
        if isinstance(value, str):
            return value if value in _WORDS else self.add(value, "data", where, required)
        if isinstance(value, list):
            return [self.data(item, where, required) for item in value]
        if isinstance(value, dict):
            return {
                self.data(key, where, required): self.data(item, where, required)
                for key, item in value.items()
            }
        return value


def normalise(messages: Any) -> list[dict[str, Any]]:
    """Checked copies: contents are strings, arguments objects, developers system.

    Raises:
        UserError: names the message and the field.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError("messages: at least one message is needed: pass a list of them")
    normal, called = [], set[str]()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise UserError(f"{where}.role: {short(role)} is none of {', '.join(ROLES)}: pass one")
        made: dict[str, Any] = {
            "role": "system" if role == "developer" else role,
            "content": _content(message.get("content"), f"{where}.content"),
        }
        if message.get("name") is not None:
            made["name"] = _string(message["name"], f"{where}.name")
        if role == "assistant":
            made |= _answer(message, where)
            called |= {call["id"] for call in made.get("tool_calls", ())}
        elif role == "tool":
            made["tool_call_id"] = _id(message.get("tool_call_id"), f"{where}.tool_call_id")
            if made["tool_call_id"] not in called:
                raise UserError(
                    f"{where}.tool_call_id: {made['tool_call_id']} is no call of an assistant "
                    "message before it: keep that message"
                )
        if message.get("content") is None and not made.get("tool_calls"):
            raise UserError(f"{where}.content: is missing: pass a string")
        normal.append(made)
    return normal


def _answer(message: dict[str, Any], where: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if message.get("reasoning_content") is not None:
        made["reasoning_content"] = _string(
            message["reasoning_content"], f"{where}.reasoning_content"
        )
    calls = message.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise UserError(f"{where}.tool_calls: must be a list of calls")
        made["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
    return made


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise UserError(f"{where}: is no call of a function: pass type, id and function")
    written = function.get("arguments") or "{}"
    return {
        "id": _id(call.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": _name(function.get("name"), f"{where}.function.name"),
            "arguments": _arguments(written, f"{where}.function.arguments"),
        },
    }


def _arguments(written: Any, where: str) -> dict[str, Any]:
    """Templates print the object; given JSON text, they would print a string of JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        found = json.loads(_string(written, where), parse_constant=refuse)
        # Half a surrogate pair can be escaped, but no tokenizer takes it; 1e999 becomes infinite.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no JSON ({error}): pass a JSON object as text") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: is JSON but no object: pass a JSON object as text")
    _check_depth(found, where)
    return found


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UserError(f"{where}: must be a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        return _string(part.get(kind), f"{where}.{kind}")
    if kind in ("image_url", "image", "input_image"):
        raise UserError(f"{where}: images are not served: pass text alone")
    raise UserError(f"{where}.type: {short(kind)} is not served: pass parts of type text")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: must be a string")
    return value


def _check_depth(value: Any, where: str, left: int = _DEEPEST) -> None:
    """What comes later walks the data by recursion."""
    if not isinstance(value, dict | list):
        return
    if not left:
        raise UserError(f"{where}: is nested more than {_DEEPEST} levels deep: flatten it")
    for item in value.values() if isinstance(value, dict) else value:
        _check_depth(item, where, left - 1)


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(f"{where}: {short(value)} must be 1 to 128 letters, digits and _ . : / -")
    return value


def _id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise UserError(
            f"{where}: {short(value)} must be 1 to 512 letters, digits and _ . : / + = @ ~ -"
        )
    return value


def mark_messages(messages: list[dict[str, Any]], marked: Marked) -> list[dict[str, Any]]:
    """Normalised messages with marks. Templates may leave names and thinking out."""
    copies = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        copy = {
            **message,
            "content": marked.add(message["content"], "content", f"{where}.content", True),
        }
        for optional in ("name", "reasoning_content"):
            if optional in message:
                copy[optional] = marked.add(
                    message[optional], "content", f"{where}.{optional}", False
                )
        if "tool_calls" in message:
            copy["tool_calls"] = [
                {
                    **call,
                    "function": {
                        "name": marked.add(
                            call["function"]["name"], "data", f"{where}.tool_calls", True
                        ),
                        "arguments": marked.data(
                            call["function"]["arguments"], f"{where}.tool_calls", True
                        ),
                    },
                }
                for call in message["tool_calls"]
            ]
        copies.append(copy)
    return copies


def functions_of(tools: Any) -> dict[str, dict[str, Any]]:
    """The functions by name.

    Raises:
        UserError: names the tool and the field.
    """
    if not isinstance(tools, list | None):
        raise UserError("tools: must be a list of functions")
    functions: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(tools or []):
        where = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise UserError(f"{where}: is no function: pass type function, and function")
        name = _name(function.get("name"), f"{where}.function.name")
        if name in functions:
            raise UserError(f"{where}.function.name: {name} is there twice: rename one")
        _check_depth(function, where)
        parameters = function.get("parameters")
        if not isinstance(parameters, dict | None):
            raise UserError(f"{where}.function.parameters: must be a JSON schema, an object")
        if parameters and parameters.get("type", "object") != "object":
            raise UserError(
                f"{where}.function.parameters.type: {short(parameters['type'])} cannot be "
                "arguments: make it object"
            )
        functions[name] = function
    return functions


def mark_tools(tools: list[dict[str, Any]] | None, marked: Marked) -> list[dict[str, Any]] | None:
    """Checked tools with marks; of each, its name must reach the model."""
    if tools is None:
        return None
    copies = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        copy = marked.data(tool, where, False)
        copy["function"]["name"] = marked.add(tool["function"]["name"], "data", where, True)
        copies.append(copy)
    return copies
