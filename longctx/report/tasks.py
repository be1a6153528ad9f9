"""Runs of several tasks as the tasks of their models, and their table for the page.

Folders say nothing of which runs belong together: those do that are of one model, as its weights,
dtype and kernel tell, and of different tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longctx.eval.needle import ruler_views
from longctx.eval.needle.ranking import arms_of as methods_of
from longctx.eval.needle.results import NeedleResults
from longctx.eval.needle.ruler_table import MEANT, RulerArm, TasksOfModel, arms_of


def task_arms(runs: Sequence[NeedleResults]) -> list[RulerArm]:
    """The arms of all models that have several tasks, or one of RULER's; none where none has."""
    models: list[tuple[tuple[Any, ...], dict[str, NeedleResults]]] = []
    for results in runs:
        key = _model_of(results)
        for other, found in models:
            if other == key and results.task not in found:
                found[results.task] = results
                break
        else:
            models.append((key, {results.task: results}))
    if not any(len(found) > 1 or set(found) & set(MEANT) for _, found in models):
        return []
    names = [methods_of([next(iter(found.values()))])[0].model for _, found in models]
    labels = [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
    return arms_of(
        TasksOfModel(label, found) for label, (_, found) in zip(labels, models, strict=True)
    )


def _model_of(results: NeedleResults) -> tuple[Any, ...]:
    model, settings = results.run["model"], results.run["settings"]
    return (
        *(model.get(name) for name in ("name", "fingerprint")),
        *(settings.get(name) for name in ("dtype", "kernel", "seed", "scorer", "system")),
    )


def view(arms: Sequence[RulerArm]) -> dict[str, Any] | None:
    """For the page; None where there is nothing to show."""
    if not arms:
        return None
    return {
        "heads": [ruler_views.label(arm, arms) for arm in arms],
        "rows": list(ruler_views.rows(arms)),
        "meaning": f"{ruler_views.MEANING} {ruler_views.RULE}.",
    }
