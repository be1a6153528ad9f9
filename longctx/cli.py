"""The `longctx` command: reads arguments, calls one function, prints.

Knows no mathematics and no model. torch takes seconds to import, so nothing here imports it at the
top: every command imports what it needs inside its function, and `longctx --help` stays quick.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from longctx import __version__
from longctx.commands.ask import ask
from longctx.commands.compare import compare
from longctx.commands.doctor import doctor
from longctx.commands.documents import documents
from longctx.commands.info import info
from longctx.commands.needle import needle
from longctx.commands.perplexity import perplexity
from longctx.commands.plan import models, plan
from longctx.commands.reconstruct import reconstruct
from longctx.commands.report import report
from longctx.commands.rescore import rescore
from longctx.commands.serve import serve
from longctx.commands.tasks import tasks
from longctx.errors import UserError

app = typer.Typer(
    name="longctx",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Tracebacks of bugs are pasted into reports: plain ones read better there than framed ones.
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longctx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Longer context for transformers models (YaRN, Dual Chunk Attention), and the needle test."""


# In order of use, as `longctx --help` lists them.
app.command(context_settings={"auto_envvar_prefix": "LONGCTX"})(serve)  # LONGCTX_PORT, …
app.command()(ask)
app.command(context_settings={"auto_envvar_prefix": "LONGCTX"})(documents)
app.command()(needle)
app.command()(perplexity)
app.command()(report)
app.command()(compare)
app.command()(plan)
app.command()(models)
app.command()(rescore)
app.command()(reconstruct)
app.command()(tasks)
app.command()(info)
app.command()(doctor)


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A map's blocks are in no Windows code page: a run must not end on its last line.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="longctx")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
