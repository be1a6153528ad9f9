"""Random requests over the OpenAPI document: no 5xx, and every error in OpenAI's shape."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serve_helpers import Served, served, wait_for

# `make fuzz` asks for more than every run of the tests does.
QUICK = 200
CASES = int(os.environ.get("LONGCTX_FUZZ_CASES", "2000"))


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[Served, list[Any]]]:
    with served(default_max_tokens=4, context=512) as server:
        document = server.call("/openapi.json")[2]
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=server.url)
        yield server, [found.ok() for found in schema.get_all_operations()]


def test_the_document_names_every_route(target: Any) -> None:
    _, operations = target
    assert {(each.method.upper(), each.path) for each in operations} == {
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{name}"),
        ("GET", "/v1/requests/{id}"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/{id}"),
        ("DELETE", "/v1/responses/{id}"),
        ("POST", "/v1/documents"),
        ("POST", "/v1/documents/preview"),
        ("GET", "/v1/documents"),
        ("GET", "/v1/documents/{id}"),
        ("GET", "/v1/documents/{id}/content"),
        ("DELETE", "/v1/documents/{id}"),
        ("GET", "/tokenizer_info"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    }


@pytest.mark.parametrize("cases", [QUICK, pytest.param(CASES, marks=pytest.mark.slow)])
def test_random_requests_are_answered_or_refused_never_a_500(target: Any, cases: int) -> None:
    server, operations = target
    seen: dict[int, int] = {}

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data: Any) -> None:
        operation = data.draw(st.sampled_from(operations))
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        response = case.call(timeout=300)
        status = response.status_code
        seen[status] = seen.get(status, 0) + 1
        assert status < 500, (case.as_curl_command(), response.text)
        if status >= 400:
            error = response.json()["error"]
            assert {"message", "type", "param", "code"} <= set(error), response.text
            assert isinstance(error["message"], str) and error["message"]

    ask()
    assert sum(seen.values()) >= cases
    assert seen.get(200) and seen.get(400)
    wait_for(server.idle)  # the last answer may be out before its request is off the engine
