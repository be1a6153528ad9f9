"""A perplexity run on a local model: from options to a finished run folder, and what it says.

Joins what the other parts know: loading, schemes, passes, figures, the picture. Holds no algorithm.
"""

from __future__ import annotations

import json as json_module
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longctx.eval.format import show_length, show_seconds
from longctx.eval.perplexity import files
from longctx.eval.perplexity.files import show_difference, show_figure, show_perplexity
from longctx.eval.perplexity.passes import Pass, show_pass
from longctx.eval.perplexity.summary import RESULTS, PerplexityResults
from longctx.eval.protocol import Session
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.folder import LockedFolder
from longctx.eval.runfolder.record_schema import PerplexityRecord
from longctx.eval.runfolder.records import PERPLEXITY, RecordFile
from longctx.eval.runfolder.run_schema import PerplexityRunJson
from longctx.eval.runfolder.summary_schema import PerplexitySummary
from longctx.models import quantize
from longctx.models.base import LoadedModels
from longctx.models.schemes import beyond
from longctx.models.served import Asking, sessions_for
from longctx.options.perplexity import PerplexityOptions
from longctx.plots import perplexity as picture
from longctx.runs.perplexity_prepare import PreparedPerplexity, prepare
from longctx.runs.screen import proof_words, say

DONE, PASSES_FAILED, INTERRUPTED = 0, 3, 130
_FAILURES_SHOWN = 5


class PerplexityFolder(LockedFolder[PerplexityRunJson]):
    results: RecordFile[PerplexityRecord]

    def open_files(self) -> None:
        self.results = self.open(RESULTS, PERPLEXITY)


def run(options: PerplexityOptions) -> int:
    """Measure what the options describe; returns the exit code."""
    err = Console(stderr=True)
    out = err if options.json else Console()
    prepared = prepare(options)
    _print_banner(err, prepared)
    if options.dry_run:
        plan = prepared.plan(records.latest(records.read(prepared.output / RESULTS, PERPLEXITY)))
        say(err, str(plan))
        _print_json(options, {"dry_run": True, **prepared.describe(), "plan": asdict(plan)})
        return DONE

    with PerplexityFolder(prepared.output) as run_folder:
        with LoadedModels() as loaded:
            interrupted = _measure(prepared, run_folder, err, loaded)
        if folder.read_run(prepared.output) is None:
            return INTERRUPTED  # while loading: there is nothing to show yet
        results, summary = files.write_files(prepared.output)
    with folder.needing_room(prepared.output):
        pictures = picture.write(results, prepared.output)
    _print_results(out, prepared.output, results, summary, pictures)
    code = INTERRUPTED if interrupted else (PASSES_FAILED if summary["failures"] else DONE)
    _print_json(options, {"output": str(prepared.output), "exit_code": code, **summary})
    return code


def _measure(
    prepared: PreparedPerplexity,
    run_folder: PerplexityFolder,
    err: Console,
    loaded: LoadedModels,
) -> bool:
    """Run what is pending; True where the user interrupted it."""
    measurement, file = prepared.measurement, run_folder.results
    description = prepared.describe()
    run_folder.check(description)
    pending = measurement.pending(file.records)[: prepared.options.config.limit]
    if prepared.vllm is not None:  # which is started anew for each method
        order = list(prepared.schemes)
        pending = sorted(pending, key=lambda each: order.index(each.method))
    say(err, str(prepared.plan(file.records)))
    if not pending:
        run_folder.begin(description)
        return False
    try:
        with err.status(f"loading {prepared.options.model}"):
            sessions = _load(prepared, err, loaded)
        description["sessions"][0]["arms"] = {
            method: {"backend": session.backend, "proof": dict(session.proof)}
            for method, session in sessions.items()
        }
        # Only now: a run whose model or method cannot be loaded must not claim the folder.
        run_folder.begin(description)
        for method, session in sessions.items():
            say(err, f"  {method}: {session.backend}, {proof_words(session.proof)}")
        measurement.run(pending, sessions, file, _Lines(err, prepared, pending))
    except KeyboardInterrupt:
        left = len(measurement.pending(file.records))
        err.print(f"interrupted, {left} passes left: the same command goes on from here")
        return True
    return False


def _load(prepared: PreparedPerplexity, err: Console, loaded: LoadedModels) -> dict[str, Session]:
    options = prepared.options
    if prepared.vllm is not None:
        return prepared.vllm.sessions(loaded)
    dtype, device = prepared.chosen.dtype, prepared.device
    model = quantize.load(
        prepared.source,
        prepared.model_config,
        dtype,
        prepared.device_map,
        options.quantize,
        device,
    )
    told = quantize.notes(model, options.quantize, dtype, device)
    kept = None if prepared.kept == dtype else prepared.kept
    longest = options.config.longest
    asking = Asking(options.kernel, longest, options.prefill_chunk, False, kept)
    sessions, notes = sessions_for(model, prepared.tokenizer, prepared.schemes.values(), asking)
    for note in (*told, *notes):
        say(err, f"  {note}")
    return sessions


class _Lines:
    """One line for each finished pass, with the time left at the rate so far."""

    def __init__(self, err: Console, prepared: PreparedPerplexity, pending: Sequence[Pass]) -> None:
        self._err, self._prepared = err, prepared
        self._count, self._finished = len(pending), 0
        self._left, self._done = sum(map(prepared.work_of, pending)), 0.0
        self._began = time.perf_counter()

    def finished(self, done: Pass, record: PerplexityRecord) -> None:
        work = self._prepared.work_of(done)
        self._finished, self._left, self._done = (
            self._finished + 1,
            self._left - work,
            self._done + work,
        )
        losses = record["nll"]
        told = f"perplexity {_of(losses)}" if losses else f"failed: {record['error']}"
        left = ""
        if self._finished < self._count:
            seconds = (time.perf_counter() - self._began) / self._done * self._left
            left = f", {show_seconds(seconds)} left"
        counted = f"{self._finished}/{self._count}"
        say(
            self._err,
            f"{counted:>7}  {show_pass(done):<34} {told} in {record['total_s']:.1f} s{left}",
        )


def _of(losses: Sequence[float]) -> str:
    return show_perplexity(math.exp(min(math.fsum(losses) / len(losses), 700.0)))


def _print_banner(err: Console, prepared: PreparedPerplexity) -> None:
    identity, texts = prepared.measurement.identity, prepared.measurement.corpus
    config = prepared.options.config
    err.print(
        f"[bold]{escape(prepared.options.model)}[/] ({prepared.model_config.model_type}, "
        f"{identity.dtype}, trained on {show_length(prepared.trained_length)}) · "
        f"{escape(texts.id)}, {len(texts.documents)} document(s) of "
        f"{show_length(config.longest)} tokens · {escape(str(prepared.output))}",
        highlight=False,
        soft_wrap=True,
    )
    if prepared.chosen.note is not None:
        say(err, f"  {prepared.chosen.note}")
    for note in texts.sources.notes():
        say(err, f"  {note}")
    if texts.left_out:
        say(err, f"  {texts.left_out} text(s) shorter than that are left out")
    say(err, f"  metric {config.metric} · {prepared.bos_words}")
    for scheme in prepared.schemes.values():
        own = scheme.method in prepared.measurement.by_length
        passes = (
            "a pass for every length"
            if own or config.metric in ("window", "rolling")
            else "one pass"
        )
        say(err, f"  {scheme} · {passes}")
        if far := beyond(scheme, config.longest):
            say(err, f"  {far}")


def _print_results(
    out: Console,
    output: Path,
    results: PerplexityResults,
    summary: PerplexitySummary,
    pictures: Sequence[Path],
) -> None:
    out.print()
    _print_table(out, results, results.methods, lambda m, n: show_figure(results, m, n))
    say(out, f"{summary['meaning']} 95 % interval; perplexity.md has bits per byte.")
    if len(results.methods) > 1:
        out.print()
        _print_table(
            out,
            results,
            results.methods[1:],
            lambda m, n: show_difference(results.difference(m, n)),
            head=f"against {results.methods[0]}",
        )
        say(out, files.DIFFERENCE_NOTE)
    if others := files.others_sentence(summary):
        out.print(others, style="bold yellow")
    for failure in summary["failures"][:_FAILURES_SHOWN]:
        say(
            out,
            f"failed: {failure['method']} {show_length(failure['window'])} of "
            f"{failure['document']}: {failure['error']}",
        )
    names = ", ".join(file.name for file in pictures)
    say(out, f"wrote {output}/ with perplexity.md, perplexity.csv and {names}")


def _print_table(
    out: Console,
    results: PerplexityResults,
    methods: Sequence[str],
    cell: Any,
    head: str = "method",
) -> None:
    table = Table(head, box=None, pad_edge=False, header_style="bold")
    for length in results.lengths:
        table.add_column(show_length(length), justify="right")
    for method in methods:
        table.add_row(method, *(cell(method, length) for length in results.lengths))
    out.print(table, highlight=False)


def _print_json(options: PerplexityOptions, content: Mapping[str, Any]) -> None:
    if options.json:
        print(json_module.dumps(content, ensure_ascii=False, allow_nan=False), flush=True)
