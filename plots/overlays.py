"""What lies over and around a panel of the map: trained length, frontier, strip and bracket.

    strip      ▔▔▔▔|▁▁     score per length over all depths, with its 95 % interval
    panel      [ ] | [ ]
               [ ] |- - -
    bracket    └──┘        the effective length

Draws figures that eval.summary computed, into axes that plots.heatmap placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from longctx.eval.format import show_length
from longctx.eval.needle.effective import THRESHOLD, Effective
from longctx.eval.needle.summary import Results
from longctx.plots import frontier
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN

DASHES = (0, (4, 2.5))
DOTS = (0, (1, 1.6))
_BRACKET = (0.36, 0.43)  # inches under the panel: its ends, its line
_BRACKET_LABEL = 0.5
_LETTER = 0.075  # inches that a letter of a label takes, about

_LARGEST, _SMALLEST = 9.5, 6.5  # points of the figures in a cell


def text_size(text: str, cell_width: float) -> float:
    """Points at which `text` fits a cell of so many inches; 0 where that could not be read."""
    size = min(_LARGEST, 72 * (cell_width - 0.04) / (0.62 * len(text)))
    return size if size >= _SMALLEST else 0


def draw_trained(
    axes: Axes,
    lengths: Sequence[int],
    depths: Sequence[float | None],
    trained: int | None,
    *,
    top: float,
) -> None:
    """A line behind the last trained length, and in each column beyond it the frontier.

    `top` is where the line begins, in rows: above the first one where there is a strip.
    """
    if trained is None or not frontier.on_the_map(lengths, trained):
        return
    border = frontier.border(lengths, trained)
    axes.plot([border, border], [top, len(depths) - 0.5], color=INK.hex, linewidth=2, clip_on=False)
    axes.annotate(
        f"trained {show_length(trained)}",
        (border, top),
        (0, 5),
        textcoords="offset points",
        ha="center" if -0.5 < border < len(lengths) - 0.5 else ("left" if border < 0 else "right"),
        fontsize=8.5,
        color=INK.hex,
        annotation_clip=False,
    )
    corners = frontier.steps(lengths, depths, trained)
    if corners:
        xs, ys = zip(*corners, strict=True)
        # White under black: the line must show on pale and on dark cells.
        axes.plot(xs, ys, color="white", linewidth=3.2, alpha=0.85)
        axes.plot(xs, ys, color=INK.hex, linewidth=1.5, linestyle=DASHES)


def draw_strip(axes: Axes, results: Results, method: str, *, first: bool, threshold: bool) -> None:
    """A bar at the score of each length, in a band that is its 95 % interval."""
    axes.set_xlim(-0.5, len(results.lengths) - 0.5)
    axes.set_ylim(-0.04, 1.04)
    if threshold:
        axes.axhline(THRESHOLD, color=MUTED.hex, linewidth=1, linestyle=DOTS, zorder=1.5)
    for x, length in enumerate(results.lengths):
        score = results.tally(method, length).score
        if score is None:
            continue
        low, high = results.interval(method, length)
        axes.add_patch(
            Rectangle((x - 0.4, low), 0.8, high - low, facecolor=BAND.hex, linewidth=0, zorder=1)
        )
        axes.plot(
            [x - 0.4, x + 0.4],
            [score, score],
            color=INK.hex,
            linewidth=2,
            solid_capstyle="butt",
            clip_on=False,
            zorder=3,
        )
    axes.set_xticks([])
    axes.set_yticks([0, 1], ["0", "1"] if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=9, pad=5)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=NOT_RUN.hex, linewidth=1)
    if first:
        axes.set_ylabel("score", color=MUTED.hex, fontsize=9, labelpad=6)


def effective_words(effective: Effective) -> str | None:
    """What stands under a panel; nothing where samples are lacking: small maps stay clear."""
    if not effective.enough_samples:
        return None
    if effective.length is None:
        return f"effective below {show_length(effective.first_fail or 0)}"
    sign = "≥ " if effective.at_least else ""
    return f"effective {sign}{show_length(effective.length)}"


def draw_effective(
    axes: Axes, lengths: Sequence[int], effective: Effective, *, height: float, cell_width: float
) -> None:
    """The bracket from the shortest length to the effective one; open where none failed.

    `height` of the panel and `cell_width` in inches.
    """
    words = effective_words(effective)
    if words is None:
        return
    spanned = sum(length <= (effective.length or 0) for length in lengths)
    left, right = -0.46, spanned - 0.54
    ends, line = (-inches / height for inches in _BRACKET)
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    if spanned:
        xs, ys = [left, left, right], [ends, line, line]
        if not effective.at_least:
            xs, ys = [*xs, right], [*ys, ends]
        axes.plot(xs, ys, color=INK.hex, linewidth=1.6, solid_joinstyle="miter", **place)
        if effective.at_least:
            axes.plot([right], [line], marker=">", markersize=5, color=INK.hex, **place)
    centred = spanned * cell_width > len(words) * _LETTER
    axes.text(
        (left + right) / 2 if centred else -0.5,
        -(_BRACKET_LABEL if spanned else _BRACKET[0]) / height,
        words,
        ha="center" if centred else "left",
        va="top",
        fontsize=9.5,
        fontweight="bold",
        color=INK.hex,
        **place,
    )
