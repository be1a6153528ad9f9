"""What a map consists of, in data units, computed once: painters only place and colour it.

    heading, note
    1    ▔▔ ▔▔ | ▁▁ ▁▁      bars: the score of each length, with its interval
    0          |
    0 %  [ ][ ]| [ ][x]     cells: columns are lengths, rows depths, the start of the text on top
         [ ][ ]|- -[3/5]    frontier: along borders of cells; trained: a border between columns
    100 %[ ][ ]| [ ] -
         └────┘             bracket: the effective length
          ·---·--·          perplexity, where it was measured

Painters: plots.heatmap (PNG and SVG files), longctx.report.panels (the page), plots.terminal and
plots.live. Column 0 reaches from -0.5 to 0.5, row 0 likewise and downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.effective import Effective
from longctx.eval.needle.inference import THRESHOLD
from longctx.eval.needle.results import NeedleResults
from longctx.eval.needle.summary import again_words, heading
from longctx.plots import frontier
from longctx.plots.cells import MapCell, cells_of, difference_cells
from longctx.plots.difference import DifferenceMap, differences, differs_words
from longctx.plots.legend import LegendEntry, entries_of
from longctx.plots.perplexity_strip import Scale, StripPoint, Strips, points_of
from longctx.plots.style import Style

ACROSS = "prompt length in tokens"
DOWN = "needle depth"
DIFFERENCE_WORDS = ("same prompts,", "found more (+)", "or fewer (−)")
# Arms whose positions are not ours to describe.
_OTHERS = {"unverified": "an endpoint: its positions are not shown", "sim": "a simulated model"}


class Bar(NamedTuple):
    """A length's score over all depths and its 95 % interval."""

    column: int
    score: float
    low: float
    high: float


class Trained(NamedTuple):
    border: float  # between columns
    words: str


class Bracket(NamedTuple):
    """The effective length: over so many columns; none where the shortest length fails."""

    spanned: int
    open_end: bool  # no tested length failed
    words: str


class Grid(NamedTuple):
    """Labels of columns and rows; `down` names the rows, where they are depths."""

    lengths: tuple[str, ...]
    depths: tuple[str, ...]
    down: str

    @property
    def columns(self) -> int:
        return len(self.lengths)

    @property
    def rows(self) -> int:
        return len(self.depths)


@dataclass(frozen=True)
class Panel:
    """A map of one method, or of one method's difference to another."""

    grid: Grid
    heading: str
    note: str
    cells: tuple[MapCell, ...]
    told: str  # for who cannot see it
    trained: Trained | None = None
    frontier: tuple[tuple[float, float], ...] = ()
    bars: tuple[Bar, ...] = ()
    threshold: float | None = None
    bracket: Bracket | None = None
    perplexity: tuple[StripPoint, ...] | None = None  # None: this map has no such strip
    stars: tuple[int, ...] = ()  # columns at which the paired test holds
    star: bool = False  # whether it holds over all of them together


@dataclass(frozen=True)
class Scene:
    """The panels of a run in its order, each method's difference to the first, and the words."""

    grid: Grid
    title: str
    caption: str
    style: Style
    panels: tuple[Panel, ...]
    differences: tuple[Panel, ...]
    base: str  # the method that differences are to
    legend: tuple[LegendEntry, ...]

    @property
    def brackets(self) -> bool:
        return any(panel.bracket for panel in self.panels)

    @property
    def perplexity(self) -> bool:
        return any(panel.perplexity is not None for panel in self.panels)


def scene_of(
    results: NeedleResults,
    style: Style,
    strips: Strips | None = None,
    scale: Scale | None = None,
    compared: Sequence[DifferenceMap] | None = None,
) -> Scene:
    """Args:
    strips: perplexity of the run's model by method and length, on `scale`.
    compared: differences to the first method, where somebody has computed them.
    """
    # One line for all panels: it stands where any of them has samples enough.
    brackets = any(results.effective(method).enough_samples for method in results.methods)
    panels = tuple(
        panel_of(
            *(results, method, style),
            threshold=brackets,
            perplexity=(strips.get(method, {}), scale) if strips and scale is not None else None,
        )
        for method in results.methods
    )
    base = results.methods[0]
    found: Sequence[DifferenceMap] = ()
    if not style.plain:
        found = differences(results) if compared is None else compared
    return Scene(
        grid=grid_of(results),
        title=headline(results),
        caption=f"text: {subtitle(results)}",
        style=style,
        panels=panels,
        differences=tuple(
            difference_panel(results, one, f"{one.method} − {base}") for one in found
        ),
        base=base,
        legend=() if style.plain else entries_of(results, brackets=brackets, differences=found),
    )


def grid_of(results: NeedleResults) -> Grid:
    return Grid(
        tuple(show_length(length) for length in results.lengths),
        tuple(show_depth(depth) for depth in results.depths),
        "" if results.depths == [None] else DOWN,
    )


def panel_of(
    results: NeedleResults,
    method: str,
    style: Style,
    *,
    threshold: bool = False,
    perplexity: tuple[Mapping[int, float], Scale] | None = None,
) -> Panel:
    grid, cells = grid_of(results), cells_of(results, method, style)
    told = _found_words(results, method)
    if style.plain:
        return Panel(grid, method, "", cells, told)
    effective, trained = results.effective(method), trained_of(results)
    points = None if perplexity is None else points_of(results.lengths, *perplexity)
    if points:
        told += f" Perplexity: {', '.join(_point_words(grid, point) for point in points)}."
    corners: Sequence[tuple[float, float]] = ()
    if trained is not None and results.trained_length is not None:
        corners = frontier.steps(results.lengths, results.depths, results.trained_length)
    return Panel(
        grid,
        method,
        _scheme_words(results.run["schemes"][method]),
        cells,
        told,
        trained=trained,
        frontier=tuple(corners),
        bars=_bars(results, method),
        threshold=THRESHOLD if threshold else None,
        bracket=_bracket(results.lengths, effective),
        perplexity=points,
    )


def difference_panel(results: NeedleResults, difference: DifferenceMap, heading: str) -> Panel:
    stars = [length for length in difference.stars if length in results.lengths]
    words = differs_words(difference)
    return Panel(
        grid_of(results),
        heading,
        words,
        difference_cells(results, difference),
        f"Difference map {heading}; by the paired test: {words}.",
        stars=tuple(results.lengths.index(length) for length in stars),
        star=difference.overall is not None and difference.overall.holds,
    )


def trained_of(results: NeedleResults) -> Trained | None:
    trained = results.trained_length
    if trained is None or not frontier.on_the_map(results.lengths, trained):
        return None
    return Trained(frontier.border(results.lengths, trained), f"trained {show_length(trained)}")


def _bars(results: NeedleResults, method: str) -> tuple[Bar, ...]:
    bars = []
    for column, length in enumerate(results.lengths):
        score = results.tally(method, length).score
        if score is not None:
            bars.append(Bar(column, score, *results.interval(method, length)))
    return tuple(bars)


def _bracket(lengths: Sequence[int], effective: Effective) -> Bracket | None:
    """None where samples are lacking: small maps stay clear."""
    if not effective.enough_samples:
        return None
    if effective.length is None:
        return Bracket(0, False, f"effective below {show_length(effective.first_fail or 0)}")
    spanned = sum(length <= effective.length for length in lengths)
    sign = "≥ " if effective.at_least else ""
    words = f"effective {sign}{show_length(effective.length)}"
    return Bracket(spanned, effective.at_least, words)


def headline(results: NeedleResults) -> str:
    return f"{heading(results)}: {Path(results.run['model']['name']).name}"


def subtitle(results: NeedleResults) -> str:
    run = results.run
    text, seed = str(run["haystack"]["id"]), f"seed {run['settings']['seed']}"
    # Generated prose has the seed in its name.
    if not text.endswith(seed):
        text = f"{text}, {seed}"
    repeats = run["grid"]["repeats"]
    place = "length" if run["grid"].get("spread") else "cell"
    samples = f"one sample a {place}" if repeats == 1 else f"{repeats} samples a {place}"
    if results.looks.first is not None:
        samples = again_words(results)
    elif results.stopping:
        samples = f"up to {samples}"
    if results.texts == "shared":
        samples += ", depths share texts"
    return f"{text}, {samples}"


def _scheme_words(scheme: Mapping[str, Any]) -> str:
    if scheme.get("method") in _OTHERS:
        return _OTHERS[scheme["method"]]
    parts = []
    if scheme.get("chunk_size"):
        parts.append(f"chunk {scheme['chunk_size']}, local {scheme['local_size']}")
    if scheme.get("factor"):
        parts.append(f"factor {scheme['factor']:g}")
    return ", ".join(parts) or "the model as trained"


def _found_words(results: NeedleResults, method: str) -> str:
    scores = []
    for length in results.lengths:
        score = results.tally(method, length).score
        told = "no score" if score is None else f"{score:.0%}"
        scores.append(f"{show_length(length)} {told}")
    return f"found per length: {', '.join(scores)}."


def _point_words(grid: Grid, point: StripPoint) -> str:
    return f"{grid.lengths[point.column]} {point.text}"
