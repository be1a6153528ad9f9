"""The process in which a stranger's schema is compiled first: what never ends takes only it along.

    python -m longctx.grammar.worker

The first line on stdin is what to set up, every further one a schema; a JSON object a line answers
on stdout. Imports neither torch nor transformers. Ends with its stdin, also in the middle of its
work, and by its own clock where its parent cannot end it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from longctx.grammar.compiler import Compiler, GrammarError, Vocabulary

_STEPS = 16  # of an answer, behind the compilation: memory and time of these are proven too
_HEAVY = 64 << 20  # bytes that a worker may have grown by; then the next schema gets a fresh one


def main() -> None:
    with suppress(AttributeError, OSError):  # Windows has none
        os.nice(10)  # the model's steps come first
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    first = sys.stdin.buffer.readline()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    given = json.loads(first)
    try:
        compiler = Compiler(Vocabulary(*given["vocabulary"]))
    except ImportError as error:
        _tell(failed=str(error))
        return
    begun = _resident()
    _limit(given["memory"])
    _tell(ready=True)
    while True:
        schema = json.loads(lines.get())
        with suppress(AttributeError):  # Windows: the parent's clock is the only one
            signal.setitimer(signal.ITIMER_REAL, given["seconds"] + 1.0)
        began = time.monotonic()
        refused = prove(compiler, schema)
        seconds = time.monotonic() - began
        with suppress(AttributeError):
            signal.setitimer(signal.ITIMER_REAL, 0)
        _tell(refused=refused, seconds=seconds, spent=_resident() - begun > _HEAVY)


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def prove(compiler: Compiler, schema: dict[str, Any]) -> str | None:
    """Compile, and go a few tokens into an answer; the reason where nothing can begin."""
    try:
        matcher = compiler.compile(schema)
        allowed = matcher.allowed()
    except GrammarError as error:
        return str(error)
    with suppress(GrammarError):  # another answer may get further
        for _ in range(_STEPS):
            ids = allowed.nonzero()[0]
            if matcher.accept(int(ids[len(ids) // 2])):
                break
            allowed = matcher.allowed()
    return None


def _limit(memory: int) -> None:
    """On what may be taken beside what is there, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    value = _address_space() + memory
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and does not take it
        resource.setrlimit(resource.RLIMIT_AS, (value, most))


def _address_space() -> int:
    import psutil

    return int(psutil.Process().memory_info().vms)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _tell(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
