"""What people see: a bar that goes, text that cannot command a terminal, figures in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from longctx.ask import screen
from longctx.ask.answer import AskedAnswer, AskTimings, PromptProgress
from longctx.ask.sources import FoundSource
from longctx.reading import Place

HOSTILE = "a\x1b[2Jb\x9b31mc\rd\u202ee\x00f"


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100, color_system=None), file


def test_text_is_text() -> None:
    assert screen.printable(HOSTILE) == "a\ufffd[2Jb\ufffd31mc\ufffdd\ufffde\ufffdf"
    assert screen.printable("line\n\ttab 山 é") == "line\n\ttab 山 é"


def test_nothing_hostile_is_printed() -> None:
    err, told = console()
    out = io.StringIO()
    with screen.AnswerScreen(err, out) as shown:
        shown.text(HOSTILE)
    found = FoundSource("d", Place(f"[bold]{HOSTILE}", line=3), 0, 1, HOSTILE, HOSTILE, HOSTILE)
    screen.print_sources(err, [found])
    for text in (out.getvalue(), told.getvalue()):
        assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text
    assert "[bold]" in told.getvalue()
    assert out.getvalue().endswith("\n")


def test_the_bar_shows_tokens_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((10.0, 20.0, 30.0))
    monkeypatch.setattr(screen.time, "perf_counter", lambda: next(now))
    err, told = console(terminal=True)
    with screen.AnswerScreen(err, io.StringIO()) as shown:
        shown.progress(PromptProgress(10_000, 2_000, 2_000))
        assert shown._told(PromptProgress(10_000, 2_000, 4_000)) == (
            "4,000 of 10,000 tokens, 2,000 reused, 200/s, 30 s left"
        )
    assert "reading" in told.getvalue()


def test_without_a_terminal_there_is_no_bar() -> None:
    err, told = console()
    with screen.AnswerScreen(err, io.StringIO()) as shown:
        shown.progress(PromptProgress(10, 0, 5))
    assert told.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (4000, "1 h 6 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert screen.duration(seconds) == words


def test_figures_in_words() -> None:
    err, told = console()
    answer = AskedAnswer("x", "length", 5_000, 4_000, 11, AskTimings(2.0, 3.0))
    screen.say_figures(err, answer, 11)
    assert told.getvalue() == (
        "read 5,000 tokens, 4,000 of them reused in 2.0 s (500/s); answered 11 tokens (10.0/s); "
        "cut off at --max-tokens 11\n"
    )
    err, told = console()
    screen.say_figures(err, AskedAnswer("x", "stop", None, None, None, AskTimings(2, 2)), 11)
    assert told.getvalue() == "in 2.0 s\n"


def test_what_comes_at_once_has_no_speed() -> None:
    """Of a server's short answer all pieces may be read together."""
    at_once = AskedAnswer("x", "stop", 50, 0, 8, AskTimings(2.0, 2.0004))
    assert at_once.answer_speed is None
    later = AskedAnswer("x", "stop", 50, 0, 8, AskTimings(2.0, 2.35))
    assert later.answer_speed == pytest.approx(20)
