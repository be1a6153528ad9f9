"""The needle map as coloured text, one block per method: lengths across, depths down.

Reads results that eval.summary loaded. Every cell carries its count as text, so that the map says
the same without colours.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.summary import Results, Tally
from longctx.plots.palette import NOT_RUN, RGB, palette

_WIDTH = 7


class TerminalMap:
    """Print with `rich`: a map per method, side by side as far as the width allows."""

    def __init__(self, results: Results, palette_name: str = "default") -> None:
        self._results = results
        self._palette = palette(palette_name)
        self._width = max([_WIDTH * len(results.lengths), *map(len, results.methods)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        results = self._results
        margin = max(len(show_depth(depth)) for depth in results.depths) + 1
        panel = margin + self._width + 2
        per_row = max(1, options.max_width // panel)
        for first in range(0, len(results.methods), per_row):
            methods = results.methods[first : first + per_row]
            for parts in zip(*(self._panel(method, margin) for method in methods), strict=True):
                for part in parts:
                    yield from (Segment(text, style) for text, style in part)
                    yield Segment("  ")
                yield Segment.line()
        yield from self._legend(console, options)

    def _panel(self, method: str, margin: int) -> list[list[tuple[str, Style | None]]]:
        results = self._results
        rest = " " * (self._width - _WIDTH * len(results.lengths))  # under a long method's name
        lines: list[list[tuple[str, Style | None]]] = [
            [(" " * margin + f"{method:<{self._width}}", Style(bold=True))]
        ]
        for depth in results.depths:
            line: list[tuple[str, Style | None]] = [(f"{show_depth(depth):>{margin - 1}} ", None)]
            for length in results.lengths:
                text, colour = self._cell(results.tally(method, length, depth))
                style = Style(color=_css(colour.ink), bgcolor=_css(colour))
                line.append((f"{text:^{_WIDTH}}", style))
            line.append((rest, None))
            lines.append(line)
        labels = "".join(f"{show_length(length):^{_WIDTH}}" for length in results.lengths)
        trained = results.trained_length
        beyond = [trained is not None and length > trained for length in results.lengths]
        ruler = "".join(("·" if is_beyond else "─") * _WIDTH for is_beyond in beyond)
        lines.append([(" " * margin + ruler + rest, Style(dim=True))])
        lines.append([(" " * margin + labels + rest, None)])
        return lines

    def _cell(self, tally: Tally) -> tuple[str, RGB]:
        if tally.score is not None:
            return f"{tally.total:g}/{tally.n}", self._palette.colour(tally.score)
        others = tally.others()
        for state, mark in (("error", "err"), ("truncated_output", "cut"), ("overflow", "×")):
            if others.get(state):
                return mark, NOT_RUN
        return "–", NOT_RUN

    def _legend(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = Text("down: depth of the needle, across: length of the prompt", style="dim")
        trained = self._results.trained_length
        if trained and trained < max(self._results.lengths):
            shown = show_length(trained)
            text.append(f"; dotted: beyond the trained {shown}")
        yield from text.__rich_console__(console, options)


def _css(colour: RGB) -> str:
    return colour.hex
