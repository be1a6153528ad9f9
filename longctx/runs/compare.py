"""The runs of a comparison, one after the other, and one report over all of them.

Each entry is a needle run of its own in a folder of its own: resumable, and there to be looked at
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from longctx.errors import StoppedError, UserError
from longctx.models.base import LoadedModels
from longctx.options.declare import from_mapping
from longctx.options.needle import NeedleOptions
from longctx.report.published import PublishedRow
from longctx.runs.compare_file import ComparisonFile
from longctx.runs.needle_prepare import settle_task
from longctx.runs.settle import settle_needle

DONE, FAILED, INTERRUPTED = 0, 3, 130


@dataclass(frozen=True)
class ComparisonTask:
    """One task of one entry; `path` is the entry's place in the file."""

    path: str
    name: str
    options: NeedleOptions


def jobs_of(comparison: ComparisonFile, *, dry_run: bool) -> list[ComparisonTask]:
    """
    Raises:
        UserError: names the entry that cannot be run as it stands.
    """
    jobs = []
    for entry in comparison.entries:
        try:
            settled = settle_needle(from_mapping(NeedleOptions, entry.arguments))
            for task in settled.tasks:
                name = entry.name if len(settled.tasks) == 1 else f"{entry.name}/{task}"
                output = comparison.output / name
                one = replace(
                    settled,
                    tasks=(task,),
                    output=output,
                    dry_run=dry_run,
                    several=len(settled.tasks) > 1,
                )
                settle_task(one)  # what it lacks is told before the first model runs
                jobs.append(ComparisonTask(entry.path, name, one))
        except UserError as error:
            raise UserError(f"FILE {comparison.file}: {entry.path}: {error}") from error
    return jobs


def compare(comparison: ComparisonFile, *, dry_run: bool) -> int:
    """The exit code. What one model lacks is no reason to leave out the others."""
    jobs = jobs_of(comparison, dry_run=dry_run)
    failed: dict[str, str] = {}
    with LoadedModels() as loaded:
        if _run_all(jobs, loaded, failed) == INTERRUPTED:
            return INTERRUPTED
    if not dry_run:
        folders = [job.options.output for job in jobs if job.options.output]
        _report(comparison.output, folders, comparison.published)
    for name, reason in failed.items():
        _tell(f"failed: {name}: {reason}")
    return FAILED if failed else DONE


def _run_all(jobs: Sequence[ComparisonTask], loaded: LoadedModels, failed: dict[str, str]) -> int:
    """Adds to `failed`, by name, why."""
    from longctx.runs.needle import deadline_of, run  # heavy: what is wrong is told before

    entry_before = ""
    deadline: float | None = None
    for job in jobs:
        _tell(f"{job.path} {job.name}: {job.options.model}")
        if job.path != entry_before:  # tasks of one entry share its model, which goes with them
            entry_before, deadline = job.path, deadline_of(job.options)
            loaded.release()
        try:
            code = run(job.options, loaded, deadline)
        except StoppedError:
            raise
        except UserError as error:
            failed[job.name] = str(error)
            _tell(f"error: {job.path}: {error}")
            continue
        if code == INTERRUPTED:
            return INTERRUPTED
        if code != DONE:
            failed[job.name] = "cells failed"
    return DONE


def _report(output: Path, folders: Sequence[Path], others: Sequence[PublishedRow]) -> None:
    from longctx.report.collect import collect
    from longctx.report.make import ReportOptions, make
    from longctx.runs import tasks_files
    from longctx.runs.compare_table import print_published, print_table

    finished = tuple(folder for folder in folders if (folder / "run.json").exists())
    if not finished:
        return
    found = collect(finished, others)
    page = make(ReportOptions(finished, output=output / "report.html"), found)
    table = make(ReportOptions(finished, output=output / "report.csv"), found)
    print_table(found, output, sys.stdout)
    print(f"wrote {page} and {table}")
    if found.tasks:
        tasks_files.write(output, found.tasks, others)
        tasks_files.print_table(Console(file=sys.stdout), found.tasks)
        print(f"wrote {output}/ with {', '.join(tasks_files.NAMES)}")
    if others:
        print_published(others, sys.stdout)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
