"""The strip of perplexity under a panel: its scale, its figures, and that it lies on nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture_checks import check
from run_fakes import LENGTHS, METHODS, write_run

from longctx.eval.needle.summary import load
from longctx.plots import heatmap
from longctx.plots.perplexity_strip import Scale, labelled, scale_of
from longctx.plots.style import Style

# `none` breaks beyond every scale, `dca` was not measured at 256, `yarn+dca` nowhere.
STRIPS = {
    "none": dict(zip(LENGTHS, (2.3, 2.2, 2.3, 3.2, 6.7, 40_000.0), strict=True)),
    "yarn": dict.fromkeys(LENGTHS, 2.5),
    "dca": dict.fromkeys(LENGTHS[1:], 2.2),
}


def strip_axes(figure: Figure) -> list[Axes]:
    """Those below the panels: after the panels and the strips of scores."""
    return figure.axes[2 * len(METHODS) : 3 * len(METHODS)]


def line_of(axes: Axes) -> tuple[list[float], list[float]]:
    line = next(line for line in axes.lines if line.get_marker() == "o")
    xs, ys = (np.asarray(data, dtype=float).tolist() for data in line.get_data())
    return xs, ys


def words_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_each_strip_shows_its_method_on_the_scale_of_all(tmp_path: Path) -> None:
    figure = heatmap.figure_of([load(write_run(tmp_path))], Style(), [STRIPS])
    none, yarn, dca, nothing = strip_axes(figure)
    assert words_of(none) == ["2.30", "2.20", "2.30", "3.20", "6.70", "40000"]
    assert words_of(dca) == ["2.20"] * 5
    assert words_of(nothing) == ["not measured"]
    assert line_of(nothing) == ([], []) and len(nothing.lines) == 1  # no line through the words
    assert line_of(dca) == ([1, 2, 3, 4, 5], [0] * 5)
    # The scale ends at 30 times 2.2: a broken arm leaves it and presses nobody flat.
    top = 30 * 2.2
    assert line_of(none)[1][-1] == 1
    assert line_of(none)[1][4] == pytest.approx(np.log(6.7 / 2.2) / np.log(top / 2.2))
    assert line_of(yarn)[1] == pytest.approx([np.log(2.5 / 2.2) / np.log(top / 2.2)] * 6)
    # The same columns as the panel, and the trained length of 512 through both.
    assert none.get_xlim() == figure.axes[0].get_xlim()
    panel, below = figure.axes[0].get_position(), none.get_position()
    assert (below.x0, below.x1) == pytest.approx((panel.x0, panel.x1))
    assert below.y1 < panel.y0
    assert any(list(np.asarray(line.get_xdata())) == [1.5, 1.5] for line in none.lines)


def test_runs_of_a_picture_share_the_scale(tmp_path: Path) -> None:
    runs = [load(write_run(tmp_path / name, methods=["none"])) for name in ("a", "b")]
    strips = [{"none": {256: 2.0, 512: 4.0}}, {"none": {256: 4.0, 512: 8.0}}]
    figure = heatmap.figure_of(runs, Style(), strips)
    found = [line_of(part.axes[2])[1] for part in figure.subfigs]
    assert found == [pytest.approx([0, 0.5]), pytest.approx([0.5, 1])]


def test_scale_and_labels() -> None:
    assert scale_of([]) is None and scale_of([{}, {"none": {}}]) is None
    flat = scale_of([{"none": {512: 2.0}}])
    assert flat == Scale(2.0, 2.1) and flat.share(2.0) == 0
    assert Scale(1, 4).share(2) == 0.5
    assert Scale(1, 4).share(0.5) == 0 and Scale(1, 4).share(1e9) == 1
    assert labelled([0, 1, 2, 3, 4], 2) == [0, 2, 4]
    assert labelled([0, 1, 2, 5], 2) == [1, 5]  # the last one always
    assert labelled([], 3) == []


def test_without_perplexity_the_picture_is_what_it_was(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "run", methods=["none"], lengths=LENGTHS[:2]))
    for name, strips in (("with", [{}]), ("without", None)):
        heatmap.save(heatmap.figure_of([run], Style(), strips), tmp_path / f"{name}.svg")
    assert (tmp_path / "with.svg").read_bytes() == (tmp_path / "without.svg").read_bytes()


@pytest.mark.parametrize("methods", [1, 4])
@pytest.mark.parametrize(
    ("columns", "rows"),
    [(1, 1), (1, 20), (21, 1), (6, 11), pytest.param(21, 20, marks=pytest.mark.slow)],
)
def test_nothing_lies_on_anything(tmp_path: Path, methods: int, columns: int, rows: int) -> None:
    lengths = [256 * (step + 1) for step in range(columns)]
    folder = write_run(
        tmp_path,
        methods=METHODS[:methods],
        lengths=lengths,
        depths=[round(100 * step / max(rows - 1, 1), 1) for step in range(rows)],
        repeats=1,
    )
    strips = {
        method: dict.fromkeys(lengths, 2.0 + 1000 * index)
        for index, method in enumerate(METHODS[: max(1, methods - 1)])
    }
    check(heatmap.figure_of([load(folder)], Style(), [strips]), tmp_path / "a.png")


def test_narrow_columns_show_every_second_or_third_figure(tmp_path: Path) -> None:
    lengths = [256 * (step + 1) for step in range(21)]
    folder = write_run(tmp_path, methods=METHODS, lengths=lengths, depths=(0.0, 100.0), repeats=1)
    strips = {"none": {length: 1000.0 + length for length in lengths}}
    figure = heatmap.figure_of([load(folder)], Style(), [strips])
    shown = words_of(strip_axes(figure)[0])
    assert 5 <= len(shown) < 21 and shown[-1] == "6376"
