"""Several tasks side by side: mean score by task and length, and RULER's effective length.

RULER's rule (arXiv 2404.06654): the longest length up to which the mean over tasks is never below
85.6 %, which is what Llama2-7B reaches at 4K. Reads results; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from longctx.eval.format import show_length
from longctx.eval.needle.effective import RULER_AT_LEAST
from longctx.eval.needle.summary import NeedleResults
from longctx.eval.runfolder.schema import TasksMethod, TasksTable


def table(results: Mapping[str, NeedleResults]) -> TasksTable:
    """Scores from 0 to 1, None where nothing was scored; by method, task and length."""
    methods = list(dict.fromkeys(name for one in results.values() for name in one.methods))
    lengths = sorted({length for one in results.values() for length in one.lengths})
    return {
        "lengths": lengths,
        "methods": {method: _of_method(method, results, lengths) for method in methods},
    }


def _of_method(
    method: str, results: Mapping[str, NeedleResults], lengths: list[int]
) -> TasksMethod:
    scores = {
        task: {str(length): _rounded(one.tally(method, length).score) for length in lengths}
        for task, one in results.items()
    }
    means: dict[str, float | None] = {}
    for length in lengths:
        column = [row[str(length)] for row in scores.values()]
        known = [score for score in column if score is not None]
        # A mean over fewer tasks than the other lengths have would not compare.
        means[str(length)] = (
            _rounded(sum(known) / len(known)) if len(known) == len(column) else None
        )
    effective = None
    for length in lengths:
        mean = means[str(length)]
        if mean is None or mean < RULER_AT_LEAST:
            break
        effective = length
    return {"tasks": scores, "mean": means, "ruler_effective_length": effective}


def as_markdown(found: TasksTable) -> str:
    lengths = found["lengths"]
    lines = []
    for method, one in found["methods"].items():
        heads = " | ".join(show_length(length) for length in lengths)
        lines += [f"## {method}", "", f"| task | {heads} |", "|---|" + "---:|" * len(lengths)]
        rows = [*one["tasks"].items(), ("**mean**", one["mean"])]
        for name, row in rows:
            cells = " | ".join(_percent(row[str(length)]) for length in lengths)
            lines.append(f"| {name} | {cells} |")
        effective = one["ruler_effective_length"]
        shown = f"below {show_length(lengths[0])}" if effective is None else show_length(effective)
        if effective == lengths[-1]:
            shown = f">= {shown} (max tested)"
        lines += [
            "",
            f"Effective length by RULER's rule (mean >= {100 * RULER_AT_LEAST:g} %): {shown}.",
            "",
        ]
    return "\n".join(lines)


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"
