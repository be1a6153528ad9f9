"""`longctx info`: what this machine has. Parses, asks, prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from longctx.commands.command import command
from longctx.options.declare import Option


@dataclass(frozen=True)
class InfoOptions:
    json: Annotated[bool, Option("One JSON object on one line instead of tables.")] = False


@command
def info(options: InfoOptions) -> None:
    """Show versions, devices, and which attention kernels run here (and why others do not)."""
    from longctx.doctor import info as about

    collected = about.collect()
    if options.json:
        typer.echo(about.to_json(collected))
    else:
        about.show(collected)
