"""The perplexity curve as a picture: perplexity.png and perplexity.svg of a run folder.

Paints a curve (plots.curve) with matplotlib. Equal folders give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from longctx.eval.perplexity.summary import PerplexityResults, load
from longctx.plots import fonts
from longctx.plots.curve import ACROSS, UP, Axis, Curve, Line, apart, curve_of
from longctx.plots.draw_panel import DASHES
from longctx.plots.heatmap import save
from longctx.plots.palette import INK, MUTED, NOT_RUN

_MARKERS = {
    **{"circle": "o", "square": "s", "diamond": "D", "up": "^", "down": "v"},
    **{"plus": "P", "cross": "X"},
}


def draw(folder: Path) -> list[Path]:
    """Write perplexity.png and perplexity.svg into the run folder; returns their paths."""
    return write(load(folder), folder)


def write(results: PerplexityResults, folder: Path) -> list[Path]:
    """The same of what was read already."""
    figure = figure_of(results)
    files = [folder / "perplexity.png", folder / "perplexity.svg"]
    for file in files:
        save(figure, file)
    return files


def figure_of(results: PerplexityResults) -> Figure:
    run, curve = results.run, curve_of(results)
    with fonts.styled([run["model"]["name"], run["text"]["id"]]):
        figure = Figure(figsize=(8.2, 5.2), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.1, 0.13, 0.74, 0.66))
        if curve is None:
            axes.set_axis_off()
            figure.text(0.5, 0.5, "nothing was measured yet", ha="center", color=MUTED.hex)
            return figure
        _frame(axes, curve)
        for line in curve.lines:
            _draw_line(axes, line)
        _draw_labels(axes, curve)
        style: dict[str, Any] = {"fontsize": 15, "fontweight": "bold", "color": INK.hex}
        figure.text(0.1, 0.945, fonts.fitted(curve.title, 7.2, 15, bold=True), **style)
        for y, words in zip((0.895, 0.86), curve.captions, strict=True):
            shown = fonts.fitted(words, 7.2, 9)
            figure.text(0.1, y, shown, fontsize=9, color=MUTED.hex, va="center")
        return figure


def _draw_line(axes: Axes, line: Line) -> None:
    lengths = [point.length for point in line.points]
    lows, highs = [point.low for point in line.points], [point.high for point in line.points]
    colour = line.colour.hex
    axes.fill_between(lengths, lows, highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        *(lengths, [point.perplexity for point in line.points]),
        color=colour,
        marker=_MARKERS[line.marker],
        markersize=5.5,
        linewidth=2,
        label=line.method,
        zorder=3,
    )
    if line.positions:
        middles, heights = zip(*line.positions, strict=True)
        axes.plot(middles, heights, color=colour, linewidth=0.7, alpha=0.55)


def _frame(axes: Axes, curve: Curve) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(curve.x.low, curve.x.high)
    axes.set_ylim(curve.y.low, curve.y.high)
    axes.set_xticks(*_labels(curve.x))
    axes.set_yticks(*_labels(curve.y))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    if curve.trained is not None:
        trained, words = curve.trained
        axes.axvline(trained, color=INK.hex, linewidth=1.3, linestyle=DASHES, zorder=1)
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
        }
        axes.annotate(words, (trained, 1), (4, -4), va="top", fontsize=8.5, color=INK.hex, **place)
    axes.grid(axis="y", color=NOT_RUN.hex, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=NOT_RUN.hex, linewidth=1)
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=9.5, pad=5)
    axes.set_xlabel(ACROSS, color=MUTED.hex, labelpad=6)
    axes.set_ylabel(UP, color=MUTED.hex, labelpad=6)


def _labels(axis: Axis) -> tuple[Sequence[float], Sequence[str]]:
    return [value for value, _ in axis.labels], [words for _, words in axis.labels]


def _draw_labels(axes: Axes, curve: Curve) -> None:
    """Names at the ends of their lines, moved apart where they would meet."""
    ends = sorted((curve.y.share(line.points[-1].perplexity), line.index) for line in curve.lines)
    height = axes.get_window_extent().height
    places = apart([end for end, _ in ends], 13 * axes.figure.dpi / 72 / height)
    lines = {line.index: line for line in curve.lines}
    for place, (_, index) in zip(places, ends, strict=True):
        axes.annotate(
            *(lines[index].label, (1, place), (6, 0)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=lines[index].colour.hex,
            annotation_clip=False,
        )
