"""The closed-book control: the question without the needle, which nobody can answer.

A score above zero here means that the map measures something else than retrieval. Asked behind the
cells of the first method, in the session that is open for them.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from longctx.eval.needle.grid import Cell
from longctx.eval.needle.runner import Sweep
from longctx.eval.protocol import Request, Session
from longctx.eval.runfolder.folder import timestamp
from longctx.eval.runfolder.record_schema import ControlRecord
from longctx.eval.runfolder.records import SCHEMA, RecordFile
from longctx.eval.scoring import judge


@dataclass(frozen=True)
class ClosedBookControl:
    """One prompt of the shortest length: knowledge does not depend on the position scheme."""

    sweep: Sweep
    file: RecordFile[ControlRecord]

    @property
    def method(self) -> str:
        return next(iter(self.sweep.schemes))

    def _cell(self, method: str) -> Cell:
        config = self.sweep.config
        return Cell(method, min(config.lengths), config.depths[0], 0)

    def _key(self, method: str) -> str:
        key = self.sweep.key(self._cell(method))
        return hashlib.sha256(f"closed-book/{key}".encode()).hexdigest()[:32]

    @property
    def due(self) -> bool:
        """Whether no method of the sweep has an answer to it yet: one is enough for all."""
        keys = map(self._key, self.sweep.schemes)
        records = self.file.records.items()
        return {key for key, record in records if record["status"] != "error"}.isdisjoint(keys)

    def ask(self, session: Session) -> None:
        """Ask once, in an entered session of `method`, and keep the record."""
        self.file.append(self._record(session))

    def _record(self, session: Session) -> ControlRecord:
        sweep, cell = self.sweep, self._cell(self.method)
        recipe = sweep.recipe(cell)
        prompt = sweep.builder.build_closed_book(recipe)
        record: ControlRecord = {
            "schema": SCHEMA,
            "key": self._key(self.method),
            "control": "closed-book",
            "scheme": sweep.recorded_scheme(cell),
            "length": cell.length,
            "depth": None,
            "repeat": cell.repeat,
            "prompt_tokens": len(prompt.ids),
            "expected": list(prompt.expected),
            "match": prompt.match,
            "response": None,
            "finish_reason": None,
            "score": None,
            "scores": None,
            "status": "error",
            "error": None,
            "total_s": 0.0,
            "ts": "",
        }
        began = time.perf_counter()
        try:
            answer = session.generate(
                Request(
                    prompt.ids,
                    recipe.answer_tokens,
                    sweep.request_length(cell),
                    prompt.conversation,
                )
            )
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        else:
            # Cut off or not, an answer to a question that has none is wrong unless it is right.
            scorer = sweep.config.scorer
            verdict = judge(answer.text, prompt.expected, "stop", prompt.match, scorer)
            record["response"], record["finish_reason"] = answer.text, answer.finish_reason
            record["score"], record["status"] = verdict.score, verdict.status
            record["scores"] = None if verdict.scores is None else {**verdict.scores}
        record["total_s"], record["ts"] = round(time.perf_counter() - began, 3), timestamp()
        return record
