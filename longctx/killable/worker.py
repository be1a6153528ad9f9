"""A worker process from within: a line of JSON asked, a line answered, and three ways to end.

It ends with its stdin, also in the middle of its work; by its own clock, where its parent cannot
end it; and where it would take more memory than it may.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


def asked() -> Callable[[], bytes]:
    """What gives the next line of stdin, or waits for it. Once stdin ends, so does the process."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines.get


def asked_with_bodies() -> Callable[[], tuple[bytes, bytes]]:
    """As `asked`, of lines with bytes behind them, whose number comes first in the line."""
    found: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            size, _, rest = line.partition(b" ")
            body = sys.stdin.buffer.read(int(size))
            if len(body) == int(size):
                found.put((rest, body))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return found.get


def tell(**told: Any) -> None:
    """Answer."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The process ends where this takes longer. Windows has no such clock: the parent's is the only
    one there."""
    with suppress(AttributeError):
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        with suppress(AttributeError):
            signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory(most: int) -> None:
    """On the bytes of addresses that may be taken, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and does not take it
        resource.setrlimit(resource.RLIMIT_AS, (value, hard))


def address_space() -> int:
    """Bytes of addresses taken."""
    import psutil

    return int(psutil.Process().memory_info().vms)


def resident() -> int:
    """Bytes of memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)
