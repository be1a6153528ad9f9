"""The second row of the map: each arm against the first, on identical prompts.

      ★            a length at which the paired test holds
    [  ][-3]       figures: prompts found more or fewer; rust is worse, blue is better
    [+1][-2]       grey: no prompt that both arms answered

Draws figures that eval.paired computed, into axes that plots.heatmap placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.paired import Comparison, compare, net_by_cell, pairs_of
from longctx.eval.needle.summary import Results
from longctx.plots.palette import INK, MUTED, NOT_RUN, RGB, difference_colour, difference_stops

STAR = "★"
_SMALL = 0.05  # of a prompt: what is less is rounding of partial scores


@dataclass(frozen=True)
class Difference:
    """An arm minus the first one, by cell and by length."""

    method: str
    cells: dict[tuple[int, float | None], tuple[float, int]]  # net prompts, pairs
    lengths: dict[int, Comparison]

    @property
    def stars(self) -> list[int]:
        return [length for length, found in self.lengths.items() if found.holds]


def differences(results: Results) -> list[Difference]:
    """Of every method to the first; empty where there is but one, or no pair."""
    first, *others = results.methods
    base = results.chosen(first)
    found = []
    for method in others:
        pairs = pairs_of(base, results.chosen(method))
        found.append(Difference(method, net_by_cell(pairs), dict(compare(pairs))))
    return found if any(difference.cells for difference in found) else []


def show_net(net: float) -> str:
    """`+2`, `−1`; nothing for no difference."""
    return f"{net:+g}".replace("-", "−") if abs(net) >= _SMALL else ""


def draw(
    axes: Axes,
    lengths: Sequence[int],
    depths: Sequence[float | None],
    difference: Difference,
    *,
    first: bool,
    every: int,
    text_size: float,
) -> None:
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    for x, length in enumerate(lengths):
        for y, depth in enumerate(depths):
            net, pairs = difference.cells.get((length, depth), (0.0, 0))
            colour = difference_colour(net / pairs) if pairs else NOT_RUN
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour.hex, edgecolor="white")
            )
            words = show_net(net)
            if words and text_size:
                _figure(axes, x, y, words, colour.ink, text_size)
        if length in difference.stars:
            axes.annotate(
                STAR,
                (x, -0.5),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=10,
                color=INK.hex,
                annotation_clip=False,
            )
    shown = range(0, len(lengths), every)
    axes.set_xticks(shown, [show_length(lengths[index]) for index in shown])
    axes.set_yticks(range(len(depths)), [show_depth(depth) for depth in depths] if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=9, pad=4)
    for spine in axes.spines.values():
        spine.set(color=NOT_RUN.hex, linewidth=0.8)


def _figure(axes: Axes, x: int, y: int, words: str, ink: RGB, size: float) -> None:
    axes.text(x, y, words, ha="center", va="center", fontsize=size, color=ink.hex)


def draw_bar(figure: FigureBase, box: tuple[float, float, float, float]) -> None:
    stops = [tuple(part / 255 for part in stop) for stop in difference_stops()]
    cmap = LinearSegmentedColormap.from_list("differences", stops)
    axes = figure.add_axes(box)
    mappable = mpl.cm.ScalarMappable(Normalize(-1, 1), cmap)
    bar = figure.colorbar(mappable, cax=axes, ticks=[-1, 0, 1])
    bar.outline.set(edgecolor=NOT_RUN.hex, linewidth=0.8)
    bar.ax.set_yticklabels(["−1", "0", "+1"])
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK.hex)
    bar.ax.set_title("difference", fontsize=9, color=MUTED.hex, loc="left", pad=7)
