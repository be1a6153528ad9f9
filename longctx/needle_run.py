"""A needle run on a local model: from options to a finished run folder.

Joins what the other parts know: loading, schemes, the harness, the pictures. Holds no algorithm.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from longctx import models, report_cmd
from longctx.eval import estimate, folder, records, summary
from longctx.eval.controls import run_closed_book
from longctx.eval.folder import RunFolder
from longctx.eval.progress import ProgressReport
from longctx.eval.target import Arm, Request
from longctx.local_target import local_arm, sharing_obstacle
from longctx.needle_cmd import NeedleOptions
from longctx.needle_prepare import Prepared, prepare
from longctx.needle_report import print_banner, print_results, proof_words, say
from longctx.plots import heatmap
from longctx.plots.live import LiveMap
from longctx.plots.look import Look

DONE, CELLS_FAILED, INTERRUPTED = 0, 3, 130


Loaded = dict[str, Any]  # the model by its name, so that several tasks load it once


def run(options: NeedleOptions, loaded: Loaded | None = None) -> int:
    """Run the sweep of one task; returns the exit code."""
    err = Console(stderr=True)
    out = err if options.json else Console()
    prepared = prepare(options)
    print_banner(err, prepared)
    if options.dry_run:
        plan = prepared.plan(_records_so_far(prepared.output))
        say(err, str(plan))
        _print_json(options, {"dry_run": True, **prepared.describe(), "plan": asdict(plan)})
        return DONE

    with RunFolder(prepared.output) as run_folder:
        interrupted = _sweep(prepared, run_folder, err, {} if loaded is None else loaded)
        if folder.read_run(prepared.output) is None:
            return INTERRUPTED  # while loading: there is nothing to show yet
        figures = summary.write(prepared.output)
    results = summary.load(prepared.output)
    pictures = _draw(prepared, err)
    print_results(out, prepared.output, results, figures, pictures, options.palette)
    code = _exit_code(figures, interrupted)
    _print_json(options, {"output": str(prepared.output), "exit_code": code, **figures})
    return code


def _sweep(prepared: Prepared, run_folder: RunFolder, err: Console, loaded: Loaded) -> bool:
    """Run what is pending; True where the user interrupted it."""
    options, sweep = prepared.options, prepared.sweep
    description = prepared.describe()
    run_folder.check(description)
    pending = sweep.pending(run_folder.results.records)[: options.config.limit]
    if not pending:
        run_folder.begin(description)
        say(err, str(prepared.plan(run_folder.results.records, rate=0.0)))
        return False
    try:
        with err.status(f"loading {options.model}"):
            arms = _load_arms(prepared, loaded)
            rate = _probe(prepared, arms)
        description["sessions"][0]["arms"] = {
            method: {"backend": arm.backend, "proof": dict(arm.proof)}
            for method, arm in arms.items()
        }
        # Only now: a run whose model or method cannot be loaded must not claim the folder.
        joined = run_folder.begin(description)

        def draw_map() -> LiveMap:
            so_far = list(run_folder.results.records.values())
            return LiveMap(summary.Results(joined, so_far, []), options.palette)

        for method, arm in arms.items():
            say(err, f"  {method}: {arm.backend}, {proof_words(arm.proof)}")
        obstacle = sharing_obstacle(prepared.model_config)
        if options.prefix_sharing and obstacle is not None:
            say(err, f"  every prompt is computed from its first token: {obstacle}")
        say(err, str(prepared.plan(run_folder.results.records, rate)))
        shape, answer_tokens = (
            models.shape_of(prepared.model_config),
            prepared.options.config.answer_tokens,
        )
        sharing = prepared.prefix_sharing
        with ProgressReport(err, pending, shape, answer_tokens, sharing, draw_map) as report:
            sweep.run(pending, arms, run_folder.results, report)
        if options.config.limit is None:
            first = next(iter(sweep.schemes))
            run_closed_book(sweep, arms[first], run_folder.controls)
    except KeyboardInterrupt:
        left = len(sweep.pending(run_folder.results.records))
        err.print(f"interrupted, {left} cells left: the same command goes on from here")
        return True
    return False


def _load_arms(prepared: Prepared, loaded: Loaded) -> dict[str, Arm]:

    options = prepared.options
    if options.model not in loaded:
        loaded[options.model] = models.load_model(
            prepared.source, prepared.model_config, prepared.dtype, options.device_map
        )
    model = loaded[options.model]
    stop = models.stop_ids(model, prepared.tokenizer)

    def decode(ids: list[int]) -> str:
        return str(prepared.tokenizer.decode(ids, skip_special_tokens=True))

    return {
        method: local_arm(
            model,
            scheme,
            decode=decode,
            stop_ids=stop,
            kernel=options.kernel,
            prefill_chunk=options.prefill_chunk,
            prefix_sharing=options.prefix_sharing,
        )
        for method, scheme in prepared.schemes.items()
    }


def _probe(prepared: Prepared, arms: Mapping[str, Arm]) -> float:
    """Seconds per unit of work, from one short prompt."""

    length = 1024
    with next(iter(arms.values())).open() as target:
        answer = target.generate(Request([1] * length, 1, length))
    return answer.total_s / estimate.work(models.shape_of(prepared.model_config), length, 0)


def _records_so_far(output: Path) -> dict[str, Any]:

    return records.latest(records.read(output / folder.RESULTS))


def _draw(prepared: Prepared, err: Console) -> list[Path]:

    with err.status("drawing"):
        look = Look(prepared.options.palette)
        page = report_cmd.make(report_cmd.ReportOptions((prepared.output,), look=look))
        return [*heatmap.draw(prepared.output, look), page]


def _exit_code(figures: Mapping[str, Any], interrupted: bool) -> int:
    if interrupted:
        return INTERRUPTED
    return CELLS_FAILED if figures["failures"] else DONE


def _print_json(options: NeedleOptions, content: Mapping[str, Any]) -> None:
    if options.json:
        print(json_module.dumps(content, ensure_ascii=False, allow_nan=False), flush=True)
