"""Schemas whose compiling is known to be quick, by what they consist of: they need not wait behind
others that may take seconds.

A list of what is allowed, and of how much: nothing in it multiplies. Patterns, allOf, oneOf and
divisors do. Whoever sends a schema that is plain can slow down nobody by more than its size.
"""

from __future__ import annotations

import json
from typing import Any

_CHARACTERS = 8192
_VALUES = 512
_COUNTED = 256  # characters or items that a schema may ask for
_NUMBER = 10**9
_ANNOTATIONS = {"$schema", "$comment", "title", "description", "default", "examples", "deprecated"}
_TYPES = {"string", "number", "integer", "boolean", "null", "array", "object"}
_FORMATS = {"date", "time", "date-time", "uuid"}
_OF_SCHEMAS = {"properties", "$defs", "definitions"}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def is_plain(text: str) -> bool:
    """Of a schema in JSON."""
    if len(text) > _CHARACTERS:
        return False
    schema = json.loads(text)
    return _count(schema) <= _VALUES and _is_plain(schema)


def _count(value: Any) -> int:
    """Of all values in it."""
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _is_plain(schema: Any) -> bool:
    if isinstance(schema, bool):
        return True
    return isinstance(schema, dict) and all(_allowed(key, schema[key]) for key in schema)


def _allowed(key: str, value: Any) -> bool:
    if key in _ANNOTATIONS:
        return True
    if key in _OF_SCHEMAS:
        return isinstance(value, dict) and all(map(_is_plain, value.values()))
    if key in ("items", "additionalProperties"):
        return _is_plain(value)
    if key in ("anyOf", "prefixItems"):
        return isinstance(value, list) and all(map(_is_plain, value))
    if key == "type":
        types = value if isinstance(value, list) else [value]
        return all(isinstance(each, str) and each in _TYPES for each in types)
    if key in ("enum", "required"):
        return isinstance(value, list) and all(map(_is_scalar, value))
    if key == "const":
        return _is_scalar(value)
    if key in _COUNTS:
        return type(value) is int and 0 <= value <= _COUNTED
    if key in _BOUNDS:
        return type(value) is int and abs(value) <= _NUMBER
    if key == "$ref":
        return isinstance(value, str) and value.startswith(("#/$defs/", "#/definitions/"))
    return key == "format" and isinstance(value, str) and value in _FORMATS


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
