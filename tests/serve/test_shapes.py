"""Values of a body are counted as a parser would find them, whatever stands in its texts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from serve_helpers import CHAT, Served, json_bytes

from longctx.serve import shapes
from longctx.serve.errors import ApiError
from longctx.serve.shapes import check_shape, is_longer

ALPHABET = ["\\", '"', "{", "[", ",", "a", "\n", "é", "]", "\\\\", '\\"']


def made(chance: random.Random, depth: int = 3) -> Any:
    def text() -> str:
        return "".join(chance.choices(ALPHABET, k=chance.randrange(9)))

    kind = chance.randrange(5 if depth else 2)
    if kind < 2:
        return text() if kind else chance.randrange(99)
    if kind == 2:
        return {text(): made(chance, depth - 1) for _ in range(chance.randrange(5))}
    return [made(chance, depth - 1) for _ in range(chance.randrange(5))]


def counted(value: Any) -> tuple[int, int]:
    """Brackets and strings."""
    if isinstance(value, str):
        return 0, 1
    inner = list(value) if isinstance(value, list) else []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    parts = [counted(each) for each in inner]
    own = int(isinstance(value, list | dict))
    return own + sum(part[0] for part in parts), sum(part[1] for part in parts)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 16])
def test_what_is_counted_is_what_is_there(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_PIECE", piece)
    for seed in range(200):
        value = made(random.Random(seed))
        raw = json.dumps(value, ensure_ascii=bool(seed % 2)).encode()
        pieces = list(shapes._outside_strings(raw))
        outside = b"".join(found for found, _ in pieces)
        brackets = outside.count(b"{") + outside.count(b"[")
        assert (brackets, sum(begun for _, begun in pieces)) == counted(value), raw


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" + b"{}," * 100_000 + b"{}]", "100,000 objects and lists"),
        (b"[" + b'"",' * 200_000 + b'""]', "200,000 strings"),
        (b"{" + b",".join(b'"%d":0' % n for n in range(200_001)) + b"}", "200,000 strings"),
        (b"[" + b"1," * 2_500_001 + b"1]", "2,500,000 values"),
    ],
    ids=["objects", "strings", "names", "numbers"],
)
def test_too_many_values_are_refused_before_they_are_made(raw: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=f"^The body has more than {words}.*: send fewer.$") as told:
        check_shape(raw)
    assert (told.value.status, told.value.code) == (400, "too_many_values")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": '{"a": [1, 2]}, ' * 300_000},
        {"prompt": '"' * 500_000 + "\\" * 500_001},
        {"prompt": list(range(1_000_000))},
        "\\" * 200_000,
    ],
    ids=["braces in a text", "quotes in a text", "a million ids", "marks alone"],
)
def test_long_texts_and_many_ids_are_not(value: Any) -> None:
    check_shape(json_bytes(value))


def test_a_text_is_taken_whatever_is_in_it(server: Served) -> None:
    text = 'He said "{[,]}" and left a \\ behind.' * 4000
    status, _, found = server.call("/tokenize", {"prompt": text})
    assert status == 200
    assert server.call("/detokenize", {"tokens": found["tokens"]})[2] == {"prompt": text}


def test_a_million_objects_are_refused(server: Served) -> None:
    status, error = server.error(CHAT, b'{"messages": [' + b"{}," * 999_999 + b"{}]}")
    assert (status, error["code"]) == (400, "too_many_values")


@pytest.mark.parametrize("value", [[{}] * 4000, {"a" * 9000: 1}, ["x" * 9000], list(range(9000))])
def test_what_is_longer_is_known_without_its_text(value: Any) -> None:
    assert is_longer(value, 8000)
    assert not is_longer(value, len(json.dumps(value)))
