"""Log lines: one a request, as text or JSON, on stderr. No prompt and no answer is ever in them."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from longctx.serve.settings import LogFormat

_SHOWN = 5  # of one kind in a minute
_KINDS = 64  # that are counted, a timer each


class _Formatter(logging.Formatter):
    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = getattr(record, "fields", {})
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self._form == "json":
            line = {
                "ts": moment.isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **fields,
            }
            if trace:
                line["traceback"] = trace
            return json.dumps(line, ensure_ascii=False)
        shown = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        parts = [f"{moment:%H:%M:%S}", record.levelname.lower(), record.getMessage(), shown]
        line_text = " ".join(part for part in parts if part)
        return f"{line_text}\n{trace}" if trace else line_text


def _plain(value: object) -> str:
    """Quoted where a client's path could end the line or look like another field."""
    text = str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else json.dumps(text)


class LogHandler(logging.StreamHandler[Any]):
    """What cannot be written, on a full disk, say, is lost: nobody is served worse for it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def say(line: str) -> None:
    """A line on stderr that belongs to no record, where that takes one."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def end() -> None:
    """Python's own last flush would make an exit code of what could not be written."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class RepeatedLines(logging.Filter):
    """Warnings of one kind: the first few of a minute, then how many more there were.

    Args:
        told: gets the line that counts them, at the minute's end.
    """

    def __init__(self, told: Callable[[logging.LogRecord], None], seconds: float = 60.0) -> None:
        super().__init__()
        self._told, self._seconds = told, seconds
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:  # a line a request: each is of another one
            return True
        key = (record.name, record.levelno, str(record.msg))
        with self._lock:
            if key not in self._seen and len(self._seen) >= _KINDS:
                return True
            count = self._seen[key] = self._seen.get(key, 0) + 1
        if count == 1:
            timer = threading.Timer(self._seconds, self._end, (key,))
            timer.daemon = True
            timer.start()
        return count <= _SHOWN

    def _end(self, key: tuple[str, int, str]) -> None:
        with self._lock:
            more = self._seen.pop(key) - _SHOWN
        if more > 0:
            name, level, message = key
            text = f"{more} more lines like this were left out: {message}"
            record = logging.LogRecord(name, level, "", 0, text, None, None)
            self._told(record)


def configure(form: LogFormat) -> None:
    """Send the server's log, and uvicorn's and the engine's warnings, to stderr."""
    handler = LogHandler(sys.stderr)
    handler.setFormatter(_Formatter(form))
    handler.addFilter(RepeatedLines(handler.emit))
    for name, level in (
        ("longctx", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("asyncio", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
