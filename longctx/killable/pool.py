"""A few processes that may be killed, kept warm, for work that is asked from threads.

    ask -> wait for a place -> a process works, or is ended: by its deadline, or as nobody waits

Processes are started when they are needed, and ended when they were not for a while. Knows nothing
of what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from longctx.killable.process import EndedError, KillableProcess, TooSlowError

__all__ = ["EndedError", "KillablePool", "LeftError", "Ticket", "TooSlowError"]

IDLE_SECONDS = 3.0  # they start in less than one, for work that takes as long


class LeftError(Exception):
    """Whoever asked does no longer, and the work is ended."""


class Ticket:
    """Of somebody who may leave while a thread works for them, in whatever pool it waits."""

    _current: ContextVar[Ticket | None] = ContextVar("ticket", default=None)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: KillableProcess | None = None
        self.left = False

    def leave(self) -> None:
        """The work ends now. From any thread; harmless when repeated."""
        with self._lock:
            self.left = True
            if self._process is not None:
                self._process.kill()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function; what it asks of pools in this thread can be left."""
        before = self._current.set(self)
        try:
            return function(*arguments)
        finally:
            self._current.reset(before)

    @classmethod
    def current(cls) -> Ticket:
        """Of this thread's work; one that nobody leaves where there is none."""
        return cls._current.get() or cls()

    @contextmanager
    def holding(self, process: KillableProcess) -> Iterator[None]:
        """While the process works for it.

        Raises: LeftError.
        """
        with self._lock:
            if self.left:
                raise LeftError
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None


class KillablePool:
    """Processes of one kind.

    Args:
        start: makes one that is ready.
        most: at once.
    """

    def __init__(self, start: Callable[[], KillableProcess], most: int) -> None:
        self._start = start
        self._places = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[tuple[KillableProcess, float]] = []  # and since when
        self._at_work: set[KillableProcess] = set()
        self._ended = False

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [each.pid for each in (*self._at_work, *(one for one, _ in self._idle))]

    def ask(self, line: str, seconds: float, body: bytes | None = None) -> dict[str, Any]:
        """What a process answers. One that says `spent` is not asked again.

        Raises:
            TooSlowError: the time was over.
            EndedError: the process ended, or there is none to be had.
            LeftError: whoever asked has left.
        """
        ticket = Ticket.current()
        with self._places:
            process = self._take()
            told: dict[str, Any] | None = None
            try:
                with ticket.holding(process):
                    told = process.ask(line, seconds, body)
            except (TooSlowError, EndedError):
                if ticket.left:
                    raise LeftError from None
                raise
            finally:
                self._give(process, usable=told is not None and not told.get("spent"))
            return told

    def tidy(self) -> None:
        """End those not needed for a while. Returns at once; to be called now and then."""
        before = time.monotonic() - IDLE_SECONDS
        with self._lock:
            late = [process for process, since in self._idle if since < before]
            self._idle = [each for each in self._idle if each[0] not in late]
        for process in late:
            process.close()

    def close(self) -> None:
        """End all of them, also in the middle of their work. Harmless when repeated."""
        with self._lock:
            self._ended = True
            idle, self._idle = self._idle, []
            for process in self._at_work:
                process.kill()
        for process, _ in idle:
            process.close()

    def _take(self) -> KillableProcess:
        with self._lock:
            if self._ended:
                raise EndedError("the server is shutting down")
            process = self._idle.pop()[0] if self._idle else None
        if process is None:
            process = self._start()
        with self._lock:
            self._at_work.add(process)
            ended = bool(self._ended)
        if ended:  # meanwhile; it answers nobody
            process.kill()
        return process

    def _give(self, process: KillableProcess, *, usable: bool) -> None:
        with self._lock:
            self._at_work.discard(process)
            usable = usable and not self._ended
            if usable:
                self._idle.append((process, time.monotonic()))
        if not usable:
            process.close()
