"""The table of a comparison: every arm of every model, the one that holds furthest first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longctx.eval.format import show_length
from longctx.eval.needle.effective import show_break, show_effective, show_other
from longctx.report.collect import Report
from longctx.report.published import MEANING, PublishedRow, tables


def print_table(report: Report, root: Path, file: TextIO) -> None:
    """A row for each method of each folder below `root`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for title in ("effective length", "breaks", "RULER", "NoLiMa"):
        table.add_column(title, justify="right")
    for length in report.lengths:
        table.add_column(show_length(length), justify="right")
    for arm in report.ranked:
        found = arm.effective
        scores = [
            arm.results.tally(arm.method, length).score if length in arm.results.lengths else None
            for length in report.lengths
        ]
        table.add_row(
            str(report.runs[arm.run].path.relative_to(root)),
            arm.method,
            *(show_effective(found), show_break(found)),
            *(show_other(found, found.ruler), show_other(found, found.nolima)),
            *("–" if score is None else f"{score:.2f}" for score in scores),
        )
    Console(file=file).print(table, highlight=False)


def print_published(rows: Sequence[PublishedRow], file: TextIO) -> None:
    """Figures of others, a table for each benchmark, with their sources."""
    console = Console(file=file)
    for one in tables(rows):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in one.heads[:2]:
            table.add_column(head, no_wrap=True)
        for head in one.heads[2:]:
            table.add_column(head, justify="right")
        for row in one.rows:
            table.add_row(*map(escape, row))
        console.print()
        console.print(one.heading, style="bold")
        console.print(table, highlight=False)
        for note in one.notes:
            console.print(note, style="dim", highlight=False, markup=False)
    console.print(MEANING, style="dim", highlight=False)
