"""The line of explanations under the map: only what the map at hand shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from longctx.eval.format import show_length
from longctx.eval.needle.effective import THRESHOLD
from longctx.eval.needle.paired import LIMIT
from longctx.eval.needle.summary import Results
from longctx.plots.difference import Difference
from longctx.plots.overlays import DASHES, DOTS
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN
from longctx.plots.words import width_of

WIDE = 0.4  # an interval wider than this gets a dot: the cell's colour is a guess

_SIZE = 9
_HANDLE = 0.65  # inches of an entry before its words, and up to the next


def entries(
    results: Results, *, brackets: bool, differences: Sequence[Difference] = ()
) -> list[Any]:
    """Handles for the states that occur, then for the lines and bands."""
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
    if trained is not None and results.lengths[-1] > trained and results.depths != [None]:
        dashed = Line2D([], [], color=INK.hex, linewidth=1.5, linestyle=DASHES)
        dashed.set_label(f"needle {show_length(trained)} tokens before the question")
        handles.append(dashed)
    handles.append(Patch(facecolor=BAND.hex, label="95 % interval of the score"))
    if _wide(results):
        dot: dict[str, Any] = {"marker": "o", "markersize": 3, "markeredgewidth": 0}
        label = f"interval wider than {WIDE:g}: few samples"
        handles.append(Line2D([], [], color=MUTED.hex, linestyle="", **dot, label=label))
    if brackets:
        dotted = Line2D([], [], color=MUTED.hex, linewidth=1.2, linestyle=DOTS)
        dotted.set_label(f"effective: intervals lie above {THRESHOLD}")
        handles.append(dotted)
    if any(difference.stars for difference in differences):
        star: dict[str, Any] = {"marker": "*", "markersize": 8, "markeredgewidth": 0}
        label = f"differs: McNemar, Holm, p < {LIMIT:g}"
        handles.append(Line2D([], [], color=INK.hex, linestyle="", **star, label=label))
    return handles


def _wide(results: Results) -> bool:
    tallies = (
        results.tally(method, length, depth)
        for method in results.methods
        for length in results.lengths
        for depth in results.depths
    )
    return any(tally.n and tally.interval.high - tally.interval.low > WIDE for tally in tallies)


def columns_for(handles: Sequence[Any], inches: float) -> int:
    """The most columns that fit side by side; entries fill them from top to bottom."""
    widths = [_HANDLE + width_of(str(handle.get_label()), _SIZE) for handle in handles]
    for columns in range(len(handles), 1, -1):
        # As matplotlib deals them out: five over four columns are 2, 1, 1, 1.
        if sum(max(column) for column in np.array_split(widths, columns)) <= inches:
            return columns
    return 1


def draw(
    figure: Figure | SubFigure, handles: Sequence[Any], corner: tuple[float, float], columns: int
) -> None:
    """`corner`: the lower left one, as a share of the figure."""
    figure.legend(
        handles=list(handles),
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
