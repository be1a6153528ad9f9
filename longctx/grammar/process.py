"""A worker process as seen from the server: asked one thing at a time, and ended when it must be.

Never forked: a copy of a process with torch's threads would hang. Knows no queue and no cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from longctx.grammar.compiler import Vocabulary

# From a cold disk, with a vocabulary of 150,000 tokens; a second or two is usual.
_START_SECONDS = 120.0


class CompileLimits(NamedTuple):
    """What one schema may cost. `memory` is in bytes, beside what the worker has anyway."""

    seconds: float = 5.0
    memory: int = 256 << 20


class TooSlowError(Exception):
    """The time was over, and the process is ended."""


class EndedError(Exception):
    """The process is gone: killed, or by its limit of memory, or by a crash."""


class CompileProcess:
    """One process. It may be killed from any thread; who waits for it is told.

    Raises:
        EndedError: the system gives no process.
    """

    def __init__(self, bounds: CompileLimits) -> None:
        # It imports what this process does, from wherever it does; -P keeps a json.py of the user's
        # own directory out.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "longctx.grammar.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the server's alone: it ends its workers
            )
        except OSError as error:
            raise EndedError(str(error)) from error
        self._bounds = bounds

    @property
    def pid(self) -> int:
        return self._process.pid

    def set_up(self, vocabulary: Vocabulary) -> None:
        """Make it ready for schemas.

        Raises:
            EndedError: it did not get ready.
            ImportError: llguidance is missing there.
        """
        given = json.dumps({"vocabulary": vocabulary, **self._bounds._asdict()})
        try:
            told = self._ask(given, _START_SECONDS)
        except TooSlowError as error:
            raise EndedError("it did not start in time") from error
        if "failed" in told:
            raise ImportError(told["failed"])

    def prove(self, schema: str) -> dict[str, Any]:
        """What the worker says of a schema in JSON: `refused`, `seconds`, and `spent` where it
        should not be asked again.

        Raises:
            TooSlowError, EndedError: no answer came.
        """
        return self._ask(schema, self._bounds.seconds)

    def _ask(self, text: str, seconds: float) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        line = b""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with suppress(OSError, ValueError):  # a pipe to nobody, or one that is closed
                self._process.stdin.write(text.encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
        finally:
            clock.cancel()
        if not line.endswith(b"\n"):
            self.kill()
            raise TooSlowError if late.is_set() else EndedError("it ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        """End it now. Harmless when repeated."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill, and give the pipes back; by the one who asks, when nobody waits any more."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
