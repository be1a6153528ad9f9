"""Answers that must be tool calls: which tools, in which grammar, and the calls in the text.

The prompt ends with the opening tag and the grammar leaves the model nothing but calls, so that
every token of a call can be handed on as it comes, and one that is cut off is still a call. Knows
neither HTTP nor tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, NamedTuple

from longctx.chat.messages import functions_of
from longctx.chat.tools import (
    CLOSE,
    OPEN,
    ObjectEnd,
    Piece,
    ToolCallArguments,
    ToolCallStart,
    new_call_id,
)
from longctx.errors import UserError

ToolChoice = str | dict[str, Any] | None
Tools = list[dict[str, Any]] | None

# Of one answer. A model that never ends by itself would write them until its length is over.
MOST_CALLS = 16
_MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class ForcedCall:
    """What makes an answer a tool call, or several.

    Attributes:
        prefix: ends the prompt; it is part of the ids of `ChatRenderer.encode`.
        schema: of one call. A `$ref` in a function's parameters still points into them.
        closing, opening: what stands between two calls; the first may stand behind the last.
        most: calls in one answer.
    """

    prefix: str
    schema: dict[str, Any]
    closing: str = f"\n{CLOSE}"
    opening: str = f"\n{OPEN}\n"
    most: int = 1


class Offer(NamedTuple):
    """The tools that a model is told of, and what it may do with them."""

    tools: Tools
    choice: ToolChoice


def offer(tools: Tools, tool_choice: ToolChoice) -> Offer:
    """Read `allowed_tools`: of the tools only these are offered, under its mode.

    Raises:
        UserError: a mode that is none, or a tool that is not there.
    """
    if not isinstance(tool_choice, dict) or tool_choice.get("type") != "allowed_tools":
        return Offer(tools, tool_choice)
    given = tool_choice.get("allowed_tools")
    mode = given.get("mode") if isinstance(given, dict) else None
    listed = given.get("tools") if isinstance(given, dict) else None
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise UserError(
            f"tool_choice: {short(tool_choice)} needs allowed_tools with a mode, auto or required, "
            "and a list of tools"
        )
    names = [_named(each) for each in listed]
    functions = functions_of(tools)
    wrong = next((name for name in names if name is None or name not in functions), "")
    if wrong != "":
        raise UserError(
            f"tool_choice: there is no tool {short(wrong)}: name some of {', '.join(functions)}"
        )
    return Offer([tool for tool in tools or [] if tool["function"]["name"] in names], mode)


def forced_call(
    tools: Tools, tool_choice: ToolChoice, *, parallel: bool = False
) -> ForcedCall | None:
    """How "required" and a named function are made sure of; None for "auto" and "none".

    Args:
        parallel: whether "required" may be several calls; a named function is called once.

    Raises:
        UserError: a choice that is none of these, or of a tool that is not there; bad tools.
    """
    tools, tool_choice = offer(tools, tool_choice)
    functions = functions_of(tools)
    named = _named(tool_choice)
    if named is None and tool_choice in (None, "auto", "none"):
        return None
    if named is None and tool_choice != "required":
        raise UserError(
            f"tool_choice: {short(tool_choice)} is none of none, auto, required, allowed_tools and "
            '{"type": "function", "function": {"name": …}}: pass one of these'
        )
    if not functions:
        raise UserError(f"tool_choice: {short(tool_choice)} needs tools: pass some")
    if named is not None and named not in functions:
        raise UserError(
            f"tool_choice: there is no tool {short(named)}: name one of {', '.join(functions)}"
        )
    chosen = list(functions) if named is None else [named]
    most = MOST_CALLS if parallel and named is None else 1
    schema = _schema({name: functions[name] for name in chosen})
    return ForcedCall(f"{OPEN}\n", schema, most=most)


def _named(choice: Any) -> str | None:
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _schema(functions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A call of one of the functions, as JSON schema. Definitions have names of their own: a
    function's may hold what a reference cannot."""
    calls, definitions = [], {}
    for at, (name, function) in enumerate(functions.items()):
        definitions[f"f{at}"] = _moved(_parameters(function), f"#/$defs/f{at}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    "arguments": {"$ref": f"#/$defs/f{at}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "$defs": definitions}


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    """Arguments are an object, also where their schema does not say so."""
    schema = function.get("parameters") or {}
    told = {"type", "$ref", "anyOf", "oneOf", "allOf"} & set(schema)
    return schema if told else {**schema, "type": "object"}


def _moved(schema: Any, root: str) -> Any:
    """A schema whose `#` has become `root`."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for key, value in schema.items()
    }


_HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": (?=\{)')


class ForcedCallParser:
    """Feed a forced answer's text as it comes, without the prefix. A call is begun when its name is
    known, and its arguments are handed on as they come; of a name that is cut off there is nothing.
    """

    def __init__(self, new_id: Callable[[], str] = new_call_id) -> None:
        self._new_id = new_id
        self._text = ""  # of the head that is looked for, or of the arguments so far
        self._sent = 0  # characters of these
        self._calls = 0
        self._object: ObjectEnd | None = None

    def feed(self, text: str) -> list[Piece]:
        self._text += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def close(self) -> list[Piece]:
        """Nothing is ever held back."""
        return []

    def _step(self, pieces: list[Piece]) -> bool:
        if self._object is None:
            head = _HEAD.search(self._text)
            if head is None:
                return False
            pieces.append(ToolCallStart(self._calls, self._new_id(), json.loads(head[1])))
            self._text, self._sent, self._object = self._text[head.end() :], 0, ObjectEnd()
        end = self._object.find(self._text)
        if new := self._text[self._sent : end]:
            pieces.append(ToolCallArguments(self._calls, new))
            self._sent += len(new)
        if end is None:
            return False
        self._text, self._object = self._text[end:], None
        self._calls += 1
        return True
