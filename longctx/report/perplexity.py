"""Perplexity runs in a report: figures, differences and a curve per run; strips for the maps.

Reads figures that eval.perplexity_summary computed. A strip stands under the map of the same model
in the same position scheme alone: names prove neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longctx.eval.needle.results import NeedleResults
from longctx.eval.perplexity.files import show_difference, show_figure
from longctx.eval.perplexity.summary import PerplexityResults, meaning
from longctx.plots.curve import ACROSS, UP, Curve, Line, apart, curve_of

# Each about 6 px across, from its middle.
_MARKERS = {
    "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "square": "m-2.7 -2.7h5.4v5.4h-5.4z",
    "diamond": "m0 -3.9l3.9 3.9l-3.9 3.9l-3.9 -3.9z",
    "up": "m0 -3.5l3.4 6.2h-6.8z",
    "down": "m0 3.5l3.4 -6.2h-6.8z",
    "plus": "m-1.2 -3.5h2.4v2.3h2.3v2.4h-2.3v2.3h-2.4v-2.3h-2.3v-2.4h2.3z",
    "cross": "m-3.2 -1.6l1.6 -1.6l1.6 1.6l1.6 -1.6l1.6 1.6l-1.6 1.6l1.6 1.6l-1.6 1.6l-1.6 -1.6"
    "l-1.6 1.6l-1.6 -1.6l1.6 -1.6z",
}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 256, 44, 128, 28, 42


@dataclass(frozen=True)
class ReportedPerplexityRun:
    path: Path
    results: PerplexityResults

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
    results: NeedleResults, runs: Sequence[ReportedPerplexityRun]
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


def view(run: ReportedPerplexityRun) -> dict[str, Any]:
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
        "curve": _placed(curve_of(results)),
    }


def _placed(curve: Curve | None) -> dict[str, Any] | None:
    """The curve in the units of the SVG."""
    if curve is None:
        return None
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(length: float) -> float:
        return round(_LEFT + (right - _LEFT) * curve.x.share(length), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - _TOP) * curve.y.share(value), 1)

    ends = sorted((-y(line.points[-1].perplexity), line.index) for line in curve.lines)
    places = apart([end for end, _ in ends], 14)
    label_y = {index: -place for place, (_, index) in zip(places, ends, strict=True)}
    return {
        **{"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": right},
        **{"top": _TOP, "bottom": bottom, "across": ACROSS, "up": UP},
        "lines": [_placed_line(line, x, y, label_y[line.index]) for line in curve.lines],
        "lengths": [(x(length), words) for length, words in curve.x.labels],
        "ticks": [(y(value), words) for value, words in curve.y.labels],
        "trained": None if curve.trained is None else (x(curve.trained[0]), curve.trained[1]),
        "captions": curve.captions,
        "alt": curve.told,
    }


def _placed_line(
    line: Line, x: Callable[[float], float], y: Callable[[float], float], label_y: float
) -> dict[str, Any]:
    upper = [f"{x(point.length)},{y(point.high)}" for point in line.points]
    lower = [f"{x(point.length)},{y(point.low)}" for point in reversed(line.points)]
    return {
        # The first one's grey would drown in a dark page.
        "colour": line.colour.hex if line.index else "currentColor",
        "marker": _MARKERS[line.marker],
        "points": " ".join(f"{x(one.length)},{y(one.perplexity)}" for one in line.points),
        "positions": " ".join(f"{x(place)},{y(value)}" for place, value in line.positions),
        "dots": [(x(one.length), y(one.perplexity), one.told) for one in line.points],
        "band": " ".join(upper + lower),
        "label": (_WIDTH - _RIGHT + 6, round(label_y + 4, 1), line.label),
    }
