"""What an answer is held to, from all fields that can say so: JSON schemas, choices, patterns."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from longctx.grammar import forms
from longctx.grammar.forms import Grammar
from longctx.serve.errors import bad
from longctx.serve.schema import Generate, ResponseFormat
from longctx.serve.shapes import check_json

Held = dict[str, Any] | Grammar


class Wish(NamedTuple):
    """A constraint, and the field that asked for it."""

    param: str
    held: Held


def wish_of(body: Generate, most: int) -> Wish | None:
    """The one constraint of a body.

    Args:
        most: characters of a schema, pattern or list of choices.

    Raises:
        ApiError: several, or one that is malformed or too large.
    """
    wishes = [*_of_format(body.response_format), *_guided(body), *_structured(body)]
    if len(wishes) > 1:
        raise bad(
            wishes[1].param,
            f"{wishes[0].param} and {wishes[1].param} both say what the answer must be: give one.",
        )
    for wish in wishes:
        check_json(wish.held, most, wish.param)
        return wish
    return None


def _of_format(format: ResponseFormat | None) -> list[Wish]:
    if format is None or format.type == "text":
        return []
    if format.type == "json_object":
        return [Wish("response_format", {})]
    schema = None if format.json_schema is None else format.json_schema.schema_
    if schema is None:
        raise bad(
            "response_format",
            "response_format.json_schema.schema is missing: give the schema, or use json_object.",
        )
    return [Wish("response_format", schema)]


def _guided(body: Generate) -> list[Wish]:
    return _wishes("guided_", body.guided_json, body.guided_choice, body.guided_regex)


def _structured(body: Generate) -> list[Wish]:
    given = body.structured_outputs
    if given is None:
        return []
    found = _wishes("structured_outputs.", given.json_, given.choice, given.regex)
    return [*found, Wish("structured_outputs.json_object", {})] if given.json_object else found


def _wishes(prefix: str, schema: Any, choices: list[str] | None, pattern: str | None) -> list[Wish]:
    found: list[Wish] = []
    if schema is not None:
        found.append(Wish(f"{prefix}json", _schema(schema, f"{prefix}json")))
    if choices is not None:
        name = f"{prefix}choice"
        if not choices:
            raise bad(name, f"{name} is empty: give at least one text.")
        found.append(Wish(name, forms.choice(choices, name)))
    if pattern is not None:
        name = f"{prefix}regex"
        found.append(Wish(name, Grammar("regex", pattern, name)))
    return found


def _schema(given: dict[str, Any] | str, param: str) -> dict[str, Any]:
    """Also as text, which some clients send."""
    value: Any = given
    if isinstance(given, str):
        try:
            value = json.loads(given)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise bad(param, f"{param} is no JSON schema: give an object.")
    return value
