"""The closed-book control: the question without the needle, which nobody can answer.

A score above zero here means that the map measures something else than retrieval.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from longctx.eval.needle.grid import Cell
from longctx.eval.needle.runner import Sweep
from longctx.eval.protocol import Request, Session
from longctx.eval.runfolder.folder import timestamp
from longctx.eval.runfolder.records import SCHEMA, RecordFile
from longctx.eval.runfolder.schema import ControlRecord
from longctx.eval.scoring import judge


def closed_book_cell(sweep: Sweep) -> Cell:
    """One prompt of the shortest length: knowledge does not depend on the position scheme."""
    method = next(iter(sweep.schemes))
    return Cell(method, min(sweep.config.lengths), sweep.config.depths[0], 0)


def _key(sweep: Sweep, cell: Cell) -> str:
    return hashlib.sha256(f"closed-book/{sweep.key(cell)}".encode()).hexdigest()[:32]


def closed_book_is_due(sweep: Sweep, file: RecordFile[ControlRecord]) -> bool:
    """Whether no method of the sweep has an answer to it yet: one is enough for all."""
    cell = closed_book_cell(sweep)
    keys = [_key(sweep, replace(cell, method=method)) for method in sweep.schemes]
    answered = {key for key, record in file.records.items() if record["status"] != "error"}
    return answered.isdisjoint(keys)


def run_closed_book(sweep: Sweep, session: Session, file: RecordFile[ControlRecord]) -> None:
    """Ask once and keep the record; a control that is there already is not asked again."""
    if not closed_book_is_due(sweep, file):
        return
    cell = closed_book_cell(sweep)
    key = _key(sweep, cell)
    recipe = sweep.recipe(cell)
    prompt = sweep.builder.build_closed_book(recipe)
    record: ControlRecord = {
        "schema": SCHEMA,
        "key": key,
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
        "status": "error",
        "error": None,
        "total_s": 0.0,
        "ts": "",
    }
    began = time.perf_counter()
    try:
        with session:
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
        verdict = judge(answer.text, prompt.expected, "stop", prompt.match)
        record["response"], record["finish_reason"] = answer.text, answer.finish_reason
        record["score"], record["status"] = verdict.score, verdict.status
    record["total_s"], record["ts"] = round(time.perf_counter() - began, 3), timestamp()
    file.append(record)
