"""The line of explanations under the map: only what the map at hand shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from longctx.eval.config import show_length
from longctx.eval.effective import THRESHOLD
from longctx.eval.summary import Results
from longctx.plots.overlays import DASHES, DOTS
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN


def entries(results: Results, *, brackets: bool) -> list[Any]:
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
    if trained is not None and results.lengths[-1] > trained:
        dashed = Line2D([], [], color=INK.hex, linewidth=1.5, linestyle=DASHES)
        dashed.set_label(f"needle {show_length(trained)} tokens before the question")
        handles.append(dashed)
    handles.append(Patch(facecolor=BAND.hex, label="95 % interval of the score"))
    if brackets:
        dotted = Line2D([], [], color=MUTED.hex, linewidth=1.2, linestyle=DOTS)
        dotted.set_label(f"effective: intervals lie above {THRESHOLD}")
        handles.append(dotted)
    return handles


def draw(figure: Figure, handles: Sequence[Any], corner: tuple[float, float], columns: int) -> None:
    """`corner`: the lower left one, as a share of the figure."""
    figure.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=corner,
        bbox_transform=figure.transFigure,
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK.hex,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.2,
        columnspacing=2,
    )
