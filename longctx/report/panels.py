"""A map as shapes with coordinates in pixels, for the page's SVG. Holds no markup.

The same picture as plots.heatmap draws: strip with bands, cells in all their states, trained
length, frontier, bracket. Text is text here; the template escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longctx.eval.format import depth_name, show_depth, show_length
from longctx.eval.needle.effective import THRESHOLD
from longctx.eval.needle.ranking import Arm
from longctx.eval.needle.summary import Results, Tally
from longctx.eval.perplexity.files import show_perplexity
from longctx.plots import frontier
from longctx.plots.difference import Difference, show_net
from longctx.plots.legend import WIDE
from longctx.plots.look import Look
from longctx.plots.lower_strip import Scale, labelled
from longctx.plots.overlays import effective_words
from longctx.plots.palette import difference_colour

_LEFT, _RIGHT, _STRIP, _ABOVE, _UNDER = 46, 8, 40, 20, 22
_BRACKET = 30
_LOWER, _LOWER_GAP = 30, 24  # the strip of perplexity, and its figures above it
_LETTER = 6.6  # pixels that a letter of 11 px takes, about
_STATES = {
    "error": "error",
    "truncated_output": "answer cut off",
    "overflow": "longer than the target takes",
    "not_run": "not run",
}


@dataclass(frozen=True)
class Cell:
    x: float
    y: float
    fill: str | None  # None: the page's colour for what has no score
    ink: str | None
    text: str
    label: str
    state: str  # scored, not_run, hatched or overflow; a scored one may be hatched too
    hatched: bool
    dot: bool
    place: str  # arm, length and depth, the key of its samples
    figures: str  # the same as a table has it


@dataclass(frozen=True)
class Lower:
    """The strip of perplexity under a map."""

    top: float
    bottom: float
    points: str
    dots: list[tuple[float, float, str]]  # x, y and words
    figures: list[tuple[float, str]]


@dataclass(frozen=True)
class Panel:
    width: float
    height: float
    top: float  # of the cells
    left: float
    cell_width: float
    cell_height: float
    columns: int
    rows: int
    cells: list[Cell]
    lengths: list[tuple[float, str]]
    depths: list[tuple[float, str]]
    bands: list[tuple[float, float, float, float]]  # x, y, width, height
    scores: list[tuple[float, float, float]]  # x, y, width
    threshold: float | None
    trained: tuple[float, str, str] | None  # x, words, anchor
    frontier: str
    bracket: str
    bracket_words: tuple[float, float, str, str] | None  # x, y, words, anchor
    stars: list[float]
    lower: Lower | None
    alt: str
    all_lengths: list[str]


def map_panel(
    arm: Arm, label: str, key: str, look: Look, perplexity: Mapping[int, float], scale: Scale | None
) -> Panel:
    """`perplexity` by length, where it was measured, on a `scale` for all maps."""
    results = arm.results
    frame = _Frame.of(results, strip=True)
    cells = [
        _cell(arm, x, y, frame, key, look)
        for y in range(len(results.depths))
        for x in range(len(results.lengths))
    ]
    bands, scores = [], []
    for x, length in enumerate(results.lengths):
        score = results.tally(arm.method, length).score
        if score is not None:
            low, high = results.interval(arm.method, length)
            left, wide = frame.x(x - 0.4), round(0.8 * frame.cell_width, 1)
            bands.append((left, _strip_y(high), wide, round((high - low) * _STRIP, 1)))
            scores.append((left, _strip_y(score), wide))
    effective = arm.effective
    words = effective_words(effective)
    bracket, told = "", None
    if words is not None:
        spanned = sum(length <= (effective.length or 0) for length in results.lengths)
        bracket, told = _bracket(frame, spanned, words, open_end=effective.at_least)
    trained, corners = results.trained_length, ""
    mark = None
    if trained is not None and frontier.on_the_map(results.lengths, trained):
        border = frontier.border(results.lengths, trained)
        words = f"trained {show_length(trained)}"
        at, half = frame.x(border), _LETTER * len(words) / 2
        anchor = "start" if at < half else ("end" if at + half > frame.width else "middle")
        mark = (at, words, anchor)
        steps = frontier.steps(results.lengths, results.depths, trained)
        corners = " ".join(f"{frame.x(column)},{frame.y(row)}" for column, row in steps)
    height = frame.bottom + _UNDER + (_BRACKET if told else 0)
    lower = None
    if perplexity and scale is not None:
        lower = _lower(frame, results.lengths, perplexity, scale, height + _LOWER_GAP)
        height = lower.bottom + 4
    return Panel(
        **frame.shared(results),
        height=height,
        cells=cells,
        bands=bands,
        scores=scores,
        threshold=_strip_y(THRESHOLD) if effective.enough_samples else None,
        trained=mark,
        frontier=corners,
        bracket=bracket,
        bracket_words=told,
        stars=[],
        lower=lower,
        alt=_map_alt(arm, label, perplexity),
    )


def difference_panel(
    results: Results, difference: Difference, words: str, keys: tuple[str, str]
) -> Panel:
    """`keys` of the two arms, for the samples of both."""
    frame = _Frame.of(results, strip=False)
    cells = []
    for y, depth in enumerate(results.depths):
        for x, length in enumerate(results.lengths):
            net, pairs = difference.cells.get((length, depth), (0.0, 0))
            colour = difference_colour(net / pairs) if pairs else None
            told = f"{show_net(net) or 'no difference'} of {pairs}" if pairs else "not compared"
            cells.append(
                Cell(
                    x=frame.x(x - 0.5),
                    y=frame.y(y - 0.5),
                    fill=colour.hex if colour else None,
                    ink=colour.ink.hex if colour else None,
                    text=_fits(show_net(net), frame) if pairs else "",
                    label=f"{show_length(length)} at {show_depth(depth)}: {told}",
                    state="scored" if pairs else "not_run",
                    hatched=False,
                    dot=False,
                    place=" ".join(_place(key, length, depth) for key in keys) if pairs else "",
                    figures="",
                )
            )
    stars = [length for length in difference.stars if length in results.lengths]
    held = ", ".join(show_length(length) for length in stars) or "no length"
    return Panel(
        **frame.shared(results),
        height=frame.bottom + _UNDER,
        cells=cells,
        bands=[],
        scores=[],
        threshold=None,
        trained=None,
        frontier="",
        bracket="",
        bracket_words=None,
        stars=[frame.x(results.lengths.index(length)) for length in stars],
        lower=None,
        alt=f"Difference map {words}; the paired test holds at {held}.",
    )


@dataclass(frozen=True)
class _Frame:
    cell_width: float
    cell_height: float
    columns: int
    rows: int
    top: float

    @classmethod
    def of(cls, results: Results, *, strip: bool) -> _Frame:
        columns, rows = len(results.lengths), len(results.depths)
        cell_width = round(min(max(230 / columns, 22), 72), 1)
        cell_height = round(min(max(260 / rows, 15), 32), 1)
        return cls(cell_width, cell_height, columns, rows, _ABOVE + (_STRIP + 8 if strip else 0))

    @property
    def width(self) -> float:
        return _LEFT + self.cell_width * self.columns + _RIGHT

    @property
    def bottom(self) -> float:
        return self.top + self.cell_height * self.rows

    def x(self, column: float) -> float:
        return round(_LEFT + (column + 0.5) * self.cell_width, 1)

    def y(self, row: float) -> float:
        return round(self.top + (row + 0.5) * self.cell_height, 1)

    def shared(self, results: Results) -> dict[str, Any]:
        widest = max(len(show_length(length)) for length in results.lengths) * _LETTER + 5
        every = max(1, -(-int(widest) // int(self.cell_width)))
        lengths = list(enumerate(results.lengths))[::every]
        return {
            "width": round(self.width, 1),
            "top": self.top,
            "left": _LEFT,
            "cell_width": self.cell_width,
            "cell_height": self.cell_height,
            "columns": self.columns,
            "rows": self.rows,
            "lengths": [(self.x(x), show_length(length)) for x, length in lengths],
            "all_lengths": [show_length(length) for length in results.lengths],
            "depths": [(self.y(y), show_depth(d)) for y, d in enumerate(results.depths)],
        }


def _strip_y(score: float) -> float:
    return round(_ABOVE + (1 - score) * _STRIP, 1)


def _cell(arm: Arm, x: int, y: int, frame: _Frame, key: str, look: Look) -> Cell:
    length, depth = arm.results.lengths[x], arm.results.depths[y]
    tally = arm.results.tally(arm.method, length, depth)
    others = tally.others()
    hatched = bool(others.get("error") or others.get("truncated_output"))
    state = "overflow" if others.get("overflow") else ("hatched" if hatched else "not_run")
    colour = None if tally.score is None else look.colours.colour(tally.score)
    shows = tally.n and look.shows_count(tally.total, tally.n) and state != "overflow"
    low, high = tally.interval
    return Cell(
        x=frame.x(x - 0.5),
        y=frame.y(y - 0.5),
        fill=colour.hex if colour else None,
        ink=colour.ink.hex if colour else None,
        text=_fits(f"{tally.total:g}/{tally.n}", frame) if shows else "",
        label=f"{show_length(length)} at {show_depth(depth)}: {tally_words(tally)}",
        state="scored" if tally.n and state != "overflow" else state,
        hatched=hatched,
        dot=bool(tally.n) and high - low > WIDE,
        place=_place(key, length, depth),
        figures=_figures(tally),
    )


def _place(key: str, length: int, depth: float | None) -> str:
    return f"{key}/{length}/{depth_name(depth)}"


def _lower(
    frame: _Frame, lengths: list[int], found: Mapping[int, float], scale: Scale, top: float
) -> Lower:
    columns = [x for x, length in enumerate(lengths) if length in found]
    values = {x: found[lengths[x]] for x in columns}
    at = {x: (frame.x(x), round(top + (1 - scale.share(values[x])) * _LOWER, 1)) for x in columns}
    widest = max(len(show_perplexity(value)) for value in values.values()) * _LETTER + 4
    every = max(1, math.ceil(widest / frame.cell_width))
    return Lower(
        top=top,
        bottom=top + _LOWER + 5,
        points=" ".join(f"{x},{y}" for x, y in at.values()),
        dots=[
            (*at[x], f"{show_length(lengths[x])}: perplexity {show_perplexity(values[x])}")
            for x in columns
        ],
        figures=[(frame.x(x), show_perplexity(values[x])) for x in labelled(columns, every)],
    )


def tally_words(tally: Tally) -> str:
    """`2 of 3 found, 1 error`."""
    parts = [f"{tally.total:g} of {tally.n} found"] if tally.n else []
    parts += [f"{count} {_STATES[state]}" for state, count in _known(tally.others())]
    return ", ".join(parts)


def _figures(tally: Tally) -> str:
    """`2/3 +1 error`."""
    parts = [f"{tally.total:g}/{tally.n}"] if tally.n else []
    parts += [f"+{count} {_STATES[state]}" for state, count in _known(tally.others())]
    return " ".join(parts).removeprefix("+")


def _known(states: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(state, states[state]) for state in _STATES if states.get(state)]


def _fits(text: str, frame: _Frame) -> str:
    return text if len(text) * _LETTER <= frame.cell_width - 1 else ""


def _bracket(
    frame: _Frame, spanned: int, words: str, *, open_end: bool
) -> tuple[str, tuple[float, float, str, str]]:
    line, ends = frame.bottom + _UNDER + 8, frame.bottom + _UNDER + 2
    left, right = frame.x(-0.46), frame.x(spanned - 0.54)
    if not spanned:
        return "", (left, line + 6, words, "start")
    path = f"M{left} {ends}V{line}H{right}"
    path += "m-5 -4l5 4l-5 4" if open_end else f"V{ends}"
    centred = right - left > _LETTER * len(words)
    x = round((left + right) / 2, 1) if centred else left
    return path, (x, line + 14, words, "middle" if centred else "start")


def _map_alt(arm: Arm, label: str, perplexity: Mapping[int, float]) -> str:
    scores = []
    for length in arm.results.lengths:
        score = arm.results.tally(arm.method, length).score
        told = "no score" if score is None else f"{score:.0%}"
        scores.append(f"{show_length(length)} {told}")
    told = f"Needle map of {label}, found per length: {', '.join(scores)}."
    if not perplexity:
        return told
    figures = [f"{show_length(n)} {show_perplexity(perplexity[n])}" for n in sorted(perplexity)]
    return f"{told} Perplexity: {', '.join(figures)}."
