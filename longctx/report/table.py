"""The numbers of a report as CSV: a row per arm, length and depth, and one per length over all.

A row without a depth is pooled; it carries the difference to the first arm of its run. Knows no
picture.
"""

from __future__ import annotations

import csv
import io

from longctx.report.collect import Report

_STATES = ("truncated_output", "overflow", "error", "not_run")
COLUMNS = (
    *("run", "model", "method", "length", "depth", "n", "k", "score", "low", "high"),
    *_STATES,
    *("difference", "difference_low", "difference_high", "pairs", "p_holm", "effective_length"),
)
PERPLEXITY = ("perplexity", "perplexity_low", "perplexity_high")  # where such runs are named


def as_csv(report: Report) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow([*COLUMNS, *PERPLEXITY] if report.perplexity else COLUMNS)
    for ppl in report.perplexity:
        for method in ppl.results.methods:
            for length in ppl.results.lengths:
                figure = ppl.results.figure(method, length)
                values = [] if figure is None else [figure.perplexity, figure.low, figure.high]
                names = map(_text, (ppl.path.name, ppl.model, method))
                blank = [None] * (len(COLUMNS) - 4)
                table.writerow([*names, length, *blank, *(round(value, 6) for value in values)])
    compared = {(one.arm.run, one.arm.method): one.difference.lengths for one in report.within}
    for arm in report.arms:
        run, results = report.runs[arm.run], arm.results
        found = compared.get((arm.run, arm.method), {})
        effective = arm.effective.length
        for length in results.lengths:
            for depth in dict.fromkeys((None, *results.depths)):  # a map of one row has no others
                tally = results.tally(arm.method, length, depth)
                row = tally.to_dict()
                if depth is None and tally.n:
                    low, high = results.interval(arm.method, length)
                    row |= {"low": round(low, 6), "high": round(high, 6)}
                figures = [row[name] for name in ("n", "k", "score", "low", "high")]
                states = [tally.states.get(state, 0) for state in _STATES]
                one = found.get(length) if depth is None else None
                difference = (
                    [
                        round(one.difference, 6),
                        round(one.interval.low, 6),
                        round(one.interval.high, 6),
                        one.pairs,
                        f"{one.p:.6g}",
                    ]
                    if one is not None
                    else [None] * 5
                )
                place = [length, None if depth is None else f"{depth:g}"]
                last = effective if depth is None else None
                told = [*figures, *states, *difference, last]
                names = map(_text, (run.path.name, run.model, arm.method))
                table.writerow([*names, *place, *told])
    return stream.getvalue()


def _text(value: str) -> str:
    """A name that a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
