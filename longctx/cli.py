"""The `longctx` command: reads arguments, calls one function, prints.

Knows no mathematics and no model. torch takes seconds to import, so nothing here imports it at the
top: every command imports what it needs inside its function, and `longctx --help` stays quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from longctx import __version__
from longctx.compare_cmd import compare
from longctx.doctor_cmd import doctor
from longctx.errors import UserError
from longctx.needle_cmd import needle
from longctx.perplexity_cmd import perplexity
from longctx.plan_cmd import models, plan
from longctx.reconstruct_cmd import reconstruct
from longctx.report_cmd import report
from longctx.rescore_cmd import rescore
from longctx.serve_cmd import serve
from longctx.tasks_cmd import tasks

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


@app.command()
def info(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on one line instead of tables.")
    ] = False,
) -> None:
    """Show versions, devices, and which attention kernels run here (and why others do not)."""
    from longctx import info as about

    collected = about.collect()
    if json:
        typer.echo(about.to_json(collected))
    else:
        about.show(collected)


# Commands that live in modules of their own are registered here, one line each:
#     app.command()(function)
app.command()(doctor)
app.command()(needle)
app.command()(perplexity)
app.command()(compare)
app.command()(rescore)
app.command()(reconstruct)
app.command()(tasks)
app.command()(report)
app.command(context_settings={"auto_envvar_prefix": "LONGCTX"})(serve)  # LONGCTX_PORT, …
app.command()(models)
app.command()(plan)


def main() -> None:
    """Run the command line; a UserError becomes one line on stderr and exit code 2."""
    try:
        app(prog_name="longctx")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
