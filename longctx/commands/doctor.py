"""`longctx doctor`: runs every kernel that is offered here and says whether its numbers are right.

Parses, asks doctor.py, prints.
"""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on one line instead of tables.")
    ] = False,
) -> None:
    """Run every kernel here on a tiny prompt against float64; exit code 1 where one is wrong."""
    from longctx.doctor import checks, table

    with table.progress() as tell:
        report = checks.check(tell=tell)
    if json:
        typer.echo(report.to_json())
    else:
        table.show(report)
    if report.verdict != "ok":
        raise typer.Exit(1)
