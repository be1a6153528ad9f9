"""Real servers on loopback: uvicorn in a thread, the embedded model behind it."""

from __future__ import annotations

import json
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from longctx import tiny
from longctx.serve.listen import listening_socket
from longctx.serve.loading import prepare
from longctx.serve.run import Server
from longctx.serve.service import Service
from longctx.serve.settings import ServeSettings

NEEDLE = "One of the special magic numbers for amber-anchor is: 7239160."
QUESTION = "What is the special magic number for amber-anchor mentioned in the provided text?"
ANSWER_PREFIX = "The special magic number for amber-anchor mentioned in the provided text is"


@dataclass
class Served:
    url: str
    service: Service
    server: Server

    def signal(self) -> None:
        """SIGTERM, as it would arrive in a process of its own."""
        loop = self.server.servers[0].get_loop()
        loop.call_soon_threadsafe(self.server.handle_exit, signal.SIGTERM, None)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def client(self, **options: Any) -> openai.OpenAI:
        settings = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options}
        return openai.OpenAI(**settings)

    def call(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers (lower case) and the JSON of the answer."""
        data = None if body is None else (body if isinstance(body, bytes) else json_bytes(body))
        given = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, raw = answer.status, answer.read()
                found = answer.headers
        except urllib.error.HTTPError as error:
            status, raw, found = error.code, error.read(), error.headers
        text = raw.decode()
        kind = found.get("content-type", "")
        value = json.loads(text) if kind.startswith("application/json") else text
        return status, {name.lower(): value for name, value in found.items()}, value

    def error(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and error of a request that must fail, in OpenAI's shape."""
        status, _, value = self.call(path, body, **options)
        assert status >= 400, value
        assert set(value) == {"error"}
        assert {"message", "type", "param", "code"} <= set(value["error"])
        return status, value["error"]

    def idle(self) -> bool:
        stats = self.service.engine.stats()
        return stats.running == stats.waiting == 0


def json_bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


@contextmanager
def served(
    load: Callable[..., Any] | None = None, most_connections: int | None = None, **options: Any
) -> Iterator[Served]:
    """A server with the given settings.

    Args:
        load: instead of the embedded model's loader; gets it.
        most_connections: at once.
    """
    with tempfile.TemporaryDirectory() as own:  # never the user's own documents
        given = {"kv_budget": 1 << 28, "document_store": Path(own), "model": tiny.EMBEDDED}
        options = {**given, **options}
        with _served(load, most_connections, ServeSettings(port=0, **options)) as it:
            yield it


@contextmanager
def _served(
    load: Callable[..., Any] | None, most_connections: int | None, settings: ServeSettings
) -> Iterator[Served]:
    prepared = prepare(settings)
    make = prepared.load if load is None else (lambda: load(prepared.load))
    service = Service(settings, prepared.name, make, about=prepared.about())
    bound = listening_socket(settings)
    server = Server(service, most_connections=most_connections)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    service.start()
    thread.start()
    try:
        if load is None:
            assert service.loaded.wait(120)
            assert service.failure is None
        wait_for(lambda: server.started)
        yield Served(f"http://127.0.0.1:{bound.getsockname()[1]}", service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
        service.close()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def raw_request(served: Served, path: str, body: Any) -> socket.socket:
    """A request sent by hand, to be hung up on."""
    data = json_bytes(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    connection.sendall(head.encode() + data)
    return connection


def long_text(tokens: int, seed: int = 0) -> str:
    """Prose of about so many tokens of the embedded model."""
    from longctx.eval.texts.prose import paragraphs

    found: list[str] = []
    for paragraph in paragraphs(seed):
        found.append(paragraph)
        if sum(map(len, found)) > 4.1 * tokens:
            break
    return " ".join(found)


CHAT = "/v1/chat/completions"


HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Say something."}]


def body(**options: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 4, **options}
