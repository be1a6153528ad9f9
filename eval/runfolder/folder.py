"""A run folder: its lock, its run.json, and whether a run may continue in it.

    run.json       what is measured: settings, grid, schemes, versions, hardware
    *.jsonl        what was measured (records.py): cells and controls, or passes
    lock           holds the pid of the process that writes
    .lock          locked as long as it does

A folder holds one experiment. The grid may grow from run to run (more lengths, depths, repeats,
methods); everything else must stay, or the folder would mix what cannot be compared.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import filelock
import psutil

import longctx
from longctx.errors import StoppedError, UserError, disk_full
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.runfolder.record_schema import ControlRecord, NeedleRecord
from longctx.eval.runfolder.records import (
    CONTROL,
    NEEDLE,
    SCHEMA,
    Kind,
    R,
    RecordFile,
    age_of,
    write_atomically,
)
from longctx.eval.runfolder.run_schema import Hardware, NeedleRunJson, PerplexityRunJson
from longctx.eval.scoring import Scorer

RUN, RESULTS, CONTROLS = "run.json", "results.jsonl", "controls.jsonl"
# Two files: Windows lets nobody read what is locked, and filelock empties or removes its file.
LOCK, _LOCKED = "lock", ".lock"
# Settings that older folders lack, and what they were.
_OLDER_SETTINGS = {"scorer": "whole", "texts": "shared"}
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "accelerate", "flash-attn")

RunT = TypeVar("RunT", NeedleRunJson, PerplexityRunJson)


@contextlib.contextmanager
def needing_room(path: Path) -> Iterator[None]:
    """
    Raises:
        StoppedError: the disk is full; what is on it stays, and a torn last line is mended.
    """
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise _stopped(path, error) from error
        raise


def _stopped(path: Path, error: OSError) -> StoppedError:
    return StoppedError(
        f"{path}: the disk is full ({error.strerror}): free some space, and the same command goes "
        "on from here"
    )


class LockedFolder(Generic[RunT]):
    """A folder, locked for writing while the block lasts, with its record files open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[RecordFile[Any]] = []
        # Locked by the system for this process: none goes stale, however its holder dies.
        self._lock = filelock.FileLock(path / _LOCKED, timeout=0, thread_local=False)

    def open_files(self) -> None:
        """Open the record files that this kind of folder has."""

    def open(self, name: str, kind: Kind[R]) -> RecordFile[R]:
        file = RecordFile(self.path / name, kind)
        self._files.append(file)
        return file

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            (self.path / LOCK).write_text(
                f"{os.getpid()} on {socket.gethostname()}\n", encoding="utf-8"
            )
        except filelock.Timeout:
            raise UserError(
                f"--output {self.path}: another process is writing there (pid {self._holder()}): "
                "wait for it, stop it, or name another folder"
            ) from None
        except OSError as error:
            self._lock.release()
            if disk_full(error):
                raise _stopped(self.path, error) from None
            raise UserError(
                f"--output {self.path}: cannot be written ({error.strerror}): name another folder"
            ) from None
        try:
            with needing_room(self.path):
                self.open_files()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if isinstance(error, OSError) and disk_full(error):
            raise _stopped(self.path, error) from error

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        with contextlib.suppress(OSError):  # it only tells whose the lock was
            (self.path / LOCK).write_bytes(b"")
        self._lock.release()

    def _holder(self) -> str:
        try:
            told = (self.path / LOCK).read_text(encoding="utf-8", errors="replace")
        except OSError:
            told = ""
        return told.strip() or "unknown"

    def check(self, run: RunT) -> None:
        """Raise where this run cannot continue what the folder holds."""
        join_runs(read_run(self.path), run, self.path)

    def begin(self, run: RunT) -> RunT:
        """Write run.json for this run, joined with what the folder holds already."""
        joined = join_runs(read_run(self.path), run, self.path)
        text = json.dumps(joined, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / RUN, text)
        return joined


class RunFolder(LockedFolder[NeedleRunJson]):
    """The folder of a needle run."""

    results: RecordFile[NeedleRecord]
    controls: RecordFile[ControlRecord]

    def open_files(self) -> None:
        self.results = self.open(RESULTS, NEEDLE)
        self.controls = self.open(CONTROLS, CONTROL)

    @property
    def scorer(self) -> Scorer:
        """Whose verdicts the scores of its records are."""
        return scorer_of(read_run(self.path))

    def keep_scorer(self, scorer: Scorer) -> None:
        """Say in run.json that the scores are by `scorer` from now on."""
        run = read_run(self.path)
        run["settings"]["scorer"] = scorer
        text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / RUN, text)


def scorer_of(run: NeedleRunJson) -> Scorer:
    return run["settings"].get("scorer", "whole")


def read_run(path: Path) -> Any:
    """run.json of a folder, of whichever task its `task` says; None where there is none yet."""
    file = path / RUN
    if not file.exists():
        return None
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        if (age := age_of(run["schema"])) is not None:
            raise UserError(
                f"{file}: written by {age} version (schema {run['schema']}, this one reads "
                f"{SCHEMA}): use that version, or name another folder"
            )
        if "task" not in run:
            raise ValueError("no task")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}): restore it, or name another folder") from None
    return dict(run)


def join_runs(old: RunT | None, new: RunT, path: Path) -> RunT:
    """`new` as the continuation of `old`: the grids united, all else equal or an error."""
    return new if old is None else _joined(old, new, path)


def _joined(old: Any, new: Any, path: Path) -> Any:
    if old["task"] != new["task"]:
        raise UserError(
            f"--output {path}: it holds a {old['task']} run, this is a {new['task']} run: "
            "name another folder"
        )
    for name in dict.fromkeys([*new["settings"], *old["settings"]]):
        value = new["settings"].get(name, _OLDER_SETTINGS.get(name))
        before = old["settings"].get(name, _OLDER_SETTINGS.get(name))
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
    # What was once asked by a rule is judged by it, whoever asks the rest.
    rule = {"stopping": old["stopping"]} if old.get("stopping") and "stopping" not in new else {}
    return {
        **new,
        **rule,
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
) -> NeedleRunJson:
    """The content of run.json for one needle run."""
    run: NeedleRunJson = describe(
        task="needle",
        grid={
            "methods": list(schemes),
            "lengths": list(config.lengths),
            "depths": list(config.depths),
            "repeats": config.repeats,
            **({"spread": True} if config.spread else {}),
        },
        settings=settings,
        schemes=schemes,
        model=model,
        about={"haystack": dict(haystack)},
        trained_length=trained_length,
        session=session,
    )
    return run


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
) -> Any:
    """A NeedleRunJson or a PerplexityRunJson; `about` is what only this task has."""
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


def hardware() -> Hardware:
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _cpu_name() -> str:
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
