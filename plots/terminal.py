"""The needle map as coloured text, one block per method: lengths across, depths down.

    none
      0%    _1/2_ │__0/3__ ╎ 0/3      │ the trained length      _ and ╎ the frontier
     50%          │        ╎__0/3__   ╱ error or cut off        × longer than the target takes

Paints a scene (plots.scene). Without colours every cell has its count, so that the map says the
same.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style as TextStyle
from rich.text import Text

from longctx.eval.needle.results import NeedleResults
from longctx.plots.cells import MapCell, Role
from longctx.plots.legend import Sign
from longctx.plots.scene import ACROSS, DOWN, Panel, Scene, scene_of
from longctx.plots.style import Style

_WIDTH = 7
HATCH, CROSS, NOT_RUN, TRAINED = "╱", "×", "–", "│"
_SIGNS = {
    Sign.NOT_RUN: NOT_RUN,
    Sign.HATCH: HATCH * 3,
    Sign.CROSS: CROSS,
    Sign.FRONTIER: "╎__",
}

Line = list[tuple[str, TextStyle | None]]


class TerminalMap:
    """Print with `rich`: a map per method, side by side as far as the width allows."""

    def __init__(self, results: NeedleResults, palette_name: str = "default") -> None:
        self._results = results
        self._palette = palette_name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        style = Style(self._palette, annotate="imperfect" if coloured else "all")
        scene = scene_of(self._results, style, compared=())
        blocks = [_Block(scene, panel, coloured=coloured) for panel in scene.panels]
        per_row = max(1, options.max_width // (max(block.width for block in blocks) + 2))
        for first in range(0, len(blocks), per_row):
            rows = [block.lines() for block in blocks[first : first + per_row]]
            for parts in zip(*rows, strict=True):
                for part in parts:
                    yield from (Segment(text, style) for text, style in part)
                    yield Segment("  ")
                yield Segment.line()
        yield from _legend(scene, coloured=coloured).__rich_console__(console, options)


class _Block:
    """One panel as lines of equal width."""

    def __init__(self, scene: Scene, panel: Panel, *, coloured: bool) -> None:
        grid, self._panel, self._coloured = panel.grid, panel, coloured
        texts = [cell.text for each in scene.panels for cell in each.cells]
        self._cell = max(_WIDTH, *(len(text) + 3 for text in texts), *map(_wide, grid.lengths))
        self._margin = max(map(len, grid.depths)) + 1
        self._names = max(len(each.heading) for each in scene.panels)
        corners = panel.frontier[::2]
        # By column: the frontier runs under so many rows.
        self._levels = {round(x + 0.5): round(y + 0.5) for x, y in corners}
        self._border = None if panel.trained is None else round(panel.trained.border + 0.5)

    @property
    def _inner(self) -> int:
        return max(self._cell * self._panel.grid.columns + 1, self._names)

    @property
    def width(self) -> int:
        return self._margin + self._inner

    def lines(self) -> list[Line]:
        grid = self._panel.grid
        name = f"{self._panel.heading:<{self._inner}}"
        lines: list[Line] = [[(" " * self._margin + name, TextStyle(bold=True))]]
        for row in range(grid.rows):
            line: Line = [(f"{grid.depths[row]:>{self._margin - 1}} ", None)]
            cells = self._panel.cells[row * grid.columns : (row + 1) * grid.columns]
            line += [self._painted(cell) for cell in cells]
            line.append((self._rest(TRAINED if self._border == grid.columns else " "), None))
            lines.append(line)
        labels = "".join(f"{words:^{self._cell}}" for words in grid.lengths)
        lines.append([(" " * self._margin + labels + self._rest(" "), None)])
        return lines

    def _rest(self, border: str) -> str:
        """What lies right of the last cell: under a long method's name too."""
        return f"{border:<{self._inner - self._cell * self._panel.grid.columns}}"

    def _painted(self, cell: MapCell) -> tuple[str, TextStyle]:
        fill = "_" if self._levels.get(cell.column) == cell.row + 1 else " "
        text = f"{self._left(cell) or fill}{self._words(cell):{fill}^{self._cell - 1}}"
        return text, TextStyle(color=cell.ink.hex, bgcolor=cell.colour.hex)

    def _left(self, cell: MapCell) -> str:
        """The line along the left border of a cell, if there is one."""
        if cell.column == self._border:
            return TRAINED
        before, here = (self._levels.get(column) for column in (cell.column - 1, cell.column))
        if before is None or here is None:
            return ""
        return "╎" if before <= cell.row < here else ""

    def _words(self, cell: MapCell) -> str:
        if cell.crossed:
            return CROSS
        if cell.hatched:
            return f"{HATCH}{cell.text or HATCH}{HATCH}"
        return NOT_RUN if cell.role is Role.EMPTY and not self._coloured else cell.text


def _wide(words: str) -> int:
    return len(words) + 2


def _legend(scene: Scene, *, coloured: bool) -> Text:
    parts = [f"down: {DOWN}, across: {ACROSS}"]
    trained = scene.panels[0].trained
    if trained is not None:
        parts.append(f"{TRAINED} {trained.words}")
    for sign, words in scene.legend:
        if sign in _SIGNS:
            shown = "grey" if sign is Sign.NOT_RUN and coloured else _SIGNS[sign]
            parts.append(f"{shown} {words}")
    if coloured:
        parts.append("no figures: all found")
    return Text("; ".join(parts), style="dim")
