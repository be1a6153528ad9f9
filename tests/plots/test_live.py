"""The map that stands over the progress bar: small, in colours, or in digits without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from run_fakes import DEPTHS, all_states, write_run

from longctx.eval.needle.summary import load
from longctx.plots.live import LEGEND, LiveMap
from longctx.plots.palette import MUTED, NOT_RUN, palette


def shown(folder: Path, **options: Any) -> list[str]:
    given: dict[str, Any] = {"width": 80, "force_terminal": True, "color_system": "truecolor"}
    # Said outright, because NO_COLOR in the environment would decide otherwise.
    console = Console(**given | {"no_color": False} | options)
    with console.capture() as capture:
        console.print(LiveMap(load(folder)))
    return capture.get().splitlines()


def test_two_depths_share_a_line(tmp_path: Path) -> None:
    lines = shown(write_run(tmp_path, methods=["none"]))
    # A name, eleven depths on six lines, lengths.
    assert len(lines) == 1 + (len(DEPTHS) + 1) // 2 + 1
    assert lines[1].count("▀") == 6 * 4 - 1  # and the border of the trained length
    assert lines[1].count("│") == 1
    good, bad = palette().colour(1), palette().colour(0)
    top = f"38;2;{bad.red};{bad.green};{bad.blue};48;2;{bad.red};{bad.green};{bad.blue}"
    assert top in lines[1]
    # 90 % and its neighbour at 8K: one is lost, one is found.
    assert f"48;2;{good.red};{good.green};{good.blue}" in lines[5]


def test_panels_stand_side_by_side_as_far_as_there_is_room(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert len(shown(folder, width=200)) == 8
    assert len(shown(folder, width=80)) == 16
    assert len(shown(folder, width=20)) == 32


def test_digits_without_colours(tmp_path: Path) -> None:
    lines = shown(write_run(tmp_path, all_states, methods=["none"], repeats=1), no_color=True)
    last = [line.split()[-1] for line in lines[1:8]]
    # ok, miss, partial, cut off, overflow, error, not run
    assert last == ["9", "0", "4", "4", "×", "╱", "·"]
    assert lines[-1] == LEGEND
    assert not any("▀" in line for line in lines)


def test_what_has_no_score_has_no_score_colour(tmp_path: Path) -> None:
    nothing = "".join(shown(write_run(tmp_path / "a", lambda *_: None, methods=["none"])))
    assert f"38;2;{NOT_RUN.red};{NOT_RUN.green};{NOT_RUN.blue}" in nothing
    failed = "".join(shown(write_run(tmp_path / "b", lambda *_: "error", methods=["none"])))
    assert f"38;2;{MUTED.red};{MUTED.green};{MUTED.blue}" in failed
