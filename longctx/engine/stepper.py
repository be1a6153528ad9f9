"""One step: pack, forward, draw, hand out. Single-threaded; knows no queue of clients.

A step that fails is repeated request by request, so that only the culprit fails.

Shape legend: L tokens of one sequence, R rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

import torch

from longctx.attention.upload import upload
from longctx.engine import sampling
from longctx.engine.batch_attention import RowInput
from longctx.engine.errors import EngineBrokenError, EngineClosedError, NonFiniteLogitsError
from longctx.engine.memory import step_rows
from longctx.engine.request import Delta, Event, Failed, Finished, FinishReason, Progress
from longctx.engine.runner import Runner
from longctx.engine.scheduler import Chunk, Scheduler
from longctx.engine.sequence import RequestState
from longctx.engine.speculation import MOST_IN_STEP
from longctx.errors import UserError

_log = logging.getLogger(__name__)


@dataclass
class Counts:
    """Since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    failed: int = 0
    preempted: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0


class Stepper:
    """Moves the scheduler's sequences through the model.

    Args:
        eos_ids: tokens that end every answer, but for requests that ignore them.
        known_tokens: the tokenizer's size; logits behind it stand for no token.

    Attributes:
        failure: of the last step, where nobody in it got anything.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, eos_ids: frozenset[int], known_tokens: int
    ) -> None:
        self.counts = Counts()
        self.failure: Exception | None = None
        self._runner = runner
        self._scheduler = scheduler
        self._eos_ids = eos_ids
        self._known_tokens = known_tokens
        self._most_guessed = min(MOST_IN_STEP, scheduler.chunk_budget // 4)

    @torch.inference_mode()
    def step(self) -> bool:
        """One forward over what is due; False where there is nothing to do."""
        self.failure = None
        self._end_cancelled()
        for sequence in self._scheduler.admit():
            self._progress(sequence)
        self._guess()
        batch = self._scheduler.next_batch()
        self.counts.preempted = self._scheduler.preempted
        refused, self._scheduler.refused = self._scheduler.refused, []
        for sequence, error in refused:
            self.fail(sequence, error)
        if not batch:
            return bool(self._scheduler.waiting or self._scheduler.running)
        self.counts.steps += 1
        began = time.perf_counter()
        done = self._run(batch)
        share = (time.perf_counter() - began) / sum(chunk.length for chunk in batch)
        for chunk in batch:
            chunk.sequence.compute_s += share * chunk.length
        for chunks, logits_RV in done:
            self._advance(chunks, logits_RV)
        return True

    # -- the forward ------------------------------------------------------------------------------

    def _run(self, batch: list[Chunk]) -> list[tuple[list[Chunk], torch.Tensor]]:
        """Forward all of the batch, or what is left of it when those that fail are out."""
        try:
            return [(batch, self._forward(batch))]
        except Exception as error:
            failure = error
        if _out_of_memory(failure):
            failure.__traceback__ = None  # its frames hold the activations
            self._scheduler.prefixes.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        elif len(batch) == 1:
            self.failure = failure
            self.fail(batch[0].sequence, failure)
            return []
        _log.warning("a step over %d requests failed, repeating them one by one", len(batch))
        done = []
        for chunk in batch:
            try:
                done.append(([chunk], self._forward([chunk])))
            except Exception as error:
                failure = error
                self.fail(chunk.sequence, error)
        self.failure = None if done else failure
        return done

    def _forward(self, batch: list[Chunk]) -> torch.Tensor:
        """Logits [R, V]: a row per chunk that draws and per guess, all of a scored chunk."""
        tokens: list[int] = []
        rows: list[RowInput] = []
        wanted: list[int] = []
        for chunk in batch:
            sequence, kv = chunk.sequence, chunk.sequence.kv
            assert kv is not None
            first = len(tokens)
            tokens.extend(sequence.following(chunk.start, chunk.stop))
            rows.append(
                RowInput(
                    chunk.start,
                    chunk.length,
                    kv.own,
                    kv.segments(chunk.stop),
                    sequence.logit_scale,
                )
            )
            if scored := chunk.scored:
                wanted.extend(range(first + scored.start - chunk.start, len(tokens)))
            elif chunk.draws:
                wanted.extend(range(len(tokens) - 1 - len(sequence.guessed), len(tokens)))
        return self._runner.forward(tokens, rows, wanted)

    # -- after the forward ------------------------------------------------------------------------

    def _advance(self, batch: list[Chunk], logits_RV: torch.Tensor) -> None:
        """Count what was computed, draw and hand out the next tokens."""
        first = 0
        drawing: list[RequestState] = []
        drawn_rows: list[int] = []
        samplers: list[sampling.RowSampler] = []
        for chunk in batch:
            sequence = chunk.sequence
            prefill, draws = not sequence.decoding, chunk.draws
            guessed = len(sequence.guessed) if draws else 0
            rows = len(chunk.scored) or int(draws) + guessed
            mine_RV = logits_RV[first : first + rows]
            first += rows
            if scored := chunk.scored:
                try:
                    self._score(sequence, scored, mine_RV)
                except Exception as error:
                    self.fail(sequence, error)
                    continue
            sequence.computed += chunk.length - guessed
            if draws:
                drawing.append(sequence)
                drawn_rows.extend(range(first - 1 - guessed, first))
                samplers.extend(sequence.sampler.ahead(by) for by in range(guessed + 1))
            if prefill:
                self.counts.prompt_tokens += chunk.length
                self._progress(sequence)
            if prefill and sequence.decoding and not draws:
                self.finish(sequence, "length")
        if not drawing:
            return
        drawn = iter(self._draw(logits_RV, drawn_rows, samplers))
        lost: list[Exception] = []
        for sequence in drawing:
            mine = [next(drawn) for _ in range(1 + len(sequence.guessed))]
            if isinstance(mine[0], NonFiniteLogitsError):
                lost.append(mine[0])
            self._take(sequence, mine)
        if len(lost) == len(batch):
            self.failure = lost[0]

    def _guess(self) -> None:
        """What may be checked with this step's tokens: less of it the more requests there are."""
        scheduler = self._scheduler
        # The rows of logits that are planned for, less one for each request.
        left = step_rows(scheduler.max_running) - len(scheduler.running)
        left = min(self._most_guessed, left)
        together = sum(sequence.decoding for sequence in self._scheduler.running)
        for sequence in self._scheduler.running:
            sequence.guess(left, together)
            left -= len(sequence.guessed)

    def _take(self, sequence: RequestState, drawn: list[sampling.Drawn | Exception]) -> None:
        """Hand out the next token, and those behind it as far as the guesses were right.

        A guess is counted before its token is handed out: who hears of the end may look.
        """
        guessed, sequence.guessed = sequence.guessed, []
        accepted, unknown = 0, len(guessed)
        sequence.rejected += len(guessed)
        try:
            for at, result in enumerate(drawn):
                if isinstance(result, Exception):
                    raise result
                right = at < len(guessed) and result.token == guessed[at]
                if right:
                    accepted, unknown = accepted + 1, unknown - 1
                    sequence.accepted += 1
                    sequence.rejected -= 1
                    self.counts.accepted_tokens += 1
                else:
                    self.counts.rejected_tokens += unknown
                    unknown = 0
                self._hand_out(sequence, result)
                if not right or sequence.kv is None:
                    break
                sequence.computed += 1  # its key and value are there, as it was guessed
        except Exception as error:
            self.fail(sequence, error)
        self.counts.rejected_tokens += unknown  # the answer ended before them
        if sequence.speculator is not None:
            sequence.speculator.checked(len(guessed), accepted)

    def _draw(
        self, logits_RV: torch.Tensor, rows: list[int], samplers: list[sampling.RowSampler]
    ) -> list[sampling.Drawn | Exception]:
        """A token, or what went wrong, per row; one by one where all together fail."""
        try:
            return sampling.draw(self._known(_picked(logits_RV, rows)), samplers)
        except Exception as error:
            _log.warning("drawing %d tokens failed (%s), repeating one by one", len(rows), error)
        drawn: list[sampling.Drawn | Exception] = []
        for row, sampler in zip(rows, samplers, strict=True):
            try:
                drawn.extend(sampling.draw(self._known(logits_RV[row : row + 1]), [sampler]))
            except Exception as error:
                drawn.append(error)
        return drawn

    def _known(self, logits_RV: torch.Tensor) -> torch.Tensor:
        """In float32, without the rows that stand for no token. The argument may be overwritten."""
        logits_RV = logits_RV.float()
        logits_RV[:, self._known_tokens :] = -torch.inf
        return logits_RV

    def _hand_out(self, sequence: RequestState, drawn: sampling.Drawn) -> None:
        """One token: into the sequence, into its text, to its client."""
        request, token = sequence.request, drawn.token
        sequence.append(token)
        sequence.sampler.note(token)
        self.counts.completion_tokens += 1
        logprobs = () if drawn.logprob is None else (drawn.logprob,)
        if token in request.stop_ids or (token in self._eos_ids and not request.ignore_eos):
            self._emit(sequence, Delta(sequence.detokenizer.finish(), (token,), logprobs))
            self.finish(sequence, "stop", sequence.detokenizer.stopped or token)
            return
        complete = sequence.constraint is not None and sequence.constraint.accept(token)
        text = sequence.detokenizer.push(token)
        last = complete or sequence.answer_length == request.max_new_tokens
        if last and sequence.detokenizer.stopped is None:
            text += sequence.detokenizer.finish()
        self._emit(sequence, Delta(text, (token,), logprobs))
        if sequence.detokenizer.stopped is not None:
            self.finish(sequence, "stop", sequence.detokenizer.stopped)
        elif last:
            self.finish(sequence, "stop" if complete else "length")

    def _score(self, sequence: RequestState, scored: range, logits_LV: torch.Tensor) -> None:
        """Log-probabilities of the prompt tokens that follow the scored positions."""
        targets = sequence.tokens[scored.start + 1 : scored.stop + 1]
        targets = targets[: sequence.prompt_length - 1 - scored.start]
        logits_LV = logits_LV[: len(targets), : self._known_tokens]
        logprobs_LV = torch.log_softmax(logits_LV.double(), dim=-1)
        index_L1 = torch.tensor(targets, device=logits_LV.device).view(-1, 1)
        found = logprobs_LV.gather(1, index_L1)[:, 0].tolist()
        # -inf is what a token has that cannot come; one NaN or infinity makes NaN of all its row.
        if any(math.isnan(logprob) for logprob in found):
            raise NonFiniteLogitsError
        sequence.prompt_logprobs.extend(found)
        sequence.prompt_likeliest.extend(logits_LV.argmax(-1).tolist())
        if count := sequence.request.prompt_top_logprobs:
            values_LK, ids_LK = logprobs_LV.topk(min(count, logprobs_LV.shape[1]), dim=-1)
            rows = zip(ids_LK.tolist(), values_LK.tolist(), strict=True)
            sequence.prompt_top.extend(tuple(zip(ids, values, strict=True)) for ids, values in rows)

    def _progress(self, sequence: RequestState) -> None:
        if sequence.answer_length:  # it is computed again, and its client is further on
            return
        total = sequence.prompt_length
        self._emit(sequence, Progress(total, sequence.cached, min(sequence.computed, total)))

    # -- the end of a request ---------------------------------------------------------------------

    def finish(
        self, sequence: RequestState, reason: FinishReason, stop: str | int | None = None
    ) -> None:
        """The end as it should be: what was computed is kept for others."""
        self._scheduler.remove(sequence, retain=True)
        self.counts.finished += 1
        self.counts.cached_tokens += sequence.cached
        asked = sequence.request.prompt_logprobs
        scores = tuple(sequence.prompt_logprobs) if asked else None
        likeliest = tuple(sequence.prompt_likeliest) if asked else None
        top = tuple(sequence.prompt_top) if sequence.request.prompt_top_logprobs else None
        self._emit(sequence, Finished(reason, sequence.usage(), stop, scores, likeliest, top))

    def fail(self, sequence: RequestState, error: Exception) -> None:
        """The end by an error: nothing of it is kept."""
        if isinstance(error, NonFiniteLogitsError):
            _log.error("a request of %d prompt tokens failed: %s", sequence.prompt_length, error)
            if sequence.cached:  # what it went on from may be what is wrong
                self._scheduler.prefixes.clear()
        elif not isinstance(error, UserError | EngineClosedError | EngineBrokenError):
            _log.error(
                "a request of %d prompt tokens failed", sequence.prompt_length, exc_info=error
            )
        error.__traceback__ = None  # its frames hold activations
        self._scheduler.remove(sequence, retain=False)
        self.counts.failed += 1
        self._emit(sequence, Failed(error))

    def _end_cancelled(self) -> None:
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if sequence.cancelled:
                self.finish(sequence, "cancelled")

    def _emit(self, sequence: RequestState, event: Event) -> None:
        try:
            sequence.emit(event)
        except Exception:  # a client's listener must not cost its neighbours
            _log.exception("a listener failed")
            sequence.cancelled = True


def _picked(logits_RV: torch.Tensor, rows: list[int]) -> torch.Tensor:
    if rows == list(range(len(logits_RV))):
        return logits_RV
    return logits_RV.index_select(0, upload(torch.tensor(rows), logits_RV.device))


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )
