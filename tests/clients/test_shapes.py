"""Requests in the shapes that clients send which cannot be run here: aider, continue, Open WebUI,
LibreChat. The shapes are theirs, the words are not.

Each is answered as such a client reads it: a stream ends with [DONE], usage comes in the last chunk
where it was asked for and never else, and nothing that was asked for is without effect.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

SHAPES = [
    pytest.param(shape, id=f"{file.stem}-{at}")
    for file in sorted((Path(__file__).parent / "shapes").glob("*.json"))
    for at, shape in enumerate(json.loads(file.read_text(encoding="utf-8")))
]


def send(url: str, path: str, body: Any = None) -> tuple[http.client.HTTPResponse, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    headers = {
        "Content-Type": "application/json",
        "Authorization": "Bearer none",
        "api-key": "none",
    }
    method = "GET" if body is None else "POST"
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse(), connection


def answered(url: str, path: str, body: dict[str, Any]) -> tuple[str, Any]:
    """Text and usage, as a client puts them together."""
    answer, connection = send(url, path, body)
    raw = answer.read().decode()
    connection.close()
    assert answer.status == 200, raw
    ignored = answer.headers.get("x-longctx-ignored-fields", "")
    assert set(ignored.split(", ")) <= {"", "reasoning_effort"}
    if not body.get("stream"):
        whole = json.loads(raw)
        return whole["choices"][0]["message"]["content"], whole["usage"]
    lines = [line.removeprefix("data: ") for line in raw.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert all("usage" not in chunk for chunk in chunks[:-1])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[-1]["finish_reason"] in ("stop", "length", "tool_calls")
    text = "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices
    )
    return text, chunks[-1].get("usage")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_recorded_request_is_answered(url: str, tools_url: str, shape: dict[str, Any]) -> None:
    body = {"max_tokens": 48, **shape["body"]}
    target = tools_url if shape.get("server") == "tools" else url
    found: list[tuple[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(answered(target, shape["path"], body)))
        for _ in range(shape.get("times", 1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == len(threads)  # those in parallel, too
    wanted = not body.get("stream") or bool((body.get("stream_options") or {}).get("include_usage"))
    for text, usage in found:
        assert isinstance(text, str) and (usage is not None) == wanted
        assert usage is None or usage["total_tokens"] > usage["completion_tokens"] > 0


def test_the_list_of_models_has_what_a_client_lists_them_by(url: str) -> None:
    answer, connection = send(url, "/v1/models")
    listed = json.loads(answer.read())
    connection.close()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["id"] == "embedded" and model["object"] == "model"
    assert isinstance(model["created"], int) and model["owned_by"]
    assert model["max_model_len"] == 16384


def test_stop_is_a_disconnect_and_costs_nothing_more(url: str) -> None:
    """The button of every page: what runs ends, and the next question is answered at once."""
    hello = [{"role": "user", "content": "Hello"}]
    body = {"model": "embedded", "stream": True, "messages": hello, "ignore_eos": True,
            "max_tokens": 8000}  # fmt: skip
    answer, connection = send(url, "/v1/chat/completions", body)
    id = answer.headers["x-request-id"]
    assert answer.read(200)
    answer.close()
    connection.close()
    end = time.monotonic() + 30
    while True:
        asked, other = send(url, f"/v1/requests/{id}")
        state = json.loads(asked.read())["state"]
        other.close()
        if state == "cancelled":
            break
        assert time.monotonic() < end, state
        time.sleep(0.05)
