"""A needle run: from options to a finished run folder.

Joins what the other parts know: loading, schemes, the harness, the pictures. Holds no algorithm.
"""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from longctx.eval.gpus import GpuEstimate
from longctx.eval.needle import summary
from longctx.eval.needle.controls import ClosedBookControl
from longctx.eval.needle.grid import Cell
from longctx.eval.needle.progress import ProgressReport
from longctx.eval.needle.results import NeedleResults
from longctx.eval.needle.second_look import again_words
from longctx.eval.protocol import Session, TargetLostError
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.folder import RunFolder
from longctx.eval.runfolder.record_schema import NeedleRecord
from longctx.eval.runfolder.summary_schema import NeedleSummary
from longctx.models.base import LoadedModels
from longctx.options.needle import NeedleOptions
from longctx.plots import heatmap
from longctx.plots.live import LiveMap
from longctx.plots.style import Style
from longctx.report.collect import Report, ReportedNeedleRun
from longctx.report.make import ReportOptions, make
from longctx.runs.needle_prepare import PreparedNeedle, prepare
from longctx.runs.screen import print_banner, print_results, proof_words, say

DONE, CELLS_FAILED, INTERRUPTED = 0, 3, 130


def run(
    options: NeedleOptions, loaded: LoadedModels | None = None, deadline: float | None = None
) -> int:
    """Run the sweep of one task; returns the exit code."""
    return run_prepared(prepare(options), loaded, deadline)


def deadline_of(options: NeedleOptions) -> float | None:
    """When --budget-minutes from now are over, in seconds of time.monotonic."""
    minutes = options.config.budget_minutes
    return None if minutes is None else time.monotonic() + 60 * minutes


def run_prepared(
    prepared: PreparedNeedle, loaded: LoadedModels | None = None, deadline: float | None = None
) -> int:
    """
    Args:
        deadline: of the command as a whole, where it runs several tasks; else the run has its own.
    """
    options = prepared.options
    err = Console(stderr=True)
    out = err if options.json else Console()
    print_banner(err, prepared)
    if options.dry_run:
        records_so_far = _records_so_far(prepared.output)
        plan, on_gpu = prepared.plan(records_so_far), prepared.on_gpu(records_so_far)
        say(err, str(plan))
        if on_gpu is not None:
            say(err, f"  {on_gpu}")
        gpu = {} if on_gpu is None else {"gpu": on_gpu.to_dict()}
        _print_json(options, {"dry_run": True, **prepared.describe(), "plan": asdict(plan), **gpu})
        return DONE

    with RunFolder(prepared.output) as run_folder:
        with LoadedModels() if loaded is None else nullcontext(loaded) as kept:
            interrupted = _sweep(prepared, run_folder, err, kept, deadline)
        if folder.read_run(prepared.output) is None:
            return INTERRUPTED  # while loading: there is nothing to show yet
        results, figures = summary.write_files(prepared.output)
    with err.status("drawing"):
        pictures = draw(results, prepared.output, options.palette)
    print_results(out, prepared.output, results, figures, pictures, options.palette)
    code = _exit_code(figures, interrupted)
    _print_json(options, {"output": str(prepared.output), "exit_code": code, **figures})
    return code


def _sweep(
    prepared: PreparedNeedle,
    run_folder: RunFolder,
    err: Console,
    loaded: LoadedModels,
    deadline: float | None,
) -> bool:
    """Run what is pending; True where the user interrupted it."""
    options, sweep, model = prepared.options, prepared.sweep, prepared.model
    description = prepared.describe()
    run_folder.check(description)
    pending = prepared.next_cells(run_folder.results.records)
    # Where --limit or an interrupt ended the run before, the control may be all that is left.
    closed_book = ClosedBookControl(sweep, run_folder.controls)
    control = closed_book if options.config.limit is None and closed_book.due else None
    if not pending and control is None:
        run_folder.begin(description)
        say(err, str(prepared.plan(run_folder.results.records, rate=0.0)))
        return False
    try:
        with err.status(f"loading {options.model}"):
            sessions = model.sessions(loaded)
            rate = model.probe(sessions)
        description["sessions"][0]["arms"] = {
            method: {"backend": session.backend, "proof": dict(session.proof)}
            for method, session in sessions.items()
        }
        # Only now: a run whose model or method cannot be loaded must not claim the folder.
        joined = run_folder.begin(description)

        def draw_map() -> LiveMap:
            so_far = NeedleResults.of(joined, run_folder.results.records.values())
            return LiveMap(so_far, options.palette)

        for method, session in sessions.items():
            say(err, f"  {method}: {session.backend}, {proof_words(session.proof)}")
        for note in model.notes():
            say(err, f"  {note}")
        say(err, str(prepared.plan(run_folder.results.records, rate)))
        report = ProgressReport(
            err,
            pending,
            model.shape,
            options.config.answer_tokens,
            model.prefix_sharing and options.config.texts == "shared",
            draw_map,
        )
        with report:
            if deadline is None:
                deadline = deadline_of(options)
            _run_rounds(prepared, pending, sessions, run_folder, report, deadline, control)
    except KeyboardInterrupt:
        err.print(f"interrupted, {_left(prepared, run_folder)}: the same command goes on from here")
        return True
    except TargetLostError as error:
        say(
            err,
            f"the target is lost ({error}), {_left(prepared, run_folder)}: once it is back, the "
            "same command goes on from here",
        )
    return False


def _run_rounds(
    prepared: PreparedNeedle,
    pending: Sequence[Cell],
    sessions: Mapping[str, Session],
    run_folder: RunFolder,
    report: ProgressReport,
    deadline: float | None,
    control: ClosedBookControl | None,
) -> None:
    """Ask, look at the answers, ask what is wanted next, until the budget ends."""
    sweep, file = prepared.sweep, run_folder.results
    tried: set[str] = set()
    while pending or control:
        if not sweep.run(pending, sessions, file, report, deadline, control):
            minutes = prepared.options.config.budget_minutes
            report.say(f"{minutes:g} minutes are spent: the same command goes on from here")
            return
        control = None
        tried |= {sweep.key(cell) for cell in pending}
        pending = prepared.next_cells(file.records, tried)
        if pending and prepared.options.config.first_repeats is not None:
            report.say(again_words(pending))
        report.expect(pending)


def _left(prepared: PreparedNeedle, run_folder: RunFolder) -> str:
    left = len(prepared.next_cells(run_folder.results.records))
    config = prepared.options.config
    more = " at least" if config.adaptive or config.first_repeats is not None else ""
    return f"{left} cells left{more}"


def on_gpu(prepared: PreparedNeedle) -> GpuEstimate | None:
    """Of what is left to do, on the GPU that is named."""
    return prepared.on_gpu(_records_so_far(prepared.output))


def _records_so_far(output: Path) -> dict[str, NeedleRecord]:
    return records.latest(records.read(output / folder.RESULTS))


def draw(results: NeedleResults, output: Path, palette: str) -> list[Path]:
    """heatmap.png, heatmap.svg and report.html of a run folder."""
    with folder.needing_room(output):
        page = make(
            ReportOptions((output,), palette=palette), Report([ReportedNeedleRun(output, results)])
        )
        return [*heatmap.write(results, output, Style(palette)), page]


def _exit_code(figures: NeedleSummary, interrupted: bool) -> int:
    if interrupted:
        return INTERRUPTED
    return CELLS_FAILED if figures["failures"] else DONE


def _print_json(options: NeedleOptions, content: Mapping[str, Any]) -> None:
    if options.json:
        print(json_module.dumps(content, ensure_ascii=False, allow_nan=False), flush=True)
