"""What a map and a curve consist of, and that every painter shows just that."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from report_helpers import page_of
from rich.console import Console
from run_fakes import LENGTHS, METHODS, all_states, four_methods, write_perplexity, write_run

from longctx.errors import UserError
from longctx.eval.needle.summary import load
from longctx.eval.perplexity import summary as perplexity_summary
from longctx.plots import frontier, heatmap, perplexity
from longctx.plots.cells import MapCell, Role
from longctx.plots.curve import apart, curve_of, ticks
from longctx.plots.scene import Panel, Scene, scene_of
from longctx.plots.style import Style
from longctx.plots.terminal import CROSS, HATCH, TerminalMap

DEPTHS = (0.0, 30.0, 40.0, 50.0, 60.0, 90.0)  # of all_states: ok, cut off, overflow, error, …


def some_of_everything(method: str, length: int, depth: float, repeat: int) -> str | None:
    """Every state alone at 8K, some beside scores at 4K, and the four methods elsewhere."""
    if length == 8192:
        return all_states(method, length, depth, repeat)
    if length == 4096 and repeat:
        return {0: "miss", 30: "error", 50: "truncated_output", 90: None}.get(int(depth), "ok")
    return four_methods(method, length, depth, repeat)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    return write_run(path, some_of_everything, methods=("none", "dca"), depths=DEPTHS, prompts="a")


def shown(cell: MapCell) -> str:
    """A cell in a few letters."""
    sign = {Role.SCORE: "", Role.EMPTY: ".", Role.BLANK: " ", Role.EVEN: "=", Role.DIFFERENCE: ""}
    marks = ("/" if cell.hatched else "") + ("x" if cell.crossed else "")
    return (sign[cell.role] + cell.text + marks).strip() or ("ok" if cell.score == 1 else "?")


def rows(panel: Panel) -> list[list[str]]:
    columns = panel.grid.columns
    cells = [shown(cell) for cell in panel.cells]
    return [cells[at : at + columns] for at in range(0, len(cells), columns)]


def test_the_scene_of_a_run(folder: Path) -> None:
    scene = scene_of(load(folder), Style())
    none, dca = scene.panels
    assert rows(none) == [
        ["ok", "ok", "0/2", "0/2", "0/2", "ok"],
        ["ok", "ok", "0/2", "0/2", "0/1/", "1/2/"],
        ["ok", "ok", "0/2", "0/2", "1/2", ".x"],
        ["ok", "ok", "ok", "0/2", "0.5/2/", "/"],
        ["ok", "ok", "ok", "0/2", "1/2", "."],
        ["ok", "ok", "ok", "ok", "ok", "1/2"],
    ]
    assert (none.heading, none.note) == ("none", "the model as trained")
    assert (dca.heading, dca.note) == ("dca", "chunk 448, local 64")
    assert scene.grid == (
        ("256", "512", "1K", "2K", "4K", "8K"),
        ("0%", "30%", "40%", "50%", "60%", "90%"),
        "needle depth",
    )
    assert none.trained == (1.5, "trained 512")
    # 1K: 50 % is one window before the question; 2K: 75 %; 4K: 87.5 %; 8K: 93.75 %.
    assert none.frontier == (
        *((1.5, 2.5), (2.5, 2.5), (2.5, 4.5), (3.5, 4.5)),
        *((3.5, 4.5), (4.5, 4.5), (4.5, 5.5), (5.5, 5.5)),
    )
    assert none.cells[4 * 6 + 5].told == "8K at 60%: 2 not run"
    assert none.cells[6 + 4].told == "4K at 30%: 0 of 1 found, 1 error"
    assert none.cells[6 + 4].figures == "0/1 +1 error"
    (difference,) = scene.differences
    assert rows(difference)[1] == ["=", "=", "+2", "+2", "+1", "="]
    assert rows(difference)[5] == ["=", "=", "=", "=", "=", "="]
    assert [entry.sign for entry in scene.legend] == [
        *("not run", "hatch", "cross", "frontier", "interval", "star")
    ]


def test_the_frontier_runs_along_borders_of_cells() -> None:
    """Both its ends and all that lies between, whatever lengths and depths: no cell is entered."""
    rng = random.Random(0)
    for _ in range(300):
        lengths = sorted(rng.sample(range(64, 9000), rng.randint(1, 9)))
        depths = sorted(rng.sample(range(1001), rng.randint(1, 12)))
        trained = rng.choice([*lengths, rng.randint(64, 9000)])
        levels = [depth / 10 for depth in depths]
        corners = frontier.steps(lengths, levels, trained)
        for start, end in itertools.pairwise(corners):
            assert start[0] == end[0] or start[1] == end[1]
            assert {(2 * part) % 2 for part in (*start, *end)} == {1}
        for (x, y), (_, same) in zip(corners[::2], corners[1::2], strict=True):
            assert y == same
            length = lengths[int(x + 0.5)]
            above = [depth for row, depth in enumerate(levels) if row < y]
            assert above == [d for d in levels if d < 100 * (1 - trained / length) - 1e-9]


def text_of_figure(figure: Figure, panels: int) -> list[list[str]]:
    """By panel, in the order of the grid."""
    found = []
    for axes in figure.axes[:panels]:
        cells = [text for text in axes.texts if "/" in text.get_text()]
        places = sorted((text.get_position()[::-1], text.get_text()) for text in cells)
        found.append([text for _, text in places])
    return found


def text_of_page(page: str) -> list[list[str]]:
    maps = re.findall(r'<svg class="map".*?</svg>', page, re.S)
    return [re.findall(r"<tspan[^>]*>([^<]*)</tspan>", one) for one in maps]


def terminal(folder: Path, *, coloured: bool) -> str:
    system: Any = "truecolor" if coloured else None
    console = Console(width=60, force_terminal=coloured, color_system=system, no_color=not coloured)
    with console.capture() as capture:
        console.print(TerminalMap(load(folder)))
    return capture.get()


def text_of_terminal(folder: Path) -> list[list[str]]:
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal(folder, coloured=True))
    blocks = re.split(r"^ +(?:none|dca) *$", plain, flags=re.M)[1:]
    return [re.findall(r"[\d.]+/\d+", block) for block in blocks]


def wanted(scene: Scene) -> list[list[str]]:
    return [[cell.text for cell in panel.cells if cell.text] for panel in scene.panels]


def test_painters_show_the_same_counts(folder: Path) -> None:
    texts = wanted(scene_of(load(folder), Style()))
    assert texts[0][:4] == ["0/2", "0/2", "0/2", "0/2"] and len(texts[0]) == 15
    assert text_of_figure(heatmap.figure_of([load(folder)], Style()), 2) == texts
    assert text_of_page(page_of(folder))[:2] == texts
    assert text_of_terminal(folder) == texts


def test_painters_draw_the_same_frontier_and_marks(folder: Path) -> None:
    scene = scene_of(load(folder), Style())
    panel = scene.panels[0]
    axes = heatmap.figure_of([load(folder)], Style()).axes[0]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert tuple(zip(*dashed.get_data(), strict=True)) == panel.frontier
    hatched = {(cell.column - 0.5, cell.row - 0.5) for cell in panel.cells if cell.hatched}
    assert {patch.get_xy() for patch in axes.patches if patch.get_hatch()} == hatched  # type: ignore[attr-defined]

    page = page_of(folder)
    first = re.findall(r'<svg class="map".*?</svg>', page, re.S)[0]
    found = re.search(r'class="frontier" points="([^"]*)"', first)
    assert found is not None
    places = [tuple(map(float, pair.split(","))) for pair in found[1].split()]
    # 58 px on the left, and the middle of column 0 half a cell further; rows likewise under 68 px.
    width, height = round(230 / 6, 1), 32
    for (left, top), (x, y) in zip(places, panel.frontier, strict=True):
        assert left == pytest.approx(58 + (x + 0.5) * width, abs=0.06)
        assert top == pytest.approx(68 + (y + 0.5) * height, abs=0.06)
    assert first.count('class="hatched"') == len(hatched) == 4
    assert first.count('class="cross" d') + first.count('class="cross" stroke') == 1

    lines = terminal(folder, coloured=False).splitlines()[1:7]
    assert [line.count("_") > 0 for line in lines] == [False, False, True, False, True, True]
    assert [line.count("╎") for line in lines] == [0, 0, 0, 1, 1, 1]
    assert sum(line.count(HATCH) for line in lines) == 3 * 2 + 1 * 3
    assert sum(line.count(CROSS) for line in lines) == 1
    assert all("│" in line for line in lines)


def test_painters_have_the_same_labels_in_the_same_order(folder: Path) -> None:
    scene = scene_of(load(folder), Style())
    figure, page = heatmap.figure_of([load(folder)], Style()), page_of(folder)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [entry.words for entry in scene.legend]
    start = page.index('<div class="legend">')
    on_page = [page.index(words, start) for words in legend[:-1]]  # the star is told by a sentence
    assert on_page == sorted(on_page)
    for index, panel in enumerate(scene.panels):
        axes = figure.axes[index]
        words = [text.get_text() for text in axes.texts]
        svg = re.findall(r'<svg class="map".*?</svg>', page, re.S)[index]
        assert panel.heading in words and panel.note in words
        assert panel.trained is not None and panel.trained.words in words
        for text in (*panel.grid.lengths, *panel.grid.depths, panel.trained.words):
            assert f">{text}</text>" in svg
        assert f"<b>{panel.heading}</b><span>{panel.note}</span>" in page


def test_a_plain_figure_is_cells_labels_and_one_scale(folder: Path, tmp_path: Path) -> None:
    run = load(folder)
    scene = scene_of(run, Style(kind="plain"))
    assert scene.differences == () and scene.legend == ()
    for panel in scene.panels:
        assert not any(cell.text for cell in panel.cells)
        assert (panel.trained, panel.frontier, panel.bars, panel.bracket) == (None, (), (), None)
    # What has a score is a colour; what has none does not pass for one that did not run.
    marked = [cell for cell in scene.panels[0].cells if cell.hatched or cell.crossed]
    assert [cell.score for cell in marked] == [None] * 2
    figure = heatmap.figure_of([run], Style(kind="plain"))
    assert len(figure.axes) == 3 and not figure.legends  # two maps and the scale
    words = [text.get_text() for axes in figure.axes[:2] for text in axes.texts]
    assert words == ["none", "dca"]
    assert [text.get_text() for text in figure.texts] == ["prompt length in tokens"]
    titled = heatmap.figure_of([run], Style(kind="plain", title="Mine"))
    assert "Mine" in [text.get_text() for text in titled.texts]


def test_a_figure_in_the_manner_of_the_qwen2_report(folder: Path) -> None:
    run = load(folder)
    figure = heatmap.figure_of([run], Style(kind="qwen2"))
    assert len(figure.axes) == 3 and not figure.legends
    words = [text.get_text() for text in figure.texts]
    for wanted_words in ("context length in tokens", "document's top", "its bottom"):
        assert wanted_words in words
    assert any(text.startswith("Needle in a haystack: ") for text in words)
    classic, default = Style(palette="classic").colours, Style().colours
    assert Style(kind="qwen2").colours == classic != default
    assert Style(kind="qwen2", palette="classic").colours == classic
    with pytest.raises(UserError, match="--style qwen2 shows no counts"):
        Style(kind="qwen2", annotate="all")


@pytest.mark.parametrize("kind", ["full", "plain", "qwen2"])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (21, 1), (6, 11)])
def test_nothing_lies_on_anything(tmp_path: Path, kind: str, columns: int, rows: int) -> None:
    from picture_checks import check

    run = write_run(
        tmp_path / "run",
        methods=METHODS[:3],
        lengths=[256 * (step + 1) for step in range(columns)],
        depths=[round(100 * step / max(rows - 1, 1), 1) for step in range(rows)],
    )
    for title in (None, "A title of its own"):
        figure = heatmap.figure_of([load(run)], Style(kind=kind, title=title))
        check(figure, tmp_path / "a.png")


def test_a_curve_is_the_same_in_picture_and_page(tmp_path: Path) -> None:
    run = write_perplexity(tmp_path / "ppl")
    results = perplexity_summary.load(run)
    curve, page = curve_of(results), page_of(run)
    assert curve is not None and [line.method for line in curve.lines] == ["none", "dca"]
    (axes,) = perplexity.figure_of(results).axes
    words = [text.get_text() for text in axes.texts]
    for line in curve.lines:
        assert line.label in words and f">{line.label}</text>" in page
    assert curve.trained is None or curve.trained[1] in words
    labels = [text.get_text() for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert labels == [words for _, words in (*curve.x.labels, *curve.y.labels)]
    for label in labels:
        assert f">{label}</text>" in page


def test_ticks_and_labels_of_a_curve() -> None:
    assert ticks(1, 100) == [1, 2, 5, 10, 20, 50, 100]
    assert ticks(2.15, 2.55) == [2.2, 2.3, 2.4, 2.5]
    assert apart([0.0, 0.1, 0.9], 0.2) == [0.0, 0.2, 0.9]
    assert apart([], 1) == []
    assert LENGTHS[1] == 512  # what write_run's models are trained on


def test_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    run = write_perplexity(tmp_path / "ppl")
    (run / "perplexity.jsonl").unlink()
    results = perplexity_summary.load(run)
    assert curve_of(results) is None
    found: Sequence[str] = [text.get_text() for text in perplexity.figure_of(results).texts]
    assert found == ["nothing was measured yet"]
