"""Large bodies are proven apart: alike, in bounded time and memory, and for nobody who has left."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from longctx.serve.errors import ApiError
from longctx.serve.large_bodies import LargeBodies
from longctx.serve.schema import TokenizeRequest, parse
from longctx.serve.settings import BodyLimits


@pytest.fixture(scope="module")
def bodies() -> Iterator[LargeBodies]:
    made = LargeBodies(BodyLimits())
    yield made
    made.close()


def refused(call: object, *arguments: object) -> tuple[int, str | None, str]:
    with pytest.raises(ApiError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.status, caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b'{"prompt": ', b"[" * 300, b'{"prompt": 1}x', b"\xff{", b'{"prompt": "\\ud800"}', b""],
    ids=["cut", "deep", "more", "no text", "half a pair", "nothing"],
)
def test_the_verdict_is_the_parsers_own(bodies: LargeBodies, raw: bytes) -> None:
    assert refused(bodies.prove, raw) == refused(parse, TokenizeRequest, raw)


def test_json_of_any_shape_passes(bodies: LargeBodies) -> None:
    for value in ([], "\n12 x\n", {"prompt": "é" * 3_000_000}, [1.5, None] * 200_000):
        assert bodies.prove(json.dumps(value).encode()) is None


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (BodyLimits(seconds=0.0, speed=1e12), "takes more than 0 seconds to parse: send less"),
        (BodyLimits(memory=1 << 20, copies=0), "takes more memory than one may to parse"),
    ],
    ids=["time", "memory"],
)
def test_what_costs_too_much_is_refused(limits: BodyLimits, words: str) -> None:
    made = LargeBodies(limits)
    try:
        raw = json.dumps([[] for _ in range(900_000)]).encode()
        status, code, message = refused(made.prove, raw)
        assert (status, code) == (400, "body_too_costly") and words in message
        assert message.startswith("The body of 3.4 MiB ")
    finally:
        made.close()
