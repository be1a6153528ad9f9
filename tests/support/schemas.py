"""JSON schemas of strangers: some that no compiler gets through, and texts outside NFC."""

from __future__ import annotations

from typing import Any


def bomb(name: str = "") -> dict[str, Any]:
    """Each pattern doubles what compiling takes: 16 of them 0.1 s, 29 a quarter of an hour."""
    patterns = [{"type": "string", "pattern": f"^.*a.{{{n}}}b.*$"} for n in range(1, 30)]
    return {"title": name, "allOf": patterns}


def thing(key: str, value: dict[str, Any]) -> dict[str, Any]:
    """An object of one key."""
    return {
        "type": "object",
        "properties": {key: value},
        "required": [key],
        "additionalProperties": False,
    }


OUTSIDE_NFC = ("cafe\u0301", "\u0958", "\u212b", "\uf900 A\ufb01 x")


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
