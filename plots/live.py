"""The map while it fills in: small enough to stand over the progress bar of a running sweep.

    none         dca
    0%  ▀▀▀▀▀▀   0%  ▀▀▀▀▀▀      two depths a line: upper and lower half of a letter
    50% ▀▀▀▀▀▀   50% ▀▀▀▀▀▀
        2K 8K        2K 8K

Without colours a digit stands for a score, 0 none and 9 all found, one depth a line. The colours
are those of the pictures. Reads results, knows no run.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.summary import Results, Tally
from longctx.plots.palette import MUTED, NOT_RUN, RGB, palette

_GAP = "   "
_MARKS = {"error": "e", "truncated_output": "c", "overflow": "x"}
LEGEND = "9 all found, 0 none, e error, c cut off, x too long, · not yet"

Line = list[tuple[str, Style | None]]


class LiveMap:
    """Print with `rich`: panels side by side as far as the width allows."""

    def __init__(self, results: Results, palette_name: str = "default") -> None:
        self._results = results
        self._palette = palette(palette_name)
        self._column = max(len(show_length(length)) for length in results.lengths) + 1
        self._margin = max(len(show_depth(depth)) for depth in results.depths) + 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        width = self._margin + self._column * len(self._results.lengths) + len(_GAP)
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
        lengths, depths = self._results.lengths, self._results.depths
        inner = self._column * len(lengths)
        whole = self._margin + inner
        lines: list[Line] = [[(f"{method:<{whole}}"[:whole], Style(bold=True))]]
        step = 2 if coloured else 1
        for index in range(0, len(depths), step):
            line: Line = [(f"{show_depth(depths[index]):>{self._margin - 1}} ", Style(dim=True))]
            for length in lengths:
                pair = [
                    self._results.tally(method, length, depth)
                    for depth in depths[index : index + step]
                ]
                line.append(self._halves(pair) if coloured else (self._digit(pair[0]), None))
            lines.append(line)
        labels = "".join(f"{show_length(length):<{self._column}}" for length in lengths)
        lines.append([(" " * self._margin + labels, Style(dim=True))])
        return lines

    def _halves(self, pair: list[Tally]) -> tuple[str, Style]:
        upper = self._colour(pair[0])
        lower = self._colour(pair[1]).hex if len(pair) > 1 else None
        # An odd last depth has nothing under it: the terminal's own background.
        return "▀" * self._column, Style(color=upper.hex, bgcolor=lower)

    def _colour(self, tally: Tally) -> RGB:
        if tally.score is not None:
            return self._palette.colour(tally.score)
        failed = any(tally.others().get(state) for state in _MARKS)
        return MUTED if failed else NOT_RUN

    def _digit(self, tally: Tally) -> str:
        mark = "·"
        if tally.score is not None:
            mark = str(round(9 * tally.score))
        else:
            others = tally.others()
            mark = next((sign for state, sign in _MARKS.items() if others.get(state)), mark)
        return f"{mark:<{self._column}}"
