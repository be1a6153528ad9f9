"""The strip under a panel of the map: perplexity at the same lengths, on one scale for all panels.

    perplexity  2.30  2.23  2.30  3.19     figures where they fit
                ----------------__-/       a line through them, logarithmic

Draws figures that somebody else computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from longctx.eval.perplexity_files import show_perplexity
from longctx.plots import frontier
from longctx.plots.overlays import text_size
from longctx.plots.palette import INK, MUTED, NOT_RUN

CAP = 30.0  # of the scale, in multiples of the best arm's worst figure: a broken arm leaves it


def draw(
    axes: Axes,
    lengths: Sequence[int],
    method: str,
    strips: Mapping[str, Mapping[int, float]],
    *,
    first: bool,
    cell_width: float,
    trained: int | None,
) -> None:
    """Args:
    strips: of all methods: the scale is theirs.
    cell_width: inches.
    """
    low, high = _scale(strips)
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(-0.15, 1.6)  # the figures' room is on top
    found = strips.get(method, {})
    xs = [x for x, length in enumerate(lengths) if length in found]
    ys = [_share(found[lengths[x]], low, high) for x in xs]
    if trained is not None and frontier.on_the_map(lengths, trained):
        border = frontier.border(lengths, trained)
        axes.plot([border] * 2, [-0.15, 1.0], color=INK.hex, linewidth=1.2, zorder=1)
    axes.plot(xs, ys, color=INK.hex, linewidth=1.6, marker="o", markersize=3, zorder=3)
    for x in xs:
        words = show_perplexity(found[lengths[x]])
        size = text_size(words, cell_width)
        if size:
            axes.text(x, 1.6, words, ha="center", va="top", fontsize=min(size, 8.5), color=INK.hex)
    if not xs:
        style: dict[str, Any] = {"fontsize": 8.5, "color": MUTED.hex, "va": "center"}
        axes.text(-0.4, 0.5, "not measured", **style)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=NOT_RUN.hex, linewidth=1)
    if first:
        axes.set_ylabel(
            "perplexity", color=MUTED.hex, fontsize=9, labelpad=6, rotation=0, ha="right", y=0.2
        )


def _scale(strips: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    rows = [list(row.values()) for row in strips.values() if row]
    low = min(min(row) for row in rows)
    worst = [max(row) for row in rows]
    return low, max(min(max(worst), CAP * min(worst)), low * 1.05)


def _share(value: float, low: float, high: float) -> float:
    return float(np.clip(np.log(value / low) / np.log(high / low), 0, 1))
