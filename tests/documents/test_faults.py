"""A process that is killed, or a disk that is full, at every write, sync, rename and removal."""

from __future__ import annotations

import errno
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from document_pieces import PRINT, TOKENS, assert_right, layout_of, pieces_of, tokens_of

from longctx.documents import disk
from longctx.documents.store import DocumentStore
from longctx.errors import UserError

CHANGES = ("write", "sync", "rename", "remove")
BUDGET = layout_of().size + 2000  # of one document's keys


def scenario(directory: Path, tell: Callable[[str], None]) -> None:
    """Two documents with keys, of which the first makes way; then it is computed once more."""
    with DocumentStore(directory, BUDGET) as store:
        for name, seed in (("a", 1), ("b", 2), ("a", 1)):
            id = store.add(name, f"text of {name}").id
            tell(f"text {name} {id}")
            store.begin_keys(id, PRINT, 7, layout_of(), tokens_of(seed))
            tell("begun")
            for piece in pieces_of(seed):
                state = store.add_chunks(id, [piece])
                tell(f"keys {name} {state.stored_tokens}")
        other = store.add("c", "text of c").id
        tell(f"text c {other}")
        tell("removing c")
        store.remove(other)
        tell("removed c")


def after(told: list[str]) -> tuple[dict[str, str], str, int, set[str]]:
    """Of what was reported: texts, whose keys and how many tokens, and what may be gone."""
    texts: dict[str, str] = {}
    last, tokens, gone = "", 0, set()
    for line in told:
        what, *rest = line.split()
        if what == "text":
            texts[rest[0]] = rest[1]
            last, tokens = "", 0  # from here on they may have made way
        elif what == "keys":
            last, tokens = rest[0], int(rest[1])
        elif what == "removing":
            gone.add(rest[0])
    return texts, last, tokens, gone


def check(directory: Path, told: list[str]) -> None:
    """What was reported is there, what is there is right, and all can be done again."""
    texts, last, tokens, gone = after(told)
    seeds = {"a": 1, "b": 2}
    with DocumentStore(directory, BUDGET) as store:
        assert not store.damaged
        for name, id in texts.items():
            if name not in gone:
                assert store.text(id) == f"text of {name}"
        for record in store.records():
            found = assert_right(store.keys(record.id, PRINT), seeds.get(record.name, 0))
            if record.name == last:
                assert found >= tokens
        assert not list(directory.glob(f"*{disk.TEMPORARY}"))
    again: list[str] = []
    scenario(directory, again.append)
    assert again[-1] == "removed c"
    with DocumentStore(directory, BUDGET) as store:
        names = {record.name: record.id for record in store.records()}
        assert names.keys() == {"a", "b"}
        assert assert_right(store.keys(names["a"], PRINT), 1) == TOKENS


class Faults:
    """Counts the changes, and does something at one of them.

    Args:
        at: of which; before it, in the middle of a write, or behind it.
    """

    def __init__(self, act: Callable[[], None], at: int, where: str) -> None:
        self.names: list[str] = []
        self._act, self._at, self._where = act, at, where

    def wrap(self, name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            now = len(self.names) == self._at
            self.names.append(name)
            if now and self._where == "before":
                self._act()
            if now and self._where == "middle" and name == "write":
                file, data = arguments
                file.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
                self._act()
            result = change(*arguments)
            if now and self._where == "behind":
                self._act()
            return result

        return changed


def install(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    for name in CHANGES:
        monkeypatch.setattr(disk, name, faults.wrap(name, getattr(disk, name)))


def changes_of(directory: Path) -> list[str]:
    """What the scenario does to the disk, in order."""
    with pytest.MonkeyPatch.context() as patch:
        counting = Faults(lambda: None, -1, "before")
        install(patch, counting)
        scenario(directory, lambda line: None)
    return counting.names


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written: that it is synced as well is counted alone."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for every kill")
@pytest.mark.parametrize("where", ["before", "middle", "behind"])
def test_kill_9_at_every_change_of_the_disk_loses_nothing_that_was_reported(
    tmp_path: Path, where: str
) -> None:
    """More than 200 in all; in the middle are writes alone."""
    changes = changes_of(tmp_path / "counted")
    assert 2 * len(changes) + changes.count("write") >= 200
    for at, name in enumerate(changes):
        if where == "middle" and name != "write":
            continue
        directory = tmp_path / f"{at}"
        check(directory, run_and_kill(directory, at, where))


def run_and_kill(directory: Path, at: int, where: str) -> list[str]:
    """The scenario in a process of its own; what it reported before it was killed."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the child computes nothing
        child = os.fork()
    if child == 0:
        try:
            os.close(reads)
            faults = Faults(lambda: os.kill(os.getpid(), signal.SIGKILL), at, where)
            install(pytest.MonkeyPatch(), faults)
            scenario(directory, lambda line: os.write(writes, f"{line}\n".encode()) and None)
        finally:
            os._exit(1)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        told = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return told


@pytest.mark.slow
def test_a_full_disk_at_every_write_is_told_and_harms_nothing(tmp_path: Path) -> None:
    writes = changes_of(tmp_path / "counted").count("write")
    failed: list[str] = []
    for lasting in (False, True):
        for at in range(writes):
            directory = tmp_path / f"{lasting}-{at}"
            told: list[str] = []
            with pytest.MonkeyPatch.context() as patch:
                full = FullDisk(at, lasting=lasting)
                patch.setattr(disk, "write", full.wrap(disk.write))
                try:
                    scenario(directory, told.append)
                except (OSError, UserError) as error:
                    failed.append(str(error))
            check(directory, told)
    assert len(failed) > 20
    assert all("No space left" in error for error in failed)


class FullDisk:
    """Half of a write, then no space; for this one or for all that follow."""

    def __init__(self, at: int, *, lasting: bool) -> None:
        self._at, self._lasting, self._count = at, lasting, 0

    def wrap(self, write: Callable[..., None]) -> Callable[..., None]:
        def full(file: Any, data: Any) -> None:
            now = self._count == self._at or (self._lasting and self._count > self._at)
            self._count += 1
            if now:
                file.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        return full
