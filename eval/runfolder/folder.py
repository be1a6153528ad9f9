"""A run folder: its lock, its run.json, and whether a run may continue in it.

    run.json       what is measured: settings, grid, schemes, versions, hardware
    *.jsonl        what was measured (records.py): cells and controls, or passes
    lock           held while a process writes; holds its pid

A folder holds one experiment. The grid may grow from run to run (more lengths, depths, repeats,
methods); everything else must stay, or the folder would mix what cannot be compared.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import longctx
from longctx.errors import UserError
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.runfolder.records import NEEDLE, SCHEMA, RecordFile, write_atomically

RUN, RESULTS, CONTROLS, LOCK = "run.json", "results.jsonl", "controls.jsonl", "lock"
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "accelerate", "flash-attn")


class LockedFolder:
    """A folder, locked for writing while the block lasts, with its record files open."""

    # Which record files there are, and what their records must have.
    kinds: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, RecordFile] = {}

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"--output {self.path}: cannot be written ({error.strerror}): name another folder"
            ) from None
        try:
            self._acquire()
            for name, needed in self.kinds.items():
                self.files[name] = RecordFile(self.path / name, needed)
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self.files.values():
            file.close()
        os.ftruncate(self._lock, 0)
        os.close(self._lock)  # releases it; the file stays: unlinking it would race with a waiter

    def _acquire(self) -> None:
        # The kernel drops this lock when its holder dies, however it dies: none can go stale.
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 200, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"--output {self.path}: another process is writing there (pid {holder}): "
                "wait for it, stop it, or name another folder"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def check(self, run: Mapping[str, Any]) -> None:
        """Raise where this run cannot continue what the folder holds."""
        join_runs(read_run(self.path), run, self.path)

    def begin(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json for this run, joined with what the folder holds already."""
        joined = join_runs(read_run(self.path), run, self.path)
        self._write_run(joined)
        return joined

    def _write_run(self, run: Mapping[str, Any]) -> None:
        write_atomically(self.path / RUN, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


class RunFolder(LockedFolder):
    """The folder of a needle run."""

    kinds: ClassVar[Mapping[str, Sequence[str]]] = {RESULTS: NEEDLE, CONTROLS: NEEDLE}

    @property
    def results(self) -> RecordFile:
        return self.files[RESULTS]

    @property
    def controls(self) -> RecordFile:
        return self.files[CONTROLS]


def read_run(path: Path) -> dict[str, Any] | None:
    """run.json of a folder, None where there is none yet."""
    file = path / RUN
    if not file.exists():
        return None
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["schema"] != SCHEMA:
            raise ValueError(f"schema {run['schema']!r}, this version reads {SCHEMA}")
        if "task" not in run:
            raise ValueError("no task")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}): restore it, or name another folder") from None
    return dict(run)


def join_runs(old: Mapping[str, Any] | None, new: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`new` as the continuation of `old`: the grids united, all else equal or an error."""
    if old is None:
        return dict(new)
    if old["task"] != new["task"]:
        raise UserError(
            f"--output {path}: it holds a {old['task']} run, this is a {new['task']} run: "
            "name another folder"
        )
    for name, value in new["settings"].items():
        before = old["settings"].get(name)
        if before != value:
            raise UserError(
                f"--output {path}: the run in it has {name} {before!r}, this one {value!r}: "
                "name another folder, or repeat the settings"
            )
    for method, scheme in new["schemes"].items():
        before = old["schemes"].get(method)
        changed = [name for name in scheme if before and before.get(name) != scheme[name]]
        changed = [name for name in changed if name != "sources"]
        if before and changed:
            name = changed[0]
            raise UserError(
                f"--output {path}: {method} in it has {name} {before.get(name)}, this run "
                f"{scheme[name]}: name another folder, or give that {name}"
            )
    return {
        **new,
        "created": old["created"],
        "grid": _join_grids(old["grid"], new["grid"]),
        "schemes": {**old["schemes"], **new["schemes"]},
        "sessions": [*old["sessions"], *new["sessions"]],
    }


def _join_grids(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    grid: dict[str, Any] = {}
    for name, value in new.items():
        if name == "methods":
            grid[name] = list(dict.fromkeys([*old[name], *value]))
        elif isinstance(value, list):
            grid[name] = sorted({*old[name], *value})
        else:
            grid[name] = max(old[name], value)
    return grid


def describe_run(
    *,
    config: NeedleConfig,
    settings: Mapping[str, Any],
    schemes: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    haystack: Mapping[str, Any],
    trained_length: int | None,
    session: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of run.json for one needle run."""
    return describe(
        task="needle",
        grid={
            "methods": list(schemes),
            "lengths": list(config.lengths),
            "depths": list(config.depths),
            "repeats": config.repeats,
        },
        settings=settings,
        schemes=schemes,
        model=model,
        about={"haystack": dict(haystack)},
        trained_length=trained_length,
        session=session,
    )


def describe(
    *,
    task: str,
    grid: Mapping[str, Any],
    settings: Mapping[str, Any],
    schemes: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    about: Mapping[str, Any],
    trained_length: int | None,
    session: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of run.json; `about` is what only this task has."""
    now = timestamp()
    return {
        "schema": SCHEMA,
        "created": now,
        "task": task,
        "grid": dict(grid),
        "settings": dict(settings),
        "schemes": {method: dict(scheme) for method, scheme in schemes.items()},
        "model": dict(model),
        **about,
        "trained_length": trained_length,
        "sessions": [
            {"started": now, "versions": versions(), "hardware": hardware(), **session},
        ],
    }


def timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {"longctx": longctx.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": pages * size,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
