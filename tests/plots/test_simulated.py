"""Pictures of simulated models: the map must show exactly what such a model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from run_fakes import DEPTHS, LENGTHS, all_states, window, write_run

from longctx.eval.needle.summary import load
from longctx.plots import heatmap
from longctx.plots.palette import NOT_RUN, palette
from longctx.plots.style import Style

FINE = tuple(2.5 * step for step in range(41))


def fills(axes: Axes, columns: int, rows: int) -> list[list[str]]:
    """The colour of every cell, by row and column: the first patch laid at its place."""
    found: dict[tuple[float, float], str] = {}
    for patch in axes.patches:
        found.setdefault(patch.get_xy(), to_hex(patch.get_facecolor()))  # type: ignore[attr-defined]
    return [[found[x - 0.5, y - 0.5] for x in range(columns)] for y in range(rows)]


@pytest.mark.parametrize("tokens", [512, 1024, 3000])
def test_the_diagonal_of_a_window_lies_on_the_dashed_curve(tmp_path: Path, tokens: int) -> None:
    """It finds what is nearer than its window: depth = 1 - window / length, the frontier itself."""
    folder = write_run(tmp_path, window(tokens), methods=["none"], depths=FINE, trained=tokens)
    axes = heatmap.figure_of([load(folder)], Style()).axes[0]
    rows = fills(axes, len(LENGTHS), len(FINE))
    good, bad = palette().colour(1).hex, palette().colour(0).hex
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    xs, ys = np.asarray(dashed.get_xdata()), np.asarray(dashed.get_ydata())
    for x, length in enumerate(LENGTHS):
        column = [row[x] for row in rows]
        if length <= tokens:
            # At the very start of the text the distance is the whole window, which is not nearer.
            assert set(column[length == tokens :]) == {good}
            continue
        missed = column.count(bad)
        assert column == [bad] * missed + [good] * (len(FINE) - missed)
        (level,) = set(ys[(xs == x - 0.5) | (xs == x + 0.5)]) & set(ys[xs == x + 0.5][:1])
        # It runs along the border between the last row out of reach and the first within; here a
        # needle at exactly the window's distance is missed too.
        assert level == sum(depth < 100 * (1 - tokens / length) for depth in FINE) - 0.5
        assert missed - 0.5 - level == (100 * (1 - tokens / length) in FINE)


def test_every_state_is_drawn_as_what_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path, all_states, methods=["none"], repeats=1)
    axes = heatmap.figure_of([load(folder)], Style()).axes[0]
    last = len(LENGTHS) - 1
    column = [row[last] for row in fills(axes, len(LENGTHS), len(DEPTHS))][:7]
    colours = palette()
    scored = [colours.colour(score).hex for score in (1, 0, 0.5)]
    # ok, miss, partial; cut off is hatched over its score and an error over white, overflow and
    # not run are grey
    assert column == [*scored, scored[2], NOT_RUN.hex, "#ffffff", NOT_RUN.hex]
    hatched = {p.get_xy()[1] + 0.5 for p in axes.patches if p.get_hatch()}  # type: ignore[attr-defined]
    assert hatched == {3, 5, 10}
    crosses = [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "x"]  # type: ignore[index]
    assert crosses == [4]
    counts = {t.get_text() for t in axes.texts if "/" in t.get_text()}
    assert counts == {"0/1", "0.5/1"}
    # Doubt is told by the strip alone: one sample a cell, and no mark for it.
    assert [line for line in axes.lines if line.get_marker() == "o"] == []
