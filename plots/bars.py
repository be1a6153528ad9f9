"""Effective lengths as bars, the longest on top: one row per method of every run.

    yarn+dca  ██████████████████▶  ≥ 8K (max tested)     open: no tested length failed
    none      ███████░░░           512                   pale: between the last pass and a fail
              256   512   1K

Reads results and draws; the lengths come from eval.effective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from longctx.eval.format import show_length
from longctx.eval.needle.effective import MEANING, show_effective
from longctx.eval.needle.ranking import MethodOfRun, arms_of, ranked
from longctx.eval.needle.results import NeedleResults
from longctx.plots import fonts
from longctx.plots.palette import BAND, INK, MUTED, NOT_RUN
from longctx.plots.style import Style

_WIDTH, _ROW, _TOP, _BOTTOM = 10.4, 0.42, 1.1, 0.95
_LEFT, _RIGHT = 3.1, 2.75  # names; what the bar says
_HALF = 0.3  # of a bar's thickness, in rows


def figure_of(runs: Sequence[NeedleResults], style: Style) -> Figure:
    arms = ranked(arms_of(runs))
    texts = [arm.label(with_model=True) for arm in arms]
    with fonts.styled([*texts, style.title or ""]):
        height = _TOP + _ROW * len(arms) + _BOTTOM
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        plot_width = _WIDTH - _LEFT - _RIGHT
        axes = figure.add_axes(
            (
                _LEFT / _WIDTH,
                _BOTTOM / height,
                plot_width / _WIDTH,
                _ROW * len(arms) / height,
            )
        )
        _draw_axis(axes, arms, plot_width)
        for row, arm in enumerate(arms):
            _draw_row(axes, row, arm, with_model=len(runs) > 1)
        title = fonts.fitted(style.title or "Effective length", _WIDTH - 0.8, 15, bold=True)
        x = 0.4 / _WIDTH
        figure.text(
            x, 1 - 0.38 / height, title, fontsize=15, fontweight="bold", va="center", color=INK.hex
        )
        how = "A line marks the trained length; pale: where it breaks; ▸: no tested length failed."
        for inches, text in ((0.42, MEANING), (0.22, how)):
            figure.text(x, inches / height, text, fontsize=9, va="center", color=MUTED.hex)
        subtitle = "prompt tokens up to which a method can be relied on"
        figure.text(x, 1 - 0.68 / height, subtitle, fontsize=9.5, va="center", color=MUTED.hex)
        return figure


def _draw_axis(axes: Axes, arms: Sequence[MethodOfRun], inches: float) -> None:
    lengths = sorted({length for arm in arms for length in arm.results.lengths})
    axes.set_xlim(math.log2(lengths[0]) - 1, math.log2(lengths[-1]) + 0.12)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    per_step = inches / (axes.get_xlim()[1] - axes.get_xlim()[0])
    # Lengths may lie close (6K, 7K, 8K): a label keeps clear of the one before it.
    shown: list[int] = []
    for length in lengths:
        if not shown or math.log2(length / shown[-1]) * per_step > 0.45:
            shown.append(length)
    axes.set_xticks([math.log2(length) for length in shown], [show_length(n) for n in shown])
    axes.set_yticks([])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=10, pad=6)
    for length in lengths:
        axes.axvline(math.log2(length), color=NOT_RUN.hex, linewidth=0.8, zorder=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_row(axes: Axes, row: int, arm: MethodOfRun, *, with_model: bool) -> None:
    effective, start = arm.effective, axes.get_xlim()[0]
    end = start
    if effective.length is not None:
        end = math.log2(effective.length)
        _bar(axes, row, start, end, INK.hex)
        if effective.at_least:
            axes.plot([end], [row], marker=">", markersize=11, color=INK.hex, clip_on=False)
    if effective.first_fail is not None:
        _bar(axes, row, end, math.log2(effective.first_fail), BAND.hex)
    trained = arm.results.trained_length
    if trained is not None and start < math.log2(trained) < axes.get_xlim()[1]:
        x = math.log2(trained)
        axes.plot([x, x], [row - 0.42, row + 0.42], color="white", linewidth=4, zorder=3)
        axes.plot([x, x], [row - 0.42, row + 0.42], color=MUTED.hex, linewidth=1.8, zorder=3)
    beside: dict[str, Any] = {"va": "center", "clip_on": False}
    name = fonts.fitted(arm.label(with_model=with_model), _LEFT - 0.55, 10.5, bold=True)
    axes.text(
        start,
        row,
        f"{name}  ",
        ha="right",
        fontsize=10.5,
        fontweight="bold",
        color=INK.hex,
        **beside,
    )
    known = effective.enough_samples
    told = fonts.fitted(show_effective(effective).replace(">= ", "≥ "), _RIGHT - 0.35, 10)
    style: dict[str, Any] = {
        "color": INK.hex if known else MUTED.hex,
        "fontweight": "bold" if known else "normal",
    }
    axes.text(axes.get_xlim()[1], row, f"   {told}", ha="left", fontsize=10, **style, **beside)


def _bar(axes: Axes, row: int, left: float, right: float, colour: str) -> None:
    corner = (left, row - _HALF)
    axes.add_patch(Rectangle(corner, right - left, 2 * _HALF, facecolor=colour, linewidth=0))
