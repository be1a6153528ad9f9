"""A worker process as seen from its parent: asked one thing at a time, and ended when it must be.

Never forked: a copy of a process with torch's threads would hang. Knows no queue and no cache, and
nothing of what is asked: `worker.py` is the other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

# Until a process may be asked, from a cold disk; a second or two is usual.
START_SECONDS = 120.0


class TooSlowError(Exception):
    """The time was over, and the process is ended."""


class EndedError(Exception):
    """The process is gone: killed, or by its limit of memory, or by a crash."""


class KillableProcess:
    """One process. It may be killed from any thread; who waits for it is told.

    Args:
        module: what is run, as `python -m`.

    Raises:
        EndedError: the system gives no process.
    """

    def __init__(self, module: str) -> None:
        # It imports what this process does, from wherever it does; -P keeps a json.py of the user's
        # own directory out.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Where memory has ended, writing a backtrace may never do.
                env={**os.environ, "PYTHONPATH": path, "RUST_BACKTRACE": "0"},
                start_new_session=True,  # Ctrl-C is the parent's alone: it ends its workers
            )
        except OSError as error:
            raise EndedError(error.strerror or str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str, seconds: float, body: bytes | None = None) -> dict[str, Any]:
        """The answer to one line of JSON. From one thread at a time.

        Args:
            body: bytes that go along, for a worker that takes them (`asked_with_bodies`).

        Raises:
            TooSlowError, EndedError: no answer came.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        answer = b""
        asked = line.encode() + b"\n" if body is None else b"%d %s\n" % (len(body), line.encode())
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with suppress(OSError, ValueError):  # a pipe to nobody, or one that is closed
                self._process.stdin.write(asked)
                if body:
                    self._process.stdin.write(body)
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
        finally:
            clock.cancel()
        if not answer.endswith(b"\n"):
            self.kill()
            raise TooSlowError if late.is_set() else EndedError("it ended")
        found: dict[str, Any] = json.loads(answer)
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
