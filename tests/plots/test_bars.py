"""Effective lengths as bars: order, ends, and words."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from picture_checks import check
from run_fakes import write_run

from longctx.eval.needle.ranking import arms_of, ranked
from longctx.eval.needle.summary import load
from longctx.plots import bars
from longctx.plots.palette import BAND, INK
from longctx.plots.style import Style


def figure_for(*folders: Path) -> Figure:
    return bars.figure_of([load(folder) for folder in folders], Style())


def ends(axes: Axes, colour: str) -> list[float]:
    """Where bars of a colour end, in tokens."""
    found = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == colour]
    return [2 ** (p.get_x() + p.get_width()) for p in found]  # type: ignore[attr-defined]


def test_the_longest_stands_on_top(tmp_path: Path) -> None:
    figure = figure_for(write_run(tmp_path))
    axes = figure.axes[0]
    assert [round(end) for end in ends(axes, INK.hex)] == [8192, 8192, 4096, 512]
    # Between the last pass and the first fail it breaks.
    assert [round(end) for end in ends(axes, BAND.hex)] == [8192, 1024]
    arrows = [line for line in axes.lines if line.get_marker() == ">"]
    assert len(arrows) == 2
    shown = [text.get_text().strip() for text in axes.texts]
    assert shown[:2] == ["dca", "≥ 8K (max tested)"]
    assert shown[-2:] == ["none", "512"]
    assert axes.get_xlim()[0] == math.log2(256) - 1


def test_without_enough_samples_there_is_no_bar(tmp_path: Path) -> None:
    axes = figure_for(write_run(tmp_path, repeats=1)).axes[0]
    assert ends(axes, INK.hex) == []
    assert "not enough samples (11 of 22)" in [text.get_text().strip() for text in axes.texts]


def test_several_models(tmp_path: Path) -> None:
    small = write_run(tmp_path / "a")
    large = write_run(tmp_path / "b", lambda *_: "ok", model="m/" + "long-" * 20, trained=300)
    close = write_run(tmp_path / "c", lengths=(6144, 7168, 7169, 8192), model="c", repeats=1)
    figure = figure_for(small, large, close)
    check(figure, tmp_path / "a.png")
    names = [arm.label(with_model=True) for arm in ranked(arms_of([load(small), load(large)]))]
    assert names[-2:] == ["small · yarn", "small · none"]
