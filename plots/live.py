"""The map while it fills in: small enough to stand over the progress bar of a running sweep.

    none         dca
    0%  ▀▀│▀▀▀   0%  ▀▀│▀▀▀      two depths a line: upper and lower half of a letter
    50% ▀▀│▀▀▀   50% ▀▀│▀▀▀      │ the trained length; for the frontier there is no room
        2K 8K        2K 8K

Without colours a digit stands for a score, 0 none and 9 all found, one depth a line. Cells, order
and labels are those of plots.scene. Reads results, knows no run.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style as TextStyle

from longctx.eval.needle.results import NeedleResults
from longctx.plots.cells import MapCell, cells_of
from longctx.plots.palette import MUTED, RGB
from longctx.plots.scene import grid_of, trained_of
from longctx.plots.style import Style
from longctx.plots.terminal import CROSS, HATCH, TRAINED, Line

_GAP = "   "
LEGEND = f"9 all found, 0 none, {HATCH} error, {CROSS} too long, · not yet"


class LiveMap:
    """Print with `rich`: panels side by side as far as the width allows."""

    def __init__(self, results: NeedleResults, palette_name: str = "default") -> None:
        self._results = results
        self._style = Style(palette_name)
        self._grid = grid_of(results)
        self._column = max(map(len, self._grid.lengths)) + 1
        self._margin = max(map(len, self._grid.depths)) + 1
        trained = trained_of(results)
        self._border = None if trained is None else round(trained.border + 0.5)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        width = self._margin + self._column * self._grid.columns + len(_GAP)
        per_row = max(1, (options.max_width + len(_GAP)) // width)
        methods = self._results.methods
        for first in range(0, len(methods), per_row):
            panels = [self._panel(method, coloured) for method in methods[first : first + per_row]]
            for parts in zip(*panels, strict=True):
                for index, part in enumerate(parts):
                    if index:
                        yield Segment(_GAP)
                    yield from (Segment(text, style) for text, style in part)
                yield Segment.line()
        if not coloured:
            yield Segment(LEGEND[: options.max_width])
            yield Segment.line()

    def _panel(self, method: str, coloured: bool) -> list[Line]:
        grid, cells = self._grid, cells_of(self._results, method, self._style)
        whole = self._margin + self._column * grid.columns
        lines: list[Line] = [[(f"{method:<{whole}}"[:whole], TextStyle(bold=True))]]
        rows = [cells[at : at + grid.columns] for at in range(0, len(cells), grid.columns)]
        step = 2 if coloured else 1
        for index in range(0, grid.rows, step):
            depth = f"{grid.depths[index]:>{self._margin - 1}} "
            line: Line = [(depth, TextStyle(dim=True))]
            for pair in zip(*rows[index : index + step], strict=True):
                line += self._halves(pair) if coloured else [(self._digit(pair[0]), None)]
            lines.append(line)
        labels = "".join(f"{words:<{self._column}}" for words in grid.lengths)
        lines.append([(" " * self._margin + labels, TextStyle(dim=True))])
        return lines

    def _halves(self, pair: tuple[MapCell, ...]) -> Line:
        upper = _colour(pair[0]).hex
        lower = _colour(pair[1]).hex if len(pair) > 1 else None
        # An odd last depth has nothing under it: the terminal's own background.
        halves = "▀" * self._column, TextStyle(color=upper, bgcolor=lower)
        if not self._ends(pair[0]):
            return [halves]
        return [(halves[0][1:], halves[1]), (TRAINED, None)]

    def _digit(self, cell: MapCell) -> str:
        mark = "·"
        if cell.score is not None:
            mark = str(round(9 * cell.score))
        elif cell.hatched or cell.crossed:
            mark = HATCH if cell.hatched else CROSS
        return f"{mark:<{self._column - 1}}{TRAINED if self._ends(cell) else ' '}"

    def _ends(self, cell: MapCell) -> bool:
        """Whether the trained length runs along its right border."""
        return cell.column + 1 == self._border


def _colour(cell: MapCell) -> RGB:
    if cell.score is None and (cell.hatched or cell.crossed):
        return MUTED
    return cell.colour
