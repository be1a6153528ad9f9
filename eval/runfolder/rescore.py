"""Judge the stored answers of a needle run again, by the rules of today. No model is needed.

A changed verdict is appended as a record of the same key: the last one counts, a resumed run sees
it, and the old one stays in the file as it was. Cells without an answer are left alone. Another
scorer than the run's is the folder's from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from longctx.eval.runfolder.folder import RunFolder, timestamp
from longctx.eval.runfolder.record_schema import ControlRecord, NeedleRecord, Rescored
from longctx.eval.runfolder.records import RecordFile
from longctx.eval.scoring import Scorer, judge

Judged = TypeVar("Judged", NeedleRecord, ControlRecord)


@dataclass(frozen=True)
class Verdicts:
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


def rescore(run_folder: RunFolder, scorer: Scorer | None = None, *, write: bool = True) -> Verdicts:
    """Judge cells and controls; without `write`, only say what would change.

    Args:
        scorer: None keeps the run's.
    """
    kept = run_folder.scorer
    scorer = scorer or kept
    changed: Counter[tuple[str, str]] = Counter()
    results, controls = run_folder.results, run_folder.controls
    counts = [
        _rescore(results, changed, scorer, write),
        _rescore(controls, changed, scorer, write),
    ]
    answers, without = (sum(count) for count in zip(*counts, strict=True))
    if write and scorer != kept:
        run_folder.keep_scorer(scorer)
    return Verdicts(answers, without, changed)


def _rescore(
    file: RecordFile[Judged],
    changed: Counter[tuple[str, str]],
    scorer: Scorer,
    write: bool,
) -> tuple[int, int]:
    """How many records have an answer, and how many have none."""
    answers = without = 0
    for record in list(file.records.values()):
        if record.get("response") is None:
            without += 1
            continue
        answers += 1
        new = judged_again(record, scorer)
        if new is not None:
            changed[record["status"], new["status"]] += 1
            if write:
                file.append(new)
    return answers, without


def judged_again(record: Judged, scorer: Scorer = "whole") -> Judged | None:
    """The record with its verdict of today; None where that is the one it has, or no answer."""
    response = record["response"]
    if response is None:
        return None
    verdict = judge(response, record["expected"], _finish(record), record["match"], scorer)
    told = (record["status"], record["score"], record["scores"])
    if (verdict.status, verdict.score, verdict.scores) == told:
        return None
    before: Rescored = {"status": record["status"], "score": record["score"], "ts": timestamp()}
    new = record.copy()
    new["status"], new["score"], new["rescored_from"] = verdict.status, verdict.score, before
    new["scores"] = {**verdict.scores} if verdict.scores else None
    return new


def _finish(record: NeedleRecord | ControlRecord) -> str:
    # A control has no right answer: cut off or not, what is not right is wrong.
    return "stop" if "control" in record else record["finish_reason"] or ""
