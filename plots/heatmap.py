"""The needle map as a picture: heatmap.png and heatmap.svg of a run folder.

One panel per method on one fixed scale, so that panels and runs compare at a glance:

         trained length
    1     ▔▔ ▔▔ | ▁▁ ▁▁       strip: the score of each length, with its interval
    0           |
    0 %  [ ][ ] | [ ][x]      columns: lengths as equal cells
         [ ][ ] |- -[3/5]     rows: depths, the start of the document on top
    100 %[ ][ ] | [ ][ ]      dashed: one trained window before the question
         └────┘               bracket: the effective length

Reads records and draws; computes no score. Equal folders give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from longctx.eval.config import show_depth, show_length
from longctx.eval.summary import Results, Tally, load
from longctx.plots import legend, overlays
from longctx.plots.palette import INK, MUTED, NOT_RUN, PALETTES, Palette, palette

DPI = 200
_PANELS_PER_ROW = 4
_NARROWEST = 7.4  # inches: the title's and the legend's need, however small the grid
STYLE: Any = {
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
    brackets: bool
    legend: int  # entries

    left: float = 0.95
    right: float = 1.05
    strip: float = 0.5
    strip_gap: float = 0.1
    gap_x: float = 0.42

    @property
    def above(self) -> float:
        """From a panel up to the top of its strip."""
        return self.strip + self.strip_gap

    @property
    def top(self) -> float:
        return 1.55 + self.above

    @property
    def bottom(self) -> float:
        return (1.22 if self.brackets else 0.92) + 0.19 * (self.legend_rows - 1)

    @property
    def legend_columns(self) -> int:
        return max(2, int(self.width / 2.9))

    @property
    def legend_rows(self) -> int:
        return max(1, -(-self.legend // self.legend_columns))

    @property
    def gap_y(self) -> float:
        return 1.23 + self.above + (0.3 if self.brackets else 0)

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


def layout_for(
    methods: int, lengths: int, depths: int, *, brackets: bool = False, legend: int = 1
) -> Layout:
    rows = -(-methods // _PANELS_PER_ROW)
    columns = -(-methods // rows)
    room = 12.0 - 2.0 - 0.42 * (columns - 1)
    cell_width = min(max(room / columns / lengths, 0.42), 1.6)
    # A map reads best as wide cells in a panel that is not taller than a page.
    cell_height = min(max(3.4 / depths, 0.26), 0.62)
    return Layout(columns, rows, cell_width, cell_height, lengths, depths, brackets, legend)


def draw(folder: Path, palette_name: str = "default") -> list[Path]:
    """Write heatmap.png and heatmap.svg into the run folder; returns their paths."""
    figure = figure_of(load(folder), palette(palette_name))
    files = [folder / "heatmap.png", folder / "heatmap.svg"]
    with mpl.rc_context(STYLE):
        # No date and no version in the files: the same records give the same bytes.
        figure.savefig(files[0], dpi=DPI, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def figure_of(results: Results, colours: Palette) -> Figure:
    with mpl.rc_context(STYLE):
        effective = {method: results.effective(method) for method in results.methods}
        brackets = any(found.enough_samples for found in effective.values())
        entries = legend.entries(results, brackets=brackets)
        layout = layout_for(
            len(results.methods),
            len(results.lengths),
            len(results.depths),
            brackets=brackets,
            legend=len(entries),
        )
        figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
        FigureCanvasAgg(figure)
        for index, method in enumerate(results.methods):
            row, column = divmod(index, layout.columns)
            axes = figure.add_axes(_panel_box(layout, row, column))
            _draw_panel(axes, layout, results, method, colours, first=column == 0)
            overlays.draw_effective(
                axes,
                results.lengths,
                effective[method],
                height=layout.panel_height,
                cell_width=layout.cell_width,
            )
        for index, method in enumerate(results.methods):
            row, column = divmod(index, layout.columns)
            axes = figure.add_axes(_strip_box(layout, row, column))
            overlays.draw_strip(axes, results, method, first=column == 0, threshold=layout.brackets)
        _draw_colour_bar(figure, layout, colours)
        _draw_words(figure, layout, results)
        corner = (layout.left / layout.width, 0.1 / layout.height)
        legend.draw(figure, entries, corner, layout.legend_columns)
        return figure


def _panel_box(layout: Layout, row: int, column: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height as shares of the figure."""
    x = layout.left + column * (layout.panel_width + layout.gap_x)
    y = layout.height - layout.top - layout.panel_height
    y -= row * (layout.panel_height + layout.gap_y)
    return (
        x / layout.width,
        y / layout.height,
        layout.panel_width / layout.width,
        layout.panel_height / layout.height,
    )


def _strip_box(layout: Layout, row: int, column: int) -> tuple[float, float, float, float]:
    x, y, width, height = _panel_box(layout, row, column)
    return x, y + height + layout.strip_gap / layout.height, width, layout.strip / layout.height


def _draw_panel(
    axes: Axes, layout: Layout, results: Results, method: str, colours: Palette, *, first: bool
) -> None:
    lengths, depths = results.lengths, results.depths
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    for x, length in enumerate(lengths):
        for y, depth in enumerate(depths):
            _draw_cell(axes, x, y, results.tally(method, length, depth), colours)
    top = -0.5 - layout.above / layout.cell_height
    overlays.draw_trained(axes, lengths, depths, results.trained_length, top=top)

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
        (0, 72 * layout.above + 34),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=12.5,
        fontweight="bold",
        color=INK.hex,
    )
    axes.annotate(
        _scheme_words(results.run["schemes"][method]),
        (0, 1),
        (0, 72 * layout.above + 21),
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
        # Hatching and the frontier pass behind the figures, not through them.
        text.set_bbox({"boxstyle": "square,pad=0.12", "facecolor": colour.hex, "linewidth": 0})


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
