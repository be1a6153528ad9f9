"""One panel of a scene with matplotlib: cells, lines over them, strips above and below.

Draws into axes that plots.heatmap placed; what it draws is in plots.scene.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from longctx.plots.cells import MapCell
from longctx.plots.difference import STAR
from longctx.plots.fonts import width_of
from longctx.plots.layout import Layout
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN
from longctx.plots.perplexity_strip import NOT_MEASURED, StripPoint, labelled
from longctx.plots.scene import Grid, Panel

DASHES = (0, (4, 2.5))
DOTS = (0, (1, 1.6))
_BRACKET = (0.36, 0.43)  # inches under the panel: its ends, its line
_BRACKET_LABEL = 0.5
_LETTER = 0.075  # inches that a letter of a label takes, about

_LARGEST, _SMALLEST = 9.5, 6.5  # points of the figures in a cell
_STRIP_SIZES = (8.5, 8.0, 7.5)  # points of perplexities, the largest that fits
_STRIP_RANGE = (-0.15, 1.6)  # the figures' room is on top


def draw_map(axes: Axes, panel: Panel, layout: Layout, *, first: bool) -> None:
    """Cells with their lines and labels."""
    _frame(axes, panel.grid, first=first, every=label_every(panel.grid, layout), size=10)
    for cell in panel.cells:
        draw_cell(axes, cell, layout.cell_width, layout.cell_height)
    top = -0.5 - layout.above / layout.cell_height
    _draw_trained(axes, panel, top=top)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if first and panel.grid.down:
        axes.set_ylabel(panel.grid.down, color=MUTED.hex, labelpad=6)
    if panel.bracket is not None:
        _draw_bracket(axes, panel, layout)


def draw_difference(axes: Axes, panel: Panel, layout: Layout, *, first: bool) -> None:
    _frame(axes, panel.grid, first=first, every=label_every(panel.grid, layout), size=9)
    for cell in panel.cells:
        draw_cell(axes, cell, layout.cell_width, layout.cell_height, edge=1.0)
    for column in panel.stars:
        _above(axes, STAR, column, -0.5, points=2, fontsize=10)
    for spine in axes.spines.values():
        spine.set(color=NOT_RUN.hex, linewidth=0.8)


def _frame(axes: Axes, grid: Grid, *, first: bool, every: int, size: float) -> None:
    axes.set_xlim(-0.5, grid.columns - 0.5)
    axes.set_ylim(grid.rows - 0.5, -0.5)
    shown = range(0, grid.columns, every)
    axes.set_xticks(shown, [grid.lengths[column] for column in shown])
    axes.set_yticks(range(grid.rows), grid.depths if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=size, pad=5)


def label_every(grid: Grid, layout: Layout) -> int:
    """One length label of so many, so that neighbours stay apart."""
    widest = max(width_of(words, 10) for words in grid.lengths)
    return max(1, -(-int(100 * (widest + 0.08)) // int(100 * layout.cell_width)))


def draw_cell(axes: Axes, cell: MapCell, width: float, height: float, *, edge: float = 1.6) -> None:
    """`width` and `height` in inches."""
    corner, ink = (cell.column - 0.5, cell.row - 0.5), cell.ink.hex
    border: dict[str, Any] = {"edgecolor": "white", "linewidth": edge}
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=cell.colour.hex, **border))
    if cell.hatched:
        hatch: dict[str, Any] = {"edgecolor": ink, "hatch": "////", "linewidth": 0}
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", **hatch))
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", **border))
    if cell.crossed:
        size = min(9, 45 * height, 45 * width)
        at: dict[str, Any] = {"marker": "x", "markersize": size, "markeredgewidth": 1.8}
        axes.plot(cell.column, cell.row, color=ink, **at)
    size = text_size(cell.text, width)
    if cell.text and size:
        text = axes.text(cell.column, cell.row, cell.text, ha="center", va="center", zorder=5)
        text.set(fontsize=size, color=ink)
        if cell.hatched:  # it passes behind the figures, not through them
            colour = cell.colour.hex
            text.set_bbox({"boxstyle": "square,pad=0.12", "facecolor": colour, "linewidth": 0})


def text_size(text: str, cell_width: float) -> float:
    """Points at which `text` fits a cell of so many inches; 0 where that could not be read."""
    size = min(_LARGEST, 72 * (cell_width - 0.04) / (0.62 * max(len(text), 1)))
    return size if size >= _SMALLEST else 0


def _draw_trained(axes: Axes, panel: Panel, *, top: float) -> None:
    """The trained length from `top`, in rows, through strip and cells; the frontier beyond it."""
    if panel.trained is None:
        return
    border, words = panel.trained
    grid = panel.grid
    axes.plot([border, border], [top, grid.rows - 0.5], color=INK.hex, linewidth=2, clip_on=False)
    inside = -0.5 < border < grid.columns - 0.5
    ha = "center" if inside else ("left" if border < 0 else "right")
    _above(axes, words, border, top, points=5, fontsize=8.5, ha=ha)
    if panel.frontier:
        xs, ys = zip(*panel.frontier, strict=True)
        # White under black: the line must show on pale and on dark cells.
        axes.plot(xs, ys, color="white", linewidth=3.2, clip_on=False)
        axes.plot(xs, ys, color=INK.hex, linewidth=1.5, linestyle=DASHES, clip_on=False)


def _above(
    axes: Axes,
    words: str,
    x: float,
    y: float,
    *,
    points: float,
    fontsize: float,
    ha: str = "center",
) -> None:
    axes.annotate(
        *(words, (x, y), (0, points)),
        textcoords="offset points",
        ha=ha,
        va="bottom",
        fontsize=fontsize,
        color=INK.hex,
        annotation_clip=False,
    )


def _draw_bracket(axes: Axes, panel: Panel, layout: Layout) -> None:
    """From the shortest length to the effective one; open where none failed."""
    assert panel.bracket is not None
    spanned, open_end, words = panel.bracket
    left, right = -0.46, spanned - 0.54
    ends, line = (-inches / layout.panel_height for inches in _BRACKET)
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    if spanned:
        xs, ys = [left, left, right], [ends, line, line]
        if not open_end:
            xs, ys = [*xs, right], [*ys, ends]
        axes.plot(xs, ys, color=INK.hex, linewidth=1.6, solid_joinstyle="miter", **place)
        if open_end:
            axes.plot([right], [line], marker=">", markersize=5, color=INK.hex, **place)
    centred = spanned * layout.cell_width > len(words) * _LETTER
    axes.text(
        (left + right) / 2 if centred else -0.5,
        -(_BRACKET_LABEL if spanned else _BRACKET[0]) / layout.panel_height,
        words,
        ha="center" if centred else "left",
        va="top",
        fontsize=9.5,
        fontweight="bold",
        color=INK.hex,
        **place,
    )


def draw_scores(axes: Axes, panel: Panel, *, first: bool) -> None:
    """A bar at the score of each length, in a band that is its 95 % interval."""
    axes.set_xlim(-0.5, panel.grid.columns - 0.5)
    axes.set_ylim(-0.04, 1.04)
    if panel.threshold is not None:
        line: dict[str, Any] = {"linewidth": 1, "linestyle": DOTS, "zorder": 1.5}
        axes.axhline(panel.threshold, color=MUTED.hex, **line)
    for x, score, low, high in panel.bars:
        axes.add_patch(
            Rectangle((x - 0.4, low), 0.8, high - low, facecolor=BAND.hex, linewidth=0, zorder=1)
        )
        axes.plot(
            *([x - 0.4, x + 0.4], [score, score]),
            color=INK.hex,
            linewidth=2,
            solid_capstyle="butt",
            clip_on=False,
            zorder=3,
        )
    _strip_frame(axes)
    axes.set_yticks([0, 1], ["0", "1"] if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=9, pad=5)
    if first:
        axes.set_ylabel("score", color=MUTED.hex, fontsize=9, labelpad=6)


def draw_perplexity(axes: Axes, panel: Panel, *, first: bool, cell_width: float) -> None:
    """`cell_width` in inches."""
    axes.set_xlim(-0.5, panel.grid.columns - 0.5)
    axes.set_ylim(*_STRIP_RANGE)
    points = panel.perplexity or ()
    if points and panel.trained is not None:
        ends = [_STRIP_RANGE[0], 1.0]
        axes.plot([panel.trained.border] * 2, ends, color=INK.hex, linewidth=1.2, zorder=1)
    xs = [point.column for point in points]
    ys = [point.share for point in points]
    axes.plot(xs, ys, color=INK.hex, linewidth=1.6, marker="o", markersize=3, zorder=3)
    size, every = _size_and_step(points, cell_width)
    style: dict[str, Any] = {"fontsize": size, "ha": "center", "va": "top", "color": INK.hex}
    texts = {point.column: point.text for point in points}
    for x in labelled(xs, every):
        axes.text(x, _STRIP_RANGE[1], texts[x], **style)
    if not points:
        middle = (panel.grid.columns - 1) / 2
        axes.text(middle, 1.0, NOT_MEASURED, **{**style, "color": MUTED.hex})
    _strip_frame(axes)
    axes.set_yticks([])
    if first:
        place: dict[str, Any] = {"labelpad": 6, "rotation": 0, "ha": "right", "y": 0.2}
        axes.set_ylabel("perplexity", color=MUTED.hex, fontsize=9, **place)


def _strip_frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=NOT_RUN.hex, linewidth=1)


def _size_and_step(points: Sequence[StripPoint], cell_width: float) -> tuple[float, int]:
    """The size of the figures in points, and that one of so many columns shows its own."""
    widths: Mapping[int, float] = {}
    for size in _STRIP_SIZES:
        widths = {point.column: width_of(point.text, size) for point in points}
        pairs = [(widths[x], widths[x + 1]) for x in widths if x + 1 in widths]
        if all(sum(pair) / 2 + 0.05 <= cell_width for pair in pairs):
            return size, 1
    widest = max(widths.values()) * _STRIP_SIZES[0] / _STRIP_SIZES[-1]
    return _STRIP_SIZES[0], math.ceil((widest + 0.06) / cell_width)
