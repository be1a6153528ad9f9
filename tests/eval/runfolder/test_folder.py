"""The run folder: one writer, one experiment."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longctx.errors import StoppedError, UserError
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.runfolder.folder import (
    LOCK,
    RUN,
    RunFolder,
    describe_run,
    join_runs,
    needing_room,
    read_run,
)
from longctx.eval.runfolder.records import write_atomically

ROOT = Path(__file__).resolve().parents[3]

HOLD = """
import sys, time
from pathlib import Path
from longctx.eval.runfolder.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def description(config: NeedleConfig | None = None, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "settings": {"seed": 0, "dtype": "float32"},
        "schemes": {"yarn": {"method": "yarn", "factor": 2.0, "sources": {"factor": "argument"}}},
        "model": {"name": "m"},
        "haystack": {"id": "h"},
        "trained_length": 512,
        "session": {"pid": 1},
    }
    return describe_run(config=config or NeedleConfig(), **{**fields, **changes})


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"pid {holder.pid} "), RunFolder(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    # The holder died without a word: the lock died with it.
    assert str(holder.pid) in (tmp_path / LOCK).read_text()
    with RunFolder(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} ")


def test_a_refused_writer_leaves_the_holder_alone(tmp_path: Path) -> None:
    with RunFolder(tmp_path):
        with pytest.raises(UserError), RunFolder(tmp_path):
            pass
        with pytest.raises(UserError, match=rf"pid {os.getpid()} "), RunFolder(tmp_path):
            pass
    with RunFolder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"), RunFolder(tmp_path / "file" / "run"):
        pass


def test_the_grid_may_grow(tmp_path: Path) -> None:
    first = description(NeedleConfig(lengths=(512,), depths=(50.0,), repeats=2))
    second = description(NeedleConfig(lengths=(256, 512), depths=(0.0,), repeats=1))
    second["schemes"] = {"none": {"method": "none"}}
    second["grid"]["methods"] = ["none"]
    with RunFolder(tmp_path) as folder:
        folder.begin(first)
        folder.begin(second)
    run = read_run(tmp_path)
    assert run is not None
    assert run["grid"] == {
        "methods": ["yarn", "none"],
        "lengths": [256, 512],
        "depths": [0.0, 50.0],
        "repeats": 2,
    }
    assert list(run["schemes"]) == ["yarn", "none"]
    assert len(run["sessions"]) == 2
    assert {"longctx", "python", "torch"} <= set(run["sessions"][0]["versions"])
    assert run["sessions"][0]["hardware"]["cores"] >= 1


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    old, new = description(), description(settings={"seed": 1, "dtype": "float32"})
    with pytest.raises(UserError, match=r"seed 0, this one 1.*another folder"):
        join_runs(old, new, tmp_path)


def test_another_scheme_needs_another_folder(tmp_path: Path) -> None:
    new = description(schemes={"yarn": {"method": "yarn", "factor": 4.0, "sources": {}}})
    with pytest.raises(UserError, match=r"yarn in it has factor 2.0, this run 4.0"):
        join_runs(description(), new, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "7"}', "{}"])
def test_a_damaged_run_file(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN).write_text(content)
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        read_run(tmp_path)


def test_a_run_that_lacks_what_every_reader_needs_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "created": "now"}')
    with pytest.raises(UserError, match=r"run\.json: damaged \(no task\): restore it"):
        read_run(tmp_path)


@pytest.mark.parametrize(("schema", "age"), [(0, "an older"), (7, "a newer")])
def test_a_run_of_another_version_is_not_damaged(tmp_path: Path, schema: int, age: str) -> None:
    (tmp_path / RUN).write_text(json.dumps({"schema": schema, "task": "needle"}))
    words = rf"run\.json: written by {age} version \(schema {schema}, this one reads 1\): use that"
    with pytest.raises(UserError, match=words):
        read_run(tmp_path)


# -- a full disk ----------------------------------------------------------------------------------


def needle_record(key: str) -> Any:
    base = {"schema": 1, "key": key, "scheme": {"method": "none"}, "length": 1, "depth": 0.0}
    return {**base, "repeat": 0, "status": "ok", "score": 1.0}


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = (
    r"the disk is full \(No space left on device\): free some space, and the same command goes on"
)


def test_a_full_disk_stops_a_run_and_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    write = os.write

    def ask_two() -> None:
        with folder:
            folder.results.append(needle_record("a"))
            half = lambda file, data: write(file, bytes(data[:9])) and full()  # noqa: E731
            monkeypatch.setattr(os, "write", half)
            folder.results.append(needle_record("b"))

    with pytest.raises(StoppedError, match=FULL) as caught:
        ask_two()
    assert str(tmp_path) in str(caught.value) and caught.value.exit_code == 3
    monkeypatch.undo()
    with RunFolder(tmp_path) as again:  # half a line is cut off, and the lock is free
        assert set(again.results.records) == {"a"}


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoppedError, match=FULL), RunFolder(tmp_path):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StoppedError, match=FULL), RunFolder(tmp_path):
        pass


def test_a_file_that_did_not_fit_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoppedError, match=FULL), needing_room(tmp_path):
        write_atomically(tmp_path / "x.json", "{}")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="other"), needing_room(tmp_path):
        raise OSError(errno.EIO, "other")
