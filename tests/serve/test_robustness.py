"""Bodies made to hold up the server, and failures that must be counted as what they are."""

from __future__ import annotations

import json
import logging
import socket
import time
from typing import Any

import pytest
from pydantic import ValidationError
from serve_helpers import Served, served, wait_for

from longctx.engine import Progress
from longctx.serve import completions_api, logs
from longctx.serve.jobs import Heard, Job
from longctx.serve.schema import ChatRequest, CompletionRequest, parse
from longctx.serve.tokens import token_list

MANY = 50_000


def counted(server: Served, path: str, status: int) -> float:
    """Answers of the route with the status, from /metrics."""
    start = f'longctx_http_requests_total{{path="{path}",status="{status}"}} '
    rows = server.call("/metrics")[2].splitlines()
    return sum(float(row.removeprefix(start)) for row in rows if row.startswith(start))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"prompt": [{"a": 1}] * MANY}),
        (CompletionRequest, {"prompt": [-1] * MANY}),
        (CompletionRequest, {"prompt": [[-1]] * MANY}),
        (CompletionRequest, {"prompt": "a", "stop": [1] * MANY}),
        (ChatRequest, {"messages": [3] * MANY}),
        (ChatRequest, {"messages": [{}], "tools": [3] * MANY}),
    ],
)
def test_a_wrong_list_makes_few_errors(kind: Any, body: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(json.dumps(body))
    assert caught.value.error_count() < 8


def test_values_of_unknown_fields_are_never_made() -> None:
    body = parse(CompletionRequest, b'{"prompt": "a", "x": [[1], [2]], "y": {"z": 1}, "user": 1}')
    assert body.model_extra is not None
    assert body.model_extra["x"] is body.model_extra["y"] and body.model_extra["user"] == 1
    assert body.ignored() == ["x", "y"]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([1, 2, -1], "prompt.2"),
        (["a", 3], "prompt.1"),
        ([[1], [2, "x"]], "prompt.1.1"),
        (3, "prompt"),
    ],
)
def test_an_error_names_the_element_that_is_wrong(server: Served, prompt: Any, param: str) -> None:
    status, error = server.error("/v1/completions", {"prompt": prompt})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)
    assert error["message"].startswith(f"{param}: ")


def test_too_many_prompts_are_refused_before_they_are_tokenised(
    server: Served, monkeypatch: Any
) -> None:
    def tokenised(*arguments: Any) -> Any:
        raise AssertionError("tokenised")

    monkeypatch.setattr(completions_api, "_encode", tokenised)
    for prompt in (["a"] * 2049, [[1]] * 2049):
        status, error = server.error("/v1/completions", {"prompt": prompt})
        assert (status, error["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "max_completion_tokens"),
        ("/v1/chat/completions", "top_k"),
        ("/v1/completions", "n"),
        ("/v1/completions", "logprobs"),
    ],
)
def test_a_number_too_long_to_print_is_refused(server: Served, path: str, field: str) -> None:
    prompt = '"messages": [{"role": "user", "content": "a"}], "temperature": 1, "top_p": 0.9'
    if path == "/v1/completions":
        prompt = '"prompt": ["a", "b"]'
    status, error = server.error(path, f'{{{prompt}, "{field}": {"9" * 4300}}}'.encode())
    assert (status, error["code"], error["param"]) == (400, "invalid_value", field)


def test_a_tiny_temperature_is_greedy(server: Served) -> None:
    def told(temperature: float) -> str:
        body = {"prompt": "The special", "max_tokens": 4, "temperature": temperature}
        text: str = server.call("/v1/completions", body)[2]["choices"][0]["text"]
        return text

    assert told(1e-50) == told(0)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [10**8]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "logprobs": 21}, "logprobs"),
        # Logits divided by it are infinite.
        ("/v1/completions", {"prompt": "a", "repetition_penalty": 1e-44}, "repetition_penalty"),
    ],
)
def test_every_refusal_has_a_code_and_the_clients_own_field(
    server: Served, path: str, body: Any, param: str
) -> None:
    status, error = server.error(path, body)
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_conversation_has_the_same_limits_wherever_it_is_rendered(
    server: Served, path: str
) -> None:
    hello = {"role": "user", "content": "Hi."}
    tool = {"type": "function", "function": {"name": "x"}}
    large = {"type": "function", "function": {"name": "x", "description": "y" * 70_000}}
    for body, code, param in (
        ({"messages": [hello] * 4097}, "invalid_value", "messages"),
        ({"messages": [hello], "tools": [large]}, "schema_too_large", "tools"),
        ({"messages": [hello], "tools": [tool]}, "invalid_value", "tools"),
        ({"messages": [{"role": "robot"}]}, "invalid_value", "messages"),
    ):
        status, error = server.error(path, body)
        assert (status, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    "options",
    [
        {"messages": [{"role": "r" * MANY, "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "i" * MANY}]},
        {"messages": [{"role": "user", "content": [{"type": "t" * MANY}]}]},
        {"tool_choice": "c" * MANY},
        {"model": "m" * MANY},
        {"seed": "s" * MANY},
    ],
)
def test_an_error_is_short_whatever_it_is_about(server: Served, options: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi."}], **options}
    _, error = server.error("/v1/chat/completions", body)
    assert len(error["message"]) < 400


def test_an_error_about_a_long_path_is_short(server: Served) -> None:
    for path, method in (("/" + "x" * 9000, "GET"), ("/v1/models/" + "x" * 9000, "DELETE")):
        status, error = server.error(path, None, method=method)
        assert status in (404, 405) and len(error["message"]) < 200


def test_token_lists_are_the_json_that_one_call_would_make() -> None:
    for ids in ([], [7], list(range(10_000))):
        assert json.loads(token_list({"count": len(ids)}, ids)) == {
            "count": len(ids),
            "tokens": ids,
        }


def test_a_defect_is_a_500_with_an_id_and_is_logged_once(
    server: Served, monkeypatch: Any, lines: list[logging.LogRecord]
) -> None:
    def breaks(*arguments: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(completions_api, "_encode", breaks)
    before = counted(server, "/v1/completions", 500)
    status, headers, value = server.call(
        "/v1/completions", {"prompt": "a"}, headers={"X-Request-Id": "mine-500"}
    )
    assert (status, value["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(value) and headers["x-request-id"] == "mine-500"
    assert counted(server, "/v1/completions", 500) == before + 1
    (defect,) = [line for line in lines if line.exc_info]
    assert defect.__dict__["fields"] == {"id": "mine-500"}
    (line,) = [
        line.__dict__["fields"]
        for line in lines
        if line.getMessage() == "request" and line.__dict__["fields"]["id"] == "mine-500"
    ]
    assert line["status"] == 500


def test_a_client_that_hangs_up_in_its_body_is_no_defect(lines: list[logging.LogRecord]) -> None:
    with served() as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"prompt"'
        )
        connection.close()
        wait_for(lambda: counted(server, "/v1/completions", 499) == 1)
        assert not [line for line in lines if line.exc_info]


def test_a_path_cannot_forge_a_line_of_the_log() -> None:
    record = logging.LogRecord("longctx.serve", logging.INFO, "", 0, "request", None, None)
    record.fields = {"path": '/x\n00:00:00 info request status=200 "', "status": 404}
    text = logs._Formatter("text").format(record)
    assert "\n" not in text and text.endswith(" status=404")
    assert r'path="/x\n00:00:00 info request status=200 \""' in text
    record.fields = {"path": "/v1/chat/completions"}
    assert logs._Formatter("text").format(record).endswith("path=/v1/chat/completions")
    assert "\n" not in logs._Formatter("json").format(record)


def test_every_option_can_come_from_the_environment(monkeypatch: Any) -> None:
    from typer.testing import CliRunner

    from longctx.cli import app
    from longctx.commands import serve

    given = {
        "MODEL": "a", "KERNEL": "reference", "DTYPE": "float32", "CHUNK_SIZE": "1K",
        "CHUNK_BUDGET": "64", "MAX_WAITING": "3", "DEFAULT_MAX_TOKENS": "7", "MAX_BODY": "2M",
        "DRAIN_TIMEOUT": "1.5", "ALLOWED_HOST": "one two", "FACTOR": "2", "API_KEY": "k",
    }  # fmt: skip
    found: list[Any] = []
    monkeypatch.setattr(serve, "run", found.append)
    environment = {f"LONGCTX_{name}": value for name, value in given.items()}
    done = CliRunner().invoke(app, ["serve", "--max-waiting", "5"], env=environment)
    assert done.exit_code == 0, done.output
    (settings,) = found
    assert (settings.model, settings.kernel, settings.dtype) == ("a", "reference", "float32")
    assert (settings.chunk_size, settings.chunk_budget, settings.max_waiting) == (1024, 64, 5)
    assert (settings.default_max_tokens, settings.max_body) == (7, 2 << 20)
    assert (settings.drain_timeout, settings.factor, settings.api_key) == (1.5, 2.0, "k")
    assert settings.allowed_hosts == ("one", "two")


def test_a_stream_that_could_not_begin_is_closed() -> None:
    """An async generator that was never entered runs no `finally`."""
    import asyncio

    from longctx.serve.sse import SseResponse

    closed: list[str] = []

    async def chunks() -> Any:
        yield {}

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        raise OSError("gone")

    response = SseResponse(
        chunks(),
        keep_alive=1.0,
        closed=lambda: closed.append("closed"),
        failed=lambda told: [told.body],
    )
    with pytest.raises(OSError, match="gone"):
        asyncio.run(response({"type": "http"}, receive, send))
    assert closed == ["closed"]


def test_the_speed_of_a_prompt_is_of_what_is_computed() -> None:
    """Tokens of a second prompt that were found in the cache took no time."""
    job = Job("x", "text_completion", [100, 100])
    for at, progress in ((0, (0, 0)), (0, (0, 50)), (1, (90, 90))):
        job.hear(Heard(at, Progress(100, *progress)))
    assert (job.processed, job.cached) == (140, 90)
    job._prefill_began = time.perf_counter() - 10
    assert job.prefill_speed() == pytest.approx(5, rel=0.01)
    assert job.prompt_progress()["eta_ms"] == pytest.approx(12_000, rel=0.01)
