"""The sweep: build a prompt, ask, judge, write the record, next.

Knows targets by their protocol, and results by their file. Prints nothing: an observer is told.
Where a target takes several requests at once, prompts are built and records written by this thread
alone: records come in the order of the answers, and each is a whole line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.grid import Cell, Identity, cells, columns
from longctx.eval.needle.threads import as_completed
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.protocol import (
    Arm,
    Completion,
    ContextOverflowError,
    Request,
    Target,
    TargetLostError,
    Truth,
)
from longctx.eval.runfolder.folder import timestamp
from longctx.eval.runfolder.records import SCHEMA, Record, RecordFile
from longctx.eval.scoring import Verdict, judge
from longctx.eval.spec import PromptSpec


class Observer(Protocol):
    def started(self, cell: Cell) -> None: ...

    def finished(self, cell: Cell, record: Record) -> None: ...


class Answered(NamedTuple):
    """`lost`: the target is gone, and `record` tells what of."""

    record: Record
    lost: TargetLostError | None = None


@dataclass(frozen=True)
class Sweep:
    """A needle sweep, ready to run: what to ask, whom, and where records go."""

    config: NeedleConfig
    identity: Identity
    builder: PromptBuilder
    schemes: Mapping[str, Mapping[str, Any]]

    def all_cells(self) -> list[Cell]:
        return list(cells(self.config, list(self.schemes)))

    def recipe(self, cell: Cell) -> PromptSpec:
        return self.identity.recipe(self.config, cell)

    def scheme(self, cell: Cell) -> dict[str, Any]:
        return {**self.schemes[cell.method], "request_length": cell.length}

    def key(self, cell: Cell) -> str:
        return self.identity.key(self.recipe(cell), self.scheme(cell))

    def pending(self, records: Mapping[str, Record]) -> list[Cell]:
        """Cells without a record, and those whose record is an error."""
        return [
            cell
            for cell in self.all_cells()
            if records.get(self.key(cell), {"status": "error"})["status"] == "error"
        ]

    def check_prompts(self) -> None:
        """Build one prompt of every length, so that bad input is told before anything starts."""
        for length in reversed(self.config.lengths):
            cell = Cell(next(iter(self.schemes)), length, self.config.depths[0], 0)
            self.builder.build(self.recipe(cell))

    def run(
        self,
        pending: Sequence[Cell],
        arms: Mapping[str, Arm],
        file: RecordFile,
        observer: Observer,
        deadline: float | None = None,
    ) -> bool:
        """False where the deadline (of time.monotonic) left cells over.

        Raises:
            TargetLostError: the cell that met it is recorded as an error; those in flight beside
                it and those behind it are not.
        """
        for method, batch in _batches(pending, arms):
            with arms[method].open() as target:
                finished = 0
                for cell, answered in self._answers(
                    batch, target, arms[method], observer, deadline
                ):
                    file.append(answered.record)
                    observer.finished(cell, answered.record)
                    finished += 1
                    if answered.lost is not None:
                        raise answered.lost
            if finished < len(batch):
                return False
        return True

    def _answers(
        self,
        batch: Sequence[Cell],
        target: Target,
        arm: Arm,
        observer: Observer,
        deadline: float | None,
    ) -> Iterator[tuple[Cell, Answered]]:
        def prompts() -> Iterator[tuple[Cell, Prompt]]:
            for cell in batch:
                if deadline is not None and time.monotonic() > deadline:
                    return
                observer.started(cell)
                yield cell, self.builder.build(self.recipe(cell))

        def ask(item: tuple[Cell, Prompt]) -> Answered:
            return self._ask(*item, target, arm.backend)

        for (cell, _), answered in as_completed(ask, prompts(), arm.concurrency):
            yield cell, answered

    def run_cell(self, cell: Cell, target: Target, backend: str) -> Record:
        """Ask once. Whatever the target throws becomes the record of a failed cell."""
        return self._ask(cell, self.builder.build(self.recipe(cell)), target, backend).record

    def _ask(self, cell: Cell, prompt: Prompt, target: Target, backend: str) -> Answered:
        recipe = self.recipe(cell)
        request = Request(
            ids=prompt.ids,
            max_new_tokens=recipe.answer_tokens,
            request_length=recipe.length,
            conversation=prompt.conversation,
            truth=Truth(prompt.sample.expected, cell.depth),
        )
        began = time.perf_counter()
        completion: Completion | None = None
        told: str | None = None
        lost: TargetLostError | None = None
        try:
            completion = target.generate(request)
        except ContextOverflowError as error:
            verdict, told = Verdict(None, "overflow"), str(error)
        except Exception as error:
            # Out of memory, a lost connection, a kernel's complaint: the sweep goes on without it.
            text = " ".join(str(error).split())[:500]
            verdict, told = Verdict(None, "error"), f"{type(error).__name__}: {text}"
            lost = error if isinstance(error, TargetLostError) else None
        else:
            verdict = judge(
                completion.text,
                prompt.sample.expected,
                completion.finish_reason,
                prompt.sample.match,
            )
        answer = {
            "response": completion and completion.text,
            "finish_reason": completion and completion.finish_reason,
            "error": told,
            "ttft_s": completion and round(completion.ttft_s, 3),
            "cached_tokens": completion and completion.cached_tokens,
            "server_prompt_tokens": completion and completion.prompt_tokens,
            "peak_mem_bytes": completion and completion.peak_mem_bytes,
            "total_s": round(time.perf_counter() - began, 3),
            "backend": backend,
        }
        return Answered(self._record(cell, recipe, prompt, verdict, answer), lost)

    def _record(
        self,
        cell: Cell,
        recipe: PromptSpec,
        prompt: Prompt,
        verdict: Verdict,
        answer: Mapping[str, Any],
    ) -> Record:
        haystack = self.builder.haystack
        return {
            "schema": SCHEMA,
            "key": self.key(cell),
            "scheme": self.scheme(cell),
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
            "score": verdict.score,
            "status": verdict.status,
            **answer,
            "ts": timestamp(),
        }


def _batches(
    pending: Sequence[Cell], arms: Mapping[str, Arm]
) -> Iterator[tuple[str, Sequence[Cell]]]:
    """Columns, which may share prefill; all at once for a target that takes several at once."""
    methods = {cell.method for cell in pending}
    if len(methods) == 1 and arms[method := methods.pop()].concurrency > 1:
        yield method, pending
    else:
        yield from columns(pending)
