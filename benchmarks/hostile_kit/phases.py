"""Ends and accidents: signals in every phase, kill -9, a full disk, little memory, deaf clients."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

import psutil

from hostile_kit import bombs
from hostile_kit.server import HELLO, HealthProbe, Victim

DRAIN = 1.0


def _metric(server: Victim, name: str) -> float:
    rows = server.ask("GET", "/metrics")[1].decode().splitlines()
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows if row.startswith(name))


@contextmanager
def _asking(server: Victim, body: bytes) -> Iterator[None]:
    """A client that waits for an answer, whatever becomes of it."""

    def ask() -> None:
        with suppress(OSError, HTTPException):
            server.ask("POST", bombs.CHAT, body)

    client = threading.Thread(target=ask, daemon=True)
    client.start()
    yield
    client.join(10)


def _body(**options: Any) -> bytes:
    return json.dumps({**HELLO, **options}).encode()


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def ends() -> list[dict[str, Any]]:
    """SIGTERM in every phase: it may take the drain time and two seconds."""
    long = [{"role": "user", "content": "A word or two. " * 3500}]
    compiling = bombs.KINDS["patterns"][1](0)
    asked: dict[str, tuple[bytes | None, Callable[[Victim], bool]]] = {
        "loading": (None, lambda server: server.alive()),
        "idle": (None, lambda server: True),
        "prefill": (_body(messages=long), lambda server: _metric(server, "longctx_prompt_tok") > 0),
        "decode": (
            _body(max_tokens=15_000, ignore_eos=True),
            lambda server: _metric(server, "longctx_completion_tokens_total") > 5,
        ),
        "compile": (compiling, lambda server: time.sleep(1.0) is None),
    }
    rows = []
    for phase, (body, reached) in asked.items():
        options = ("--drain-timeout", str(DRAIN), "--chunk-budget", "64")
        with Victim(*options) as server:
            if phase != "loading":
                server.ready()
            asking = _asking(server, body) if body else None
            if asking:
                asking.__enter__()
            _until(lambda reached=reached, server=server: reached(server))
            children = psutil.Process(server.process.pid).children()
            seconds, code = server.end(signal.SIGTERM)
            if asking:
                asking.__exit__(None, None, None)
            left = [each for each in psutil.wait_procs(children, 5)[1] if each.is_running()]
            rows.append({"phase": phase, "seconds": round(seconds, 2), "code": code,
                         "allowed_s": DRAIN + 2, "workers_left": len(left)})  # fmt: skip
    return rows


def kill() -> dict[str, Any]:
    """kill -9 in the middle of answers and of a schema; then a new one on the same port."""
    with Victim() as server:
        started = server.ready()
        want = server.chat()
        children = psutil.Process(server.process.pid).children()
        going = _body(max_tokens=15_000, ignore_eos=True)
        with _asking(server, going), _asking(server, bombs.KINDS["patterns"][1](0)):
            time.sleep(1.0)
            children += psutil.Process(server.process.pid).children()
            server.end(signal.SIGKILL)
        left = psutil.wait_procs(set(children), 10)[1]
        with Victim(port=server.port) as second:
            again = second.ready()
            same = second.chat() == want
    return {"start_s": round(started, 1), "restart_s": round(again, 1),
            "workers_left": len(left), "same_answer": same}  # fmt: skip


def disk() -> dict[str, Any]:
    """Its log on a full disk: nobody but the log may suffer."""
    with Victim() as other:
        other.ready()
        want, port = other.chat(), other.port
        other.end(signal.SIGTERM)
    with open("/dev/full", "w") as full, Victim(stderr=full, port=port) as server:
        server.ready()
        answers = [server.chat() for _ in range(20)]
        bad = server.ask("POST", bombs.CHAT, b"{")[0]
        seconds, code = server.end(signal.SIGTERM)
    return {"answers": len(answers), "same": sum(each == want for each in answers),
            "bad_body": bad, "end_s": round(seconds, 2), "code": code}  # fmt: skip


def memory(limits_mib: tuple[int, ...] = (700, 1500, 3000, 6000)) -> list[dict[str, Any]]:
    """RLIMIT_AS, also of the workers: it serves, or says in a line why not."""
    rows = []
    for limit in limits_mib:
        lead = ["bash", "-c", f'ulimit -v {limit << 10}; exec "$@"', "limited"]
        row: dict[str, Any] = {"limit_mib": limit}
        with Victim(lead=lead) as server:
            try:
                row["ready_s"] = round(server.ready(), 1)
            except RuntimeError:
                row.update(code=server.process.poll(), lines=len(server.lines),
                           says=server.lines[-1][:120] if server.lines else "")  # fmt: skip
            else:
                plain = {"type": "json_schema", "json_schema": {"schema": {"const": "x"}}}
                row["chat"] = server.chat()[0]
                row["schema"] = server.chat({**HELLO, "response_format": plain})[0]
                row["bomb"] = server.ask("POST", bombs.CHAT, bombs.KINDS["patterns"][1](0))[0]
                path, make = bombs.KINDS["20 MB of text"]
                row["large"] = server.ask("POST", path, make(0))[0]
                row["chat_after"] = server.chat()[0]
                row["end_s"], row["code"] = server.end(signal.SIGTERM)
                row["end_s"] = round(row["end_s"], 2)
        rows.append(row)
    return rows


def deaf(many: int = 500) -> dict[str, Any]:
    """Clients that ask for large answers, over and over, and never read."""
    with Victim() as server:
        server.ready()
        want, before = server.chat(), server.memory_mib()
        head = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
        clients = []
        for _ in range(many):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.send(head.encode() * 12)
            clients.append(client)
        probe, began = HealthProbe(server.port), time.monotonic()
        most, same, slowest, open_ = before, 0, 0.0, float(many)
        asked = 0
        while open_ > 2 and time.monotonic() < began + 150:
            at = time.monotonic()
            same, asked = same + (server.chat() == want), asked + 1
            slowest = max(slowest, time.monotonic() - at)
            most = max(most, server.memory_mib())
            open_ = _metric(server, "longctx_connections ")
            time.sleep(0.5)
        gone = time.monotonic() - began
        health = probe.end()
        for client in clients:
            client.close()
        time.sleep(2)
        after = statistics.median(server.memory_mib() for _ in range(3))
        told = [line for line in server.lines if "request id" not in line]
    return {"clients": many, "all_gone_s": round(gone, 1), "open": open_, "health": health,
            "chats": asked, "chats_alike": same, "slowest_chat_s": round(slowest, 2),
            "memory_mib": [round(before), round(most), round(after)],
            "other_log_lines": len(told) - 8}  # fmt: skip
