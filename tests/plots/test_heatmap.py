"""The pictures: drawn from a folder alone, the same bytes every time, right in what they show."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from run_fakes import write_run

from longctx.errors import UserError
from longctx.eval.needle.summary import load
from longctx.plots import heatmap
from longctx.plots.palette import NOT_RUN, PALETTES, RGB, palette
from longctx.plots.style import Style
from longctx.plots.terminal import TerminalMap

ROOT = Path(__file__).resolve().parents[2]
LENGTHS, DEPTHS = [2048, 8192, 16384], [0.0, 50.0, 100.0]

# One letter a sample: o ok, m miss, e error, t cut off, v overflow; an empty cell did not run.
Cells = dict[str, list[list[str]]]
STATES = {"o": "ok", "m": "miss", "e": "error", "t": "truncated_output", "v": "overflow"}
EXAMPLE: Cells = {
    "none": [["ooo", "ooo", "mmm"], ["ooo", "oom", "mmm"], ["ooo", "ooo", "vvv"]],
    "dca": [["ooo", "ooo", "oee"], ["ooo", "ooo", "eee"], ["ooo", "", "ttt"]],
}


def folder(path: Path, cells: Cells = EXAMPLE, trained: int | None = 8192) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    scheme: dict[str, Any] = {"chunk_size": 7168, "local_size": 1024, "factor": None}
    run = {
        "schema": 1,
        "task": "needle",
        "grid": {"methods": list(cells), "lengths": LENGTHS, "depths": DEPTHS, "repeats": 3},
        "settings": {"seed": 0},
        "schemes": {method: scheme if "dca" in method else {} for method in cells},
        "model": {"name": "models/small"},
        "haystack": {"id": "book.txt"},
        "trained_length": trained,
    }
    (path / "run.json").write_text(json.dumps(run))
    with (path / "results.jsonl").open("w") as stream:
        for method, rows in cells.items():
            for depth, row in zip(DEPTHS, rows, strict=True):
                for length, samples in zip(LENGTHS, row, strict=True):
                    for repeat, letter in enumerate(samples):
                        record = {
                            "schema": 1,
                            "key": f"{method}/{length}/{depth}/{repeat}",
                            "scheme": {"method": method},
                            "length": length,
                            "depth": depth,
                            "repeat": repeat,
                            "status": STATES[letter],
                            "score": {"o": 1.0, "m": 0.0}.get(letter),
                            "error": None,
                        }
                        stream.write(json.dumps(record) + "\n")
    return path


def figure_for(path: Path, palette_name: str = "default") -> Figure:
    return heatmap.figure_of([load(path)], Style(palette_name))


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def colour_at(figure: Figure, panel: int, column: int, row: int) -> str:
    from matplotlib.colors import to_hex

    cells = [
        patch
        for patch in figure.axes[panel].patches
        if patch.get_xy() == (column - 0.5, row - 0.5)  # type: ignore[attr-defined]
    ]
    return to_hex(cells[0].get_facecolor())


def hatches(figure: Figure, panel: int) -> set[tuple[float, float]]:
    return {
        patch.get_xy()  # type: ignore[attr-defined]
        for patch in figure.axes[panel].patches
        if patch.get_hatch()
    }


def test_counts_stand_in_imperfect_cells_only(tmp_path: Path) -> None:
    figure = figure_for(folder(tmp_path))
    counts = [text for text in texts(figure, 0) if "/" in text]
    assert sorted(counts) == ["0/3", "0/3", "2/3"]
    assert [text for text in texts(figure, 1) if "/" in text] == []


def test_colours_are_fixed_to_the_score(tmp_path: Path) -> None:
    figure = figure_for(folder(tmp_path))
    colours = palette()
    assert colour_at(figure, 0, 0, 0) == colours.colour(1).hex
    assert colour_at(figure, 0, 2, 0) == colours.colour(0).hex
    assert colour_at(figure, 0, 1, 1) == colours.colour(2 / 3).hex
    # The scale is not the data's: a map of ones looks like ones.
    perfect: Cells = {"none": [["ooo"] * 3] * 3}
    assert colour_at(figure_for(folder(tmp_path / "p", perfect)), 0, 0, 0) == colours.colour(1).hex
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0.0, 1.0)


def test_states_without_a_score_look_different(tmp_path: Path) -> None:
    figure = figure_for(folder(tmp_path))
    assert colour_at(figure, 1, 1, 2) == NOT_RUN.hex
    assert hatches(figure, 1) == {(1.5, -0.5), (1.5, 0.5), (1.5, 1.5)}
    assert hatches(figure, 0) == set()
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(2, 2)]  # type: ignore[index]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        "not run",
        "error (5, not scored) or answer cut off (3, scored by what it has)",
        "longer than the target takes (3)",
        "needle 8K tokens before the question",
        "95 % interval of the score",
        "no stars: lengths need 7 texts each",
    ]


def test_depth_zero_is_on_top_and_lengths_are_equal_cells(tmp_path: Path) -> None:
    axes = figure_for(folder(tmp_path)).axes[0]
    assert axes.get_ylim() == (2.5, -0.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0%", "50%", "100%"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2K", "8K", "16K"]
    assert list(axes.get_xticks()) == [0, 1, 2]


def test_the_trained_length_and_the_frontier(tmp_path: Path) -> None:
    axes = figure_for(folder(tmp_path)).axes[0]
    solid = [
        line for line in axes.lines if line.get_linestyle() == "-" and line.get_linewidth() == 2
    ]
    assert list(solid[0].get_xdata()) == [1.5, 1.5]
    assert "trained 8K" in texts(figure_for(folder(tmp_path)), 0)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    # depth = 1 - 8K/16K = 50 %: 0 % is out of reach, 50 % is not
    assert list(dashed[0].get_xdata()) == [1.5, 2.5]
    assert list(dashed[0].get_ydata()) == [0.5, 0.5]


@pytest.mark.parametrize("trained", [None, 512, 65536])
def test_a_trained_length_off_the_map_is_not_drawn(tmp_path: Path, trained: int | None) -> None:
    figure = figure_for(folder(tmp_path, trained=trained))
    assert not any(text.startswith("trained") for text in texts(figure, 0))


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in heatmap.draw(folder(tmp_path / "a"))]
    second = [file.read_bytes() for file in heatmap.draw(folder(tmp_path / "b"))]
    assert first == second
    assert b"<dc:date>" not in first[1]


@pytest.mark.parametrize("methods", [1, 2, 4, 6])
def test_the_picture_is_large_enough_to_read(tmp_path: Path, methods: int) -> None:
    cells = {f"method{n}": EXAMPLE["none"] for n in range(methods)}
    png, _ = heatmap.draw(folder(tmp_path, cells))
    height, width = imread(png).shape[:2]
    assert width >= 1200
    assert height / width < 1.5
    # At 1200 px the smallest letters (8.5 pt) are still 9 px high.
    assert 8.5 / 72 * 1200 / (width / heatmap.DPI) >= 9


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    png, _ = heatmap.draw(folder(tmp_path))
    pixels = imread(png)[..., :3]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 1).all()


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json"):
        heatmap.draw(tmp_path)


def test_pictures_need_no_model_library() -> None:
    code = (
        "import sys, longctx.plots.heatmap, longctx.plots.terminal\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_default_palette_is_ordered_by_luminance() -> None:
    steps = [palette().colour(step / 50).luminance for step in range(51)]
    assert all(low < high for low, high in itertools.pairwise(steps))
    assert steps[-1] - steps[0] > 0.6


@pytest.mark.parametrize("name", PALETTES)
def test_letters_can_be_read_on_every_colour(name: str) -> None:
    for step in range(51):
        colour = palette(name).colour(step / 50)
        low, high = sorted([colour.luminance, colour.ink.luminance])
        assert (high + 0.05) / (low + 0.05) >= 4.0, step


def test_palettes() -> None:
    assert palette("classic").colour(0.0) == RGB(0xF0, 0x49, 0x6E)
    assert palette("classic").colour(1.0).hex == "#0cd79f"
    assert palette().colour(-3) == palette().colour(0)
    with pytest.raises(ValueError, match="classic"):
        palette("jet")


def terminal(path: Path, **options: Any) -> str:
    console = Console(record=True, width=options.pop("width", 100), **options)
    with console.capture() as capture:
        console.print(TerminalMap(load(path)))
    return capture.get()


def test_a_long_method_over_one_length_keeps_its_name(tmp_path: Path) -> None:
    methods = ("yarn-freqs+dca", "none")
    run = write_run(tmp_path, methods=methods, lengths=(512,))
    first, *_, labels = [line.rstrip() for line in terminal(run, no_color=True).splitlines()][:13]
    assert first.split() == list(methods)
    assert first.index("none") == labels.rindex("512") - 2  # its block begins under its name


def test_the_terminal_map_says_it_all_without_colours(tmp_path: Path) -> None:
    shown = terminal(folder(tmp_path), no_color=True)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert re.split(r"\s+", lines[0].strip()) == ["none", "dca"]
    assert lines[1].split() == ["0%", "3/3", "3/3", "│_0/3__", "0%", "3/3", "3/3", "│╱1/1╱_"]
    assert lines[2].split()[:5] == ["50%", "3/3", "2/3", "│", "0/3"]
    assert lines[2].split()[5:] == ["50%", "3/3", "3/3", "│", "╱╱╱"]
    assert lines[3].split()[:5] == ["100%", "3/3", "3/3", "│", "×"]
    assert lines[3].split()[5:] == ["100%", "3/3", "–", "│", "╱╱╱"]
    legend = " ".join(" ".join(lines[5:]).split())
    hatch = "╱╱╱ error (5, not scored) or answer cut off (3, scored by what it has)"
    assert f"│ trained 8K; – not run; {hatch}; ×" in legend
    assert "╎__ needle 8K tokens before the question" in legend


def test_the_terminal_map_has_the_colours_of_the_picture(tmp_path: Path) -> None:
    shown = terminal(
        folder(tmp_path), force_terminal=True, color_system="truecolor", no_color=False
    )
    best = palette().colour(1)
    assert f"48;2;{best.red};{best.green};{best.blue}" in shown


def test_a_narrow_terminal_stacks_the_panels(tmp_path: Path) -> None:
    shown = terminal(folder(tmp_path), no_color=True, width=32)
    assert all(len(line) <= 32 for line in shown.splitlines())
    assert shown.index("none") < shown.index("dca")
