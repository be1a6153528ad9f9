"""The summary files of a perplexity run: perplexity.json, .csv and .md, and the words in its table.

Formats figures that summary.py computed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from longctx.eval.format import show_length
from longctx.eval.perplexity.summary import LossDifference, PerplexityResults, load, summarize
from longctx.eval.runfolder import records
from longctx.eval.runfolder.summary_schema import PerplexitySummary

_FIGURES = (
    *("documents", "tokens", "nll", "perplexity", "low", "high", "interval_by"),
    *("perplexity_macro", "bits_per_byte", "second_half"),
)
_DIFFERENCES = ("against", "mean", "low", "high")
NOTE = (
    "Perplexity over all tokens with its 95 % bootstrap interval; in brackets the mean over "
    "documents of each one's perplexity, and bits per byte."
)
DIFFERENCE_NOTE = (
    "Change of the mean loss on the same tokens, nats (95 % interval by paired bootstrap); * "
    "where the interval leaves zero out."
)


class WrittenPerplexity(NamedTuple):
    """A run folder's results, and the figures that its files show."""

    results: PerplexityResults
    figures: PerplexitySummary


def write(path: Path) -> PerplexitySummary:
    """Make the three files of a run folder; returns the content of the first."""
    return write_files(path).figures


def write_files(path: Path) -> WrittenPerplexity:
    """The same, with the results, so that whoever shows them need not compute them again."""
    results = load(path)
    summary = summarize(results)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    records.write_atomically(path / "perplexity.json", text)
    records.write_atomically(path / "perplexity.csv", _as_csv(summary))
    records.write_atomically(path / "perplexity.md", _as_markdown(results, summary))
    return WrittenPerplexity(results, summary)


def _as_csv(summary: PerplexitySummary) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    named = [f"difference_{name}" for name in _DIFFERENCES]
    table.writerow(["method", "length", *_FIGURES, *named])
    for method, about in summary["methods"].items():
        for length, row in about["lengths"].items():
            told: Mapping[str, Any] = row or {}
            difference = told.get("difference", {})
            figures = [told.get(name) for name in _FIGURES]
            table.writerow(
                [method, length, *figures, *(difference.get(name) for name in _DIFFERENCES)]
            )
    return stream.getvalue()


def _as_markdown(results: PerplexityResults, summary: PerplexitySummary) -> str:
    lines = [
        f"# Perplexity: {summary['model']}",
        "",
        f"{summary['meaning']} Trained length {show_length(results.trained_length or 0)}.",
        "",
        *_table(results, lambda method, length: show_figure(results, method, length, "long")),
        "",
        f"{NOTE} {others_sentence(summary)}".strip(),
    ]
    if len(results.methods) > 1:
        lines += [
            "",
            f"## Against {results.methods[0]}",
            "",
            *_table(
                results,
                lambda method, length: show_difference(results.difference(method, length)),
                results.methods[1:],
            ),
            "",
            DIFFERENCE_NOTE,
        ]
    return "\n".join([*lines, ""])


def _table(results: PerplexityResults, cell: Any, methods: list[str] | None = None) -> list[str]:
    lengths = results.lengths
    lines = [
        "| method | " + " | ".join(show_length(length) for length in lengths) + " |",
        "|---|" + "---:|" * len(lengths),
    ]
    for method in results.methods if methods is None else methods:
        lines.append(f"| {method} | " + " | ".join(cell(method, n) for n in lengths) + " |")
    return lines


def show_figure(results: PerplexityResults, method: str, length: int, style: str = "short") -> str:
    """`12.3 (12.1-12.6)`; long: with the mean over documents and bits per byte behind it."""
    figure = results.figure(method, length)
    if figure is None:
        return "–"
    low, high = show_perplexity(figure.low), show_perplexity(figure.high)
    shown = f"{show_perplexity(figure.perplexity)} ({low}-{high})"
    if figure.documents < len(results.documents):
        shown += f" {figure.documents} of {len(results.documents)} documents"
    if style == "short":
        return shown
    bits = "" if figure.bits_per_byte is None else f", {figure.bits_per_byte:.3f} bpb"
    return f"{shown} [{show_perplexity(figure.perplexity_macro)}{bits}]"


def show_difference(difference: LossDifference | None) -> str:
    if difference is None:
        return "–"
    star = "*" if difference.holds else ""
    return f"{difference.mean:+.3f}{star} ({difference.low:+.3f} {difference.high:+.3f})"


def show_perplexity(value: float) -> str:
    """Four digits: `12.34`, `1234`, `1.2e+07`."""
    if value >= 1e5:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - (value >= 100) - (value >= 1000))}f}"


def others_sentence(summary: PerplexitySummary) -> str:
    states = summary["states"]
    named = [f"{states[s]} pass(es) {w}" for s, w in _OTHERS.items() if states.get(s)]
    if summary["superseded"]:
        named.append(f"{summary['superseded']} older record(s) of passes made again since")
    return f"Not counted: {', '.join(named)}." if named else ""


_OTHERS = {"error": "failed", "not_run": "not run"}
