"""`longctx report`: run folders side by side. What can be said is in report/make.py."""

from __future__ import annotations

from longctx.commands.command import command
from longctx.report.make import ReportOptions, make


@command
def report(options: ReportOptions) -> None:
    """Compare runs: tables, maps, differences and failures on one page that needs no network."""
    print(f"wrote {make(options)}")
