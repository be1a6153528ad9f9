"""A child process of `longctx doctor` as a stream of JSON lines, and how it ended.

Knows doctor_child.py by name and nothing of what it is asked.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

Failure = Literal["crashed", "timed out"]

# Seconds without a word from a child: a hundred times what a case takes on a slow machine. Until
# the first word it imports torch, which may come from a cold disk.
TIMEOUT, START_TIMEOUT = 60.0, 180.0


class Child:
    """A process of doctor_child.py: iterate over what it writes, then ask how it failed."""

    def __init__(self, job: Mapping[str, Any], timeout: float) -> None:
        self._job, self._timeout = json.dumps(job), timeout
        self._waited: float | None = None
        self._code, self._last = 0, ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The child imports what this process does, from wherever it does; -P keeps a torch.py of
        # the user's own directory out.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        command = [sys.executable, "-P", "-m", "longctx.doctor.child", self._job]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
            )
            try:
                yield from self._lines(process)
                self._code = process.wait()
            finally:
                process.kill()
                process.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace").split("\n")
                self._last = next((line.strip() for line in reversed(said) if line.strip()), "")

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        lines: queue.Queue[bytes | None] = queue.Queue()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        seconds = max(self._timeout, START_TIMEOUT)
        while True:
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                self._waited = seconds
                process.kill()
                return
            if line is None:
                return
            try:
                told = json.loads(line)
            except ValueError:  # a library's own words
                continue
            if isinstance(told, dict):
                seconds = self._timeout
                yield told

    def failure(self) -> tuple[Failure, str]:
        """How a child ended that has not done all it was asked."""
        if self._waited is not None:
            return "timed out", f"no word for {self._waited:g} s"
        if self._code < 0:
            try:
                return "crashed", signal.Signals(-self._code).name
            except ValueError:  # a real-time signal has no name
                return "crashed", f"signal {-self._code}"
        said = f": {self._last}" if self._last else ""
        return "crashed", f"exit code {self._code}{said}"
