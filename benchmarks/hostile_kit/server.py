"""A server of its own to be hostile to, and somebody who looks after it meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from longctx.tiny import WEIGHTS

HELLO = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8,
         "temperature": 0}  # fmt: skip
# The embedded model's, with a place for tools.
_TEMPLATE = """\
{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<tool_call>
{"name": ...}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def model_with_tools(folder: Path) -> Path:
    """The embedded model under a template that takes tools."""
    shutil.copytree(WEIGHTS, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return folder


class Victim:
    """`longctx serve` in a process of its own.

    Args:
        model: a directory; the embedded model by default.
        lead: words before the command, as of a shell that sets limits first.
        stderr: where its log goes; by default it is read here.
    """

    def __init__(
        self,
        *options: str,
        model: Path | None = None,
        lead: Sequence[str] = (),
        stderr: Any = subprocess.PIPE,
        port: int = 0,
    ) -> None:
        self.lines: list[str] = []
        named = [] if model is None else [str(model)]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*lead, sys.executable, "-m", "longctx", "serve", *named, "--port", str(port),
             "--kv-budget", "256M", *options],
            stderr=stderr, stdout=subprocess.DEVNULL, text=True,
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )  # fmt: skip
        self.port = port
        if self.process.stderr is not None:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def ready(self, seconds: float = 180) -> float:
        """Seconds from the start until it can be asked.

        Raises:
            RuntimeError: it ended, or it took longer.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if self.alive() and self.status("GET", "/ready") == 200:
                return time.monotonic() - self.began
            time.sleep(0.05)
        raise RuntimeError(f"no server, exit code {self.process.poll()}: {self.lines[-3:]}")

    def alive(self) -> bool:
        """Whether it answers, ready or not."""
        if not self.port:
            told = re.search(r"for http://127.0.0.1:(\d+)", "\n".join(self.lines))
            self.port = int(told[1]) if told else 0
        return self.port > 0 and self.status("GET", "/health") == 200

    def status(self, method: str, path: str) -> int | None:
        try:
            return self.ask(method, path)[0]
        except OSError:
            return None

    def ask(
        self, method: str, path: str, body: bytes | None = None, seconds: float = 300
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def chat(self, body: dict[str, Any] = HELLO, seconds: float = 300) -> tuple[int, str]:
        """Status and text of an answer."""
        raw = json.dumps(body).encode()
        status, told = self.ask("POST", "/v1/chat/completions", raw, seconds)
        if status != 200:
            return status, told.decode()
        return status, json.loads(told)["choices"][0]["message"]["content"]

    def memory_mib(self) -> float:
        """Of it and of its workers."""
        whole = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in (whole, *whole.children())) / 2**20

    def end(self, number: int, seconds: float = 60) -> tuple[float, int]:
        """Send a signal: seconds until the end, and the exit code."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.ended(began, seconds)

    def ended(self, began: float, seconds: float = 60) -> tuple[float, int]:
        code = self.process.wait(seconds)
        return time.monotonic() - began, code

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


_PROBE = """
import http.client, json, sys, threading, time
port, found, over = int(sys.argv[1]), [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError:
        status = 0
    connection.close()
    found.append((status, time.perf_counter() - began))
    over.wait(0.02)
print(json.dumps(found))
"""


class HealthProbe:
    """Asks for /health all the time, from a process of its own, over new connections."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROBE, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> dict[str, Any]:
        """Milliseconds, and answers that were none."""
        told, _ = self._process.communicate()
        found = json.loads(told)
        times = [1e3 * seconds for _, seconds in found]
        return {
            "asked": len(found),
            "failed": sum(status != 200 for status, _ in found),
            "median_ms": round(statistics.median(times), 1),
            "worst_ms": round(max(times), 1),
        }


def temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="longctx-hostile-"))
