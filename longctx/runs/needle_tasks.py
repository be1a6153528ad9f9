"""Several tasks of `longctx needle` in one command: a run folder each, one table over all.

    OUTPUT/vt/, OUTPUT/cwe/ ...    run folders as of one task: resume, rescore, report work on each
    OUTPUT/tasks.md, tasks.json    score by task and length, their mean, RULER's effective length
    OUTPUT/report.html             all of them on one page

The model is loaded once. Holds no algorithm.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from longctx.errors import StoppedError, UserError
from longctx.eval.needle import ruler_table, summary
from longctx.eval.runfolder.folder import RUN, needing_room
from longctx.eval.runfolder.records import write_atomically
from longctx.eval.runfolder.schema import TasksTable
from longctx.models.base import Loaded
from longctx.options.needle import NeedleOptions
from longctx.report.make import ReportOptions, make
from longctx.runs import needle
from longctx.runs.needle_prepare import prepare, settle_task
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
        prepare(replace(options, tasks=(name,), output=output / name, json=False))
        for name in options.tasks
    ]
    err = Console(stderr=True)
    loaded: Loaded = {}
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
            return code
    told: dict[str, Any] = {"output": str(output), "exit_code": code, "tasks": list(options.tasks)}
    if not options.dry_run and all((one.output / RUN).exists() for one in prepared):
        told |= _join(output, options, err if options.json else Console())
    if options.json:
        print(json.dumps(told, ensure_ascii=False, allow_nan=False), flush=True)
    return code


def _join(output: Path, options: NeedleOptions, out: Console) -> TasksTable:
    folders = tuple(output / name for name in options.tasks)
    table = ruler_table.table({name: summary.load(output / name) for name in options.tasks})
    text = ruler_table.as_markdown(table)
    with needing_room(output):
        write_atomically(output / "tasks.json", json.dumps(table, indent=2) + "\n")
        write_atomically(output / "tasks.md", text)
    page = make(ReportOptions(folders, output=output / "report.html", palette=options.palette))
    out.print(text, highlight=False, markup=False)
    say(out, f"wrote {output}/ with tasks.md, tasks.json and {page.name}")
    return table
