"""Log lines: one a request, as text or JSON, on stderr. No prompt and no answer is ever in them."""

from __future__ import annotations

import datetime
import json
import logging
import sys

from longctx.serve.settings import LogFormat


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


def configure(form: LogFormat) -> None:
    """Send the server's log, and uvicorn's and the engine's warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form))
    for name, level in (
        ("longctx", logging.INFO),
        ("uvicorn", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
