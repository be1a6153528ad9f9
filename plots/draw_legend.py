"""The legend of a scene with matplotlib: under the map, in as many columns as fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from longctx.plots.draw_panel import DASHES, DOTS
from longctx.plots.fonts import width_of
from longctx.plots.legend import LegendEntry, Sign
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN

_SIZE = 9
_HANDLE = 0.65  # inches of an entry before its words, and up to the next


def _handle(entry: LegendEntry) -> Any:
    label: dict[str, Any] = {"label": entry.words}
    match entry.sign:
        case Sign.NOT_RUN:
            return Patch(facecolor=NOT_RUN.hex, **label)
        case Sign.HATCH:
            return Patch(facecolor="white", edgecolor=MUTED.hex, hatch="/////", **label)
        case Sign.CROSS:
            return _marker("x", MUTED.hex, 7, 1.6, **label)
        case Sign.FRONTIER:
            return Line2D([], [], color=INK.hex, linewidth=1.5, linestyle=DASHES, **label)
        case Sign.INTERVAL:
            return Patch(facecolor=BAND.hex, **label)
        case Sign.EFFECTIVE:
            return Line2D([], [], color=MUTED.hex, linewidth=1.2, linestyle=DOTS, **label)
        case Sign.STAR:
            return _marker("*", INK.hex, 8, 0, **label)


def _marker(sign: str, colour: str, size: float, edge: float, **label: Any) -> Line2D:
    style: dict[str, Any] = {"marker": sign, "markersize": size, "markeredgewidth": edge}
    return Line2D([], [], color=colour, linestyle="", **style, **label)


def columns_for(entries: Sequence[LegendEntry], inches: float) -> int:
    """The most columns that fit side by side; entries fill them from top to bottom."""
    widths = [_HANDLE + width_of(entry.words, _SIZE) for entry in entries]
    for columns in range(len(entries), 1, -1):
        # As matplotlib deals them out: five over four columns are 2, 1, 1, 1.
        if sum(max(column) for column in np.array_split(widths, columns)) <= inches:
            return columns
    return 1


def draw(
    figure: Figure | SubFigure,
    entries: Sequence[LegendEntry],
    corner: tuple[float, float],
    columns: int,
) -> None:
    """`corner`: the lower left one, as a share of the figure."""
    figure.legend(
        handles=[_handle(entry) for entry in entries],
        loc="lower left",
        bbox_to_anchor=corner,
        bbox_transform=figure.transSubfigure,
        ncols=columns,
        frameon=False,
        fontsize=_SIZE,
        labelcolor=INK.hex,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.2,
        columnspacing=2,
    )
