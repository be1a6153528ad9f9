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
    schema: Mapping[str, Any], between: str, most: int, layout: Mapping[str, Any], name: str
) -> Grammar:
    """One JSON value or several, with a text between them.

    Args:
        most: values.
        layout: how JSON is written, as llguidance's `x-guidance`.
    """
    more = f" (BETWEEN value){{0,{most - 1}}}" if most > 1 else ""
    written = json.dumps({**schema, "x-guidance": dict(layout)})
    lines = [f"start: value{more}", f"value: %json {written}"]
    if most > 1:
        lines.append(f"BETWEEN: {json.dumps(between)}")
    return Grammar("lark", "\n".join(lines), name)


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
