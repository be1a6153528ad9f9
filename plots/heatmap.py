"""The needle map as a picture: heatmap.png and heatmap.svg of a run folder.

Paints a scene (plots.scene) with matplotlib: a panel per method side by side on one fixed scale, so
that panels and runs compare at a glance; under them each method's difference to the first. Several
runs lie below each other. Computes no score. Equal folders give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, FigureBase, SubFigure

from longctx.eval.needle.results import NeedleResults
from longctx.eval.needle.summary import load
from longctx.plots import draw_legend, draw_panel, fonts
from longctx.plots.difference import STAR
from longctx.plots.layout import NARROWEST, Box, Layout, layout_for
from longctx.plots.palette import INK, MUTED, NOT_RUN, RGB, difference_stops
from longctx.plots.perplexity_strip import Strips, scale_of
from longctx.plots.scene import ACROSS, DIFFERENCE_WORDS, Panel, Scene, headline, scene_of, subtitle
from longctx.plots.style import Style

__all__ = ["DPI", "draw", "figure_of", "headline", "save", "shown_texts", "subtitle", "write"]

DPI = 200
_TITLE = 0.62  # inches for a title over several runs
_ENDS_INCHES = 1.7  # of a panel beside which both ends of the document are named


def draw(folder: Path, style: Style | None = None) -> list[Path]:
    """Write heatmap.png and heatmap.svg into the run folder; returns their paths."""
    return write(load(folder), folder, style or Style())


def write(results: NeedleResults, folder: Path, style: Style) -> list[Path]:
    """The same of what was read already."""
    figure = figure_of([results], style)
    files = [folder / "heatmap.png", folder / "heatmap.svg"]
    for file in files:
        save(figure, file)
    return files


def save(figure: Figure, file: Path) -> None:
    """PNG or SVG by the name's end. No date and no version: equal records give equal bytes."""
    with fonts.styled([]):
        if file.suffix == ".svg":
            figure.savefig(file, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(file, dpi=DPI, metadata={"Software": None})


def shown_texts(runs: Sequence[NeedleResults], style: Style) -> list[str]:
    """What comes from outside and stands in the picture: names in any language."""
    names = [text for run in runs for text in (headline(run), run.run["haystack"]["id"])]
    return [*names, style.title or ""]


def figure_of(
    runs: Sequence[NeedleResults], style: Style, perplexity: Sequence[Strips] | None = None
) -> Figure:
    """Args:
    perplexity: of each run's model; empty where it was not measured.
    """
    strips = perplexity or [{} for _ in runs]
    scale = scale_of(strips)
    scenes = [scene_of(run, style, own, scale) for run, own in zip(runs, strips, strict=True)]
    if len(scenes) == 1:
        scenes = [_titled(scenes[0])]
    with fonts.styled(shown_texts(runs, style)):
        return _paint(scenes, style)


def _titled(scene: Scene) -> Scene:
    """A picture of one run: the title that was asked for; a plain one has no other."""
    untitled = scene.style.plain and not scene.style.qwen2
    title = scene.style.title or ("" if untitled else scene.title)
    return replace(scene, title=title)


def _paint(scenes: Sequence[Scene], style: Style) -> Figure:
    width = max(_layout_of(scene, NARROWEST).width for scene in scenes)
    layouts = [_layout_of(scene, width) for scene in scenes]
    heights = [layout.height for layout in layouts]
    titled = len(scenes) > 1 and style.title is not None
    figure = Figure(figsize=(width, sum(heights) + (_TITLE if titled else 0)), facecolor="white")
    FigureCanvasAgg(figure)
    if len(scenes) == 1:
        _paint_run(figure, layouts[0], scenes[0])
        return figure
    ratios = [_TITLE, *heights] if titled else heights
    parts = figure.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios, hspace=0)
    if titled:
        title = fonts.fitted(style.title or "", width - 1.4, 17, bold=True)
        x = layouts[0].left / width
        parts[0, 0].text(x, 0.3, title, fontsize=17, fontweight="bold", color=INK.hex)
    for part, layout, scene in zip(parts[titled:, 0], layouts, scenes, strict=True):
        _paint_run(part, layout, scene)
    return figure


def _layout_of(scene: Scene, least_width: float) -> Layout:
    layout = layout_for(
        *(len(scene.panels), scene.grid.columns, scene.grid.rows),
        brackets=scene.brackets,
        differences=bool(scene.differences),
        perplexity=scene.perplexity,
        plain=scene.style.plain,
        titled=bool(scene.title),
        least_width=0 if scene.style.plain and not scene.title else least_width,
    )
    if not scene.legend:
        return layout
    return replace(layout, legend_rows=-(-len(scene.legend) // _legend_columns(layout, scene)))


def _legend_columns(layout: Layout, scene: Scene) -> int:
    return draw_legend.columns_for(scene.legend, layout.width - layout.left - 0.1)


def _paint_run(figure: Figure | SubFigure, layout: Layout, scene: Scene) -> None:
    def first(index: int) -> bool:
        return index % layout.columns == 0

    for index, panel in enumerate(scene.panels):
        axes = figure.add_axes(layout.panel(index))
        draw_panel.draw_map(axes, panel, layout, first=first(index))
        _name_panel(axes, panel, layout)
    if not scene.style.plain:
        for index, panel in enumerate(scene.panels):
            axes = figure.add_axes(layout.strip_of(index))
            draw_panel.draw_scores(axes, panel, first=first(index))
    if scene.perplexity:
        for index, panel in enumerate(scene.panels):
            axes = figure.add_axes(layout.perplexity_strip_of(index))
            draw_panel.draw_perplexity(
                axes, panel, first=first(index), cell_width=layout.cell_width
            )
    if scene.differences:
        _paint_differences(figure, layout, scene)
    _score_bar(figure, layout.bar(layout.panel(0)), scene.style)
    _paint_words(figure, layout, scene)
    if scene.legend:
        corner = (layout.left / layout.width, 0.1 / layout.height)
        draw_legend.draw(figure, scene.legend, corner, _legend_columns(layout, scene))


def _name_panel(axes: Axes, panel: Panel, layout: Layout) -> None:
    room = layout.panel_width + 0.4 * layout.gap_x
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    name, note = fonts.fitted(panel.heading, room, 12.5, bold=True), panel.note
    points = 72 * layout.above + (34 if note else 7)
    style: dict[str, Any] = {"fontsize": 12.5, "fontweight": "bold", "color": INK.hex}
    axes.annotate(name, (0, 1), (0, points), **style, **above)
    if note:
        place = (0, 72 * layout.above + 21)
        words = fonts.fitted(note, room, 8.5)
        axes.annotate(words, (0, 1), place, fontsize=8.5, color=MUTED.hex, **above)


def _paint_differences(figure: FigureBase, layout: Layout, scene: Scene) -> None:
    for index, panel in enumerate(scene.differences, start=1):
        box = layout.difference(index)
        axes = figure.add_axes(box)
        first = index == 1 or index % layout.columns == 0
        draw_panel.draw_difference(axes, panel, layout, first=first)
        y = box.y + box.height + (layout.star_row + 0.08) / layout.height
        name = fonts.fitted(panel.heading, layout.panel_width, 10.5, bold=True)
        figure.text(box.x, y, name, fontsize=10.5, fontweight="bold", color=INK.hex)
        if panel.star:
            right = box.x + (fonts.width_of(name, 10.5, bold=True) + 0.08) / layout.width
            figure.text(right, y, STAR, fontsize=9, color=INK.hex)
    x, y = layout.difference_words()
    style: dict[str, Any] = {"va": "top", "linespacing": 1.3}
    name = fonts.fitted(f"to {scene.base}", layout.panel_width, 10.5, bold=True)
    alone = layout.columns == 1
    heading = f"Difference {name}" if alone else f"Difference\n{name}"
    figure.text(x, y, heading, fontsize=10.5, fontweight="bold", color=INK.hex, **style)
    told = (" " if alone else "\n").join(DIFFERENCE_WORDS)
    y -= (0.25 if alone else 0.47) / layout.height
    figure.text(x, y, told, fontsize=9, color=MUTED.hex, **style)
    _difference_bar(figure, layout.bar(layout.difference(1)))


def _score_bar(figure: FigureBase, box: Box, style: Style) -> None:
    bar = _colour_bar(figure, box, style.colours.stops, (0, 0.5, 1), "score")
    bar.ax.set_yticklabels(["0", "0.5", "1"])
    bar.outline.set_visible(False)


def _difference_bar(figure: FigureBase, box: Box) -> None:
    bar = _colour_bar(figure, box, difference_stops(), (-1, 0, 1), "difference")
    bar.ax.set_yticklabels(["−1", "0", "+1"])
    bar.outline.set(edgecolor=NOT_RUN.hex, linewidth=0.8)


def _colour_bar(
    figure: FigureBase, box: Box, stops: Sequence[RGB], ticks: Sequence[float], name: str
) -> Colorbar:
    """Fixed from the first tick to the last: never the data's own range."""
    parts = [tuple(part / 255 for part in stop) for stop in stops]
    cmap = LinearSegmentedColormap.from_list(name, parts)
    axes = figure.add_axes(box)
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(Normalize(ticks[0], ticks[-1]), cmap), cax=axes, ticks=ticks
    )
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK.hex)
    bar.ax.set_title(name, fontsize=9, color=MUTED.hex, loc="left", pad=7)
    return bar


def _paint_words(figure: FigureBase, layout: Layout, scene: Scene) -> None:
    room = layout.width - layout.left - 0.2

    def place(inches: float, text: str, **style: Any) -> None:
        x, y = layout.left / layout.width, 1 - inches / layout.height
        figure.text(x, y, text, ha="left", va="center", **style)

    if scene.title:
        shown = fonts.fitted(scene.title, room, 15, bold=True)
        place(0.34, shown, fontsize=15, fontweight="bold", color=INK.hex)
    if scene.style.qwen2:
        _paint_axes_names(figure, layout, scene)
        return
    if scene.style.plain:
        place(layout.height - 0.22, ACROSS, fontsize=10, color=MUTED.hex)
        return
    across = f" · across: {ACROSS}"
    text = fonts.fitted(scene.caption, room - fonts.width_of(across, 9.5), 9.5)
    place(0.64, text + across, fontsize=9.5, color=MUTED.hex)


def _paint_axes_names(figure: FigureBase, layout: Layout, scene: Scene) -> None:
    """Both axes by name, and which end of the document is which."""
    small: dict[str, Any] = {"fontsize": 9, "color": MUTED.hex}
    if scene.title:
        told = "how often the needle was found, by context length and its place in the document"
        y = 1 - 0.62 / layout.height
        shown = fonts.fitted(told, layout.width - layout.left - 0.2, 9)
        figure.text(layout.left / layout.width, y, shown, ha="left", va="center", **small)
    box = layout.panel(0)
    middle = (layout.left + layout.panels_right) / 2 / layout.width
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "color": INK.hex}
    figure.text(middle, 0.22 / layout.height, "context length in tokens", **words)
    for row in range(0, len(scene.panels), layout.columns):
        box = layout.panel(row)
        if box.height * layout.height < _ENDS_INCHES:  # a row or two: there is no way down
            continue
        x = 0.2 / layout.width
        ends = ((box.y + box.height, "document's top", "top"), (box.y, "its bottom", "bottom"))
        for y, end, align in ends:
            figure.text(x, y, end, rotation=90, ha="center", va=align, **small)
