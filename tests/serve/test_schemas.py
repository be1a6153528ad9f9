"""Schemas of strangers: none holds up the server, its other clients or its end."""

from __future__ import annotations

import concurrent.futures
import json
import time
from typing import Any

import pytest
from schemas import OUTSIDE_NFC, bomb, response_format, thing
from serve_helpers import CHAT, Served, body, raw_request, served, wait_for

from longctx.engine import ConstraintError
from longctx.grammar.process import CompileProcess
from longctx.serve.settings import Limits

SMALL = {"const": "x"}
# A second is plenty for what can be compiled at all.
QUICK: dict[str, Any] = {"schema_timeout": 1.0}


def asks(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    return body(response_format=response_format(schema), **options)


def nested(depth: int) -> str:
    pattern = "a"
    for _ in range(depth):
        pattern = f"({pattern})?b"
    return pattern


def deep_definitions(depth: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {"t0": {"type": "string"}}
    for n in range(1, depth):
        part = {"$ref": f"#/$defs/t{n - 1}"}
        definitions[f"t{n}"] = {"type": "object", "properties": {"a": part, "b": part}}
    return {"$defs": definitions, "$ref": f"#/$defs/t{depth - 1}"}


def inside(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "object", "properties": {"a": found}}
    return found


HEAVY: dict[str, dict[str, Any]] = {
    "bomb": bomb(),
    "nested optional groups": {"type": "string", "pattern": f"^{nested(60)}$"},
    "nested repetitions": {"type": "string", "pattern": "^(((a{1,99}){1,99}){1,99}){1,99}$"},
    "optional row": {"type": "string", "pattern": f"^{'a?' * 300}{'a' * 300}$"},
    "10,000 values": {"enum": list(range(10_000))},
    "deep definitions": deep_definitions(200),
    "deep objects": inside(120),
    "many items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6,
                   "maxItems": 2**31},
    "many lists": {"type": "array", "minItems": 5000, "items": {
        "type": "array", "minItems": 5000, "items": {"type": "string", "minLength": 10**5}}},
    "alternations": {"type": "string", "pattern":
                     f"^({'|'.join(f'x{n}y*z{7 * n}' for n in range(2000))})$"},
    "many alternatives": {"anyOf": [thing(f"p{n}", {"type": "integer"}) for n in range(400)]},
    "divisors": {"allOf": [{"type": "integer", "multipleOf": n} for n in (7919, 7907, 7901)]},
    "products": {"allOf": [
        {"anyOf": [{"type": "string", "pattern": f"^.*a.{{{n * m}}}$"} for m in range(1, 4)]}
        for n in range(1, 12)]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_what_is_heavy_is_answered_or_refused_in_time(name: str) -> None:
    """By one line that names the field; and the server goes on."""
    with served(**QUICK) as server:
        server.call(CHAT, asks(SMALL))  # a process is there
        began = time.monotonic()
        status, _, value = server.call(CHAT, asks(HEAVY[name]))
        assert time.monotonic() - began < 10
        assert status in (200, 400)
        if status == 400:
            error = value["error"]
            assert error["code"] in ("invalid_json_schema", "invalid_json")
            assert "\n" not in error["message"] and len(error["message"]) < 400
        assert server.call(CHAT, asks(SMALL))[0] == 200


def test_a_million_small_objects_are_refused_in_time(server: Served) -> None:
    for raw in (
        b'{"messages": [' + b"{}," * 999_999 + b"{}]}",
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [' + b"{}," * 999_999 + b"{}]}",
        b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": '
        b'"json_schema", "json_schema": {"schema": {"enum": [' + b"{}," * 999_999 + b"{}]}}}}",
    ):
        began = time.monotonic()
        status, error = server.error(CHAT, raw)
        assert time.monotonic() - began < 20
        assert status == 400 and "\n" not in error["message"]


def test_what_fails_at_its_second_token_is_refused_before_a_stream_begins() -> None:
    many = {"type": "object", "properties": {f"p{n}": {} for n in range(3200)}}
    some = {"type": "object", "properties": {f"p{n}": {"const": 1} for n in range(2500)}}
    with served(schema_timeout=60.0) as server:
        for stream in (False, True):
            status, error = server.error(CHAT, asks(many, stream=stream))
            assert (status, error["code"]) == (400, "invalid_json_schema")
            assert "it is too complex (Current row has" in error["message"]
        status, _, text = server.call(CHAT, asks(some, max_tokens=20, stream=True))
        assert status == 200 and '"error"' not in text


def test_a_plain_schema_waits_for_no_bomb() -> None:
    """Six of them would keep it for three rounds of the time that there is."""
    limits = Limits(schema_memory=4 << 30)
    with served(limits=limits, schema_timeout=120.0) as server:
        prover = server.service.proofs.prover
        open = [raw_request(server, CHAT, asks(bomb(str(n)))) for n in range(6)]
        try:
            wait_for(lambda: sum(map(bool, prover._at_work.values())) == 2)
            wait_for(lambda: prover.waiting == 4)
            assert server.call(CHAT, asks(thing("a", {"type": "integer"})))[0] == 200
            assert prover.waiting == 4
        finally:
            for each in open:
                each.close()


@pytest.mark.slow
def test_six_bombs_hold_up_nobody() -> None:
    with served(**QUICK) as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.error, CHAT, asks(bomb(str(n)))) for n in range(6)]
        prover = server.service.proofs.prover
        wait_for(lambda: prover.waiting > 0)
        assert server.call(CHAT, body())[0] == 200
        slowest = 0.0
        while not all(each.done() for each in asked):
            began = time.perf_counter()
            assert server.call("/health")[0] == 200
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.02)
        assert slowest < 1.0
        for each in asked:
            status, error = each.result()
            assert (status, error["code"]) == (400, "invalid_json_schema")
            assert "to compile: make it simpler" in error["message"]
        began = time.monotonic()  # known by now
        assert server.error(CHAT, asks(bomb("0"), stream=True))[0] == 400
        assert time.monotonic() - began < 0.9
        assert server.call(CHAT, asks(SMALL))[0] == 200


def test_a_tools_parameters_are_bounded_too() -> None:
    tool = {"type": "function", "function": {"name": "x", "parameters": bomb()}}
    sent = body(tools=[tool], tool_choice="required")
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    told = '{% if tools %}{{ tools | tojson }}<tool_call>\n{"name": {% endif %}'

    def tooled(load: Any) -> Any:
        loaded = load()
        loaded.tokenizer.chat_template = told + template
        return loaded

    with served(tooled, schema_timeout=0.5) as server:
        assert server.service.loaded.wait(60)
        status, error = server.error(CHAT, sent)
        assert (status, error["code"], error["param"]) == (400, "invalid_json_schema", "tools")
        assert "0.5 seconds" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_on_its_schema(stream: bool) -> None:
    limits = Limits(schema_memory=4 << 30)
    with served(limits=limits, schema_timeout=120.0) as server:
        connection = raw_request(server, CHAT, asks(bomb(), stream=stream))
        prover = server.service.proofs.prover
        wait_for(lambda: any(prover._at_work.values()))
        connection.close()
        wait_for(lambda: not any(prover._at_work.values()))
        (job,) = server.service.registry._jobs.values()
        wait_for(lambda: job.ended is not None)
        assert job.state == "cancelled"
        assert server.call(CHAT, asks(SMALL))[0] == 200


def test_more_schemas_than_may_wait_are_sent_away() -> None:
    limits = Limits(schema_memory=4 << 30, max_schemas_waiting=1)
    with served(limits=limits, schema_timeout=120.0) as server:
        prover = server.service.proofs.prover
        open = [raw_request(server, CHAT, asks(bomb(str(n)))) for n in range(2)]
        wait_for(lambda: sum(map(bool, prover._at_work.values())) == 2)
        open.append(raw_request(server, CHAT, asks(bomb("2"))))
        wait_for(lambda: prover.waiting == 1)
        status, headers, value = server.call(CHAT, asks(bomb("3")))
        assert (status, value["error"]["code"]) == (429, "queue_full")
        assert headers["retry-after"] == "240"
        assert server.call(CHAT, asks(SMALL))[0] == 200  # plain: it waits for none of them
        assert server.call(CHAT, body(response_format={"type": "json_object"}))[0] == 200
        for each in open:
            each.close()
        wait_for(lambda: not any(prover._at_work.values()))
        assert server.call(CHAT, asks(SMALL))[0] == 200


def test_a_schema_is_compiled_for_each_answer_and_all_of_them_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"refused": None, "seconds": 0.6, "spent": False}
    monkeypatch.setattr(CompileProcess, "prove", lambda self, schema: told)
    with served(**QUICK) as server:
        assert server.call(CHAT, asks(SMALL, n=1))[0] == 200
        status, error = server.error(CHAT, asks(SMALL, n=2))
        assert (status, error["code"]) == (400, "invalid_json_schema")
        assert "takes 0.6 seconds to compile, and is compiled for each of 2" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_drain_tells_those_whose_schema_is_in_work(stream: bool) -> None:
    limits = Limits(schema_memory=4 << 30)
    with (
        served(limits=limits, schema_timeout=120.0, drain_timeout=0.1) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(server.error, CHAT, asks(bomb(), stream=stream))
        prover = server.service.proofs.prover
        wait_for(lambda: any(prover._at_work.values()))
        server.signal()
        status, error = asked.result(10)
        assert (status, error["code"]) == (503, "shutting_down")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(ImportError("none"), 400, "invalid_json_schema"),
     (RuntimeError("odd"), 503, "schema_compiler_failed")],
)  # fmt: skip
def test_without_a_compiler_the_rest_is_served(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fails(self: CompileProcess, vocabulary: Any) -> None:
        raise error

    monkeypatch.setattr(CompileProcess, "set_up", fails)
    with served() as server:
        got, told = server.error(CHAT, asks(SMALL))
        assert (got, told["code"]) == (status, code)
        assert ("needs the package llguidance" in told["message"]) == (status == 400)
        assert server.call(CHAT, body())[0] == 200


@pytest.mark.parametrize("text", OUTSIDE_NFC)
@pytest.mark.parametrize("stream", [False, True])
def test_text_outside_nfc_is_forced_as_it_is(server: Served, text: str, stream: bool) -> None:
    schema = thing(text, {"const": text})
    _, _, value = server.call(CHAT, asks(schema, max_tokens=99, temperature=0, stream=stream))
    if stream:
        events = [line.removeprefix("data: ") for line in value.split("\n\n") if line]
        choices = [json.loads(line)["choices"][0] for line in events[:-1]]
        written = "".join(choice["delta"].get("content") or "" for choice in choices)
    else:
        written = value["choices"][0]["message"]["content"]
    assert json.loads(written) == {text: text}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("schema", [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
])  # fmt: skip
def test_a_reference_to_itself_is_one_line(
    server: Served, schema: dict[str, Any], stream: bool
) -> None:
    status, error = server.error(CHAT, asks(schema, stream=stream))
    assert (status, error["code"], error["param"]) == (
        400, "invalid_json_schema", "response_format",
    )  # fmt: skip
    assert "does a $ref lead to nothing but itself?" in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_fails_in_an_answer_is_that_requests_error(
    server: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def fails(self: Any, logits_V: Any) -> None:
        raise ConstraintError("json_schema: it is too complex (x)")

    monkeypatch.setattr("longctx.engine.constraint._JsonConstraint.mask", fails)
    status, _, value = server.call(CHAT, asks(SMALL, stream=stream))
    if stream:
        assert status == 200
        value = json.loads(value.split("\n\n")[-3].removeprefix("data: "))
    else:
        assert status == 400
    error = value["error"]
    assert error["message"] == "json_schema: it is too complex (x)"
    assert (error["code"], error["param"]) == ("invalid_json_schema", "response_format")
    assert server.call(CHAT, body())[0] == 200


def test_a_client_that_leaves_while_its_request_is_submitted_costs_no_answer(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on; what it made is cancelled."""
    submit, begun = server.service.engine.submit, []

    def slow(*arguments: Any) -> Any:
        begun.append(1)
        time.sleep(0.5)
        return submit(*arguments)

    monkeypatch.setattr(server.service.engine, "submit", slow)
    before = server.service.engine.stats().counts.finished
    connection = raw_request(server, CHAT, body(max_tokens=10_000, ignore_eos=True))
    wait_for(lambda: bool(begun))
    connection.close()
    wait_for(lambda: server.service.engine.stats().counts.finished > before)
    wait_for(server.idle)
    assert server.service.engine.stats().counts.completion_tokens < 5000
