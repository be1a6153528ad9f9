"""Requests that are small to send and large to serve, by kind; each number makes another one.

Some can be served after all: then they must be, and hold up nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

CHAT = "/v1/chat/completions"
_ASKED = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8}


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


def patterns(n: int) -> dict[str, Any]:
    """Each doubles what compiling takes: 16 of them 0.1 s, 29 a quarter of an hour."""
    return {"title": str(n), "allOf": [_text(f".*a.{{{at}}}b.*") for at in range(1, 30)]}


def optional_groups(n: int) -> dict[str, Any]:
    pattern = "a"
    for _ in range(60 + n):
        pattern = f"({pattern})?b"
    return {"allOf": [_text(pattern), _text(f"{'a?' * 300}{'[ab]' * 30}.*")]}


def repetitions(n: int) -> dict[str, Any]:
    return _text(f"(((a{{1,{99 + n}}}){{1,99}}){{1,99}}){{1,99}}")


def alternations(n: int) -> dict[str, Any]:
    words = "|".join(f"x{at}y*z{7 * at + n}" for at in range(1500))
    return {"allOf": [_text(f"(({words}).*)+"), _text(f".*({words[:9000]})")]}


def products(n: int) -> dict[str, Any]:
    def some(m: int) -> dict[str, Any]:
        return {"anyOf": [_text(f".*a.{{{m * at + n}}}.*") for at in range(1, 4)]}

    return {"allOf": [some(m) for m in range(1, 12)]}


def values(n: int) -> dict[str, Any]:
    return {"enum": [7 * at + n for at in range(9_000)]}


def definitions(n: int) -> dict[str, Any]:
    made: dict[str, Any] = {"t0": {"type": "string", "minLength": n}}
    for at in range(1, 300):
        part = {"$ref": f"#/$defs/t{at - 1}"}
        made[f"t{at}"] = {"type": "object", "properties": {"a": part, "b": part}}
    return {"$defs": made, "$ref": "#/$defs/t299"}


def counts(n: int) -> dict[str, Any]:
    inner = {"type": "array", "minItems": 5000 + n, "items": {"type": "string", "minLength": 10**5}}
    return {"type": "array", "minItems": 10**6, "maxItems": 2**31, "items": inner}


def properties(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}x{at}": {} for at in range(3500)}}


def divisors(n: int) -> dict[str, Any]:
    return {"allOf": [{"type": "integer", "multipleOf": at + n} for at in (7919, 7907, 7901)]}


def _schema(make: Callable[[int], dict[str, Any]]) -> Callable[[int], bytes]:
    def body(n: int) -> bytes:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": make(n)}}
        return json.dumps({**_ASKED, "response_format": form, "stream": bool(n % 2)}).encode()

    return body


def tool_parameters(n: int) -> bytes:
    function = {"name": "look", "parameters": {"properties": {"x": patterns(n)}}}
    tools = [{"type": "function", "function": function}]
    return json.dumps({**_ASKED, "tools": tools, "tool_choice": "required"}).encode()


def objects(n: int) -> bytes:
    return b'{"messages": [' + b"{}," * (999_999 + n) + b"{}]}"


def strings(n: int) -> bytes:
    head = json.dumps(_ASKED)[:-1].encode()
    return head + b', "stop": [' + b'"",' * (5_000_000 + n) + b'""]}'


def long_text(n: int) -> bytes:
    words = f"{n} " + "\n and so on" * 2_000_000
    return json.dumps({"messages": [{"role": "user", "content": words}]}).encode()


def tokens(n: int) -> bytes:
    return b'{"prompt": [' + b"7," * (2_000_000 + n) + b"7]}"


# Of each kind, its path and what makes the body.
KINDS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{
        name.replace("_", " "): (CHAT, _schema(make))
        for name, make in (
            ("patterns", patterns), ("optional_groups", optional_groups),
            ("repetitions", repetitions), ("alternations", alternations), ("products", products),
            ("9,000 values", values), ("deep definitions", definitions), ("huge counts", counts),
            ("3,500 properties", properties), ("divisors", divisors),
        )
    },
    "tool parameters": (CHAT, tool_parameters),
    "a million objects": (CHAT, objects),
    "five million strings": (CHAT, strings),
    "20 MB of text": (CHAT, long_text),
    "two million tokens": ("/v1/completions", tokens),
}  # fmt: skip
