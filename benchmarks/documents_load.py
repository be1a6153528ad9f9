"""Clients that add, ask and delete documents at one server: errors, wrong answers, memory.

    python benchmarks/documents_load.py --seconds 600        # 32 clients, the embedded model

Every answer was taken once before, with nobody else there; under load each must be the same. Half
of the first questions come while their document is still being read, and one document in eight is
deleted then. Memory is the server's resident memory, once a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from longctx.eval.texts.prose import paragraphs

ASKED = "What is the special magic number for amber-anchor mentioned in the provided text?"
BEGUN = "The special magic number for amber-anchor mentioned in the provided text is"
SYSTEMS = ("", "Be brief.")
EACH = 3  # documents of a client
_READY_S = 300.0


def call(url: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


@contextmanager
def server(options: argparse.Namespace, store: str) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "longctx", "serve", "--port", str(options.port)]
    command += ["--document-store", store, "--kv-budget", options.kv_budget, "--dtype", "float32"]
    command += ["--document-budget", options.document_budget, "--method", options.method]
    command += [options.model] if options.model else []
    with open(options.log, "wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ)
    url, end = f"http://127.0.0.1:{options.port}", time.monotonic() + _READY_S
    try:
        while True:
            try:
                if call(f"{url}/ready")[0] == 200:
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server does not start: see {options.log}")
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def text_of(index: int) -> str:
    """Of 300 to 1,500 tokens, with a number of its own."""
    drawn = random.Random(index)
    size, found = drawn.randint(1200, 6000), []
    for paragraph in paragraphs(index):
        found.append(paragraph)
        if sum(map(len, found)) > size:
            break
    middle = len(found) // 2
    number = drawn.randint(1_000_000, 9_999_999)
    stated = f"One of the special magic numbers for amber-anchor is: {number}."
    return " ".join([*found[:middle], stated, *found[middle:]])


def ask(url: str, id: str, system: str) -> tuple[int, Any]:
    """Status, and the answer or the error."""
    messages = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": BEGUN}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "messages": messages,
        "document_ids": [id],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 12,
        "temperature": 0,
    }
    status, told = call(f"{url}/v1/chat/completions", body)
    return status, told["choices"][0]["message"]["content"] if status == 200 else told


def wait(url: str, id: str) -> tuple[int, Any]:
    while True:
        status, told = call(f"{url}/v1/documents/{id}")
        if status != 200 or told["state"] in ("ready", "failed"):
            return status, told
        time.sleep(0.05)


@dataclass
class Seen:
    """What the clients saw, and what it should have been."""

    right: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, status: int, told: Any) -> bool:
        with self.guard:
            self.counts[what] += 1
            if status == 200:
                return True
            self.errors.append(f"{what}: {status}: {json.dumps(told)[:300]}")
            return False

    def judge(self, text: str, system: str, answer: str) -> None:
        right = self.right[text, system]
        if answer != right:
            with self.guard:
                self.wrong.append({"answer": answer, "right": right, "system": system})


def client(url: str, index: int, seen: Seen, until: float) -> None:
    drawn = random.Random(1000 + index)
    texts = [text_of(EACH * index + at) for at in range(EACH)]
    try:
        while time.monotonic() < until:
            text = drawn.choice(texts)
            name = f"client-{index}.txt"
            status, told = call(f"{url}/v1/documents", {"text": text, "name": name})
            if not seen.note("add", status, told):
                continue
            id, system = told["id"], drawn.choice(SYSTEMS)
            if drawn.random() < 0.125:
                seen.note("delete at once", *call(f"{url}/v1/documents/{id}", method="DELETE"))
                continue
            if drawn.random() < 0.5:
                status, told = wait(url, id)
                if seen.note("wait", status, told) and told["state"] == "failed":
                    seen.note("prefill", 500, told)
            for system_ in (system, drawn.choice(SYSTEMS)):
                status, answer = ask(url, id, system_)
                if seen.note("ask", status, answer):
                    seen.judge(text, system_, answer)
            if drawn.random() < 0.1:
                seen.note("list", *call(f"{url}/v1/documents"))
            if drawn.random() < 0.8:
                seen.note("delete", *call(f"{url}/v1/documents/{id}", method="DELETE"))
    except Exception as error:  # a connection that broke is an error like any other
        with seen.guard:
            seen.errors.append(f"client {index}: {type(error).__name__}: {error}")


def learn(url: str, clients: int, seen: Seen) -> None:
    """Every answer, one after the other, of documents that are computed alone."""
    for index in range(EACH * clients):
        text = text_of(index)
        _, told = call(f"{url}/v1/documents", {"text": text, "name": f"client-{index // EACH}.txt"})
        wait(url, told["id"])
        for system in SYSTEMS:
            status, answer = ask(url, told["id"], system)
            if status != 200:
                raise SystemExit(f"a quiet server refuses: {answer}")
            seen.right[text, system] = answer
        call(f"{url}/v1/documents/{told['id']}", method="DELETE")


def slope(samples: list[tuple[float, int]]) -> float:
    """MiB a minute, by least squares."""
    if len(samples) < 2:
        return 0.0
    times = [at for at, _ in samples]
    sizes = [size / 2**20 for _, size in samples]
    mean_t, mean_s = sum(times) / len(times), sum(sizes) / len(sizes)
    above = sum((t - mean_t) * (s - mean_s) for t, s in zip(times, sizes, strict=True))
    below = sum((t - mean_t) ** 2 for t in times)
    return 60 * above / below if below else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--method", default="yarn+dca")
    parser.add_argument("--kv-budget", default="256M", help="less than all documents need")
    parser.add_argument("--document-budget", default="64M", help="less than all documents need")
    parser.add_argument("--port", type=int, default=8192)
    parser.add_argument("--log", default=os.devnull, help="the server's stderr")
    options = parser.parse_args()
    seen, samples = Seen(), []
    with tempfile.TemporaryDirectory() as store, server(options, store) as (url, pid):
        learn(url, options.clients, seen)
        process, began = psutil.Process(pid), time.monotonic()
        until = began + options.seconds
        threads = [
            threading.Thread(target=client, args=(url, index, seen, until))
            for index in range(options.clients)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            samples.append((time.monotonic() - began, process.memory_info().rss))
            time.sleep(1)
        _, left = call(f"{url}/v1/documents")
        for each in left["data"]:
            call(f"{url}/v1/documents/{each['id']}", method="DELETE")
        files = sorted(path.name for path in Path(store).iterdir())
    quarter = max(1, len(samples) // 4)
    sizes = [size >> 20 for _, size in samples]
    found = {
        "seconds": round(samples[-1][0]),
        "clients": options.clients,
        "counts": dict(seen.counts),
        "answers_with_their_number": sum(
            any(word.strip(".").isdigit() for word in right.split())
            for right in seen.right.values()
        ),
        "answers_known": len(seen.right),
        "errors": len(seen.errors),
        "wrong_answers": len(seen.wrong),
        "first_errors": seen.errors[:5],
        "first_wrong": seen.wrong[:5],
        "resident_mib_by_quarter": [
            round(sum(sizes[at : at + quarter]) / len(sizes[at : at + quarter]))
            for at in range(0, 4 * quarter, quarter)
            if sizes[at : at + quarter]
        ],
        "mib_a_minute_in_second_half": round(slope(samples[len(samples) // 2 :]), 2),
        "files_left_when_all_are_deleted": files,
    }
    print(json.dumps(found, indent=1))
    if seen.errors or seen.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
