"""An OpenAI-compatible server on the loopback that does what a test tells it to."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is sent back. `body` None: an answer by the protocol, with `text`."""

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str | None = "stop"
    reasoning: str = ""
    refusal: str | None = None
    prompt_tokens: int | None = None
    stream: bool = True
    cut: bool = False  # the connection ends in the middle
    hang_s: float = 0.0


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "code": code, "type": "x"}}).encode()
    return Reply(
        status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def reads(body: dict[str, Any]) -> Reply:
    """A model that finds the number."""
    text = " ".join(message["content"] for message in body.get("messages", []))
    found = re.findall(r"(?<!\d)\d{7}(?!\d)", text)
    return Reply(f"It is {found[0]}." if found else "I do not know.")


Script = Callable[[int, dict[str, Any]], Reply]


@dataclass
class Server:
    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """`script(number, body)` answers request `number`, the first being 0."""
    lock = threading.Lock()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal at_once
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.asked)
                server.asked.append(body)
                server.headers.append({k.lower(): v for k, v in self.headers.items()})
                server.paths.append(self.path)
                at_once += 1
                server.most_at_once = max(server.most_at_once, at_once)
            try:
                self._send(script(number, body))
            except OSError:
                pass  # whoever asked has gone
            finally:
                with lock:
                    at_once -= 1

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.hang_s)
            kind, data = "application/json", reply.body
            if data is None and reply.stream:
                kind, data = "text/event-stream", b"".join(events(reply))
            elif data is None:
                data = json.dumps(whole(reply)).encode()
            self.send_response(reply.status)
            headers = {"content-type": kind, "content-length": str(len(data)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if reply.cut else data)
            self.wfile.flush()
            if reply.cut:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def events(reply: Reply) -> Iterator[bytes]:
    yield b": still here\n\n"
    parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if reply.reasoning:
        parts.append({"reasoning_content": reply.reasoning})
    if reply.refusal is not None:
        parts.append({"refusal": reply.refusal})
    parts += [{"content": piece} for piece in re.findall(r".{1,4}", reply.text)]
    for part in parts:
        yield _event({"choices": [{"index": 0, "delta": part, "finish_reason": None}]})
    if reply.finish_reason is not None:
        end = {"index": 0, "delta": {}, "finish_reason": reply.finish_reason}
        yield _event({"choices": [end]})
    if reply.prompt_tokens is not None:
        yield _event({"choices": [], "usage": {"prompt_tokens": reply.prompt_tokens}})
    yield b"data: [DONE]\n\n"


def whole(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text or None, "refusal": reply.refusal}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    return {"choices": [choice], "usage": {"prompt_tokens": reply.prompt_tokens}}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def first(replies: Sequence[Reply]) -> Script:
    """These in turn, and then a model that finds the number."""
    return lambda number, body: replies[number] if number < len(replies) else reads(body)
