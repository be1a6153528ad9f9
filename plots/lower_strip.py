"""The strip under a panel of the map: perplexity at the same lengths, on one scale for all panels.

    perplexity  2.30  2.23  2.30  3.19     figures; narrow columns: some of them
                ----------------__-/       a line through them, logarithmic

Draws figures that somebody else computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from longctx.eval.perplexity.files import show_perplexity
from longctx.plots import frontier
from longctx.plots.palette import INK, MUTED, NOT_RUN
from longctx.plots.words import width_of

CAP = 30.0  # of the scale, in multiples of the best arm's worst figure: a broken arm leaves it
_SIZES = (8.5, 8.0, 7.5)  # points, the largest that fits

Strips = Mapping[str, Mapping[int, float]]  # perplexity by method and length


class Scale(NamedTuple):
    """The lowest and highest perplexity that a strip has room for."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the bottom, 1 on top; what leaves the scale stays at its border."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(max(share, 0.0), 1.0)


def scale_of(strips: Sequence[Strips]) -> Scale | None:
    """One scale for all panels of a picture or page; None where nothing was measured."""
    rows = [list(row.values()) for run in strips for row in run.values() if row]
    if not rows:
        return None
    low, worst = min(map(min, rows)), [max(row) for row in rows]
    return Scale(low, max(min(max(worst), CAP * min(worst)), low * 1.05))


def labelled(known: Sequence[int], every: int) -> list[int]:
    """Those of the columns that show their figure: the last one, and each `every`-th before it."""
    return [x for x in known if (known[-1] - x) % every == 0]


def _size_and_step(figures: Mapping[int, str], cell_width: float) -> tuple[float, int]:
    """The size of the figures in points, and that one of so many columns shows its own."""
    for size in _SIZES:
        widths = {x: width_of(words, size) for x, words in figures.items()}
        pairs = [(widths[x], widths[x + 1]) for x in widths if x + 1 in widths]
        if all(sum(pair) / 2 + 0.05 <= cell_width for pair in pairs):
            return size, 1
    return _SIZES[0], math.ceil((max(widths.values()) * _SIZES[0] / size + 0.06) / cell_width)


def draw(
    axes: Axes,
    lengths: Sequence[int],
    found: Mapping[int, float],
    scale: Scale,
    *,
    first: bool,
    cell_width: float,
    trained: int | None,
) -> None:
    """Args:
    found: perplexity by length, empty where this method was not measured.
    cell_width: inches.
    """
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(-0.15, 1.6)  # the figures' room is on top
    xs = [x for x, length in enumerate(lengths) if length in found]
    ys = [scale.share(found[lengths[x]]) for x in xs]
    if xs and trained is not None and frontier.on_the_map(lengths, trained):
        border = frontier.border(lengths, trained)
        axes.plot([border] * 2, [-0.15, 1.0], color=INK.hex, linewidth=1.2, zorder=1)
    axes.plot(xs, ys, color=INK.hex, linewidth=1.6, marker="o", markersize=3, zorder=3)
    figures = {x: show_perplexity(found[lengths[x]]) for x in xs}
    size, every = _size_and_step(figures, cell_width)
    style: dict[str, Any] = {"fontsize": size, "ha": "center", "va": "top", "color": INK.hex}
    for x in labelled(xs, every):
        axes.text(x, 1.6, figures[x], **style)
    if not xs:
        middle = (len(lengths) - 1) / 2
        axes.text(middle, 1.0, "not measured", **{**style, "color": MUTED.hex})
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
