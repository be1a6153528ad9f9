"""What `longctx ask` shows: progress and figures on stderr, answer and sources on stdout.

What models and documents say is text: nothing of it reaches the terminal as a control character.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from longctx.ask.answer import AskedAnswer, PromptProgress
from longctx.ask.sources import FoundSource
from longctx.reading import ReadDocument

# C0 and C1 but for line end and tab, and what turns the direction of writing.
_UNSEEN = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_WORTH_TELLING_S = 5.0
_TABLE = dict.fromkeys(_UNSEEN - {ord("\n"), ord("\t")}, "\ufffd")


def printable(text: str) -> str:
    return text.translate(_TABLE)


def say(console: Console, line: str) -> None:
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def say_documents(err: Console, documents: Sequence[ReadDocument]) -> None:
    """Only what was not read as it is."""
    for document in documents:
        for note in document.notes:
            say(err, f"{document.name}: {note}")


class AnswerScreen:
    """One answer: a bar while the prompt is read, then the text as it comes.

    Args:
        out: where the answer goes.
    """

    def __init__(self, err: Console, out: TextIO) -> None:
        self._err, self._out = err, out
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began: tuple[float, int] | None = None
        self._ended_line = True

    def __enter__(self) -> AnswerScreen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._end_bar()
        if not self._ended_line:
            print(file=self._out, flush=True)

    def expects(self, tokens: int, seconds: float) -> None:
        if seconds >= _WORTH_TELLING_S:
            about = duration(seconds)
            say(self._err, f"reading {tokens:,} tokens: about {about} (a first estimate)")

    def progress(self, progress: PromptProgress) -> None:
        if not self._err.is_terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("reading"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[told]}"),
                console=self._err,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("reading", total=progress.total, told="")
        assert self._task is not None
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.processed,
            told=self._told(progress),
        )
        if progress.processed >= progress.total:
            self._end_bar()

    def _told(self, progress: PromptProgress) -> str:
        now = time.perf_counter()
        told = f"{progress.processed:,} of {progress.total:,} tokens"
        if progress.cached:
            told += f", {progress.cached:,} reused"
        if self._began is None:
            self._began = (now, progress.processed)
            return told
        since, before = self._began
        done, seconds = progress.processed - before, now - since
        if done <= 0 or seconds <= 0:
            return told
        left = (progress.total - progress.processed) * seconds / done
        return f"{told}, {done / seconds:,.0f}/s, {duration(left)} left"

    def text(self, text: str) -> None:
        self._end_bar()
        shown = printable(text)
        self._out.write(shown)
        self._out.flush()
        self._ended_line = shown.endswith("\n")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """
    >>> duration(7.4), duration(75), duration(4000)
    ('7 s', '1 min 15 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def say_figures(err: Console, answer: AskedAnswer, max_tokens: int) -> None:
    parts = []
    if answer.prompt_tokens is not None:
        reused = f", {answer.cached_tokens:,} of them reused" if answer.cached_tokens else ""
        parts.append(f"read {answer.prompt_tokens:,} tokens{reused}")
    parts.append(f"in {answer.timings.read_s:.1f} s")
    # Of a few new tokens the speed says nothing.
    if answer.read_speed and (answer.prompt_tokens or 0) - (answer.cached_tokens or 0) >= 64:
        parts.append(f"({answer.read_speed:,.0f}/s)")
    line = " ".join(parts)
    if answer.completion_tokens is not None:
        line += f"; answered {answer.completion_tokens:,} tokens"
        line += "" if answer.answer_speed is None else f" ({answer.answer_speed:,.1f}/s)"
    if answer.finish_reason == "length":
        line += f"; cut off at --max-tokens {max_tokens}"
    say(err, line)


def print_sources(out: Console, sources: Sequence[FoundSource]) -> None:
    if not sources:
        say(out, "The answer's words stand nowhere in the documents.")
        return
    say(out, "Its words stand in:")
    for source in sources:
        line = Text(printable(f"  {source.place}  "))
        line.append(printable(source.before), "dim")
        line.append(printable(source.words), "bold")
        line.append(printable(source.after), "dim")
        out.print(line, highlight=False, soft_wrap=True)
