"""Continuous batching over one model: the life of requests from submission to the last event.

    submit -> queue -> admit (memory) -> steps: prompt chunks, then one token each -> finished

One thread calls step(), the background loop or a test; submit() and cancel() come from any. A step
that fails is repeated request by request, so that only the culprit fails. Knows no protocol, no
chat template and no HTTP.

Shape legend: R rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longctx.attention import Scheme, resolve
from longctx.attention.hf_model import check_model
from longctx.engine import sampling
from longctx.engine.batch_attention import RowInput
from longctx.engine.constraint import Constraint, JsonConstraints
from longctx.engine.detokenize import Detokenizer
from longctx.engine.errors import (
    ContextLengthError,
    EngineClosedError,
    InsufficientMemoryError,
    QueueFullError,
)
from longctx.engine.handle import Generation
from longctx.engine.kv import SHARE_FROM, KvPool
from longctx.engine.memory import default_kv_budget
from longctx.engine.request import (
    Delta,
    EngineRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
)
from longctx.engine.runner import Runner
from longctx.engine.scheduler import Chunk, Scheduler
from longctx.engine.sequence import Sequence as Running
from longctx.errors import UserError

_log = logging.getLogger(__name__)

DEFAULT_CHUNK_BUDGET = 512
DEFAULT_MAX_RUNNING = 64
DEFAULT_MAX_WAITING = 1024
# Dual Chunk Attention has no limit of its own; answers beyond this were not published.
DCA_CONTEXT_FACTOR = 4


@dataclass(frozen=True)
class Stats:
    """The engine at one moment. Counters since the start."""

    running: int
    waiting: int
    kv_used_bytes: int
    kv_budget_bytes: int
    retained_prefixes: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finished: int
    failed: int


class Engine:
    """Serves one transformers causal LM under one scheme, on the device where it lies.

    Args:
        model: Qwen2, Qwen2-MoE, Qwen3, Llama, Mistral and others with one shared rotary; it
            belongs to the engine until close().
        tokenizer: of transformers; None serves token ids only (no text, no stop strings).
        scheme: a method's name, or what `longctx.attention.resolve` returned.
        kernel: "auto" or a name of `longctx.attention.kernels.names()`.
        chunk_budget: tokens of one step; bounds how long a request waits for its neighbours.
        kv_budget_bytes: memory for keys and values, retained prefixes included.
        max_context: prompt and answer, tokens; by default the trained window, times the factor
            under methods that have one, times four under the other Dual Chunk methods.
        max_running, max_waiting: requests.
        share_from: tokens from which on a cached prefix is read in place; below, it is copied.

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
        kernel: str = "auto",
        chunk_budget: int = DEFAULT_CHUNK_BUDGET,
        kv_budget_bytes: int | None = None,
        max_context: int | None = None,
        max_running: int = DEFAULT_MAX_RUNNING,
        max_waiting: int = DEFAULT_MAX_WAITING,
        share_from: int = SHARE_FROM,
    ) -> None:
        for name, value in (
            ("chunk_budget", chunk_budget),
            ("max_running", max_running),
            ("max_waiting", max_waiting),
            ("share_from", share_from),
        ):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if isinstance(scheme, str):
            scheme = resolve(check_model(model).base_model.config, scheme)
        self.scheme = scheme
        self._runner = Runner(model, scheme, kernel)
        self.tokenizer = tokenizer
        budget = kv_budget_bytes
        if budget is None:
            budget = default_kv_budget(self._runner.device)
        self.max_context = max_context or _default_context(scheme)
        bytes_per_token = self._runner.kv_bytes_per_token
        pool = KvPool(self._runner.layers, bytes_per_token, budget, share_from)
        self._scheduler = Scheduler(pool, chunk_budget=chunk_budget, max_running=max_running)
        self._max_waiting = max_waiting
        self._eos_ids = _eos_ids(model, tokenizer)
        self._known_tokens = self._runner.vocabulary if tokenizer is None else len(tokenizer)
        self._json: JsonConstraints | None = None
        self._json_lock = threading.Lock()
        self._wake = threading.Condition()  # guards the three below
        self._inbox: deque[Running] = deque()
        self._closed = False
        self._drain = False
        self._thread: threading.Thread | None = None
        self._counts = dict.fromkeys(("steps", "prompt", "cached", "completion", "ok", "failed"), 0)

    def __repr__(self) -> str:
        pool = self._scheduler.pool
        tokens = pool.budget_bytes // pool.bytes_per_token
        return (
            f"<longctx engine: {type(self._runner.model).__name__}, {self.scheme}, kernel "
            f"{self._runner.kernel_name}, context {self.max_context}, memory for {tokens} tokens>"
        )

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
        """
        self._check(request)
        constraint = self._constraint(request)
        bucket = self._runner.bucket(request.request_length or len(request.prompt_ids))
        handle = Generation(lambda: self._cancel(sequence), listener)
        sequence = Running(
            request,
            bucket=bucket,
            logit_scale=self._runner.logit_scale(bucket),
            sampler=sampling.RowSampler(
                request.sampling,
                request.prompt_ids,
                top_logprobs=request.top_logprobs if request.logprobs else None,
                constraint=constraint,
            ),
            detokenizer=Detokenizer(self._decode, request.stop),
            constraint=constraint,
            emit=handle.emit,
        )
        with self._wake:
            if self._closed:
                raise EngineClosedError("the engine is closed: make a new one")
            if len(self._inbox) + len(self._scheduler.waiting) >= self._max_waiting:
                raise QueueFullError(self._max_waiting)
            self._inbox.append(sequence)
            self._wake.notify_all()
        return handle

    def stats(self) -> Stats:
        scheduler, pool, counts = self._scheduler, self._scheduler.pool, self._counts
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._inbox),
            kv_used_bytes=pool.used_bytes,
            kv_budget_bytes=pool.budget_bytes,
            retained_prefixes=len(scheduler.prefixes),
            steps=counts["steps"],
            prompt_tokens=counts["prompt"],
            cached_tokens=counts["cached"],
            completion_tokens=counts["completion"],
            finished=counts["ok"],
            failed=counts["failed"],
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
        self._runner.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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
            except Exception as error:  # a defect of the engine: it costs what is in flight
                _log.exception("a step of the engine failed")
                self._fail_all(error)
                worked = True
            with self._wake:
                if worked or self._inbox:
                    continue
                if self._closed:
                    return
                self._wake.wait()

    @torch.inference_mode()
    def step(self) -> bool:
        """One forward over what is due; False where there is nothing to do."""
        with self._wake:
            self._scheduler.waiting.extend(self._inbox)
            self._inbox.clear()
        self._end_cancelled()
        for sequence in self._scheduler.admit():
            self._progress(sequence)
        batch = self._scheduler.next_batch()
        if not batch:
            return bool(self._scheduler.waiting)
        self._counts["steps"] += 1
        for chunks, logits_RV in self._run(batch):
            self._advance(chunks, logits_RV)
        return True

    def _run(self, batch: list[Chunk]) -> list[tuple[list[Chunk], torch.Tensor]]:
        """Forward all of the batch, or what is left of it when those that fail are out."""
        try:
            return [(batch, self._forward(batch))]
        except Exception as error:
            failure = error
        if _out_of_memory(failure):
            self._scheduler.prefixes.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        elif len(batch) == 1:
            self._fail(batch[0].sequence, failure)
            return []
        _log.warning("a step over %d requests failed, repeating them one by one", len(batch))
        done = []
        for chunk in batch:
            try:
                done.append(([chunk], self._forward([chunk])))
            except Exception as error:
                self._fail(chunk.sequence, error)
        return done

    def _forward(self, batch: list[Chunk]) -> torch.Tensor:
        """Logits [R, V]: one row per chunk that draws, all rows of a chunk that is scored."""
        tokens: list[int] = []
        rows: list[RowInput] = []
        wanted: list[int] = []
        for chunk in batch:
            sequence, kv = chunk.sequence, chunk.sequence.kv
            assert kv is not None
            first = len(tokens)
            tokens.extend(sequence.tokens[chunk.start : chunk.stop])
            rows.append(
                RowInput(
                    chunk.start,
                    chunk.length,
                    kv.own,
                    kv.segments(chunk.stop),
                    sequence.logit_scale,
                )
            )
            if _scores(chunk):
                wanted.extend(range(first, len(tokens)))
            elif chunk.draws:
                wanted.append(len(tokens) - 1)
        return self._runner.forward(tokens, rows, wanted)

    # -- after the forward ------------------------------------------------------------------------

    def _advance(self, batch: list[Chunk], logits_RV: torch.Tensor) -> None:
        """Count what was computed, draw and hand out the next tokens."""
        first = 0
        drawing: list[Running] = []
        drawn_rows: list[int] = []
        for chunk in batch:
            sequence = chunk.sequence
            prefill, draws = not sequence.decoding, chunk.draws
            rows = chunk.length if _scores(chunk) else int(draws)
            if _scores(chunk):
                self._score(chunk, logits_RV[first : first + rows])
            first += rows
            sequence.computed += chunk.length
            if draws:
                drawing.append(sequence)
                drawn_rows.append(first - 1)
            if prefill:
                self._counts["prompt"] += chunk.length
                self._progress(sequence)
            if prefill and sequence.decoding and not draws:
                self._finish(sequence, "length")
        if not drawing:
            return
        logits_RV = logits_RV[drawn_rows].float()
        logits_RV[:, self._known_tokens :] = -torch.inf
        drawn = sampling.draw(logits_RV, [sequence.sampler for sequence in drawing])
        for sequence, result in zip(drawing, drawn, strict=True):
            try:
                if isinstance(result, Exception):
                    raise result
                self._hand_out(sequence, result)
            except Exception as error:
                self._fail(sequence, error)

    def _hand_out(self, sequence: Running, drawn: sampling.Drawn) -> None:
        """One token: into the sequence, into its text, to its client."""
        request, token = sequence.request, drawn.token
        sequence.append(token)
        sequence.sampler.note(token)
        self._counts["completion"] += 1
        logprobs = () if drawn.logprob is None else (drawn.logprob,)
        if token in request.stop_ids or (token in self._eos_ids and not request.ignore_eos):
            self._emit(sequence, Delta(sequence.detokenizer.finish(), (token,), logprobs))
            self._finish(sequence, "stop", sequence.detokenizer.stopped or token)
            return
        complete = sequence.constraint is not None and sequence.constraint.accept(token)
        text = sequence.detokenizer.push(token)
        last = complete or sequence.answer_length == request.max_new_tokens
        if last and sequence.detokenizer.stopped is None:
            text += sequence.detokenizer.finish()
        self._emit(sequence, Delta(text, (token,), logprobs))
        if sequence.detokenizer.stopped is not None:
            self._finish(sequence, "stop", sequence.detokenizer.stopped)
        elif last:
            self._finish(sequence, "stop" if complete else "length")

    def _score(self, chunk: Chunk, logits_LV: torch.Tensor) -> None:
        """Log-probabilities of the prompt tokens that follow the chunk's."""
        targets = chunk.sequence.tokens[chunk.start + 1 : chunk.stop + 1]
        targets = targets[: chunk.sequence.prompt_length - 1 - chunk.start]
        logits_LV = logits_LV[: len(targets), : self._known_tokens]
        logprobs_LV = torch.log_softmax(logits_LV.double(), dim=-1)
        index_L1 = torch.tensor(targets, device=logits_LV.device).view(-1, 1)
        found: list[float] = logprobs_LV.gather(1, index_L1)[:, 0].tolist()
        chunk.sequence.prompt_logprobs.extend(found)

    def _progress(self, sequence: Running) -> None:
        total = sequence.prompt_length
        self._emit(sequence, Progress(total, sequence.cached, min(sequence.computed, total)))

    # -- the end of a request ---------------------------------------------------------------------

    def _finish(
        self, sequence: Running, reason: FinishReason, stop: str | int | None = None
    ) -> None:
        self._scheduler.remove(sequence, retain=True)
        self._counts["ok"] += 1
        self._counts["cached"] += sequence.cached
        scores = tuple(sequence.prompt_logprobs) if sequence.request.prompt_logprobs else None
        self._emit(sequence, Finished(reason, sequence.usage(), stop, scores))

    def _fail(self, sequence: Running, error: Exception) -> None:
        self._scheduler.remove(sequence, retain=False)
        self._counts["failed"] += 1
        self._emit(sequence, Failed(error))

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            pending = [*self._scheduler.running, *self._scheduler.waiting, *self._inbox]
            self._inbox.clear()
        for sequence in pending:
            self._fail(sequence, error)

    def _cancel(self, sequence: Running) -> None:
        with self._wake:
            sequence.cancelled = True
            self._wake.notify_all()

    def _end_cancelled(self) -> None:
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if sequence.cancelled:
                self._finish(sequence, "cancelled")

    def _emit(self, sequence: Running, event: Event) -> None:
        try:
            sequence.emit(event)
        except Exception:  # a client's listener must not cost its neighbours
            _log.exception("a listener failed")
            sequence.cancelled = True

    # -- checks and helpers -----------------------------------------------------------------------

    def _check(self, request: EngineRequest) -> None:
        asked = len(request.prompt_ids) + request.max_new_tokens
        if asked > self.max_context:
            raise ContextLengthError(
                self.max_context, len(request.prompt_ids), request.max_new_tokens
            )
        pool = self._scheduler.pool
        if asked * pool.bytes_per_token > pool.budget_bytes:
            raise InsufficientMemoryError(asked, pool.bytes_per_token, pool.budget_bytes)
        low, high = min(request.prompt_ids), max(request.prompt_ids)
        if low < 0 or high >= self._runner.vocabulary:
            raise UserError(
                f"prompt_ids hold {low if low < 0 else high}: ids of this model are 0 to "
                f"{self._runner.vocabulary - 1}"
            )
        if request.stop and self.tokenizer is None:
            raise UserError("stop needs text, and the engine has no tokenizer: use stop_ids")

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


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )


def _scores(chunk: Chunk) -> bool:
    return chunk.sequence.request.prompt_logprobs and not chunk.sequence.decoding


def _default_context(scheme: Scheme) -> int:
    if scheme.factor is not None:
        return int(scheme.trained_length * scheme.factor)
    if scheme.chunk_size is not None:
        return scheme.trained_length * DCA_CONTEXT_FACTOR
    return scheme.trained_length


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends an answer: the generation config lists more than the tokenizer."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return frozenset(found)
