"""Threads beside the event loop: few for large bodies, so that these hold up nobody's small one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from longctx.engine.allocator import give_back
from longctx.killable.pool import Ticket

T = TypeVar("T")

# Bytes from which on work takes a while: some 50K tokens.
LARGE = 1 << 18
_LARGE_AT_ONCE = 2
# After the last large body: its memory is free by then, and nobody's answer waits.
_TRIM_AFTER = 2.0
QUICK = 0.2  # seconds


class Workers:
    """Large work waits for large work; small work has asyncio's own threads for itself."""

    _last_large: float | None = None  # of time.monotonic, where memory was not given back since

    def __init__(self) -> None:
        self._large = ThreadPoolExecutor(_LARGE_AT_ONCE, thread_name_prefix="longctx-large")
        # A stranger's PDF may take minutes until its process is ended.
        self._reading = ThreadPoolExecutor(_LARGE_AT_ONCE, thread_name_prefix="longctx-reading")
        # One grammar at a time, whatever its size; and one that is known to be quick beside it.
        self._grammars = {
            quick: ThreadPoolExecutor(1, thread_name_prefix="longctx-grammar")
            for quick in (True, False)
        }

    async def run(self, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a thread. Cancelled, what large work asks of processes ends.

        Args:
            size: bytes of what it works on.
        """
        if size < LARGE:
            return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        self._last_large = time.monotonic()
        ticket = Ticket()
        work = asyncio.get_running_loop().run_in_executor(
            self._large, ticket.run, function, *arguments
        )
        try:
            return await work
        except asyncio.CancelledError:
            ticket.leave()  # what is in a process of its own ends
            raise

    async def read_file(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that reads a file, whatever its size, in a thread for these."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, function, *arguments)

    async def compile(self, seconds: float, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that compiles a schema, in a thread for these.

        Args:
            seconds: that it is known to take.
        """
        executor = self._grammars[seconds < QUICK]
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def tidy(self) -> None:
        """Give back to the system what large bodies took, some time after the last one: the
        allocator keeps it, cut into pieces. Returns at once; to be called now and then."""
        if self._last_large is not None and time.monotonic() > self._last_large + _TRIM_AFTER:
            self._last_large = None
            self._large.submit(give_back)
