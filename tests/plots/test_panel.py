"""The strip above a panel, the bracket under it, and text that a line must not cross."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from run_fakes import METHODS, Status, write_run

from longctx.eval.needle.summary import load
from longctx.plots import heatmap
from longctx.plots.palette import BAND, palette
from longctx.plots.style import Style


def figure_for(path: Path, status: Status | None = None, **grid: Any) -> Figure:
    folder = write_run(path, status, **grid) if status else write_run(path, **grid)
    return heatmap.figure_of([load(folder)], Style())


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text().startswith("effective")]


def bracket(axes: Axes) -> list[float]:
    """The columns at which it begins and ends; empty where there is none."""
    under = [line for line in axes.lines if line.get_transform() == axes.get_xaxis_transform()]
    xs = [float(x) for line in under for x in np.asarray(line.get_xdata())]
    return [min(xs), max(xs)] if xs else []


def bands(axes: Axes) -> list[tuple[float, float]]:
    found = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == BAND.hex]
    return [
        (patch.get_y(), patch.get_y() + patch.get_height())  # type: ignore[attr-defined]
        for patch in found
    ]


def scores(axes: Axes) -> list[float]:
    bars = [line for line in axes.lines if line.get_linewidth() == 2]
    return [float(np.asarray(line.get_ydata())[0]) for line in bars]


def test_brackets_span_the_lengths_up_to_the_effective_one(tmp_path: Path) -> None:
    panels = figure_for(tmp_path).axes[: len(METHODS)]
    assert [words(axes) for axes in panels] == [
        ["effective 512"],
        ["effective 4K"],
        ["effective ≥ 8K"],
        ["effective ≥ 8K"],
    ]
    ends = [bracket(axes) for axes in panels]
    assert [round(right + 0.5) for _, right in ends] == [2, 5, 6, 6]
    assert {round(left + 0.5) for left, _ in ends} == {0}


def test_too_few_samples_draw_no_bracket(tmp_path: Path) -> None:
    small = figure_for(tmp_path, repeats=1)
    for axes in small.axes[: len(METHODS)]:
        assert words(axes) == []
        assert bracket(axes) == []
    labels = [text.get_text() for text in small.legends[0].get_texts()]
    assert not any("effective" in label for label in labels)
    # Nothing is kept free for what is not drawn.
    assert small.get_figheight() < figure_for(tmp_path / "large").get_figheight()


def test_a_method_that_fails_from_the_start_has_words_only(tmp_path: Path) -> None:
    axes = figure_for(tmp_path, lambda *_: "miss").axes[0]
    assert words(axes) == ["effective below 256"]
    assert bracket(axes) == []


def test_the_strip_shows_the_score_of_each_length_in_its_interval(tmp_path: Path) -> None:
    figure = figure_for(tmp_path)
    strip = figure.axes[len(METHODS)]
    # Found at 1K: depths 50 to 100 %, at 2K 80 to 100 %, at 4K 90 and 100 %, at 8K 100 %.
    assert scores(strip) == pytest.approx([1, 1, 6 / 11, 3 / 11, 2 / 11, 1 / 11])
    assert bands(strip)[0] == pytest.approx((0.851345, 1.0), abs=1e-6)
    inside = zip(scores(strip)[2:], bands(strip)[2:], strict=True)
    assert all(low < score < high for score, (low, high) in inside)
    assert strip.get_xlim() == figure.axes[0].get_xlim()
    panel, above = figure.axes[0].get_position(), strip.get_position()
    assert (above.x0, above.x1) == pytest.approx((panel.x0, panel.x1))
    assert above.y0 > panel.y1


def test_a_length_without_a_score_leaves_a_gap(tmp_path: Path) -> None:
    figure = figure_for(tmp_path, lambda m, length, d, r: "ok" if length < 8192 else "error")
    strip = figure.axes[len(METHODS)]
    assert len(scores(strip)) == len(bands(strip)) == 5


def test_no_line_crosses_a_count(tmp_path: Path) -> None:
    """As drawn, in pixels, whatever the depths: two of them lie on the frontier itself."""
    depths = (0.0, 12.5, 33.0, 50.0, 62.5, 75.0, 100.0)
    figure = figure_for(tmp_path, lambda m, length, depth, r: "ok" if r else "miss", depths=depths)
    figure.canvas.draw()
    axes = figure.axes[0]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    corners = axes.transData.transform(np.column_stack(dashed.get_data()))
    counts = [text for text in axes.texts if "/" in text.get_text()]
    assert len(counts) == 6 * len(depths) and len(corners) == 8
    for text in counts:
        box = text.get_window_extent()
        for start, end in itertools.pairwise(corners):
            left, right = sorted((start[0], end[0]))
            bottom, top = sorted((start[1], end[1]))
            apart = right < box.x0 or left > box.x1 or top < box.y0 or bottom > box.y1
            assert apart, text.get_position()


def test_hatching_passes_behind_a_count(tmp_path: Path) -> None:
    figure = figure_for(tmp_path, lambda m, length, depth, r: "error" if r else "miss")
    counts = [text for text in figure.axes[0].texts if "/" in text.get_text()]
    assert len(counts) == 66
    for text in counts:
        box = text.get_bbox_patch()
        assert box is not None and to_hex(box.get_facecolor()) == palette().colour(0).hex


def all_states(method: str, length: int, depth: float, repeat: int) -> str | None:
    if length == 4096:
        return {0: "error", 10: "overflow", 20: None}.get(int(depth), "ok")
    return "ok"


@pytest.mark.parametrize("methods", [1, 2, 4, 6])
def test_nothing_is_cut_off_with_everything_on_it(tmp_path: Path, methods: int) -> None:
    names = [f"method{index}" for index in range(methods)]
    lengths = (512, 1024, 2048, 4096)
    png, svg = heatmap.draw(write_run(tmp_path / "a", all_states, methods=names, lengths=lengths))
    pixels = imread(png)[..., :3]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 1).all()
    again = heatmap.draw(write_run(tmp_path / "b", all_states, methods=names, lengths=lengths))
    assert [file.read_bytes() for file in again] == [png.read_bytes(), svg.read_bytes()]


@pytest.mark.parametrize("methods", [1, 2, 4])
def test_words_do_not_lie_on_each_other(tmp_path: Path, methods: int) -> None:
    names = [f"method{index}" for index in range(methods)]
    figure = figure_for(tmp_path, all_states, methods=names, lengths=(512, 1024, 2048, 4096))
    figure.canvas.draw()
    boxes = [figure.legends[0].get_window_extent()]
    for axes in figure.axes[:methods]:
        boxes += [text.get_window_extent() for text in axes.texts if "/" not in text.get_text()]
    boxes += [axes.get_window_extent() for axes in figure.axes[: 2 * methods]]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
