"""The needle map as a picture: heatmap.png and heatmap.svg of a run folder.

One panel per method on one fixed scale, so that panels and runs compare at a glance:

         trained length
                |
    0 %  [ ][ ] | [ ][x]      columns: lengths as equal cells
         [ ][ ] |- -[3/5]     rows: depths, the start of the document on top
    100 %[ ][ ] | [ ][ ]      dashed: one trained window before the question

Reads records and draws; computes no score. Equal folders give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from longctx.eval.config import show_depth, show_length
from longctx.eval.summary import Results, Tally, load
from longctx.plots.palette import INK, MUTED, NOT_RUN, PALETTES, Palette, palette

DPI = 200
_PANELS_PER_ROW = 4
_NARROWEST = 7.4  # inches: the title's and the legend's need, however small the grid
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters everywhere
    "font.size": 10,
    "hatch.linewidth": 0.9,
    "svg.hashsalt": "longctx",  # ids in the file would be random otherwise
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Layout:
    """Inches. Cells grow with the room there is, within limits that keep text readable."""

    columns: int
    rows: int
    cell_width: float
    cell_height: float
    lengths: int
    depths: int

    left: float = 0.95
    right: float = 1.05
    top: float = 1.62
    bottom: float = 0.92
    gap_x: float = 0.42
    gap_y: float = 1.3

    @property
    def panel_width(self) -> float:
        return self.cell_width * self.lengths

    @property
    def panel_height(self) -> float:
        return self.cell_height * self.depths

    @property
    def width(self) -> float:
        return max(self.panels_right + self.right, _NARROWEST)

    @property
    def panels_right(self) -> float:
        panels = self.columns * self.panel_width + (self.columns - 1) * self.gap_x
        return self.left + panels

    @property
    def height(self) -> float:
        panels = self.rows * self.panel_height + (self.rows - 1) * self.gap_y
        return self.top + panels + self.bottom


def layout_for(methods: int, lengths: int, depths: int) -> Layout:
    rows = -(-methods // _PANELS_PER_ROW)
    columns = -(-methods // rows)
    room = 12.0 - 2.0 - 0.42 * (columns - 1)
    cell_width = min(max(room / columns / lengths, 0.42), 1.6)
    # A map reads best as wide cells in a panel that is not taller than a page.
    cell_height = min(max(3.4 / depths, 0.26), 0.62)
    return Layout(columns, rows, cell_width, cell_height, lengths, depths)


def draw(folder: Path, palette_name: str = "default") -> list[Path]:
    """Write heatmap.png and heatmap.svg into the run folder; returns their paths."""
    figure = figure_of(load(folder), palette(palette_name))
    files = [folder / "heatmap.png", folder / "heatmap.svg"]
    with mpl.rc_context(_STYLE):
        # No date and no version in the files: the same records give the same bytes.
        figure.savefig(files[0], dpi=DPI, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def figure_of(results: Results, colours: Palette) -> Figure:
    with mpl.rc_context(_STYLE):
        layout = layout_for(len(results.methods), len(results.lengths), len(results.depths))
        figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
        FigureCanvasAgg(figure)
        for index, method in enumerate(results.methods):
            row, column = divmod(index, layout.columns)
            axes = _add_panel_axes(figure, layout, row, column)
            _draw_panel(axes, results, method, colours, first=column == 0)
        _draw_colour_bar(figure, layout, colours)
        _draw_words(figure, layout, results)
        return figure


def _add_panel_axes(figure: Figure, layout: Layout, row: int, column: int) -> Axes:
    x = layout.left + column * (layout.panel_width + layout.gap_x)
    y = layout.height - layout.top - layout.panel_height
    y -= row * (layout.panel_height + layout.gap_y)
    box = (
        x / layout.width,
        y / layout.height,
        layout.panel_width / layout.width,
        layout.panel_height / layout.height,
    )
    return figure.add_axes(box)


def _draw_panel(
    axes: Axes, results: Results, method: str, colours: Palette, *, first: bool
) -> None:
    lengths, depths = results.lengths, results.depths
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    for x, length in enumerate(lengths):
        for y, depth in enumerate(depths):
            _draw_cell(axes, x, y, results.tally(method, length, depth), colours)
    _draw_trained(axes, lengths, depths, results.trained_length)

    axes.set_xticks(range(len(lengths)), [show_length(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [show_depth(depth) for depth in depths] if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=10, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if first:
        axes.set_ylabel("needle depth", color=MUTED.hex, labelpad=6)
    axes.annotate(
        method,
        (0, 1),
        (0, 39),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=12.5,
        fontweight="bold",
        color=INK.hex,
    )
    axes.annotate(
        _scheme_words(results.run["schemes"][method]),
        (0, 1),
        (0, 26),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        color=MUTED.hex,
    )


def _draw_cell(axes: Axes, x: int, y: int, tally: Tally, colours: Palette) -> None:
    others = tally.others()
    colour = NOT_RUN if tally.score is None else colours.colour(tally.score)
    ink = MUTED if tally.score is None else colour.ink
    hatched = bool(others.get("error") or others.get("truncated_output"))
    corner = (x - 0.5, y - 0.5)
    fill = "white" if hatched and not tally.n else colour.hex
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=fill, linewidth=0))
    if hatched:
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor="none", edgecolor=ink.hex, hatch="////", linewidth=0)
        )
    axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor="white", linewidth=1.6))
    if others.get("overflow"):
        axes.plot(x, y, marker="x", markersize=9, markeredgewidth=1.8, color=ink.hex)
    elif tally.n and tally.total < tally.n:
        text = axes.text(x, y, f"{tally.total:g}/{tally.n}", ha="center", va="center", zorder=5)
        text.set(fontsize=9.5, color=ink.hex)
        # Hatching and the frontier may pass behind the figures.
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground=colour.hex)])


def _draw_trained(
    axes: Axes, lengths: Sequence[int], depths: Sequence[float], trained: int | None
) -> None:
    """A line behind the last trained length, and in each column beyond it the frontier."""
    if trained is None or trained < lengths[0] // 2 or trained >= 2 * lengths[-1]:
        return
    border = sum(length <= trained for length in lengths) - 0.5
    axes.plot(
        [border, border], [-0.5, len(depths) - 0.5], color=INK.hex, linewidth=2, clip_on=False
    )
    axes.annotate(
        f"trained {show_length(trained)}",
        (border, -0.5),
        (0, 10),
        textcoords="offset points",
        ha="center" if -0.5 < border < len(lengths) - 0.5 else ("left" if border < 0 else "right"),
        fontsize=8.5,
        color=INK.hex,
        annotation_clip=False,
    )
    xs: list[float] = []
    ys: list[float] = []
    for x, length in enumerate(lengths):
        if length > trained:
            level = _row_of(100 * (1 - trained / length), depths)
            xs += [x - 0.5, x + 0.5]
            ys += [level, level]
    if xs:
        # White under black: the line must show on pale and on dark cells.
        axes.plot(xs, ys, color="white", linewidth=3.2, alpha=0.85)
        axes.plot(xs, ys, color=INK.hex, linewidth=1.5, linestyle=(0, (4, 2.5)))


def _row_of(depth: float, depths: Sequence[float]) -> float:
    """Where a depth lies among the rows: linear between their centres and beyond them."""
    if len(depths) == 1:
        return (depth - depths[0]) / 100
    index = int(np.clip(np.searchsorted(depths, depth) - 1, 0, len(depths) - 2))
    low, high = depths[index], depths[index + 1]
    row = index + (depth - low) / (high - low)
    return float(np.clip(row, -0.5, len(depths) - 0.5))


def _draw_colour_bar(figure: Figure, layout: Layout, colours: Palette) -> None:
    height = min(layout.panel_height, 2.6)
    bottom = layout.height - layout.top - layout.panel_height
    box = (
        (layout.panels_right + 0.3) / layout.width,
        bottom / layout.height,
        0.16 / layout.width,
        height / layout.height,
    )
    axes = figure.add_axes(box)
    stops = [tuple(part / 255 for part in stop) for stop in colours.stops]
    cmap = LinearSegmentedColormap.from_list(colours.name, stops)
    mappable = mpl.cm.ScalarMappable(Normalize(0, 1), cmap)
    bar = figure.colorbar(mappable, cax=axes, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.set_yticklabels(["0", "0.5", "1"])
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK.hex)
    bar.ax.set_title("score", fontsize=9, color=MUTED.hex, loc="left", pad=7)


def _draw_words(figure: Figure, layout: Layout, results: Results) -> None:
    run = results.run
    x = layout.left / layout.width

    def place(inches: float, text: str, **style: Any) -> None:
        y = 1 - inches / layout.height if inches >= 0 else -inches / layout.height
        figure.text(x, y, text, ha="left", va="center", **style)

    name = Path(run["model"]["name"]).name
    place(0.34, f"Needle in a haystack: {name}", fontsize=15, fontweight="bold", color=INK.hex)
    repeats = run["grid"]["repeats"]
    samples = "one sample a cell" if repeats == 1 else f"{repeats} samples a cell"
    place(
        0.64,
        f"text: {run['haystack']['id']}, seed {run['settings']['seed']}, {samples}"
        " · across: prompt length in tokens",
        fontsize=9.5,
        color=MUTED.hex,
    )
    states = [record["status"] for record in results.records]
    errors = states.count("error") + states.count("truncated_output")
    overflows = states.count("overflow")
    handles: list[Any] = []
    if any(results.tally(method).states.get("not_run") for method in results.methods):
        handles.append(Patch(facecolor=NOT_RUN.hex, label="not run"))
    if errors:
        hatch: dict[str, Any] = {"facecolor": "white", "edgecolor": MUTED.hex, "hatch": "/////"}
        handles.append(Patch(**hatch, label=f"error or cut off ({errors}, not scored)"))
    if overflows:
        cross: dict[str, Any] = {"marker": "x", "markersize": 7, "markeredgewidth": 1.6}
        label = f"longer than the target takes ({overflows})"
        handles.append(Line2D([], [], color=MUTED.hex, linestyle="", **cross, label=label))
    trained = results.trained_length
    if trained is not None and results.lengths[-1] > trained:
        dashed = Line2D([], [], color=INK.hex, linewidth=1.5, linestyle=(0, (4, 2.5)))
        dashed.set_label(f"{show_length(trained)} before the question")
        handles.append(dashed)
    if handles:
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(x, 0.1 / layout.height),
            bbox_transform=figure.transFigure,
            ncols=4,
            frameon=False,
            fontsize=9,
            labelcolor=INK.hex,
            borderpad=0,
            borderaxespad=0,
            handlelength=2.2,
            columnspacing=2,
        )


def _scheme_words(scheme: dict[str, Any]) -> str:
    parts = []
    if scheme.get("chunk_size"):
        parts.append(f"chunk {scheme['chunk_size']}, local {scheme['local_size']}")
    if scheme.get("factor"):
        parts.append(f"factor {scheme['factor']:g}")
    return ", ".join(parts) or "the model as trained"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m longctx.plots.heatmap FOLDER [--palette classic]`: draw a folder again."""
    import argparse

    from longctx.errors import UserError

    parser = argparse.ArgumentParser(prog="python -m longctx.plots.heatmap", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--palette", choices=PALETTES, default="default")
    options = parser.parse_args(arguments)
    try:
        for file in draw(options.folder, options.palette):
            print(file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
