"""What is plain is quick, whatever is made of it; what is not may take its time elsewhere."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from schemas import bomb, thing
from transformers import AutoTokenizer

from longctx import tiny
from longctx.grammar.compiler import Compiler, vocabulary_of
from longctx.grammar.plain import is_plain
from longctx.grammar.worker import prove

USUAL: dict[str, Any] = {
    "$defs": {
        "Place": {
            "title": "Place",
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 80},
                "kind": {"enum": ["town", "lake", None]},
                "since": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {
        "places": {"type": "array", "items": {"$ref": "#/$defs/Place"}, "minItems": 1},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["places"],
}


def plain(schema: Any) -> bool:
    return is_plain(json.dumps(schema))


@pytest.mark.parametrize("schema", [{}, True, USUAL, thing("a", {"const": "x"})], ids=repr)
def test_what_programs_usually_send_is_plain(schema: Any) -> None:
    assert plain(schema)


@pytest.mark.parametrize(
    "schema",
    [
        bomb(),
        {"type": "string", "pattern": "a"},
        thing("a", {"type": "string", "pattern": "a"}),
        {"anyOf": [{"type": "integer", "multipleOf": 7}]},
        {"allOf": [{}, {}]},
        {"oneOf": [{}, {}]},
        {"not": {}},
        {"patternProperties": {"a": {}}},
        {"type": "string", "minLength": 10**5},
        {"type": "array", "maxItems": 1e2},
        {"type": "string", "format": "email"},
        {"enum": [[1]]},
        {"enum": list(range(600))},
        {"description": "x" * 9000},
        {"$ref": "#"},
        {"type": "nonsense"},
        {"unknown": 1},
        {"properties": []},
        {"items": [{}]},
        [],
        "x",
    ],
    ids=lambda schema: json.dumps(schema)[:40],
)
def test_what_may_take_long_or_is_not_known_is_not_plain(schema: Any) -> None:
    assert not plain(schema)


def made(chance: random.Random, depth: int, definitions: int) -> dict[str, Any]:
    """Of what is allowed, anything."""

    def some(least: int, most: int) -> list[dict[str, Any]]:
        return [made(chance, depth - 1, definitions) for _ in range(chance.randint(least, most))]

    types = ["string", "number", "integer", "boolean", "null", "array", "object"]
    parts: dict[str, Any] = {
        "type": lambda: chance.sample(types, 3),
        "enum": lambda: [chance.choice([1, "a", "b", None, True, 2.5]) for _ in range(6)],
        "required": lambda: [f"p{chance.randrange(9)}" for _ in range(3)],
        "format": lambda: chance.choice(["date", "time", "date-time", "uuid"]),
        **{
            name: lambda: chance.choice([0, 1, 2, 7, 100, 256])
            for name in ("minLength", "maxLength", "minItems", "maxItems")
        },
        **{name: lambda: chance.choice([0, -7, 10**9]) for name in ("minimum", "maximum")},
    }
    if depth:
        parts["properties"] = lambda: {f"p{at}": each for at, each in enumerate(some(0, 9))}
        parts["anyOf"] = parts["prefixItems"] = lambda: some(1, 5)
        parts["items"] = parts["additionalProperties"] = lambda: some(1, 1)[0]
    if definitions:
        parts["$ref"] = lambda: f"#/$defs/t{chance.randrange(definitions)}"
    return {name: make() for name, make in parts.items() if chance.random() < 0.25}


def test_nothing_that_is_plain_takes_long() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.WEIGHTS)
    compiler = Compiler(vocabulary_of(tokenizer, len(tokenizer)))
    begun = [
        {"type": "object", "properties": {f"p{n}": {} for n in range(500)}},
        {"anyOf": [{"type": "string", "minLength": n, "maxLength": 256} for n in range(120)]},
        {"anyOf": [{"type": "integer", "minimum": n - 10**9} for n in range(160)]},
    ]
    for seed in range(150):
        chance = random.Random(seed)
        count = chance.randrange(6)
        schema = made(chance, 4, count)
        schema["$defs"] = {f"t{n}": made(chance, 3, count) for n in range(count)}
        begun.append(schema)
    slowest, tried = 0.0, 0
    for schema in begun:
        if plain(schema):
            began = time.process_time()
            prove(compiler, schema)
            slowest, tried = max(slowest, time.process_time() - began), tried + 1
    assert tried > 30
    assert slowest < 2.0  # 0.25 s was seen
