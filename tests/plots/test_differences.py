"""The second row of the map: what it says against the first method, and where a star stands."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from run_fakes import LENGTHS, METHODS, four_methods, window, write_run

from longctx.eval.needle.summary import load
from longctx.plots import difference, heatmap
from longctx.plots.palette import NOT_RUN, difference_colour
from longctx.plots.style import Style


def figure_for(folder: Path) -> Figure:
    return heatmap.figure_of([load(folder)], Style())


def panels(figure: Figure) -> list[Axes]:
    """Maps, strips, then differences, then two colour bars."""
    return figure.axes[2 * len(METHODS) : -2]


def stars(axes: Axes) -> list[float]:
    return [text.xy[0] for text in axes.texts if text.get_text() == difference.STAR]  # type: ignore[attr-defined]


def test_each_method_stands_against_the_first(tmp_path: Path) -> None:
    figure = figure_for(write_run(tmp_path))
    yarn, dca, _ = panels(figure)
    words = [text.get_text() for text in figure.texts]
    assert {"yarn − none", "dca − none", "yarn+dca − none"} <= set(words)
    figures = [text.get_text() for text in dca.texts if text.get_text() != difference.STAR]
    # 1K lost five depths of eleven, 2K eight, 4K nine, 8K ten; two samples each.
    assert figures == ["+2"] * (5 + 8 + 9 + 10)
    assert "−1" in [text.get_text() for text in yarn.texts]
    assert to_hex(dca.patches[-1].get_facecolor()) == difference_colour(0).hex


def test_stars_stand_where_the_paired_test_holds(tmp_path: Path) -> None:
    _, dca, both = panels(figure_for(write_run(tmp_path)))
    assert stars(dca) == stars(both) == [2, 3, 4, 5]
    # One sample a cell at 1K: five of eleven lost is p = 0.0625, and no star.
    few = panels(figure_for(write_run(tmp_path / "few", repeats=1)))[1]
    assert stars(few) == [3, 4, 5]


def test_a_star_by_the_name_is_for_all_lengths_together(tmp_path: Path) -> None:
    """Three of eleven needles more at each of six lengths: told over all, and at none by itself."""

    def little(method: str, length: int, depth: float, repeat: int) -> str:
        return "miss" if method == "none" and depth < 30 else "ok"

    told = {"methods": ["none", "dca"], "repeats": 1}
    for texts in ("own", "shared"):
        path = write_run(tmp_path / texts, little, **told, texts=texts)
        figure = figure_for(path)
        assert [text.get_text() for text in figure.texts].count(difference.STAR) == 1
        assert not stars(figure.axes[4])
        (found,) = difference.differences(load(path))
        assert found.overall is not None and found.overall.holds
        assert difference.differs_words(found) == "differs over all lengths"
        assert found.compared.by_length == (texts == "own")
    few = figure_for(write_run(tmp_path / "few", little, **told, texts="shared"))
    (legend,) = few.legends
    assert "no stars: lengths need 8 texts each" in [text.get_text() for text in legend.get_texts()]


def test_a_single_method_has_no_second_row(tmp_path: Path) -> None:
    one = figure_for(write_run(tmp_path / "1", methods=["none"]))
    assert len(one.axes) == 3
    assert one.get_figheight() < figure_for(write_run(tmp_path / "4")).get_figheight() - 2


def test_what_was_not_asked_of_both_is_grey(tmp_path: Path) -> None:
    def status(method: str, length: int, depth: float, repeat: int) -> str | None:
        return None if method == "dca" and length == 256 else four_methods("dca", length, depth, 0)

    dca = panels(figure_for(write_run(tmp_path, status)))[1]
    colours = {patch.get_xy(): to_hex(patch.get_facecolor()) for patch in dca.patches}  # type: ignore[attr-defined]
    at_256 = [colour for (x, _), colour in colours.items() if x == -0.5]
    assert at_256 == [NOT_RUN.hex] * 11
    assert {colour for (x, _), colour in colours.items() if x > 0} == {difference_colour(0).hex}


def test_methods_that_were_never_asked_the_same_leave_no_row(tmp_path: Path) -> None:
    def status(method: str, length: int, depth: float, repeat: int) -> str | None:
        return "ok" if (method == "none") == (length < 1024) else None

    results = load(write_run(tmp_path, status))
    assert difference.differences(results) == []


def test_a_worse_method_is_rust_and_says_minus(tmp_path: Path) -> None:
    def status(method: str, length: int, depth: float, repeat: int) -> str | None:
        return "ok" if method == "none" else window(512)(method, length, depth, repeat)

    yarn = panels(figure_for(write_run(tmp_path, status)))[0]
    at_8k = yarn.patches[len(LENGTHS) - 1]
    assert to_hex(at_8k.get_facecolor()) == difference_colour(-1).hex
    assert "−2" in [text.get_text() for text in yarn.texts]


def test_show_net() -> None:
    assert [difference.show_net(net) for net in (2, -1, 0.5, 0, 1e-9)] == [
        "+2",
        "−1",
        "+0.5",
        "",
        "",
    ]
