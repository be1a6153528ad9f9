"""`longctx doctor`: runs every kernel that is offered here and says whether its numbers are right.

Parses, asks doctor.py, prints.
"""

from __future__ import annotations

import typer

from longctx.commands.command import command
from longctx.commands.info import InfoOptions


@command
def doctor(options: InfoOptions) -> int:
    """Run every kernel here on a tiny prompt against float64; exit code 1 where one is wrong."""
    from longctx.doctor import checks, table

    with table.progress() as tell:
        report = checks.check(tell=tell)
    if options.json:
        typer.echo(report.to_json())
    else:
        table.show(report)
    return 0 if report.verdict == "ok" else 1
