"""A panel of a scene placed for the page's SVG: coordinates in pixels. Holds no markup.

What is drawn, plots.scene says; text is text here, the template escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longctx.eval.format import depth_name
from longctx.plots.cells import MapCell, Role
from longctx.plots.perplexity_strip import NOT_MEASURED, StripPoint, labelled
from longctx.plots.scene import Panel

_LEFT, _RIGHT, _STRIP, _ABOVE, _UNDER = 58, 8, 40, 20, 22
_BRACKET = 30
_LOWER, _LOWER_GAP = 30, 34  # the strip of perplexity; its name and its figures above it
_LETTER = 6.6  # pixels that a letter of 11 px takes, about
_DOWN_NEEDS = 84  # pixels of height that the name of the rows takes


@dataclass(frozen=True)
class Words:
    x: float
    y: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class PlacedCell:
    """A cell at its place; `text` is empty where the cell is too narrow for it."""

    cell: MapCell
    x: float
    y: float
    text: str
    place: str  # arm, length and depth, the key of its samples

    @property
    def fill(self) -> str | None:
        """None: the page has its own colour for what is no data, by the cell's role."""
        return self.cell.colour.hex if self.cell.is_data else None

    @property
    def ink(self) -> str | None:
        return self.cell.ink.hex if self.cell.is_data else None


@dataclass(frozen=True)
class Strip:
    """Perplexity under a map."""

    name: Words
    top: float
    bottom: float
    line: str
    dots: list[Words]
    figures: list[Words]


@dataclass(frozen=True)
class Drawing:
    panel: Panel
    frame: Frame
    height: float
    told: str
    shapes: list[PlacedCell]
    bands: list[tuple[float, float, float, float]]  # x, y, width, height
    scores: list[tuple[float, float, float]]  # x, y, width
    threshold: float | None
    trained: Words | None
    frontier: str
    bracket: str
    bracket_words: Words | None
    stars: list[float]
    strip: Strip | None
    lengths: list[Words]
    depths: list[Words]
    down: Words | None


@dataclass(frozen=True)
class Frame:
    """Where cells lie."""

    cell_width: float
    cell_height: float
    columns: int
    rows: int
    top: float
    left: float = _LEFT

    @classmethod
    def of(cls, panel: Panel) -> Frame:
        columns, rows = panel.grid.columns, panel.grid.rows
        cell_width = round(min(max(230 / columns, 22), 72), 1)
        cell_height = round(min(max(260 / rows, 15), 32), 1)
        return cls(
            cell_width, cell_height, columns, rows, _ABOVE + (_STRIP + 8 if panel.bars else 0)
        )

    @property
    def width(self) -> float:
        return round(self.right + _RIGHT, 1)

    @property
    def right(self) -> float:
        return round(_LEFT + self.cell_width * self.columns, 1)

    @property
    def bottom(self) -> float:
        return round(self.top + self.cell_height * self.rows, 1)

    def x(self, column: float) -> float:
        return round(_LEFT + (column + 0.5) * self.cell_width, 1)

    def y(self, row: float) -> float:
        return round(self.top + (row + 0.5) * self.cell_height, 1)


def drawing_of(panel: Panel, arms: Sequence[str], told: str) -> Drawing:
    """`arms` that its cells tell of: one, or the two of a difference."""
    frame, grid = Frame.of(panel), panel.grid
    height = frame.bottom + _UNDER + (_BRACKET if panel.bracket else 0)
    strip = None
    if panel.perplexity is not None:
        strip = _strip(frame, panel.perplexity, height + _LOWER_GAP)
        height = strip.bottom + 4
    widest = max(map(len, grid.lengths)) * _LETTER + 5
    every = max(1, -(-int(widest) // int(frame.cell_width)))
    bracket, bracket_words = _bracket(frame, panel)
    return Drawing(
        panel,
        frame,
        round(height, 1),
        told,
        shapes=[_shape(frame, cell, arms) for cell in panel.cells],
        bands=[
            (frame.x(x - 0.4), _strip_y(high), _bar(frame), round((high - low) * _STRIP, 1))
            for x, _, low, high in panel.bars
        ],
        scores=[
            (frame.x(bar.column - 0.4), _strip_y(bar.score), _bar(frame)) for bar in panel.bars
        ],
        threshold=None if panel.threshold is None else _strip_y(panel.threshold),
        trained=_trained(frame, panel),
        frontier=" ".join(f"{frame.x(column)},{frame.y(row)}" for column, row in panel.frontier),
        bracket=bracket,
        bracket_words=bracket_words,
        stars=[frame.x(column) for column in panel.stars],
        strip=strip,
        lengths=[
            Words(frame.x(column), frame.bottom + 15, words)
            for column, words in list(enumerate(grid.lengths))[::every]
        ],
        depths=[
            Words(_LEFT - 6, round(frame.y(row) + 4, 1), words, "end")
            for row, words in enumerate(grid.depths)
        ],
        down=_down(frame, grid.down),
    )


def _shape(frame: Frame, cell: MapCell, arms: Sequence[str]) -> PlacedCell:
    shown = cell.text if len(cell.text) * _LETTER <= frame.cell_width - 1 else ""
    # A difference's cell that was not compared has nothing to tell.
    told = arms if len(arms) == 1 or cell.role is not Role.EMPTY else ()
    places = " ".join(f"{arm}/{cell.length}/{depth_name(cell.depth)}" for arm in told)
    return PlacedCell(cell, frame.x(cell.column - 0.5), frame.y(cell.row - 0.5), shown, places)


def _strip_y(score: float) -> float:
    return round(_ABOVE + (1 - score) * _STRIP, 1)


def _bar(frame: Frame) -> float:
    return round(0.8 * frame.cell_width, 1)


def _down(frame: Frame, words: str) -> Words | None:
    """Up along the left side, where the rows are high enough together."""
    if not words or frame.bottom - frame.top < _DOWN_NEEDS:
        return None
    return Words(10, round((frame.top + frame.bottom) / 2, 1), words)


def _trained(frame: Frame, panel: Panel) -> Words | None:
    if panel.trained is None:
        return None
    at, half = frame.x(panel.trained.border), _LETTER * len(panel.trained.words) / 2
    anchor = "start" if at < half else ("end" if at + half > frame.width else "middle")
    return Words(at, 10, panel.trained.words, anchor)


def _bracket(frame: Frame, panel: Panel) -> tuple[str, Words | None]:
    if panel.bracket is None:
        return "", None
    spanned, open_end, words = panel.bracket
    line, ends = frame.bottom + _UNDER + 8, frame.bottom + _UNDER + 2
    left, right = frame.x(-0.46), frame.x(spanned - 0.54)
    if not spanned:
        return "", Words(left, line + 6, words, "start")
    path = f"M{left} {ends}V{line}H{right}"
    path += "m-5 -4l5 4l-5 4" if open_end else f"V{ends}"
    centred = right - left > _LETTER * len(words)
    x = round((left + right) / 2, 1) if centred else left
    return path, Words(x, line + 14, words, "middle" if centred else "start")


def _strip(frame: Frame, points: Sequence[StripPoint], top: float) -> Strip:
    name = Words(0, top - 20, "perplexity", "start")
    bottom = top + _LOWER + 5
    if not points:
        middle = round((_LEFT + frame.right) / 2, 1)
        return Strip(name, top, bottom, "", [], [Words(middle, top - 7, NOT_MEASURED)])
    dots = [
        Words(frame.x(one.column), round(top + (1 - one.share) * _LOWER, 1), one.told)
        for one in points
    ]
    texts = {point.column: point.text for point in points}
    widest = max(map(len, texts.values())) * _LETTER + 4
    every = max(1, math.ceil(widest / frame.cell_width))
    shown = labelled(list(texts), every)
    figures = [Words(frame.x(column), top - 7, texts[column]) for column in shown]
    line = " ".join(f"{dot.x},{dot.y}" for dot in dots)
    return Strip(name, top, bottom, line, dots, figures)
