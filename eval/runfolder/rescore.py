"""Judge the stored answers of a needle run again, by the rules of today. No model is needed.

A changed verdict is appended as a record of the same key: the last one counts, a resumed run sees
it, and the old one stays in the file as it was. Cells without an answer are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longctx.eval.runfolder.folder import RunFolder, timestamp
from longctx.eval.runfolder.records import Record, RecordFile
from longctx.eval.scoring import judge


@dataclass(frozen=True)
class Rescored:
    """`changed` counts answers by their state before and after."""

    answers: int
    without_answer: int
    changed: Mapping[tuple[str, str], int]

    def to_dict(self) -> dict[str, Any]:
        changes = [
            {"from": before, "to": after, "count": count}
            for (before, after), count in sorted(self.changed.items())
        ]
        return {
            "answers": self.answers,
            "without_answer": self.without_answer,
            "changed": sum(self.changed.values()),
            "changes": changes,
        }

    def __str__(self) -> str:
        total = sum(self.changed.values())
        ways = ", ".join(
            f"{count} {before} -> {after}"
            for (before, after), count in sorted(self.changed.items())
        )
        return f"{self.answers} answers judged again, {total} changed" + (
            f": {ways}" if ways else ""
        )


def rescore(run_folder: RunFolder, *, write: bool = True) -> Rescored:
    """Judge cells and controls; without `write`, only say what would change."""
    changed: Counter[tuple[str, str]] = Counter()
    answers = without = 0
    for file in (run_folder.results, run_folder.controls):
        for record in list(file.records.values()):
            if record.get("response") is None:
                without += 1
                continue
            answers += 1
            new = judged_again(record)
            if new is not None:
                changed[record["status"], new["status"]] += 1
                _append(file, new, write)
    return Rescored(answers, without, changed)


def judged_again(record: Record) -> Record | None:
    """The record with its verdict of today; None where that is the one it has."""
    # A control has no right answer: cut off or not, what is not right is wrong.
    finish = "stop" if record.get("control") else record["finish_reason"]
    verdict = judge(record["response"], record["expected"], finish, record.get("match", "all"))
    if (verdict.status, verdict.score) == (record["status"], record["score"]):
        return None
    before = {"status": record["status"], "score": record["score"], "ts": timestamp()}
    return {**record, "status": verdict.status, "score": verdict.score, "rescored_from": before}


def _append(file: RecordFile, record: Record, write: bool) -> None:
    if write:
        file.append(record)
