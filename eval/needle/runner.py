"""The sweep: build a prompt, ask, judge, write the record, next.

Knows models by their protocol, and results by their file. Prints nothing: an observer is told.
Prompts are built and records written by this thread alone, however many requests a session takes at
once: records come in the order of the answers, and each is a whole line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.grid import Cell, NeedleIdentity, cells, columns
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.protocol import (
    Completion,
    ContextOverflowError,
    Outcome,
    Request,
    Session,
    TargetLostError,
    Temperature,
    TemperatureAt,
    Truth,
    exactly,
    no_temperature,
    with_temperature,
)
from longctx.eval.runfolder.folder import timestamp
from longctx.eval.runfolder.record_schema import NeedleRecord
from longctx.eval.runfolder.records import SCHEMA, RecordFile
from longctx.eval.runfolder.schema_parts import RecordScheme
from longctx.eval.scoring import Verdict, judge
from longctx.eval.spec import PromptSpec


class NeedleObserver(Protocol):
    def started(self, cell: Cell) -> None: ...

    def finished(self, cell: Cell, record: NeedleRecord) -> None: ...


class Control(Protocol):
    """A question beside the cells, asked once."""

    @property
    def method(self) -> str: ...

    def ask(self, session: Session) -> None: ...


class Answered(NamedTuple):
    """`lost`: the target is gone, and `record` tells what of."""

    record: NeedleRecord
    lost: TargetLostError | None = None


class _Outcome(NamedTuple):
    """What came of asking."""

    verdict: Verdict
    answer: Completion | None
    error: str | None
    total_s: float
    backend: str


@dataclass(frozen=True)
class Sweep:
    """A needle sweep, ready to run: what to ask, whom, and where records go."""

    config: NeedleConfig
    identity: NeedleIdentity
    builder: PromptBuilder
    schemes: Mapping[str, Mapping[str, Any]]
    temperature_at: TemperatureAt = exactly
    temperature: Temperature = no_temperature

    def all_cells(self) -> list[Cell]:
        return list(cells(self.config, list(self.schemes)))

    def recipe(self, cell: Cell) -> PromptSpec:
        return self.identity.recipe(self.config, cell)

    def request_length(self, cell: Cell) -> int:
        """The length that a cell's temperature is taken at, if it has one."""
        return self.temperature_at(cell.method, cell.length)

    def scheme(self, cell: Cell) -> dict[str, Any]:
        """Of a cell, as its key has it."""
        return {**self.schemes[cell.method], "request_length": self.request_length(cell)}

    def recorded_scheme(self, cell: Cell) -> RecordScheme:
        """The same with its temperature, which follows from the rest."""
        return with_temperature(self.scheme(cell), self.temperature(cell.method, cell.length))

    def key(self, cell: Cell) -> str:
        return self.identity.key(self.recipe(cell), self.scheme(cell))

    def pending(self, records: Mapping[str, NeedleRecord]) -> list[Cell]:
        """Cells without a record, and those whose record is an error."""
        done = {key for key, record in records.items() if record["status"] != "error"}
        return [cell for cell in self.all_cells() if self.key(cell) not in done]

    def check_prompts(self) -> None:
        """Build one prompt of every length, so that bad input is told before anything starts."""
        for length in reversed(self.config.lengths):
            self.builder.build(self.recipe(self._sample(length, 0)))
        for length in self.config.lengths:
            for repeat in self.too_long_at(length):
                self.builder.build(self.recipe(self._sample(length, repeat)))  # which says so

    def _sample(self, length: int, repeat: int) -> Cell:
        return Cell(next(iter(self.schemes)), length, self.config.depths[0], repeat)

    def too_long_at(self, length: int) -> list[int]:
        """The repeats whose shortest prompt is longer than that."""
        return [
            repeat
            for repeat in range(self.config.repeats)
            if not self.builder.fits(self.recipe(self._sample(length, repeat)))
        ]

    def run(
        self,
        pending: Sequence[Cell],
        sessions: Mapping[str, Session],
        file: RecordFile[NeedleRecord],
        observer: NeedleObserver,
        deadline: float | None = None,
        control: Control | None = None,
    ) -> bool:
        """False where the deadline (of time.monotonic) left cells over.

        Args:
            control: asked behind the cells of its method, and alone where it has none left.

        Raises:
            TargetLostError: the cell that met it is recorded as an error; those in flight beside
                it and those behind it are not.
        """
        batches = list(_batches(pending, sessions))
        last = {method: index for index, (method, _) in enumerate(batches)}
        for index, (method, batch) in enumerate(batches):
            finished = 0
            with sessions[method] as session:
                for cell, answered in self._answers(batch, session, observer, deadline):
                    file.append(answered.record)
                    observer.finished(cell, answered.record)
                    finished += 1
                    if answered.lost is not None:
                        raise answered.lost
                if finished < len(batch):
                    return False
                if control is not None and index == last.get(control.method):
                    control.ask(session)
                    control = None
        if control is not None:
            with sessions[control.method] as session:
                control.ask(session)
        return True

    def _answers(
        self,
        batch: Sequence[Cell],
        session: Session,
        observer: NeedleObserver,
        deadline: float | None,
    ) -> Iterator[tuple[Cell, Answered]]:
        asked: dict[int, tuple[Cell, Prompt, float]] = {}

        def requests() -> Iterator[Request]:
            for cell in batch:
                if deadline is not None and time.monotonic() > deadline:
                    return
                observer.started(cell)
                prompt = self.builder.build(self.recipe(cell))
                request = self._request(cell, prompt)
                asked[id(request)] = (cell, prompt, time.perf_counter())
                yield request

        for request, outcome in session.answers(requests()):
            cell, prompt, began = asked.pop(id(request))
            took = time.perf_counter() - began
            yield cell, self._judge(cell, prompt, outcome, took, session.backend)

    def run_cell(self, cell: Cell, session: Session) -> NeedleRecord:
        """Ask once. Whatever the session throws becomes the record of a failed cell."""
        prompt = self.builder.build(self.recipe(cell))
        began = time.perf_counter()
        ((_, outcome),) = session.answers([self._request(cell, prompt)])
        took = time.perf_counter() - began
        return self._judge(cell, prompt, outcome, took, session.backend).record

    def _request(self, cell: Cell, prompt: Prompt) -> Request:
        recipe = self.recipe(cell)
        return Request(
            ids=prompt.ids,
            max_new_tokens=self.config.answer_tokens,
            request_length=self.request_length(cell),
            conversation=prompt.conversation,
            truth=Truth(
                prompt.sample.expected,
                cell.depth,
                f"{recipe.seed}/{recipe.length}/{recipe.repeat}",
            ),
        )

    def _judge(
        self, cell: Cell, prompt: Prompt, outcome: Outcome, took: float, backend: str
    ) -> Answered:
        answer: Completion | None = None
        told: str | None = None
        lost: TargetLostError | None = None
        if isinstance(outcome, Completion):
            answer, sample = outcome, prompt.sample
            verdict = judge(
                answer.text,
                sample.expected,
                answer.finish_reason,
                sample.match,
                self.config.scorer,
            )
        elif isinstance(outcome, ContextOverflowError):
            verdict, told = Verdict(None, "overflow"), str(outcome)
        else:
            # Out of memory, a lost connection, a kernel's complaint: the sweep goes on without it.
            text = " ".join(str(outcome).split())[:500]
            verdict, told = Verdict(None, "error"), f"{type(outcome).__name__}: {text}"
            lost = outcome if isinstance(outcome, TargetLostError) else None
        found = _Outcome(verdict, answer, told, round(took, 3), backend)
        return Answered(self._record(cell, prompt, found), lost)

    def _record(self, cell: Cell, prompt: Prompt, found: _Outcome) -> NeedleRecord:
        recipe, answer = self.recipe(cell), found.answer
        haystack = self.builder.haystack
        return {
            "schema": SCHEMA,
            "key": self.key(cell),
            "scheme": self.recorded_scheme(cell),
            "task": recipe.task,
            "language": recipe.language,
            "length": cell.length,
            "prompt_tokens": len(prompt.ids),
            "slack": prompt.slack,
            "depth": cell.depth,
            "depth_actual": prompt.depth_actual,
            "needle_span": None if prompt.needle_span is None else list(prompt.needle_span),
            "evidence_spans": [list(span) for span in prompt.evidence_spans],
            "distance_to_question": prompt.distance_to_question,
            "seed": recipe.seed,
            "repeat": cell.repeat,
            "haystack": {
                "id": haystack.id,
                "sha256": haystack.sha256,
                "offset": prompt.haystack_offset,
            },
            "question": prompt.sample.question,
            "expected": list(prompt.sample.expected),
            "match": prompt.sample.match,
            "prompt_sha256": prompt.sha256,
            "recipe": recipe.to_dict(),
            "score": found.verdict.score,
            "scores": None if found.verdict.scores is None else {**found.verdict.scores},
            "status": found.verdict.status,
            "response": None if answer is None else answer.text,
            "finish_reason": None if answer is None else answer.finish_reason,
            "error": found.error,
            "ttft_s": None if answer is None else round(answer.ttft_s, 3),
            "cached_tokens": None if answer is None else answer.cached_tokens,
            "server_prompt_tokens": None if answer is None else answer.prompt_tokens,
            "peak_mem_bytes": None if answer is None else answer.peak_mem_bytes,
            "compute_s": None if answer is None else _rounded(answer.compute_s),
            "total_s": found.total_s,
            "backend": found.backend,
            "ts": timestamp(),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _batches(
    pending: Sequence[Cell], sessions: Mapping[str, Session]
) -> Iterator[tuple[str, Sequence[Cell]]]:
    """Cells that are asked together: columns, which share prefill, or several at once.

    A session that takes several gets all repeats of a length; where it is the only one, everything.
    """
    if len({cell.method for cell in pending}) == 1 and pending:
        method = pending[0].method
        if sessions[method].concurrency > 1:
            yield method, pending
            return
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for method, column in columns(pending):
        cell = column[0]
        together = sessions[method].concurrency > 1
        key = (method, cell.length, None if together else cell.repeat)
        groups.setdefault(key, []).extend(column)
    for (name, *_), batch in groups.items():
        yield str(name), batch
