"""`longctx ask FILE... "question"`: a question on documents."""

from __future__ import annotations

from longctx.commands.command import command
from longctx.options.ask import AskOptions


@command
def ask(options: AskOptions) -> int:
    """Ask a question on documents: of a running server, or of a model that is loaded here."""
    from longctx.ask import run

    return run.run(options)
