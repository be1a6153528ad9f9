"""Where everything lies in a picture of one run, in inches. Pure functions of counts.

    top          title
    rows         strip, panel, tick labels, bracket, strip of perplexity      x rows of panels
    differences  stars, panel, tick labels               x the same rows, the first place left free
    bottom       legend

Draws nothing and knows no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PAGE = 12.0  # the width that cells grow into
_WIDEST = 14.0  # more panels in a row may take so much, with the narrowest cells
NARROWEST = 7.4  # the title's and the legend's need, however small the grid
_SIDES = 2.0  # labels on the left, colour bar on the right
_GAP_X = 0.42
_PANELS_PER_ROW = 4
_CELL_WIDTH = (0.27, 1.6)  # text of 7.5 points still fits the narrowest
_CELL_HEIGHT = (0.2, 0.62)
_DIFFERENCE = 0.75  # of a cell's height, in the second row
_LOWER_STRIP, _LOWER_GAP = 0.44, 0.14
_DIFFERENCE_WORDS = 0.75  # where panels stand in one column, above the first difference


class Box(NamedTuple):
    """Left, bottom, width and height as shares of the figure."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    columns: int
    rows: int
    cell_width: float
    cell_height: float
    lengths: int
    depths: int
    brackets: bool
    differences: bool
    least_width: float = NARROWEST
    legend_rows: int = 1
    perplexity: bool = False
    plain: bool = False  # no strips, no notes, no legend
    titled: bool = True

    left: float = 0.95
    right: float = 1.05
    strip: float = 0.5
    strip_gap: float = 0.1
    gap_x: float = _GAP_X
    star_row: float = 0.2

    @property
    def above(self) -> float:
        """From a panel up to the top of its strip."""
        return 0.0 if self.plain else self.strip + self.strip_gap

    @property
    def top(self) -> float:
        if self.plain:
            return 1.0 if self.titled else 0.5
        return 1.55 + self.above

    @property
    def under(self) -> float:
        """From a panel down past its labels, bracket and strip of perplexity."""
        return self.labels + (_LOWER_STRIP + _LOWER_GAP if self.perplexity else 0.0)

    @property
    def labels(self) -> float:
        """From a panel down past its labels and bracket."""
        return 0.68 if self.brackets else 0.38

    @property
    def bottom(self) -> float:
        if self.plain:
            return self.labels + 0.3  # what the lengths are
        labels = 0.38 if self.differences else self.under
        return labels + 0.47 + 0.19 * (self.legend_rows - 1)

    @property
    def gap_y(self) -> float:
        return self.under + (0.4 if self.plain else 0.85) + self.above

    @property
    def panel_width(self) -> float:
        return self.cell_width * self.lengths

    @property
    def panel_height(self) -> float:
        return self.cell_height * self.depths

    @property
    def difference_height(self) -> float:
        return max(self.cell_height * _DIFFERENCE, _CELL_HEIGHT[0]) * self.depths

    @property
    def difference_gap(self) -> float:
        """Above a difference panel: labels of what is over it, its name and its stars."""
        return 0.38 + 0.36 + self.star_row

    @property
    def width(self) -> float:
        return max(self.panels_right + self.right, self.least_width)

    @property
    def panels_right(self) -> float:
        panels = self.columns * self.panel_width + (self.columns - 1) * self.gap_x
        return self.left + panels

    @property
    def _differences_top(self) -> float:
        """From the top of the figure to the first difference panel."""
        panels = self.rows * self.panel_height + (self.rows - 1) * self.gap_y
        words = _DIFFERENCE_WORDS if self.columns == 1 else 0.0
        return self.top + panels + self.under - 0.26 + self.difference_gap + words

    @property
    def height(self) -> float:
        if self.differences:
            rows = self.rows - self._free_rows
            panels = rows * self.difference_height + (rows - 1) * self.difference_gap
            return self._differences_top + panels + self.bottom
        panels = self.rows * self.panel_height + (self.rows - 1) * self.gap_y
        return self.top + panels + self.bottom

    @property
    def _free_rows(self) -> int:
        """The first method has no difference: in one column its place would be a whole row."""
        return 1 if self.columns == 1 else 0

    def panel(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        down = self.top + row * (self.panel_height + self.gap_y)
        return self._box(self._x(column), down, self.panel_width, self.panel_height)

    def strip_of(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        down = self.top + row * (self.panel_height + self.gap_y) - self.above
        return self._box(self._x(column), down, self.panel_width, self.strip)

    def lower_strip_of(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        down = self.top + row * (self.panel_height + self.gap_y) + self.panel_height + self.labels
        return self._box(self._x(column), down + _LOWER_GAP, self.panel_width, _LOWER_STRIP)

    def difference(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        row -= self._free_rows
        down = self._differences_top + row * (self.difference_height + self.difference_gap)
        return self._box(self._x(column), down, self.panel_width, self.difference_height)

    def difference_words(self) -> tuple[float, float]:
        """Left and top of what the second row is called, as shares of the figure."""
        up = self.star_row + 0.2 + (_DIFFERENCE_WORDS if self.columns == 1 else 0.0)
        return self.left / self.width, 1 - (self._differences_top - up) / self.height

    def bar(self, panel: Box) -> Box:
        """The colour bar beside a row of panels, as high as they are but no pillar."""
        height = min(panel.height, 2.6 / self.height)
        x, width = (self.panels_right + 0.3) / self.width, 0.16 / self.width
        return Box(x, panel.y + panel.height - height, width, height)

    def _x(self, column: int) -> float:
        return self.left + column * (self.panel_width + self.gap_x)

    def _box(self, x: float, down: float, width: float, height: float) -> Box:
        y = self.height - down - height
        return Box(x / self.width, y / self.height, width / self.width, height / self.height)


def layout_for(
    methods: int,
    lengths: int,
    depths: int,
    *,
    brackets: bool = False,
    differences: bool = False,
    perplexity: bool = False,
    plain: bool = False,
    titled: bool = True,
    least_width: float = NARROWEST,
) -> Layout:
    """As many panels side by side as fit with readable cells, evenly spread over rows."""
    narrowest = _CELL_WIDTH[0] * lengths + _GAP_X
    fit = max(1, int((_WIDEST - _SIDES + _GAP_X) / narrowest))
    rows = -(-methods // min(_PANELS_PER_ROW, fit))
    columns = -(-methods // rows)
    room = PAGE - _SIDES - _GAP_X * (columns - 1)
    # A map reads best as wide cells in a panel that is not taller than a page.
    return Layout(
        columns,
        rows,
        _within(room / columns / lengths, *_CELL_WIDTH),
        _within(3.4 / depths, *_CELL_HEIGHT),
        lengths,
        depths,
        brackets,
        differences,
        least_width,
        perplexity=perplexity,
        plain=plain,
        titled=titled,
    )


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
