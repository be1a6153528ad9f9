"""What the curve of a perplexity run consists of, in data units: painters only place and colour it.

    perplexity |        /  none 6.70     lines: one per method, in the order of the run
    (log)      |  __---/~~ yarn 3.03     bands: the 95 % interval of each length
               | ___________ dca 2.67    trained: a length, if it is on the map
               +----|--------
                512 1K 2K 4K  (log)

Painters: plots.perplexity (PNG and SVG files) and longctx.report.perplexity (the page).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longctx.eval.format import show_length
from longctx.eval.perplexity.files import show_perplexity
from longctx.eval.perplexity.summary import PerplexityResults
from longctx.plots.palette import RGB
from longctx.plots.perplexity_strip import CAP

ACROSS = "length in tokens"
UP = "perplexity (less is better)"
# Okabe and Ito's, told apart under every kind of colour blindness; markers repeat the distinction.
COLOURS = (
    *(RGB(86, 92, 104), RGB(213, 94, 0), RGB(0, 114, 178), RGB(0, 138, 100)),
    *(RGB(204, 121, 167), RGB(150, 110, 0), RGB(86, 160, 210)),
)
MARKERS = ("circle", "square", "diamond", "up", "down", "plus", "cross")
_STEPS = (
    (1, 2, 5),
    (1, 1.5, 2, 3, 4, 5, 7),
    (1, 1.2, 1.4, 1.7, 2, 2.4, 3, 3.5, 4, 5, 6, 8),
    tuple(tenth / 10 for tenth in range(10, 100)),
)


class CurvePoint(NamedTuple):
    length: int
    perplexity: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class Line:
    """`index` is the method's place in the run: colour and marker go by it."""

    index: int
    method: str
    points: tuple[CurvePoint, ...]
    positions: tuple[tuple[float, float], ...]  # perplexity by position, where it was asked for

    @property
    def label(self) -> str:
        return f"{self.method} {show_perplexity(self.points[-1].perplexity)}"

    @property
    def colour(self) -> RGB:
        return COLOURS[self.index % len(COLOURS)]

    @property
    def marker(self) -> str:
        return MARKERS[self.index % len(MARKERS)]


class Axis(NamedTuple):
    """Logarithmic, from low to high, with the places that carry a label."""

    low: float
    high: float
    labels: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """0 at its beginning, 1 at its end; what leaves it stays at its border."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class Curve:
    title: str
    captions: tuple[str, str]
    lines: tuple[Line, ...]
    x: Axis
    y: Axis
    trained: tuple[int, str] | None
    told: str  # for who cannot see it


def curve_of(results: PerplexityResults) -> Curve | None:
    """None where nothing was measured yet."""
    found = [_line(results, index, method) for index, method in enumerate(results.methods)]
    lines = [line for line in found if line.points]
    if not lines:
        return None
    lengths, trained = results.lengths, results.trained_length
    left, right = lengths[0], lengths[-1]
    x = Axis(
        left / 1.15,
        right * 1.15 if right > left else right * 2,
        tuple((length, show_length(length)) for length in lengths),
    )
    on_it = trained is not None and x.low < trained < x.high
    return Curve(
        title=f"Perplexity: {Path(results.run['model']['name']).name}",
        captions=_captions(results),
        lines=tuple(lines),
        x=x,
        y=_y_axis(lines),
        trained=(trained, f"trained {show_length(trained)}") if trained and on_it else None,
        told="Perplexity by length: " + "; ".join(map(_line_words, lines)),
    )


def _line(results: PerplexityResults, index: int, method: str) -> Line:
    points = []
    for length in results.lengths:
        figure = results.figure(method, length)
        if figure is not None:
            told = f"{method}, {show_length(length)}: {show_perplexity(figure.perplexity)}"
            points.append(CurvePoint(length, figure.perplexity, figure.low, figure.high, told))
    bins = results.bins(method) if points else []
    positions = tuple(((one.start + one.end) / 2, one.perplexity) for one in bins)
    return Line(index, method, tuple(points), positions)


def _line_words(line: Line) -> str:
    figures = ", ".join(show_perplexity(point.perplexity) for point in line.points)
    return f"{line.method} {figures}"


def _y_axis(lines: Sequence[Line]) -> Axis:
    """It ends where a broken arm would press the others flat."""
    worst = [max(point.high for point in line.points) for line in lines]
    low = min(point.low for line in lines for point in line.points) / 1.12
    high = min(max(worst), CAP * min(worst)) * 1.12
    return Axis(low, high, tuple((value, show_perplexity(value)) for value in ticks(low, high)))


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … within the axis; more where those are too few."""
    found: list[float] = []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        values = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in values if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def apart(ends: Sequence[float], step: float) -> list[float]:
    """Ascending places of labels, moved up where they would be nearer than `step`."""
    moved: list[float] = []
    for end in ends:
        moved.append(max(end, moved[-1] + step) if moved else end)
    return moved


def _captions(results: PerplexityResults) -> tuple[str, str]:
    view, text = results.view, results.run["text"]
    which = {
        "prefix": "tokens 2 to L",
        "position": f"the last {view['window']} tokens before L; thin: every position",
        "window": f"every token once, in windows of L moved by {view['stride']}",
        "rolling": "every token once, in windows of L side by side",
    }[view["metric"]]
    count, longest = len(results.documents), show_length(results.longest)
    return (
        f"{which} · {count} document(s) of {longest} tokens · bands: 95 % bootstrap",
        f"{text['id']} · {results.run['settings']['bos']}",
    )
