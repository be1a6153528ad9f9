"""Memory of large bodies goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import time

import pytest

from longctx.engine import allocator
from longctx.serve import workers
from longctx.serve.workers import LARGE, Workers


def test_memory_is_given_back_once_after_large_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_TRIM_AFTER", 0.05)
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr(workers, "give_back", trimmed.release)
    found = Workers()
    found.tidy()
    asyncio.run(found.run(10, int))
    time.sleep(0.1)
    found.tidy()
    assert not trimmed.acquire(timeout=0.1)  # nothing large was there
    asyncio.run(found.run(LARGE, int))
    found.tidy()
    assert not trimmed.acquire(timeout=0.02)  # not yet
    time.sleep(0.1)
    found.tidy()
    assert trimmed.acquire(timeout=5)
    found.tidy()
    assert not trimmed.acquire(timeout=0.1)


def test_the_systems_own_call_is_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator.give_back()
    if sys.platform == "linux":
        assert hasattr(ctypes.CDLL(None), "malloc_trim")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    allocator.give_back()


def test_files_that_take_long_hold_up_nothing_else() -> None:
    found, ended = Workers(), threading.Event()

    async def asked() -> int:
        reading = [asyncio.ensure_future(found.read_file(ended.wait, 60)) for _ in range(40)]
        await asyncio.sleep(0.05)
        done = await found.run(10, int, "7") + await found.run(LARGE, int, "8")
        ended.set()
        assert all(await asyncio.gather(*reading))
        return done

    assert asyncio.run(asyncio.wait_for(asked(), 60)) == 15
