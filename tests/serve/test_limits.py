"""What is too much is refused with the numbers: memory, queue, body, key."""

from __future__ import annotations

import http.client
import json

import pytest
from serve_helpers import (
    CHAT,
    HELLO,
    Served,
    body,
    json_bytes,
    long_text,
    raw_request,
    served,
    wait_for,
)

from longctx import tiny
from longctx.engine import Engine
from longctx.errors import UserError
from longctx.serve.loading import prepare
from longctx.serve.settings import Limits, ServeSettings


def test_an_over_long_prompt_is_refused_with_both_numbers(server: Served) -> None:
    message = [{"role": "user", "content": long_text(17_000)}]
    status, error = server.error(CHAT, body(messages=message))
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert error["max_context"] == 16384 and error["prompt_tokens"] > 16384
    assert str(error["prompt_tokens"]) in error["message"] and "16384" in error["message"]


def test_the_default_length_is_clipped_to_the_context_a_wish_is_not() -> None:
    with served(context=100) as server:
        # "ignore_eos" lets an answer take all the room it has.
        status, _, answer = server.call(CHAT, {"messages": HELLO, "ignore_eos": True})
        assert status == 200 and answer["usage"]["total_tokens"] == 100
        ids = [5] * 97
        status, _, answer = server.call("/v1/completions", {"prompt": ids, "max_tokens": 3})
        assert status == 200 and answer["usage"]["total_tokens"] == 100
        status, error = server.error("/v1/completions", {"prompt": ids, "max_tokens": 4})
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
        status, _, answer = server.call("/v1/completions", {"prompt": ids, "ignore_eos": True})
        assert status == 200 and answer["usage"]["total_tokens"] == 100


def test_too_big_for_memory_is_told_with_what_would_fit() -> None:
    per_token = 2 * 4 * 2 * 32 * 4
    with served(context=None, kv_budget=1000 * per_token) as server:
        assert server.service.engine.max_context == 1000  # lowered to what fits
        with server.client() as client:
            assert client.models.retrieve("embedded").model_dump()["max_model_len"] == 1000
        server.service.engine.max_context = 16384
        status, error = server.error("/v1/completions", {"prompt": [5] * 2000, "max_tokens": 5})
        assert (status, error["code"]) == (400, "insufficient_memory")
        assert (error["fitting_tokens"], error["asked_tokens"]) == (1000, 2005)
        assert "1000" in error["message"] and "2005" in error["message"]


def test_a_context_that_was_asked_for_and_does_not_fit_is_an_error() -> None:
    budget = 100 * 2 * 4 * 2 * 32 * 4
    prepared = prepare(ServeSettings(tiny.EMBEDDED, context=16384, kv_budget=budget))
    with pytest.raises(UserError, match="--context 16384: this machine has memory for 100 tokens"):
        prepared.load()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (1024, r"^--kv-budget 1024: no token's keys and values fit: raise it$"),
        (None, r"^MODEL embedded: no memory is left for keys and values: .* --kv-budget"),
    ],
)
def test_no_room_at_all_blames_what_was_given(
    monkeypatch: pytest.MonkeyPatch, budget: int | None, message: str
) -> None:
    if budget is None:  # as on a machine that is full
        monkeypatch.setattr(Engine, "fitting_tokens", property(lambda self: 0))
    with pytest.raises(UserError, match=message):
        prepare(ServeSettings(tiny.EMBEDDED, kv_budget=budget)).load()


def test_what_is_only_tokenised_is_bounded_too() -> None:
    with served(limits=Limits(max_tokenized=1000)) as server:
        assert server.call("/tokenize", {"prompt": "a " * 500})[0] == 200
        long = [{"role": "user", "content": "ab" * 501}]
        for sent, param in (({"prompt": "ab" * 501}, "prompt"), ({"messages": long}, "messages")):
            status, error = server.error("/tokenize", sent)
            assert (status, error["code"], error["param"]) == (400, "text_too_long", param)
            assert "1,002 characters, at most 1,000" in error["message"]


def test_a_full_queue_says_when_to_come_back() -> None:
    with served(chunk_budget=64, max_running=1, max_waiting=1) as server:
        server.call(CHAT, body(messages=[{"role": "user", "content": long_text(600)}]))
        messages = [{"role": "user", "content": long_text(9000)}]
        running = raw_request(server, CHAT, body(messages=messages))
        wait_for(lambda: server.service.engine.stats().running == 1)
        waiting = raw_request(server, CHAT, body(messages=messages))
        wait_for(lambda: server.service.engine.stats().waiting == 1)
        status, headers, value = server.call(CHAT, body())
        assert (status, value["error"]["code"]) == (429, "queue_full")
        assert value["error"]["type"] == "rate_limit_error"
        assert 1 <= int(headers["retry-after"]) <= 3600
        running.close()
        waiting.close()
        wait_for(server.idle)
        assert server.call(CHAT, body())[0] == 200


def test_the_wait_is_the_backlog_over_the_measured_speed() -> None:
    from longctx.engine import Progress, Usage
    from longctx.serve.jobs import Heard, Job, Registry

    registry = Registry()
    assert registry.wait_s() == 1.0  # nothing measured
    done = Job("a", "chat", [1000])
    done.usages[0] = Usage(1000, 0, 1, 0.5, 2.5, 3.0)  # 1,000 tokens in 2 s
    registry.add(done)
    done.end("done")
    registry.learn(done)
    waiting = Job("b", "chat", [5000, 5000])
    registry.add(waiting)
    assert registry.wait_s() == pytest.approx(20.0)
    waiting.hear(Heard(0, Progress(5000, 0, 4000)))
    assert registry.wait_s() == pytest.approx(12.0)


def test_a_large_body_is_refused_by_its_header_and_while_it_is_read() -> None:
    with served(max_body=4096) as server:
        large = json_bytes(body(messages=[{"role": "user", "content": "x" * 5000}]))
        status, error = server.error(CHAT, large)
        assert (status, error["code"], error["max_body_bytes"]) == (413, "body_too_large", 4096)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.putrequest("POST", CHAT)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(6):
            connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        answer = connection.getresponse()  # before the body's end
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "body_too_large"
        connection.close()
        assert server.call(CHAT, body())[0] == 200


def test_an_api_key_guards_everything_but_health() -> None:
    with served(api_key="right") as server:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nope", "/v1/requests/x"):
            status, error = server.error(path, None)
            assert (status, error["code"]) == (401, "invalid_api_key")
        for wrong in ("Bearer wrong", "right", "Basic right", "Bearer ", "Bearer right2"):
            status, _ = server.error("/v1/models", None, headers={"Authorization": wrong})
            assert status == 401
        assert server.call("/health")[0] == server.call("/ready")[0] == 200
        right = {"Authorization": "Bearer right"}
        assert server.call("/v1/models", headers=right)[0] == 200
        with server.client(api_key="right") as client:
            assert client.models.list().data
