"""Processes that work for threads: kept, ended by a deadline, by who leaves, by the pool's end."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from longctx.killable import pool as module
from longctx.killable.pool import EndedError, KillablePool, LeftError, Ticket, TooSlowError
from longctx.killable.process import KillableProcess
from longctx.serve.workers import LARGE, Workers

# Answers how many bytes came along, after as many seconds as asked for.
WORKER = """
import json, time
from longctx.killable.worker import asked_with_bodies, tell
following = asked_with_bodies()
while True:
    line, body = following()
    asked = json.loads(line)
    time.sleep(asked["sleep"])
    if asked.get("end"):
        raise SystemExit
    tell(bytes=len(body), last=body[-3:].decode(), spent=asked.get("spent", False))
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KillablePool]:
    (tmp_path / "sleeper.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    made = KillablePool(lambda: KillableProcess("sleeper"), 2)
    yield made
    made.close()
    assert not made.pids


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_bytes_of_any_kind_go_along_and_a_process_is_asked_again(pool: KillablePool) -> None:
    body = b"\n12 {}\n\x00" * 300_000 + b"end"
    for size in (len(body), 3, 0):
        told = pool.ask('{"sleep": 0}', 60, body[len(body) - size :])
        assert told["bytes"] == size and told["last"] == ("end" if size else "")
        assert len(pool.pids) == 1


def test_no_more_work_at_once_than_there_are_places(pool: KillablePool) -> None:
    pool.ask('{"sleep": 0}', 60, b"")
    threads = [
        threading.Thread(target=pool.ask, args=('{"sleep": 0.2}', 60, b"")) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(pool.pids))
        time.sleep(0.01)
    assert most == 2


def test_what_is_too_slow_ends_and_the_next_gets_another(pool: KillablePool) -> None:
    pool.ask('{"sleep": 0}', 60, b"")
    (slow,) = pool.pids
    with pytest.raises(TooSlowError):
        pool.ask('{"sleep": 600}', 0.2, b"")
    assert gone(slow) and not pool.pids
    with pytest.raises(EndedError):
        pool.ask('{"sleep": 0, "end": true}', 60, b"")
    assert pool.ask('{"sleep": 0, "spent": true}', 60, b"abc")["bytes"] == 3
    assert not pool.pids  # it said that it is spent


def test_work_ends_with_who_asked(pool: KillablePool) -> None:
    ticket, raised = Ticket(), []

    def work() -> None:
        try:
            ticket.run(pool.ask, '{"sleep": 600}', 600, b"")
        except LeftError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not pool.pids:
        time.sleep(0.01)
    ticket.leave()
    thread.join(60)
    assert len(raised) == 1 and not pool.pids
    with pytest.raises(LeftError):  # who has left asks for nothing more
        ticket.run(pool.ask, '{"sleep": 0}', 60, b"")
    assert Ticket.current().left is False


def test_a_request_that_is_cancelled_ends_its_process(pool: KillablePool) -> None:
    workers = Workers()

    async def asked() -> None:
        task = asyncio.ensure_future(workers.run(LARGE, pool.ask, '{"sleep": 600}', 600, b""))
        while not pool.pids:
            await asyncio.sleep(0.01)
        (pid,) = pool.pids
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not gone(pid):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(asked(), 60))
    assert asyncio.run(workers.run(LARGE, pool.ask, '{"sleep": 0}', 60, b"abc"))["bytes"] == 3


def test_idle_processes_end_after_a_while(
    pool: KillablePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.ask('{"sleep": 0}', 60, b"")
    (pid,) = pool.pids
    pool.tidy()
    assert pool.pids == [pid]
    monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
    pool.tidy()
    assert not pool.pids and gone(pid)


def test_an_end_waits_for_no_work(pool: KillablePool) -> None:
    raised = []

    def work() -> None:
        try:
            pool.ask('{"sleep": 600}', 600, b"")
        except EndedError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not pool.pids:
        time.sleep(0.01)
    pool.close()
    thread.join(60)
    assert len(raised) == 1
    with pytest.raises(EndedError, match="shutting down"):
        pool.ask('{"sleep": 0}', 60, b"")
