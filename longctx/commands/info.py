"""`longctx info`: what this machine has. Parses, asks, prints."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on one line instead of tables.")
    ] = False,
) -> None:
    """Show versions, devices, and which attention kernels run here (and why others do not)."""
    from longctx.doctor import info as about

    collected = about.collect()
    if json:
        typer.echo(about.to_json(collected))
    else:
        about.show(collected)
