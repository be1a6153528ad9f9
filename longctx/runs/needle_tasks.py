"""Several tasks of `longctx needle` in one command: a run folder each, one table over all.

    OUTPUT/vt/, OUTPUT/cwe/ ...    run folders as of one task: resume, rescore, report work on each
    OUTPUT/tasks.md, .csv, .tex, .json   score by task and length, RULER's mean and effective length
    OUTPUT/report.html             all of them on one page

The model is loaded once. Holds no algorithm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from longctx.errors import StoppedError, UserError
from longctx.eval.format import show_seconds
from longctx.eval.needle import summary
from longctx.eval.needle.ruler_table import TasksOfModel, arms_of
from longctx.eval.runfolder.folder import RUN, needing_room
from longctx.eval.runfolder.summary_schema import TasksTable
from longctx.models.base import LoadedModels
from longctx.options.needle import NeedleOptions
from longctx.report.make import ReportOptions, make
from longctx.runs import needle, tasks_files
from longctx.runs.needle_prepare import PreparedNeedle, prepare, settle_task
from longctx.runs.screen import say


def run(options: NeedleOptions) -> int:
    """Run the tasks one after the other; the highest exit code of any."""
    if len(options.tasks) == 1:
        return needle.run(options)
    output = options.output or Path("runs") / f"tasks-{Path(options.model).name}"
    for name in options.tasks:  # what the arguments alone tell, of any task
        settle_task(replace(options, tasks=(name,)))
    # Then all texts and a prompt of each length: the last task must not fail after hours.
    prepared = [
        prepare(replace(options, tasks=(name,), output=output / name, json=False, several=True))
        for name in options.tasks
    ]
    err = Console(stderr=True)
    with LoadedModels() as loaded:
        code = _run_all(options, prepared, loaded, err)
    if code == needle.INTERRUPTED:
        return code
    if options.dry_run and options.gpu is not None:
        estimates = [found for one in prepared if (found := needle.on_gpu(one)) is not None]
        spent = sum(found.seconds for found in estimates)
        fits = all(found.fits for found in estimates)
        words = f"about {show_seconds(spent)}" if fits else "they do not fit"
        say(
            err, f"all {len(estimates)} tasks on one {estimates[0].gpu.name}: {words}, not measured"
        )
    told: dict[str, Any] = {"output": str(output), "exit_code": code, "tasks": list(options.tasks)}
    if not options.dry_run and all((one.output / RUN).exists() for one in prepared):
        told |= _join(output, options, err if options.json else Console())
    if options.json:
        print(json.dumps(told, ensure_ascii=False, allow_nan=False), flush=True)
    return code


def _run_all(
    options: NeedleOptions, prepared: Sequence[PreparedNeedle], loaded: LoadedModels, err: Console
) -> int:
    code = needle.DONE
    deadline = needle.deadline_of(options)
    for name, one in zip(options.tasks, prepared, strict=True):
        say(err, f"task {name}")
        try:
            code = max(code, needle.run_prepared(one, loaded, deadline))
        except StoppedError:
            raise
        except UserError as error:
            if code != needle.CELLS_FAILED:
                raise
            # The server that an earlier task lost is still away: no bad input, and resumable.
            say(err, f"task {name} did not begin ({error}): the same command goes on from here")
            break
        if code == needle.INTERRUPTED:
            break
    return code


def _join(output: Path, options: NeedleOptions, out: Console) -> TasksTable:
    folders = tuple(output / name for name in options.tasks)
    runs = {name: summary.load(output / name) for name in options.tasks}
    arms = arms_of([TasksOfModel(Path(options.model).name, runs)])
    with needing_room(output):
        table = tasks_files.write(output, arms)
    page = make(ReportOptions(folders, output=output / "report.html", palette=options.palette))
    tasks_files.print_table(out, arms)
    say(out, f"wrote {output}/ with {', '.join(tasks_files.NAMES)} and {page.name}")
    return table
