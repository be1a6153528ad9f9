"""`longctx compare FILE.yaml`: several models in one command, one report.

Imports nothing heavy: `longctx --help` reads this file. Each entry is a needle run of its own in a
folder of its own: resumable, and there to be looked at alone.
"""

from __future__ import annotations

import inspect
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from longctx.commands import options
from longctx.commands.needle import needle_options
from longctx.commands.options import NeedleOptions
from longctx.errors import UserError

DONE, FAILED, INTERRUPTED = 0, 3, 130


def compare(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="What to compare: output, defaults, runs.")
    ],
    dry_run: options.DryRun = False,
) -> None:
    """Run every model of a file under its methods; one report and one table over all of them."""
    from longctx.runs import compare_file
    from longctx.runs.needle_prepare import settle_task

    comparison = compare_file.read(file, needle_options)
    jobs: list[tuple[str, str, NeedleOptions]] = []  # where in the file, name, options of one task
    for entry in comparison.entries:
        try:
            made = needle_options(**_typed(entry.arguments))
            for task in made.tasks:
                name = entry.name if len(made.tasks) == 1 else f"{entry.name}/{task}"
                output = comparison.output / name
                one = replace(made, tasks=(task,), output=output, dry_run=dry_run)
                settle_task(one)  # what it lacks is told before the first model runs
                jobs.append((entry.path, name, one))
        except UserError as error:
            raise UserError(f"FILE {file}: {entry.path}: {error}") from error
    from longctx.runs.needle import deadline_of, run

    failed: dict[str, str] = {}
    entry_before = ""
    loaded: dict[str, Any] = {}
    deadline: float | None = None
    for path, name, job in jobs:
        typer.echo(f"{path} {name}: {job.model}", err=True)
        if path != entry_before:  # tasks of one entry share its model, which goes with them
            entry_before, loaded, deadline = path, {}, deadline_of(job)
        try:
            code = run(job, loaded, deadline)
        except UserError as error:
            # What one model lacks is no reason to leave out the others.
            failed[name] = str(error)
            typer.echo(f"error: {path}: {error}", err=True)
            continue
        if code == INTERRUPTED:
            raise typer.Exit(INTERRUPTED)
        if code != DONE:
            failed[name] = "cells failed"
    if not dry_run:
        _report(comparison.output, [job.output for _, _, job in jobs if job.output])
    for name, reason in failed.items():
        typer.echo(f"failed: {name}: {reason}", err=True)
    raise typer.Exit(FAILED if failed else DONE)


def _typed(arguments: typing.Mapping[str, Any]) -> dict[str, Any]:
    """Values as the command line would have read them: `depths: 11` is a word there.

    Raises:
        UserError: a value that the option cannot be.
    """
    hints = typing.get_type_hints(needle_options)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(needle_options).parameters.items()
    }
    typed = dict(defaults)
    for name, value in arguments.items():
        kinds = typing.get_args(hints[name]) or (hints[name],)
        if value is None and type(None) not in kinds:
            raise UserError(f"{name}: is empty: give a value, or leave it out")
        typed[name] = value if value is None else _as(name, value, kinds)
    return typed


def _as(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if bool in kinds:
        if isinstance(value, bool):
            return value
        raise UserError(f"{name} {value}: true or false is needed")
    if isinstance(value, bool):
        raise UserError(f"{name} {str(value).lower()}: a value is needed")
    for kind in (int, float, str, Path):
        if kind in kinds:
            try:
                made = kind(value)
            except (ValueError, OverflowError):
                raise UserError(f"{name} {value}: a number is needed") from None
            if kind is int and isinstance(value, float) and made != value:
                raise UserError(f"{name} {value}: a whole number is needed")
            return made
    raise TypeError(f"{name}: {kinds}")


def _report(output: Path, folders: list[Path]) -> None:
    from longctx.commands.report import ReportOptions, make
    from longctx.report.collect import collect
    from longctx.runs.compare_table import print_table

    finished = tuple(folder for folder in folders if (folder / "run.json").exists())
    if not finished:
        return
    page = make(ReportOptions(finished, output=output / "report.html"))
    table = make(ReportOptions(finished, output=output / "report.csv"))
    print_table(collect(finished), output, sys.stdout)
    typer.echo(f"wrote {page} and {table}")
