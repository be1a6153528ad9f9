"""The sweep: build a prompt, ask, judge, write the record, next.

Knows targets by their protocol, and results by their file. Prints nothing: an observer is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from longctx.eval.config import NeedleConfig
from longctx.eval.folder import timestamp
from longctx.eval.grid import SCHEMA, Cell, Identity, cells, columns
from longctx.eval.prompt import Prompt, PromptBuilder, Recipe
from longctx.eval.records import Record, RecordFile
from longctx.eval.scoring import Verdict, judge
from longctx.eval.target import Arm, ContextOverflowError, Request, Target


class Observer(Protocol):
    def started(self, cell: Cell) -> None: ...

    def finished(self, cell: Cell, record: Record) -> None: ...


@dataclass(frozen=True)
class Sweep:
    """A needle sweep, ready to run: what to ask, whom, and where records go."""

    config: NeedleConfig
    identity: Identity
    builder: PromptBuilder
    schemes: Mapping[str, Mapping[str, Any]]

    def all_cells(self) -> list[Cell]:
        return list(cells(self.config, list(self.schemes)))

    def recipe(self, cell: Cell) -> Recipe:
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
        self, pending: Sequence[Cell], arms: Mapping[str, Arm], file: RecordFile, observer: Observer
    ) -> None:
        for method, column in columns(pending):
            with arms[method].open() as target:
                for cell in column:
                    observer.started(cell)
                    record = self.run_cell(cell, target, arms[method].backend)
                    file.append(record)
                    observer.finished(cell, record)

    def run_cell(self, cell: Cell, target: Target, backend: str) -> Record:
        """Ask once. Whatever the target throws becomes the record of a failed cell."""
        recipe = self.recipe(cell)
        prompt = self.builder.build(recipe)
        request = Request(
            ids=prompt.ids,
            max_new_tokens=recipe.answer_tokens,
            request_length=recipe.length,
            conversation=prompt.conversation,
        )
        began = time.perf_counter()
        answer: dict[str, Any] = {
            "response": None,
            "finish_reason": None,
            "error": None,
            "ttft_s": None,
            "cached_tokens": None,
            "peak_mem_bytes": None,
        }
        try:
            completion = target.generate(request)
        except ContextOverflowError as error:
            verdict, answer["error"] = Verdict(None, "overflow"), str(error)
        except Exception as error:
            # Out of memory, a lost connection, a kernel's complaint: the sweep goes on without it.
            text = " ".join(str(error).split())[:500]
            verdict, answer["error"] = Verdict(None, "error"), f"{type(error).__name__}: {text}"
        else:
            verdict = judge(
                completion.text,
                prompt.exercise.expected,
                completion.finish_reason,
                prompt.exercise.match,
            )
            answer["response"] = completion.text
            answer["finish_reason"] = completion.finish_reason
            answer["ttft_s"] = round(completion.ttft_s, 3)
            answer["cached_tokens"] = completion.cached_tokens
            answer["peak_mem_bytes"] = completion.peak_mem_bytes
        answer["total_s"] = round(time.perf_counter() - began, 3)
        return self._record(cell, recipe, prompt, verdict, {**answer, "backend": backend})

    def _record(
        self,
        cell: Cell,
        recipe: Recipe,
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
            "question": prompt.exercise.question,
            "expected": list(prompt.exercise.expected),
            "match": prompt.exercise.match,
            "prompt_sha256": prompt.sha256,
            "recipe": recipe.to_dict(),
            "score": verdict.score,
            "status": verdict.status,
            **answer,
            "ts": timestamp(),
        }
