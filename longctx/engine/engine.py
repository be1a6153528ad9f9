"""Continuous batching over one model: the life of requests from submission to the last event.

    submit -> queue -> admit (memory) -> steps: prompt chunks, then one token each -> finished

One thread calls step(), the background loop or a test; submit() and cancel() come from any. Knows
no protocol, no chat template and no HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from longctx.attention import Scheme, resolve
from longctx.attention.hf.model import check_model
from longctx.engine import kept, sampling
from longctx.engine.allocator import give_back
from longctx.engine.constraint import Constraint, JsonConstraints
from longctx.engine.detokenize import Detokenizer
from longctx.engine.errors import (
    EngineBrokenError,
    EngineClosedError,
    QueueFullError,
)
from longctx.engine.handle import Generation
from longctx.engine.health import Health
from longctx.engine.kv import KvPool
from longctx.engine.request import EngineRequest, Event, Failed
from longctx.engine.rules import check, default_context, eos_ids
from longctx.engine.runner import Runner
from longctx.engine.scheduler import Scheduler
from longctx.engine.sequence import RequestState
from longctx.engine.speculation import Speculator
from longctx.engine.stepper import Counts, Stepper
from longctx.errors import UserError
from longctx.options.engine import EngineSettings, most_guesses

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stats:
    """The engine at one moment."""

    running: int
    waiting: int
    kv_used_bytes: int
    kv_budget_bytes: int
    retained_prefixes: int
    counts: Counts


class Engine:
    """Serves one transformers causal LM under one scheme, on the device where it lies.

    Args:
        model: Qwen2, Qwen2-MoE, Qwen3, Llama, Mistral and others with one shared rotary; it
            belongs to the engine until close().
        tokenizer: of transformers; None serves token ids only (no text, no stop strings).
        scheme: a method's name, with every number by the model's rules (a factor by max_context),
            or what `longctx.attention.resolve` returned.
        kernel: "auto" or a name of `longctx.attention.kernels.names()`.
        chunk_budget: tokens of one step; bounds how long a request waits for its neighbours.
        kv_budget_bytes: memory for keys and values, retained prefixes included; by default what
            the device has free, less one step's activations and logits, with a margin.
        max_context: prompt and answer, tokens; by default the trained window, times the factor
            under methods that have one, times four under the other Dual Chunk methods.
        max_running, max_waiting: requests.
        share_from: tokens from which on a cached prefix is read in place; below, it is copied.
        kv_dtype: what keys and values are kept in; by default the model's dtype.
        prompts_first: compute all prompts that fit before any answer goes on: less work in all,
            and a longer wait for the first ones.
        speculate: "auto", "off", or how many tokens at most are guessed from the text before and
            checked in one step; the answers are the same. "auto" makes guesses where they prove
            right, and none while many answers grow (`speculation.py`).

    Raises:
        UserError: numbers that make no sense, or a model that cannot be served.
        ValueError: a scheme or kernel that the model or device does not allow.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        scheme: str | Scheme = "none",
        *,
        kernel: str = EngineSettings.kernel,
        chunk_budget: int = EngineSettings.chunk_budget,
        kv_budget_bytes: int | None = EngineSettings.kv_budget_bytes,
        max_context: int | None = EngineSettings.max_context,
        max_running: int = EngineSettings.max_running,
        max_waiting: int = EngineSettings.max_waiting,
        share_from: int = EngineSettings.share_from,
        kv_dtype: torch.dtype | None = None,
        prompts_first: bool = EngineSettings.prompts_first,
        speculate: str = EngineSettings.speculate,
    ) -> None:
        try:
            self._most_guesses = most_guesses(speculate)
        except ValueError as error:
            raise UserError(f"speculate={speculate!r}: {error}") from error
        for name, value in (
            ("chunk_budget", chunk_budget),
            ("max_running", max_running),
            ("max_waiting", max_waiting),
            ("share_from", share_from),
            ("kv_budget_bytes", kv_budget_bytes),
            ("max_context", max_context),
        ):
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        config: Any = check_model(model).base_model.config
        if isinstance(scheme, str):
            scheme = resolve(config, scheme, request_length=max_context)
        self.scheme = scheme
        self.tokenizer = tokenizer
        self.max_context = max_context or default_context(scheme, config)
        self._runner = Runner(model, scheme, kernel, kv_dtype)
        budget = kv_budget_bytes
        if budget is None:
            try:
                budget = self._runner.kv_budget(chunk_budget, max_running)
            except UserError:
                self._runner.close()
                raise
        bytes_per_token = self._runner.kv_bytes_per_token
        pool = KvPool(
            self._runner.layers,
            bytes_per_token,
            budget,
            share_from,
            self._runner.kv_dtype,
            in_arena=self._runner.packs or self._runner.device.type != "cpu",
            page=self._runner.page,
        )
        self._scheduler = Scheduler(
            pool,
            chunk_budget=chunk_budget,
            max_running=max_running,
            prompts_first=prompts_first,
        )
        self._max_waiting = max_waiting
        known_tokens = self._runner.vocabulary if tokenizer is None else len(tokenizer)
        self._eos_ids = eos_ids(model, tokenizer)
        self._stepper = Stepper(self._runner, self._scheduler, self._eos_ids, known_tokens)
        self._health = Health(self._runner.probe)
        self._json: JsonConstraints | None = None
        self._json_lock = threading.Lock()
        self._wake = threading.Condition()  # guards the four below
        self._inbox: deque[RequestState] = deque()
        self._offered: tuple[kept.StoredPrefix, ...] = ()  # replaced, never changed
        self._closed = False
        self._drain = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return (
            f"<longctx engine: {type(self._runner.model).__name__}, {self.scheme}, kernel "
            f"{self._runner.kernel_name}, context {self.max_context}, memory for "
            f"{self.fitting_tokens} tokens>"
        )

    @property
    def kernel_name(self) -> str:
        """The attention kernel in use."""
        return self._runner.kernel_name

    @property
    def kv_dtype(self) -> torch.dtype:
        """What keys and values are kept in."""
        return self._runner.kv_dtype

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self._runner.device

    @property
    def fitting_tokens(self) -> int:
        """Tokens that the memory for keys and values holds, of all requests together."""
        return self._scheduler.pool.budget_tokens

    @property
    def vocabulary(self) -> int:
        """Rows of the logits; the tokenizer may have fewer tokens."""
        return self._runner.vocabulary

    @property
    def broken(self) -> Exception | None:
        """Why no step will succeed any more, where that is so."""
        return self._health.broken

    @property
    def stalled_s(self) -> float:
        """Seconds that something has been asked for, and no step has ended."""
        return self._health.waited_s if self._busy else 0.0

    @property
    def _busy(self) -> bool:
        return bool(self._inbox or self._scheduler.running or self._scheduler.waiting)

    @property
    def started(self) -> bool:
        """Whether a background thread serves."""
        return self._thread is not None

    # -- for clients, from any thread -------------------------------------------------------------

    def submit(
        self, request: EngineRequest, listener: Callable[[Event], None] | None = None
    ) -> Generation:
        """Queue a request.

        Args:
            listener: gets the events in the engine's thread, instead of the handle's iterator.

        Raises:
            ContextLengthError, InsufficientMemoryError: it can never be served here.
            QueueFullError: max_waiting requests are waiting.
            ConstraintError: its schema cannot be compiled, or llguidance is missing.
            EngineClosedError: close() was called.
            EngineBrokenError: the device fails every step.
        """
        if self.broken is not None:
            raise EngineBrokenError(self.broken)
        self.check(request)
        constraint = self._constraint(request)
        bucket = self._runner.bucket(request.request_length or len(request.prompt_ids))
        ends = request.stop_ids if request.ignore_eos else request.stop_ids | self._eos_ids
        ends = frozenset(each for each in ends if each < self._runner.vocabulary)
        handle = Generation(lambda: self._cancel(sequence), listener)
        total = len(request.prompt_ids) + request.max_new_tokens
        guesses = self._most_guesses != 0 and request.max_new_tokens > 1
        sequence = RequestState(
            request,
            bucket=bucket,
            logit_scale=self._runner.logit_scale(bucket),
            sampler=sampling.RowSampler(
                request.sampling,
                request.prompt_ids,
                top_logprobs=request.top_logprobs if request.logprobs else None,
                constraint=constraint,
                banned=ends,
                banned_for=request.min_new_tokens,
            ),
            detokenizer=Detokenizer(self._decode, request.stop, stops_after=request.min_new_tokens),
            constraint=constraint,
            emit=handle.emit,
            speculator=(
                Speculator(request.prompt_ids, total, self._most_guesses) if guesses else None
            ),
        )
        with self._wake:
            if self._closed:
                raise EngineClosedError("the engine is closed: make a new one")
            if len(self._inbox) + len(self._scheduler.waiting) >= self._max_waiting:
                raise QueueFullError(self._max_waiting)
            if not self._busy:
                self._health.asked()
            self._inbox.append(sequence)
            self._wake.notify_all()
        return handle

    def check(self, request: EngineRequest) -> None:
        """Refuse what can never be served, as submit() does, without queueing anything.

        Raises:
            ContextLengthError, InsufficientMemoryError, UserError: with the numbers.
        """
        pool = self._scheduler.pool
        check(request, self.max_context, pool, self._runner.vocabulary, self.tokenizer)

    def bucket(self, request_length: int) -> int:
        """What the temperature is taken at: requests of one bucket share prefixes."""
        return self._runner.bucket(request_length)

    def offer(self, stored: kept.StoredPrefix) -> None:
        """Let requests go on from it, which is brought in when one waits for it; until withdraw(),
        or until it cannot be read."""
        with self._wake:
            self._offered = (*self._offered, stored)

    def withdraw(self, stored: kept.StoredPrefix) -> None:
        """Harmless when repeated."""
        with self._wake:
            self._offered = tuple(each for each in self._offered if each is not stored)

    def computed(self, request: EngineRequest, start: int, stop: int) -> kept.KeptPiece | None:
        """Keys and values of a running request's tokens [start, stop), for its listener alone; None
        where they are not computed."""
        return kept.read(self._scheduler, request, start, stop)

    @property
    def max_running(self) -> int:
        """Requests in a step."""
        return self._scheduler.max_running

    def stats(self) -> Stats:
        scheduler, pool = self._scheduler, self._scheduler.pool
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._inbox),
            kv_used_bytes=pool.used_bytes,
            kv_budget_bytes=pool.budget_bytes,
            retained_prefixes=len(scheduler.prefixes),
            counts=replace(self._stepper.counts),
        )

    def start(self) -> Engine:
        """Serve in a background thread until close()."""
        with self._wake:
            if self._closed:
                raise EngineClosedError("the engine is closed: make a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="longctx", daemon=True)
                self._thread.start()
        return self

    def close(self, *, drain: bool = False) -> None:
        """Give the model back. Requests in flight fail, or are served first with `drain`."""
        with self._wake:
            self._closed, self._drain = True, drain
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        elif drain:
            self.run_until_idle()
        self._fail_all(EngineClosedError("the engine was closed before the request was done"))
        self._scheduler.prefixes.clear()
        if self._scheduler.pool.arena:
            self._scheduler.pool.arena.drop()
        self._runner.close()
        give_back()  # keys and activations of many sizes; the next method's come on top of them

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def give_up(self) -> None:
        """The step at work will not end, and this is the process's end: clients are told now, for
        the engine's own thread cannot."""
        self._health.broken = TimeoutError(f"no step has ended for {self.stalled_s:.0f} s")
        with self._wake:
            pending = [*self._scheduler.running, *self._scheduler.waiting, *self._inbox]
        for sequence in pending:
            sequence.emit(Failed(EngineBrokenError(self._health.broken)))

    # -- the loop ---------------------------------------------------------------------------------

    def run_until_idle(self) -> int:
        """Step in this thread until nothing is left to do; the number of steps."""
        steps = 0
        while self.step():
            steps += 1
        return steps

    def _loop(self) -> None:
        while True:
            with self._wake:
                if self._closed and not self._drain:
                    return
            try:
                worked = self.step()
            except BaseException as error:  # a defect (a library's panic is no Exception): it
                _log.exception("a step of the engine failed")  # costs what is in flight
                self._fail_all(error if isinstance(error, Exception) else RuntimeError(str(error)))
                worked = True
            with self._wake:
                if worked or self._inbox:
                    continue
                if self._closed:
                    return
                self._wake.wait()

    def step(self) -> bool:
        """One forward over what is due; False where there is nothing to do."""
        with self._wake:
            self._scheduler.waiting.extend(self._inbox)
            self._inbox.clear()
        if self._offered and self._scheduler.waiting:
            devices = self._runner.layer_devices
            for stored in kept.bring_in(self._scheduler, self._offered, devices):
                self.withdraw(stored)
        before = self._stepper.counts.steps
        failure: BaseException | None = None
        try:
            worked = self._stepper.step()
            failure = self._stepper.failure
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is not None or self._stepper.counts.steps > before:
                self._health.stepped(failure)
            if self.broken is not None:
                self._fail_all(EngineBrokenError(self.broken))
        return worked

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            pending = [*self._scheduler.running, *self._scheduler.waiting, *self._inbox]
            self._inbox.clear()
        for sequence in pending:
            self._stepper.fail(sequence, error)

    def _cancel(self, sequence: RequestState) -> None:
        with self._wake:
            sequence.cancelled = True
            self._wake.notify_all()

    # -- checks and helpers -----------------------------------------------------------------------

    def _constraint(self, request: EngineRequest) -> Constraint | None:
        if request.json_schema is None:
            return None
        if self.tokenizer is None:
            raise UserError("json_schema needs text, and the engine has no tokenizer")
        with self._json_lock:
            if self._json is None:
                self._json = JsonConstraints(self.tokenizer, self._runner.vocabulary)
        return self._json.compile(request.json_schema)

    def _decode(self, ids: Sequence[int]) -> str:
        if self.tokenizer is None or not ids:
            return ""
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
