"""Several tasks side by side as files and on the screen. Figures and forms are made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longctx.eval.needle import ruler_views
from longctx.eval.needle.ruler_table import RulerArm, table
from longctx.eval.runfolder.records import write_atomically
from longctx.eval.runfolder.summary_schema import TasksTable
from longctx.report import published
from longctx.report.published import PublishedRow

NAMES = ("tasks.md", "tasks.csv", "tasks.tex", "tasks.json")


def write(
    output: Path, arms: Sequence[RulerArm], others: Sequence[PublishedRow] = ()
) -> TasksTable:
    """tasks.md, tasks.csv, tasks.tex and tasks.json of a folder; returns the last.

    Args:
        others: published figures, below ours in tasks.md alone: the files of figures have what was
            measured.
    """
    found = table(arms)
    texts = (
        ruler_views.as_markdown(arms) + published.as_markdown(others),
        ruler_views.as_csv(arms),
        ruler_views.as_latex(arms),
        json.dumps(found, indent=2, ensure_ascii=False) + "\n",
    )
    for name, text in zip(NAMES, texts, strict=True):
        write_atomically(output / name, text)
    return found


def print_table(out: Console, arms: Sequence[RulerArm]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("task")
    shown.add_column("length", justify="right")
    for arm in arms:
        shown.add_column(ruler_views.label(arm, arms), justify="right")
    before = ""
    for row in ruler_views.rows(arms):
        style = "bold" if row.is_mean else None
        shown.add_row("" if row.task == before else row.task, row.length, *row.cells, style=style)
        before = row.task
    out.print(shown, highlight=False)
    out.print(f"{ruler_views.MEANING} {ruler_views.RULE}.", style="dim", highlight=False)
