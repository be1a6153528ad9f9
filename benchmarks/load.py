"""Many clients at once against a running server: who waits how long, and does anything grow.

    longctx serve --port 8123 &
    python benchmarks/load.py --url http://127.0.0.1:8123 --pid $! --minutes 5 --bomb-every 10

First every prompt of a small pool is asked once, one after the other, for the reference answers.
Then the clients ask prompts of the pool, and prompts that nobody asked before, without a pause. An
answer of the pool must be the reference answer, character for character; a 429 is waited for as
long as its Retry-After says and counted apart; everything else that is no answer is an error.

With --bomb-every, a JSON schema that no compiler gets through is sent now and then, each another
one; it must be refused with a 400.

Time to the first token is from sending to the first content of the stream, refusals not included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from longctx.eval.texts.prose import paragraphs

CHARACTERS_PER_TOKEN = 4.1  # of the embedded model on this prose


@dataclass
class Seen:
    """What happened under load. Times in seconds."""

    first_s: dict[str, list[float]] = field(default_factory=lambda: {"short": [], "long": []})
    errors: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    compared: int = 0
    different: list[dict[str, str]] = field(default_factory=list)
    memory: list[tuple[float, float, float]] = field(default_factory=list)  # seconds, MiB, KV MiB
    bombs_s: list[float] = field(default_factory=list)  # until each was refused


@dataclass(frozen=True)
class Prompt:
    kind: str  # "short" or "long"
    text: str
    pooled: bool


def prose(tokens: int, seed: int) -> str:
    """About so many tokens; another seed is another text from the first word."""
    found: list[str] = []
    length = 0
    for paragraph in paragraphs(seed):
        found.append(paragraph)
        length += len(paragraph) + 1
        if length >= CHARACTERS_PER_TOKEN * tokens:
            break
    return " ".join(found)[: int(CHARACTERS_PER_TOKEN * tokens)]


async def ask(
    client: httpx.AsyncClient, prompt: str, answer_tokens: int
) -> tuple[int, float, str, float]:
    """Status, seconds to the first token, the answer (or the error), Retry-After."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": answer_tokens,
        "temperature": 0,
        "stream": True,
    }
    began, first, text = time.perf_counter(), 0.0, []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raw = (await response.aread()).decode()
            wait = float(response.headers.get("retry-after", 1))
            return response.status_code, 0.0, raw, wait
        ended = False
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                ended = True
                break
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return 500, 0.0, line, 0.0
            for choice in event["choices"]:
                content = choice["delta"].get("content")
                if content:
                    first = first or time.perf_counter() - began
                    text.append(content)
    if not ended:
        return 500, 0.0, "the stream ended without [DONE]", 0.0
    return 200, first or time.perf_counter() - began, "".join(text), 0.0


async def until_ready(client: httpx.AsyncClient, patience_s: float = 300) -> None:
    """Wait for a server that has just been started."""
    until = time.perf_counter() + patience_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/ready")).status_code == 200:
                return
        if time.perf_counter() > until:
            raise SystemExit(f"error: --url {client.base_url}: no server is ready there")
        await asyncio.sleep(0.5)


async def one_client(
    client: httpx.AsyncClient,
    draw: Any,
    reference: dict[str, str],
    seen: Seen,
    until: float,
    answer_tokens: int,
) -> None:
    while time.perf_counter() < until:
        prompt: Prompt = draw()
        try:
            status, first, text, wait = await ask(client, prompt.text, answer_tokens)
        except httpx.HTTPError as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
            continue
        seen.statuses[status] += 1
        if status == 429:
            await asyncio.sleep(min(wait, max(0.0, until - time.perf_counter())))
        elif status != 200:
            seen.errors.append(f"{status}: {text[:200]}")
        else:
            seen.first_s[prompt.kind].append(first)
            if prompt.pooled:
                seen.compared += 1
                if text != reference[prompt.text]:
                    seen.different.append(
                        {"kind": prompt.kind, "alone": reference[prompt.text], "loaded": text}
                    )


def bomb(name: str) -> dict[str, Any]:
    """Each pattern doubles what compiling takes; another name makes another schema."""
    patterns = [{"type": "string", "pattern": f"^.*a.{{{n}}}b.*$"} for n in range(1, 30)]
    schema = {"title": name, "allOf": patterns}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


async def send_bombs(client: httpx.AsyncClient, every: float, seen: Seen) -> None:
    for number in count():
        began = time.perf_counter()
        body = {
            "messages": [{"role": "user", "content": "x"}],
            "response_format": bomb(str(number)),
        }
        try:
            answer = await client.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            seen.errors.append(f"a bomb: {type(error).__name__}: {error}")
        else:
            seen.bombs_s.append(time.perf_counter() - began)
            if answer.status_code != 400:
                seen.errors.append(f"a bomb: {answer.status_code}: {answer.text[:200]}")
        await asyncio.sleep(max(0.0, began + every - time.perf_counter()))


async def watch_memory(client: httpx.AsyncClient, pid: int, seen: Seen, began: float) -> None:
    """The process, and what of it are keys and values: those grow to their budget by design."""
    status = Path(f"/proc/{pid}/status")
    while True:
        rows = (await client.get("/metrics")).text.splitlines()
        (kv,) = [float(row.split()[1]) for row in rows if row.startswith("longctx_kv_used_bytes ")]
        (rss,) = [row for row in status.read_text().splitlines() if row.startswith("VmRSS:")]
        now = time.perf_counter() - began
        seen.memory.append((now, int(rss.split()[1]) / 1024, kv / 2**20))
        await asyncio.sleep(2)


def quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def slope(points: list[tuple[float, float]]) -> float | None:
    """MiB per minute."""
    if len(points) < 3:
        return None
    return round(60 * statistics.linear_regression(*zip(*points, strict=True)).slope, 2)


def by_minute(points: list[tuple[float, float]]) -> list[float]:
    """MiB at the end of each minute."""
    last = {int(when // 60): size for when, size in points}
    return [round(size, 1) for size in last.values()]


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)
    lengths = {"short": options.short, "long": options.long}
    pool = [
        Prompt(kind, prose(lengths[kind], 1000 * at + (kind == "long")), pooled=True)
        for kind, many in (("short", 8), ("long", 4))
        for at in range(1, many + 1)
    ]
    fresh = count(100_000)

    def draw() -> Prompt:
        kind = "long" if chance.random() < options.long_share else "short"
        if chance.random() < 0.5:
            return chance.choice([prompt for prompt in pool if prompt.kind == kind])
        return Prompt(kind, prose(lengths[kind], next(fresh)), pooled=False)

    key = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    limits = httpx.Limits(max_connections=options.clients + 4)
    async with httpx.AsyncClient(
        base_url=options.url, timeout=600, headers=key, limits=limits
    ) as client:
        await until_ready(client)
        reference: dict[str, str] = {}
        for prompt in pool:
            status, _, text, _ = await ask(client, prompt.text, options.answer)
            if status != 200:
                raise SystemExit(f"error: the first answers failed: {status} {text[:300]}")
            reference[prompt.text] = text
        seen, began = Seen(), time.perf_counter()
        watcher = None
        if options.pid:
            watcher = asyncio.create_task(watch_memory(client, options.pid, seen, began))
        if options.bomb_every:
            bombs = asyncio.create_task(send_bombs(client, options.bomb_every, seen))
        until = began + 60 * (options.warm_up + options.minutes)
        await asyncio.gather(
            *(
                one_client(client, draw, reference, seen, until, options.answer)
                for _ in range(options.clients)
            )
        )
        seconds = time.perf_counter() - began
        if watcher is not None:
            watcher.cancel()
        if options.bomb_every:
            bombs.cancel()
    return report(options, seen, seconds)


def report(options: argparse.Namespace, seen: Seen, seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "clients": options.clients,
        "seconds": round(seconds, 1),
        "tokens": {"short": options.short, "long": options.long, "answer": options.answer},
        "long_share": options.long_share,
        "statuses": {str(status): many for status, many in sorted(seen.statuses.items())},
        "errors": len(seen.errors),
        "first_errors": seen.errors[:5],
        "compared": seen.compared,
        "different": len(seen.different),
        "first_different": seen.different[:3],
    }
    if seen.bombs_s:
        figures["bombs"] = {
            "refused": len(seen.bombs_s),
            "median_s": round(statistics.median(seen.bombs_s), 1),
            "worst_s": round(max(seen.bombs_s), 1),
        }
    for kind, values in seen.first_s.items():
        figures[kind] = {
            "answers": len(values),
            "first_token_s": {
                name: None if (found := quantile(values, share)) is None else round(found, 3)
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
            },
        }
    if seen.memory:
        # Behind the last minute clients end one by one.
        rest_of_run, last = 60 * options.warm_up, 60 * (options.warm_up + options.minutes)
        rss = [(when, size) for when, size, _ in seen.memory]
        kv = [(when, size) for when, _, size in seen.memory]
        rest = [(when, size - kept) for when, size, kept in seen.memory]
        figures["memory_mib"] = {
            name: {
                "first": round(points[0][1], 1),
                "middle": round(points[len(points) // 2][1], 1),
                "last": round(points[-1][1], 1),
                "most": round(max(size for _, size in points), 1),
                "by_minute": by_minute(points),
                "per_minute_second_half": slope(points[len(points) // 2 :]),
                "per_minute_after_warm_up": slope(
                    [(when, size) for when, size in points if rest_of_run <= when < last]
                ),
            }
            for name, points in (("rss", rss), ("keys_and_values", kv), ("rss_without_them", rest))
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="the server's process, to watch its memory")
    parser.add_argument("--api-key")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument(
        "--warm-up", type=float, default=0, help="minutes before: caches fill, and count as well"
    )
    parser.add_argument("--short", type=int, default=200, help="tokens of a short prompt")
    parser.add_argument("--long", type=int, default=8000, help="tokens of a long prompt")
    parser.add_argument("--long-share", type=float, default=0.1, help="of the requests")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--bomb-every", type=float, help="seconds from one bomb to the next")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = asyncio.run(measure(options))
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    sys.exit(1 if figures["errors"] or figures["different"] else 0)


if __name__ == "__main__":
    main()
