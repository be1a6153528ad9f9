"""Grammars that are no JSON schema: regular expressions, choices, several values one after another.

What a request carries is either a schema, an object, or a `Grammar`, which becomes a list in JSON:
so no schema can pass for the other. Knows no tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class Grammar(NamedTuple):
    """Text for llguidance; `name` is the field of a request that it came from, for errors."""

    kind: Literal["regex", "lark"]
    text: str
    name: str


def choice(texts: Sequence[str], name: str) -> Grammar:
    """One of these texts, as it is written."""
    return Grammar("regex", "|".join(map(re.escape, texts)), name)


def repeated(
    schema: Mapping[str, Any],
    closing: str,
    opening: str,
    most: int,
    layout: Mapping[str, Any],
    name: str,
) -> Grammar:
    """One JSON value or several.

    Args:
        closing, opening: what stands between two values; the closing may end the last one too, for
            a model that was trained to write it before it ends.
        most: values. With one, the text ends with it.
        layout: how JSON is written, as llguidance's `x-guidance`.
    """
    lines = [f"value: %json {json.dumps({**schema, 'x-guidance': dict(layout)})}"]
    if most == 1:
        return Grammar("lark", "\n".join(["start: value", *lines]), name)
    lines += [f"CLOSING: {json.dumps(closing)}", f"OPENING: {json.dumps(opening)}"]
    start = f"start: value (CLOSING OPENING value){{0,{most - 1}}} CLOSING?"
    return Grammar("lark", "\n".join([start, *lines]), name)


def name_of(schema: Any) -> str:
    """Of what a request carries, for errors."""
    return "json_schema" if isinstance(schema, Mapping) else str(schema[2])


def written(matcher: Any, grammar: Sequence[str]) -> str:
    """For llguidance's matcher.

    Args:
        matcher: its class.
        grammar: a `Grammar`, as it is or as it comes out of JSON.
    """
    kind, text, _ = grammar
    made: str = matcher.grammar_from_regex(text) if kind == "regex" else text
    return made
