"""What several clients ask."""

from __future__ import annotations

from typing import Any

SAY = "Say something about the special number."
MESSAGES: list[Any] = [{"role": "user", "content": SAY}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather.now:v1",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
KIND: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["amber", "brisk"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
