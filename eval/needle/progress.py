"""Tell the person what happens: map, bar and time left on a terminal, plain lines elsewhere.

Everything goes to stderr; stdout belongs to results. Time left is remaining work at the rate of the
finished cells: cells differ a hundredfold, so counting them would mislead. The rate goes by what a
cell computed, the remaining work by what cells are expected to share with the one before. What the
map looks like is the caller's business; where the terminal is too low for it, the bar stands alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from longctx.eval.estimate import ModelSizes, expected_work, seconds_of, work_done
from longctx.eval.format import show_depth, show_length, show_seconds
from longctx.eval.needle.grid import Cell
from longctx.eval.runfolder.records import Record

_MARKS = {"ok": "[green]found[/]", "miss": "[red]missed[/]", "error": "[bold red]error[/]"}


class ProgressReport:
    """An observer for the runner; use it as a context manager around the run."""

    def __init__(
        self,
        console: Console,
        pending: Sequence[Cell],
        shape: ModelSizes,
        answer_tokens: int,
        prefix_sharing: bool,
        draw_map: Callable[[], RenderableType] | None = None,
    ) -> None:
        self._console = console
        self._shape, self._answer_tokens = shape, answer_tokens
        self._sharing = prefix_sharing
        self._expected: dict[Cell, float] = {}
        self._total = self._remaining = 0.0
        self._done_work = 0.0
        self._count = 0
        self._finished = 0
        self._began = time.perf_counter()
        self._draw_map = draw_map
        self._map: RenderableType | None = None
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self.expect(pending)

    def expect(self, cells: Sequence[Cell]) -> None:
        """More is to come than was known."""
        more = expected_work(cells, self._shape, self._answer_tokens, self._sharing)
        self._expected |= more
        self._total += sum(more.values())
        self._remaining += sum(more.values())
        self._count += len(cells)
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> ProgressReport:
        self._began = time.perf_counter()
        if self._console.is_terminal and self._count:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[counted]}"),
                TextColumn("[cyan]{task.fields[left]}"),
                console=self._console,
                auto_refresh=False,
            )
            self._task = self._bar.add_task(
                "starting", total=self._total, counted=f"0/{self._count}", left=""
            )
            self._update_map()
            self._live = Live(
                console=self._console,
                get_renderable=self._frame,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _frame(self) -> RenderableType:
        """What stands at the bottom of the terminal now."""
        bar: RenderableType = self._bar if self._bar is not None else ""
        if self._map is None:
            return bar
        # Rows: a blank line and the bar, and one for the line that is being printed.
        rows = len(self._console.render_lines(self._map, pad=False))
        return bar if rows + 3 > self._console.height else Group(self._map, "", bar)

    def _update_map(self) -> None:
        if self._draw_map is not None:
            self._map = self._draw_map()

    def started(self, cell: Cell) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=_name(cell))

    def finished(self, cell: Cell, record: Record) -> None:
        self._finished += 1
        self._remaining -= self._expected.pop(cell, 0.0)
        self._done_work += work_done(record, self._shape, self._answer_tokens)
        left, completed = self._left(), self._total - self._remaining
        status = str(record["status"])
        mark = _MARKS.get(status, f"[yellow]{status}[/]")
        counted = f"{self._finished}/{self._count}"
        line = f"{counted:>7}  {_name(cell):<34} {mark} in {seconds_of(record):.1f} s"
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, counted=counted, left=left)
            self._update_map()
            self._console.print(line, highlight=False)
        else:
            self._console.print(f"{line}{', ' + left if left else ''}", highlight=False)
        if record["error"] is not None:
            error = f"         {record['error']}"
            self._console.print(error, markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        if not self._expected or not self._done_work:
            return ""
        spent = time.perf_counter() - self._began
        return f"{show_seconds(spent / self._done_work * self._remaining)} left"


def _name(cell: Cell) -> str:
    repeat = f" repeat {cell.repeat + 1}" if cell.repeat else ""
    return f"{cell.method} {show_length(cell.length)} at {show_depth(cell.depth)}{repeat}"
