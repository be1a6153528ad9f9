"""Perplexity runs in a report: figures, differences and a curve per run; strips for the maps.

Reads figures that eval.perplexity.summary computed. A strip stands under the map of the same model
in the same position scheme alone: names prove neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longctx.eval.format import show_length
from longctx.eval.needle.summary import Results as NeedleResults
from longctx.eval.perplexity.files import show_difference, show_figure, show_perplexity
from longctx.eval.perplexity.summary import Results, meaning
from longctx.plots.lower_strip import CAP
from longctx.plots.perplexity import COLOURS

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 240, 44, 128, 12, 26


@dataclass(frozen=True)
class PerplexityRun:
    path: Path
    results: Results

    @property
    def model(self) -> str:
        return Path(self.results.run["model"]["name"]).name

    @property
    def commands(self) -> list[str]:
        sessions = self.results.run.get("sessions", [])
        told = [str(session["command"]) for session in sessions if session.get("command")]
        return list(dict.fromkeys(told))

    def strips(self) -> dict[str, dict[int, float]]:
        """Perplexity by method and length."""
        found: dict[str, dict[int, float]] = {}
        for method in self.results.methods:
            for length in self.results.lengths:
                figure = self.results.figure(method, length)
                if figure is not None:
                    found.setdefault(method, {})[length] = figure.perplexity
        return found


def strips_for(
    results: NeedleResults, runs: Sequence[PerplexityRun]
) -> dict[str, dict[int, float]]:
    """What the first perplexity run of the same model says at the map's lengths.

    A method whose scheme differs there (another factor, other chunks) is left out.
    """
    for one in runs:
        if not _same_model(one.results.run, results.run):
            continue
        theirs, ours = one.results.run["schemes"], results.run["schemes"]
        found = {
            method: {n: value for n, value in row.items() if n in results.lengths}
            for method, row in one.strips().items()
            if method in ours and _positions(theirs[method]) == _positions(ours[method])
        }
        found = {method: row for method, row in found.items() if row}
        if found:
            return found
    return {}


def _same_model(one: Any, other: Any) -> bool:
    """By the weights' hash and the dtype: names prove nothing."""

    def identity(run: Any) -> tuple[Any, Any]:
        return run["model"].get("fingerprint"), run["settings"].get("dtype")

    return identity(one)[0] is not None and identity(one) == identity(other)


def _positions(scheme: Mapping[str, Any]) -> dict[str, Any]:
    """The scheme without where its numbers came from."""
    return {name: value for name, value in scheme.items() if name != "sources"}


def view(run: PerplexityRun) -> dict[str, Any]:
    """What the page shows of one run."""
    results = run.results
    lengths, methods = results.lengths, results.methods
    return {
        "run": run,
        "meaning": meaning(results),
        "lengths": lengths,
        "rows": [(m, [show_figure(results, m, n) for n in lengths]) for m in methods],
        "against": methods[0],
        "differences": [
            (m, [show_difference(results.difference(m, n)) for n in lengths]) for m in methods[1:]
        ],
        "curve": _curve(results),
    }


def _curve(results: Results) -> dict[str, Any] | None:
    """Lines on logarithmic axes, in the units of the SVG; the axis ends where a broken arm would
    press the others flat."""
    points = {
        method: [
            (length, figure.perplexity, figure.low, figure.high)
            for length in results.lengths
            if (figure := results.figure(method, length)) is not None
        ]
        for method in results.methods
    }
    points = {method: row for method, row in points.items() if row}
    if not points:
        return None
    lengths = results.lengths
    worst = [max(high for *_, high in row) for row in points.values()]
    low = min(low for row in points.values() for *_, low, _ in row) / 1.1
    high = min(max(worst), CAP * min(worst)) * 1.1
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    span = math.log(lengths[-1] / lengths[0]) or 1.0

    def x(length: float) -> float:
        return round(_LEFT + 10 + (right - _LEFT - 20) * math.log(length / lengths[0]) / span, 1)

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return round(bottom - (bottom - _TOP) * min(max(share, 0.0), 1.0), 1)

    lines: list[dict[str, Any]] = []
    taken: list[tuple[float, str]] = []
    ends = sorted(
        ((y(row[-1][1]), method) for method, row in points.items()), key=lambda end: end[0]
    )
    for end, method in ends:
        taken.append((max(end, taken[-1][0] + 14) if taken else end, method))
    places = {method: at for at, method in taken}
    for index, method in enumerate(results.methods):
        if method not in points:
            continue
        row = points[method]
        upper = [f"{x(n)},{y(h)}" for n, _, _, h in row]
        lower = [f"{x(n)},{y(lo)}" for n, _, lo, _ in reversed(row)]
        lines.append(
            {
                "method": method,
                "index": index,
                # The first one's grey would drown in a dark page.
                "colour": COLOURS[index % len(COLOURS)].hex if index else "currentColor",
                "points": " ".join(f"{x(n)},{y(v)}" for n, v, _, _ in row),
                "dots": [(x(n), y(v), f"{method}, {show_length(n)}: {show_perplexity(v)}")
                         for n, v, _, _ in row],
                "band": " ".join(upper + lower),
                "label": (right + 6, round(places[method] + 4, 1)),
                "last": show_perplexity(row[-1][1]),
            }
        )  # fmt: skip
    trained = results.trained_length
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": right,
        "top": _TOP,
        "bottom": bottom,
        "lines": lines,
        "lengths": [(x(n), show_length(n)) for n in lengths],
        "ticks": [(y(value), show_perplexity(value)) for value in _ticks(low, high)],
        "trained": None
        if trained is None or not lengths[0] <= trained <= lengths[-1]
        else (x(trained), f"trained {show_length(trained)}"),
        "alt": "Perplexity by length: "
        + "; ".join(
            f"{method} {', '.join(show_perplexity(v) for _, v, _, _ in row)}"
            for method, row in points.items()
        ),
    }


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … within the axis; more where those are too few."""
    for steps in (
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 7),
        (1, 1.2, 1.4, 1.7, 2, 2.4, 3, 3.5, 4, 5, 6, 8),
    ):
        start = math.floor(math.log10(low))
        found = [
            step * 10**power
            for power in range(start, math.ceil(math.log10(high)) + 1)
            for step in steps
            if low <= step * 10**power <= high
        ]
        if len(found) >= 3:
            return found
    return found
