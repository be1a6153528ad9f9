"""One API request in the engine: submitted, followed event by event, cancelled when unwanted.

The engine speaks in its own thread; events reach the server's loop through a queue. A job is
several generations where n > 1 or several prompts were sent. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from longctx.engine import (
    Delta,
    EngineRequest,
    Event,
    Failed,
    Finished,
    Generation,
    Progress,
    QueueFullError,
    Usage,
)
from longctx.engine.serving import ServingEngine
from longctx.serve.documents_usage import DocumentsAsked
from longctx.serve.proofs import Proofs
from longctx.serve.workers import Workers

State = Literal["queued", "prefill", "decoding", "done", "cancelled", "failed"]
_RETRY_S = 0.05  # while the queue is full of others
KEPT = 1000  # finished jobs whose figures can still be asked for


class Heard(NamedTuple):
    at: int  # which generation of the job
    event: Event


@dataclass
class Job:
    """What is known of a request while it runs and for a while after. Holds no text."""

    id: str
    kind: str
    prompts: list[int]  # tokens of each generation's prompt
    answers_per_prompt: int = 1
    alias: str | None = None  # the request's id in headers and log
    documents: DocumentsAsked | None = None
    accounted: bool = False
    created: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    state: State = "queued"
    progress: dict[int, Progress] = field(default_factory=dict)
    usages: dict[int, Usage] = field(default_factory=dict)
    completion_tokens: int = 0
    first_token_s: float | None = None
    _prefill_began: float | None = None
    ended: float | None = None

    @property
    def prompt_sizes(self) -> list[int]:
        """Of each prompt, however many answers it gets."""
        return self.prompts[:: max(1, self.answers_per_prompt)]

    @property
    def total(self) -> int:
        """Prompt tokens. Those of a prompt count once: its other answers find them computed."""
        return sum(self.prompt_sizes)

    @property
    def processed(self) -> int:
        return sum(each.processed for each in self._first_answers)

    @property
    def cached(self) -> int:
        return sum(each.cached for each in self._first_answers)

    @property
    def _first_answers(self) -> list[Progress]:
        """Of each prompt that was begun."""
        firsts = range(0, len(self.prompts), max(1, self.answers_per_prompt))
        return [self.progress[at] for at in firsts if at in self.progress]

    @property
    def elapsed_s(self) -> float:
        return (self.ended or time.perf_counter()) - self.started

    @property
    def tokens_left(self) -> int:
        """Of the prompts, still to be computed."""
        return 0 if self.ended else self.total - self.processed

    def hear(self, heard: Heard) -> None:
        event = heard.event
        if isinstance(event, Progress):
            if self._prefill_began is None:
                self._prefill_began = time.perf_counter()
            self.progress[heard.at] = event
            if self.state == "queued":
                self.state = "prefill"
        elif isinstance(event, Delta):
            self.completion_tokens += len(event.token_ids)
            if self.first_token_s is None and event.token_ids:
                self.first_token_s = time.perf_counter() - self.started
            if len(self.progress) == len(self.prompts) and self.tokens_left == 0:
                self.state = "decoding"
        elif isinstance(event, Finished):
            self.usages[heard.at] = event.usage

    def end(self, state: State) -> None:
        if self.ended is None:
            self.state, self.ended = state, time.perf_counter()

    def prefill_speed(self) -> float | None:
        """Tokens per second so far; None before there is anything to measure."""
        if self._prefill_began is None:
            return None
        seconds = time.perf_counter() - self._prefill_began
        done = self.processed - self.cached
        return done / seconds if done > 0 and seconds > 0 else None

    def prompt_progress(self) -> dict[str, Any]:
        """`cache` is llama.cpp's name of `cached`. No estimate before the second chunk."""
        speed = self.prefill_speed()
        left = self.total - self.processed
        eta = None if speed is None and left else round(1e3 * left / (speed or 1.0))
        return {
            "total": self.total,
            "cached": self.cached,
            "cache": self.cached,
            "processed": self.processed,
            "time_ms": round(1e3 * self.elapsed_s),
            "eta_ms": eta,
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "request",
            "kind": self.kind,
            "state": self.state,
            "created": int(self.created),
            "prompt_progress": self.prompt_progress(),
            "completion_tokens": self.completion_tokens,
            "first_token_ms": None if self.first_token_s is None else self.first_token_s * 1e3,
        }


class Registry:
    """Jobs by id, the finished ones for a while; and what the server can tell of its backlog."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._speed: float | None = None  # prompt tokens per second, smoothed

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > KEPT:
            oldest = next((n for n, each in self._jobs.items() if each.ended is not None), None)
            if oldest is None:
                break
            del self._jobs[oldest]

    def get(self, id: str) -> Job | None:
        """By its own id, or by that of the HTTP request: the latest one then."""
        if id in self._jobs:
            return self._jobs[id]
        return next((job for job in reversed(self._jobs.values()) if job.alias == id), None)

    @property
    def active(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.ended is None]

    def learn(self, job: Job) -> None:
        """Remember how fast prompts are computed."""
        for usage in job.usages.values():
            computed = usage.prompt_tokens - usage.cached_tokens
            if usage.first_token_s is None or computed < 64:
                continue
            speed = computed / max(usage.first_token_s - usage.admitted_s, 1e-4)
            self._speed = speed if self._speed is None else 0.8 * self._speed + 0.2 * speed

    @property
    def speed(self) -> float | None:
        """Prompt tokens a second; None before any was measured."""
        return self._speed

    def wait_s(self) -> float:
        """Seconds until the prompts at hand are computed; 1 before any speed was measured."""
        left = sum(job.tokens_left for job in self.active)
        return 1.0 if self._speed is None else max(1.0, left / self._speed)


class Submitted:
    """The engine's side of a job. Close it, whatever happens: that cancels what still runs.

    Of many generations only so many are in the engine at a time that half of its steps' places are
    left to others; the next is submitted when one ends.
    """

    def __init__(
        self, engine: ServingEngine, registry: Registry, workers: Workers, proofs: Proofs, job: Job
    ) -> None:
        self._engine, self._registry, self._workers, self.job = engine, registry, workers, job
        self._proofs = proofs
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Heard] = asyncio.Queue()
        self._generations: list[Generation] = []
        self._left: deque[tuple[int, EngineRequest]] = deque()
        self._open = 0
        self._compile_s = 0.0  # of a schema, each time
        self._most = max(1, engine.max_running // 2)

    async def start(self, requests: Sequence[EngineRequest]) -> None:
        """Submit all that may be in the engine at a time, or none. All are looked at before.

        Raises:
            what `Engine.submit` raises.
        """
        self._registry.add(self.job)
        try:
            schemas = [each.json_schema for each in requests if each.json_schema is not None]
            if schemas:  # all of a body's answers have the same
                self._compile_s = await self._proofs.prove(schemas[0], len(schemas))
            if len(requests) > self._most:
                size = sum(4 * len(request.prompt_ids) for request in requests)
                await self._workers.run(size, _check_all, self._engine, requests)
            self._left.extend(enumerate(requests))
            while self._left and self._open < self._most:
                await self._submit_next()
        except asyncio.CancelledError:
            self.close("cancelled")
            raise
        except BaseException:
            self.close("failed")
            raise

    async def _submit_next(self) -> None:
        index, request = self._left[0]
        self._generations.append(await self._submit(request, self._listener(index)))
        self._left.popleft()
        self._open += 1

    async def _refill(self) -> None:
        """Those that come later wait where the engine's queue is full: their job has begun."""
        while self._left and self._open < self._most:
            try:
                await self._submit_next()
            except QueueFullError:
                if self._open:
                    return
                await asyncio.sleep(_RETRY_S)

    async def _submit(
        self, request: EngineRequest, listener: Callable[[Event], None]
    ) -> Generation:
        """In a thread: a schema is compiled, and a million ids are looked at, of four bytes each as
        their text would be. A thread goes on when nobody waits for it: then its end is the end."""
        submit = self._engine.submit
        if request.json_schema is not None:
            work = self._workers.compile(self._compile_s, submit, request, listener)
        else:
            work = self._workers.run(4 * len(request.prompt_ids), submit, request, listener)
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_cancel_made)
            raise

    def _listener(self, index: int) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, Heard(index, event))

        return listen

    async def events(self) -> AsyncIterator[Heard]:
        """All events of all generations, until each has its last.

        Raises:
            the error of the first generation that failed.
        """
        while self._open or self._left:
            await self._refill()
            if not self._open:  # closed meanwhile
                return
            heard = await self._queue.get()
            self.job.hear(heard)
            if isinstance(heard.event, Failed):
                self._open -= 1
                raise heard.event.error
            if isinstance(heard.event, Finished):
                self._open -= 1
            yield heard

    def close(self, state: State | None = None) -> None:
        """Cancel what has not ended. Harmless when repeated."""
        running = self._open > 0 or bool(self._left)
        self._left.clear()
        for generation in self._generations:
            generation.cancel()
        self._open = 0
        self.job.end(state or ("cancelled" if running else "done"))
        self._registry.learn(self.job)


def _check_all(engine: ServingEngine, requests: Sequence[EngineRequest]) -> None:
    for request in requests:
        engine.check(request)


def _cancel_made(task: asyncio.Future[Generation]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().cancel()
