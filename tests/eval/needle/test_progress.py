"""What is said while a sweep runs: plain lines for a log, a bar for a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from longctx.eval.estimate import work
from longctx.eval.format import show_seconds
from longctx.eval.needle.grid import Cell
from longctx.eval.needle.progress import ProgressReport
from longctx.models.source import ModelShape

SHAPE = ModelShape(2, 64, 128, 4, 2, 16, 100)
CELLS = [Cell("none", 512, 50.0, 0), Cell("dca", 12288, 12.5, 2)]


def record(status: str, error: str | None = None) -> dict[str, Any]:
    cached = {"cached_tokens": None if error else 0}
    return {"status": status, "error": error, "total_s": 1.25, "length": 512, **cached}


def report(console: Console, monkeypatch: pytest.MonkeyPatch) -> str:
    clock = iter([0.0, 0.0, 1.0, 101.0])
    monkeypatch.setattr(
        "longctx.eval.needle.progress.time.perf_counter", lambda: next(clock, 200.0)
    )
    with ProgressReport(console, CELLS, SHAPE, 32, True) as progress:
        progress.started(CELLS[0])
        progress.finished(CELLS[0], record("ok"))
        progress.started(CELLS[1])
        progress.finished(CELLS[1], record("error", "RuntimeError: [no] room"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = report(Console(file=io.StringIO(), width=100), monkeypatch).splitlines()
    assert re.match(r" +1/2  none 512 at 50% +found in 1\.2 s, .* left$", lines[0])
    assert re.match(r" +2/2  dca 12K at 12\.5% repeat 3 +error in 1\.2 s$", lines[1])
    assert lines[2].strip() == "RuntimeError: [no] room"
    assert len(lines) == 3


def test_time_left_goes_by_work_and_not_by_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = report(Console(file=io.StringIO(), width=100), monkeypatch)
    # One second for the cell of 512 tokens: the one of 12K is worth more than a hundred.
    found = re.search(r"(\d+) (s|min)", shown.split("1.2 s, ")[1])
    assert found is not None
    assert found[2] == "min" or int(found[1]) > 20


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    shown = report(console, monkeypatch)
    assert "\x1b[" in shown
    assert "2/2" in shown


@pytest.mark.parametrize("sharing", [True, False])
def test_time_left_does_not_take_shared_tokens_for_speed(
    sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine of constant speed: after every cell the time left is the time it will take."""
    column = [Cell("none", 8192, depth, 0) for depth in (0.0, 25.0, 50.0, 75.0, 100.0)]
    cached = [0, 0, 2048, 4096, 6144] if sharing else [0] * 5
    took = [work(SHAPE, 8192, 32, tokens) / 1e6 for tokens in cached]
    now = 0.0
    monkeypatch.setattr("longctx.eval.needle.progress.time.perf_counter", lambda: now)
    console = Console(file=io.StringIO(), width=100)
    with ProgressReport(console, column, SHAPE, 32, sharing) as progress:
        for at, cell in enumerate(column):
            now += took[at]
            told = {**record("ok"), "length": 8192, "cached_tokens": cached[at]}
            progress.finished(cell, told)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    for at, line in enumerate(lines[:-1]):
        assert line.endswith(f", {show_seconds(sum(took[at + 1 :]))} left")
    assert not lines[-1].endswith("left")


def terminal(height: int, draw_map: Any) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=height)
    with ProgressReport(console, CELLS, SHAPE, 32, True, draw_map) as progress:
        for cell in CELLS:
            progress.started(cell)
            progress.finished(cell, record("ok"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_map_fills_in_over_the_bar() -> None:
    frames = iter("abcdefgh")
    shown = terminal(24, lambda: f"the map, frame {next(frames)}")
    assert "the map, frame a" in shown
    assert "the map, frame c" in shown
    assert "2/2" in shown


def test_a_low_terminal_keeps_the_bar_alone() -> None:
    shown = terminal(8, lambda: "\n".join(["a row"] * 6))
    assert "a row" not in shown
    assert "2/2" in shown


def test_no_map_is_drawn_for_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise AssertionError("drawn for a log")

    console = Console(file=io.StringIO(), width=100)
    with ProgressReport(console, CELLS, SHAPE, 32, True, refuse) as progress:
        progress.finished(CELLS[0], record("ok"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 1
