"""`longctx needle`: options to a run. What can be said is in options/needle.py."""

from __future__ import annotations

from longctx.commands.command import command
from longctx.options.needle import NeedleOptions
from longctx.runs.settle import settle_needle


@command
def needle(options: NeedleOptions) -> int:
    """Hide a number in a long text and ask for it: a map over lengths and depths, per method."""
    settled = settle_needle(options)  # what is wrong is told before the libraries are loaded
    from longctx.runs.needle_tasks import run

    return run(settled)
