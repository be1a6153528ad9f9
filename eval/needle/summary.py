"""From results to figures: the summary files of a run folder, and the words of their tables.

Reads a run folder and nothing else, so that a summary can be made again at any time.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast

from longctx.errors import UserError
from longctx.eval.format import depth_name, show_depth, show_length
from longctx.eval.needle.certainty import TEXTS, interval_words, sentences
from longctx.eval.needle.effective import (
    MEANING,
    OTHER_RULES,
    show_break,
    show_effective,
    show_other,
)
from longctx.eval.needle.results import NeedleResults, Tally
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.records import scored
from longctx.eval.runfolder.run_schema import NeedleRunJson
from longctx.eval.runfolder.summary_schema import (
    ControlFigures,
    EffectiveFigures,
    MethodFigures,
    NeedleSummary,
)
from longctx.eval.scoring import SCORED

# A map whose easiest cells fail, or which succeeds without a needle, says nothing about length.
_SHORTEST_AT_LEAST = 0.85
_CLOSED_BOOK_AT_MOST = 0.05


def load(path: Path) -> NeedleResults:
    """Read a run folder, whoever may be writing to it."""
    run: NeedleRunJson | None = folder.read_run(path)
    if run is None:
        raise UserError(f"{path}: no {folder.RUN} in it: name the folder of a run")
    if run["task"] != "needle":
        raise UserError(f"{path}: it holds a {run['task']} run: name the folder of a needle run")
    written = list(records.read(path / folder.RESULTS))
    controls = records.latest(records.read(path / folder.CONTROLS, records.CONTROL))
    # A record that was run again stands in its last line.
    lines = {record["key"]: number for number, record in enumerate(written, start=1)}
    return NeedleResults.of(run, records.latest(written).values(), controls.values(), lines)


def summarize(results: NeedleResults) -> NeedleSummary:
    run = results.run
    methods: dict[str, MethodFigures] = {}
    for method in results.methods:
        by_depth = {
            depth_name(depth): {
                str(length): results.tally(method, length, depth).to_dict()
                for length in results.lengths
            }
            for depth in results.depths
        }
        effective = results.effective(method)
        methods[method] = {
            "scheme": run["schemes"][method],
            "effective_length": effective.length,
            "effective": cast(EffectiveFigures, effective.to_dict()),
            "lengths": {
                str(length): results.pooled(method, length).to_dict() for length in results.lengths
            },
            "cells": by_depth,
        }
    states = Counter[str](record["status"] for record in results.records)
    states["not_run"] = sum(
        results.tally(method).states.get("not_run", 0) for method in results.methods
    )
    return {
        "schema": run["schema"],
        "task": run["task"],
        "model": run["model"]["name"],
        "haystack": run["haystack"],
        "trained_length": results.trained_length,
        "texts": results.texts,
        "stopping": results.stopping,
        "states": dict(states),
        "superseded": results.superseded,
        "methods": methods,
        "controls": control_figures(results),
        "failures": [
            {
                "method": record["scheme"]["method"],
                "length": record["length"],
                "depth": record["depth"],
                "repeat": record["repeat"],
                "error": record["error"],
            }
            for record in results.records
            if record["status"] == "error"
        ],
    }


def control_figures(results: NeedleResults) -> ControlFigures:
    """Whether the map can tell success from failure: `discriminative` is None while unknown."""
    closed = [score for record in results.controls if (score := scored(record)) is not None]
    closed_book = sum(closed) / len(closed) if closed else None
    shortest = [
        score
        for method in results.methods
        if (score := results.tally(method, min(results.lengths)).score) is not None
    ]
    best_shortest = max(shortest, default=None)
    reasons = []
    if closed_book is not None and closed_book > _CLOSED_BOOK_AT_MOST:
        reasons.append(f"answers without the needle ({closed_book:.0%})")
    if best_shortest is not None and best_shortest < _SHORTEST_AT_LEAST:
        reasons.append(f"fails at the shortest length already ({best_shortest:.0%})")
    known = closed_book is not None and best_shortest is not None
    return {
        "closed_book": closed_book,
        "shortest": best_shortest,
        "discriminative": False if reasons else (True if known else None),
        "reasons": reasons,
    }


class WrittenNeedle(NamedTuple):
    """A run folder's results, and the figures that its files show."""

    results: NeedleResults
    figures: NeedleSummary


def write(path: Path) -> NeedleSummary:
    """Make summary.json, summary.csv and summary.md of a run folder; returns the first."""
    return write_files(path).figures


def write_files(path: Path) -> WrittenNeedle:
    """The same, with the results, so that whoever shows them need not compute them again."""
    results = load(path)
    summary = summarize(results)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    records.write_atomically(path / "summary.json", text)
    records.write_atomically(path / "summary.csv", _as_csv(results))
    records.write_atomically(path / "summary.md", as_markdown(results, summary))
    return WrittenNeedle(results, summary)


def _as_csv(results: NeedleResults) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    others = ("truncated_output", "overflow", "error", "not_run")
    rules = ("effective_length", "ruler", "nolima", "last_pass", "first_fail")
    table.writerow(["method", "length", "depth", "n", "k", "score", "low", "high", *others, *rules])
    for method in results.methods:
        found = results.effective(method)
        lengths = [found.length, found.ruler, found.nolima, found.last_pass, found.first_fail]
        for length in results.lengths:
            for depth in results.depths:
                tally = results.tally(method, length, depth)
                row = tally.to_dict()
                figures = [row["n"], row["k"], row["score"], row["low"], row["high"]]
                states = [tally.states.get(state, 0) for state in others]
                table.writerow([method, length, depth_name(depth), *figures, *states, *lengths])
    return stream.getvalue()


def as_markdown(results: NeedleResults, summary: NeedleSummary) -> str:
    run = results.run
    lines = [
        f"# {heading(results)}: {run['model']['name']}",
        "",
        f"Haystack {run['haystack']['id']}, depths "
        f"{', '.join(show_depth(depth) for depth in results.depths)}, "
        f"{_repeats_words(results)}, {TEXTS[results.texts]}, "
        f"seed {run['settings'].get('seed')}, trained length "
        f"{show_length(results.trained_length) if results.trained_length else 'unknown'}.",
        "",
        "| method | "
        + " | ".join(show_length(length) for length in results.lengths)
        + " | effective length | breaks | RULER's rule | NoLiMa's rule |",
        "|---|" + "---:|" * (len(results.lengths) + 4),
    ]
    for method in results.methods:
        row = [show_tally(results.pooled(method, length)) for length in results.lengths]
        found = results.effective(method)
        row += [show_effective(found), show_break(found)]
        row += [show_other(found, found.ruler), show_other(found, found.nolima)]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    told = interval_words(results.texts, results.looks)
    lines += ["", f"{told} {others_sentence(summary)}", ""]
    lines += [f"{MEANING}\n", f"{OTHER_RULES}\n"]
    lines.append(f"## How certain is this\n\n{' '.join(certainty(results))}\n")
    if results.stopping:
        lines.append(f"Stopping rule: {results.stopping['rule']}\n")
    for reason in summary["controls"]["reasons"]:
        lines.append(f"**Not discriminative**: the model {reason}.\n")
    return "\n".join(lines)


def certainty(results: NeedleResults) -> list[str]:
    """How certain the figures are, in sentences for everybody."""
    samples = [
        results.by_text(method, length) for method in results.methods for length in results.lengths
    ]
    return sentences(results.texts, results.looks, samples)


def _repeats_words(results: NeedleResults) -> str:
    grid = results.run["grid"]
    if grid.get("spread"):
        return f"{grid['repeats']} sample(s) a length, at one depth each"
    if results.looks.first is not None:
        return again_words(results)
    return f"{'up to ' if results.stopping else ''}{grid['repeats']} repeat(s)"


def again_words(results: NeedleResults) -> str:
    """`2 repeats, 5 at the close lengths 1K, 4K`: of a run with a second look."""
    assert results.stopping is not None
    least, most = results.stopping["first_repeats"], results.stopping["most_repeats"]
    lengths = ", ".join(map(show_length, sorted(results.again)))
    close = f"{most} at the close length{'s' if len(results.again) > 1 else ''} {lengths}"
    return f"{least} repeats, {close if lengths else 'no length close'}"


def heading(results: NeedleResults) -> str:
    """What was asked, for headings."""
    return "Needle in a haystack" if results.task == "needle" else f"Task {results.task}"


def show_tally(tally: Tally) -> str:
    """`3/3 (44-100 %)`, how many of them were cut off, and what was not scored behind it."""
    low, high = tally.interval
    shown = f"{tally.total:g}/{tally.n} ({100 * low:.0f}-{100 * high:.0f} %)" if tally.n else "–"
    shown += f", {tally.cut_off} cut off" if tally.cut_off else ""
    extra = ", ".join(f"{count} {state}" for state, count in tally.others().items())
    return f"{shown} +{extra}" if extra else shown


def others_sentence(summary: NeedleSummary) -> str:
    """What no figure counts: samples without a score, and records that a newer one replaced."""
    counts: Iterable[str] = (
        f"{count} {state.replace('_', ' ')}"
        for state, count in sorted(summary["states"].items())
        if count and state not in SCORED
    )
    named = ", ".join(counts)
    told = f"Not counted: {named}." if named else "Every cell was scored."
    if cut := summary["states"].get("truncated_output"):
        told += f" Cut off by the token budget, and scored by what they have: {cut}."
    if not summary["superseded"]:
        return told
    older = f"{summary['superseded']} older record(s) of an earlier version"
    return f"{told} Left out: {older}, whose place has a newer one."
