"""The numbers of a report as CSV: a row per arm, length and depth, and one per length over all.

A row without a depth is pooled; it carries the difference to the first arm of its run. Perplexity
runs come first, with columns of their own. Knows no picture.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from longctx.eval.needle.inference import texts_of
from longctx.eval.needle.paired import Comparison, PairedComparison
from longctx.eval.needle.ranking import MethodOfRun
from longctx.report.collect import Report, ReportedNeedleRun
from longctx.report.perplexity import ReportedPerplexityRun

_STATES = ("truncated_output", "overflow", "error", "not_run")
COLUMNS = (
    *("run", "model", "method", "length", "depth", "n", "k", "score", "low", "high"),
    *_STATES,
    *("difference", "difference_low", "difference_high", "pairs", "p_holm", "effective_length"),
    *("texts", "p_all_lengths"),
)
PERPLEXITY = ("perplexity", "perplexity_low", "perplexity_high")  # where such runs are named


def as_csv(report: Report) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    wide = bool(report.perplexity)
    table.writerow([*COLUMNS, *PERPLEXITY] if wide else COLUMNS)
    for predicted in report.perplexity:
        table.writerows(_perplexity_rows(predicted))
    blank = [None] * len(PERPLEXITY) if wide else []
    compared = {(one.arm.run, one.arm.method): one.difference.compared for one in report.within}
    for arm in report.arms:
        found = compared.get((arm.run, arm.method), Comparison())
        for row in _needle_rows(report.runs[arm.run], arm, found):
            table.writerow([*row, *blank])
    return stream.getvalue()


def _perplexity_rows(run: ReportedPerplexityRun) -> Iterator[list[Any]]:
    blank = [None] * (len(COLUMNS) - 4)
    for method in run.results.methods:
        names = [_text(name) for name in (run.path.name, run.model, method)]
        for length in run.results.lengths:
            figure = run.results.figure(method, length)
            told: list[float | None] = [None] * len(PERPLEXITY)
            if figure is not None:
                told = [round(value, 6) for value in (figure.perplexity, figure.low, figure.high)]
            yield [*names, length, *blank, *told]


def _needle_rows(
    run: ReportedNeedleRun, arm: MethodOfRun, compared: Comparison
) -> Iterator[list[Any]]:
    results = arm.results
    names = [_text(name) for name in (run.path.name, run.model, arm.method)]
    for length in results.lengths:
        for depth in dict.fromkeys((None, *results.depths)):  # a map of one row has no others
            tally = results.tally(arm.method, length, depth)
            row = tally.to_dict()
            if depth is None and tally.n:
                low, high = results.interval(arm.method, length)
                row |= {"low": round(low, 6), "high": round(high, 6)}
            figures = [row[name] for name in ("n", "k", "score", "low", "high")]
            states = [tally.states.get(state, 0) for state in _STATES]
            difference = _difference(compared.lengths.get(length) if depth is None else None)
            last = arm.effective.length if depth is None else None
            place = [length, None if depth is None else f"{depth:g}"]
            whole: list[Any] = [None, None]
            if depth is None:
                whole = [texts_of(results.by_text(arm.method, length)), _p(compared.overall)]
            yield [*names, *place, *figures, *states, *difference, last, *whole]


def _difference(found: PairedComparison | None) -> list[Any]:
    if found is None:
        return [None] * 5
    figures = (found.difference, found.interval.low, found.interval.high)
    return [*(round(value, 6) for value in figures), found.pairs, _p(found)]


def _p(found: PairedComparison | None) -> str | None:
    """None where nothing was tested."""
    return None if found is None or found.p is None else f"{found.p:.6g}"


def _text(value: str) -> str:
    """A name that a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
