"""Clients that are slow, silent, many, or half gone: none of them holds up another."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serve_helpers import (
    CHAT,
    Served,
    body,
    json_bytes,
    long_text,
    raw_request,
    served,
    wait_for,
)

from longctx.serve.logs import RepeatedLines
from longctx.serve.settings import Deadlines

HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HALF_A_BODY = (
    f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    'Content-Length: 100000\r\n\r\n{"messages"'
).encode()


def told(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    connection.settimeout(30)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    connection.close()
    return found


@contextlib.contextmanager
def opened(port: int, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    found = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            found.append(connection)
            with contextlib.suppress(OSError):  # it may be refused already
                connection.sendall(sent)
        yield found
    finally:
        for connection in found:
            connection.close()


def health_s(port: int) -> float:
    """Seconds that /health takes, over a connection of its own."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    return time.perf_counter() - began


# -- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, HALF_A_BODY], ids=["nothing", "head", "body"])
def test_what_does_not_come_is_not_waited_for(sent: bytes) -> None:
    with served(deadlines=Deadlines(head=0.5, silence=0.5)) as server:
        with opened(server.port, 1, sent) as (connection,):
            answer = told(connection)
        if sent:
            assert answer.startswith(b"HTTP/1.1 408 ") and b'"code": "request_timeout"' in answer
        else:
            assert answer == b""
        assert not server.service.registry.active
        assert server.call(CHAT, body())[0] == 200


def figures(server: Served) -> dict[str, float]:
    rows = server.call("/metrics")[2].splitlines()
    found = [row.rsplit(" ", 1) for row in rows if row.startswith("longctx_connections")]
    return {name: float(value) for name, value in found}


def test_connections_are_counted_for_prometheus() -> None:
    with served(deadlines=Deadlines(head=0.5), most_connections=40) as server:
        before = figures(server)
        assert before["longctx_connections_most"] == 40
        with opened(server.port, 5, HALF_A_HEAD):
            wait_for(lambda: figures(server)["longctx_connections"] >= 6)
            slow = 'longctx_connections_ended_total{reason="slow head"}'
            assert before[slow] == 0
            wait_for(lambda: figures(server)[slow] == 5)
        wait_for(lambda: figures(server)["longctx_connections"] <= 2)  # its own, and the one before


def test_a_body_that_trickles_is_not_waited_for() -> None:
    limits = Deadlines(silence=1.0, slowest=1e6)
    with served(deadlines=limits) as server, opened(server.port, 1, HALF_A_BODY) as (connection,):
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < began + 20:
                connection.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() < began + 10


def test_a_slow_client_that_goes_on_is_served() -> None:
    data = json_bytes(body(max_tokens=2))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    raw = head.encode() + data
    limits = Deadlines(head=3.0, silence=1.0, slowest=20.0)
    with served(deadlines=limits) as server, opened(server.port, 1, b"") as (connection,):
        for at in range(0, len(raw), 20):
            connection.sendall(raw[at : at + 20])
            time.sleep(0.15)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        # And a second request on the same connection, after a rest.
        time.sleep(1.5)
        connection.sendall(raw)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_long_answer_is_no_silence_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(deadlines=Deadlines(head=0.3, silence=0.3, taking=0.3)) as server:
        forward = server.service.engine._runner.forward

        def slow(*arguments: Any) -> Any:
            time.sleep(1.0)
            return forward(*arguments)

        monkeypatch.setattr(server.service.engine._runner, "forward", slow)
        assert server.call(CHAT, body(max_tokens=3))[0] == 200


@pytest.mark.slow
def test_an_answer_that_nobody_takes_is_given_up() -> None:
    with served(deadlines=Deadlines(taking=0.5)) as server:
        data = json_bytes({"prompt": "a b " * 1_000_000})
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        head = "POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        open_ = server.server.connections.open
        wait_for(lambda: any(each.transport.get_write_buffer_size() for each in open_))
        wait_for(lambda: not open_)
        connection.close()


# -- many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, HALF_A_BODY], ids=["nothing", "head", "body"])
def test_half_requests_take_no_place_from_whole_ones(
    sent: bytes, lines: list[logging.LogRecord]
) -> None:
    with served(most_connections=8) as server:
        with opened(server.port, 100, sent):
            assert max(health_s(server.port) for _ in range(20)) < 1
            assert server.call(CHAT, body())[0] == 200
            assert len(server.server.connections.open) <= 8
        wait_for(lambda: any("were ended" in line.getMessage() for line in lines))
    (line,) = [each for each in lines if "were ended" in each.getMessage()]
    assert line.__dict__["fields"]["made_room"] >= 50


def test_where_all_are_busy_one_more_is_told_so(
    monkeypatch: pytest.MonkeyPatch, lines: list[logging.LogRecord]
) -> None:
    go = threading.Event()
    with served(most_connections=3) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        forward = server.service.engine._runner.forward

        def held(*arguments: Any) -> Any:
            assert go.wait(60)
            return forward(*arguments)

        monkeypatch.setattr(server.service.engine._runner, "forward", held)
        asked = [pool.submit(server.call, CHAT, body()) for _ in range(3)]
        wait_for(lambda: sum(map(len, [server.service.registry.active])) == 3)
        for _ in range(50):
            answer = told(socket.create_connection(("127.0.0.1", server.port)))
            assert answer.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in answer
        go.set()
        assert {each.result(60)[0] for each in asked} == {200}
        assert health_s(server.port) < 5
        wait_for(lambda: any("were ended" in line.getMessage() for line in lines))
    assert len([line for line in lines if line.levelno >= logging.WARNING]) == 1


def limited(flag: str, limit: int, *arguments: str) -> subprocess.Popen[str]:
    """A Python with so many descriptors."""
    shell = f'ulimit {flag} {limit}; exec "$0" "$@"'
    return subprocess.Popen(
        ["bash", "-c", shell, sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "lower"), [("-Sn", 1000), ("-n", 200)])
def test_the_soft_limit_of_descriptors_is_raised(flag: str, lower: int) -> None:
    code = "import resource; from longctx.serve.connections import descriptors as d; "
    code += "print(d(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    process = limited(flag, 300, "-c", code)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    most, soft, hard = map(int, out.split())
    assert soft == hard and (most == lower if flag == "-n" else most >= lower)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [HALF_A_HEAD, HALF_A_BODY], ids=["head", "body"])
def test_more_half_requests_than_descriptors(sent: bytes) -> None:
    """They once stopped /health for good, and wrote 14,000 lines."""
    arguments = ["-m", "longctx", "serve", "--port", "0", "--kv-budget", "64M"]
    process = limited("-n", 300, *arguments)
    assert process.stderr is not None and process.stdout is not None
    written: list[str] = []
    try:
        for line in process.stderr:
            if found := re.search(r"API +http://127.0.0.1:(\d+)/v1", line):
                break
        reader = threading.Thread(target=lambda: written.extend(process.stderr or ()))
        reader.start()
        port = int(found[1])  # type: ignore[index]
        slowest = 0.0
        with opened(port, 320, sent):
            for _ in range(30):
                slowest = max(slowest, health_s(port))
                time.sleep(0.1)
        assert slowest < 2
        process.terminate()
        assert process.wait(60) == 0
        reader.join(10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    process.stderr.close()
    # Those of refused bodies are a line each, as of every request.
    others = [line for line in written if " request " not in line]
    assert len(others) <= 3, others[:9]


# -- half gone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_has_only_ended_its_request_gets_its_answer(options: Any) -> None:
    with served(chunk_budget=64) as server:
        messages = [{"role": "user", "content": long_text(4000)}]
        connection = raw_request(server, CHAT, body(messages=messages, **options))
        connection.shutdown(socket.SHUT_WR)
        answer = told(connection)
        final = re.sub(rb"^(HTTP/1.1 100 [^\r]*\r\n\r\n)*", b"", answer)
        assert final.startswith(b"HTTP/1.1 200 ")
        assert (b"data: [DONE]" if options else b'"finish_reason":"length"') in answer
        (job,) = server.service.registry._jobs.values()
        assert job.state == "done"


def test_an_ordinary_client_reads_the_answer_after_it_has_shut_down(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", CHAT, json_bytes(body()), {"Content-Type": "application/json"})
    connection.sock.shutdown(socket.SHUT_WR)
    answer = connection.getresponse()
    assert answer.status == 200 and json.loads(answer.read())["usage"]["completion_tokens"] == 4
    connection.close()


@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "stream"])
def test_one_that_goes_later_is_noticed(options: Any) -> None:
    with served(chunk_budget=64) as server:
        sent = body(max_tokens=16_000, ignore_eos=True, **options)
        connection = raw_request(server, CHAT, sent)
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: server.service.engine.stats().counts.completion_tokens > 50)
        connection.close()
        wait_for(server.idle, 15)
        (job,) = server.service.registry._jobs.values()
        wait_for(lambda: job.state == "cancelled")


@pytest.mark.parametrize("sent", [HALF_A_HEAD, HALF_A_BODY], ids=["head", "body"])
def test_half_a_request_has_no_answer(server: Served, sent: bytes) -> None:
    with opened(server.port, 1, sent) as (connection,):
        connection.shutdown(socket.SHUT_WR)
        assert told(connection) == b""


# -- the log --------------------------------------------------------------------------------------


def test_lines_of_one_kind_are_counted() -> None:
    counted: list[logging.LogRecord] = []
    repeats = RepeatedLines(counted.append, seconds=0.3)

    def passes(level: int, message: str) -> bool:
        return repeats.filter(logging.LogRecord("x", level, "", 0, message, None, None))

    assert [passes(logging.WARNING, "100 %s of it") for _ in range(50)].count(True) == 5
    assert passes(logging.ERROR, "another")
    assert all(passes(logging.INFO, "request") for _ in range(50))
    wait_for(lambda: bool(counted), 5)
    time.sleep(0.3)
    (line,) = counted
    assert line.getMessage() == "45 more lines like this were left out: 100 %s of it"
    assert passes(logging.WARNING, "100 %s of it")
