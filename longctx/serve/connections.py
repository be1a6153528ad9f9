"""Connections that cost nothing but a descriptor: how many there may be, and how long one may wait.

uvicorn's protocol, with a deadline for what a client sends and takes, a place for the newest where
all are taken (of those that the server only waits for, the most silent one goes), and an answer for
clients that close their sending side. Knows no route.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from longctx.serve.errors import ApiError, unavailable
from longctx.serve.settings import Deadlines

_log = logging.getLogger("longctx.serve")

# Why the server ends a connection: no place for it, a newcomer's place, no descriptor, a deadline.
ENDED = (
    *("refused", "made room", "no descriptor"),
    *("slow head", "slow body", "answer not taken"),
)

# Descriptors for all else: files, libraries, and the processes that prove schemas.
_RESERVED = 100
_MOST = 4096
_TOLD_EVERY = 60.0
# Seconds without a byte taken, from which on an answer may be given up for a newcomer.
_STUCK = 5.0
# A client that has closed is told from one that has only ended its request by writing to it.
_FIRST_PROBE, _LAST_PROBE = 0.05, 5.0


def descriptors() -> int:
    """How many connections there may be, under the highest limit that this process may have."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError):
        pass  # some systems give less than they say
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return min(_MOST, max(soft - _RESERVED, soft // 2))


class Connections:
    """Those of one server.

    Args:
        most: at once.

    Attributes:
        ended: how many the server ended or sent away, by reason, since its start.
    """

    def __init__(self, most: int, deadlines: Deadlines) -> None:
        self.most, self.deadlines = most, deadlines
        self.open: set[Connection] = set()
        self._ended: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._told = -_TOLD_EVERY

    def protocol(self) -> Any:
        """What uvicorn makes of every connection."""
        return partial(Connection, self)

    def admit(self, newcomer: Connection) -> bool:
        """Take it in, in the place of one that is only waited for where there is no other."""
        if len(self.open) >= self.most and not self.make_room():
            self.count("refused")
            return False
        self.open.add(newcomer)
        return True

    def make_room(self) -> bool:
        """End the most silent connection that is waited for; False where there is none."""
        waited_for = [each for each in self.open if each.is_waited_for]
        if not waited_for:
            return False
        silent = min(waited_for, key=lambda each: each.heard)
        self.open.discard(silent)
        self.count("made room")
        silent.transport.abort()
        return True

    def sweep(self, now: float) -> None:
        """Every second: end what is overdue, and tell in one line what was ended."""
        for connection in list(self.open):
            if (late := connection.overdue(now)) is not None:
                self.count(late)
                connection.end(late)
        if self._ended and now - self._told >= _TOLD_EVERY:
            self._told = now
            fields = {name.replace(" ", "_"): count for name, count in self._ended.items()}
            _log.warning("connections were ended", extra={"fields": fields})
            self._ended.clear()

    def count(self, why: str) -> None:
        self._ended[why] += 1
        self.ended[why] += 1

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's own complaint of a full table of descriptors is dozens of tracebacks."""
        if str(context.get("message", "")).startswith("socket.accept()"):
            self.count("no descriptor")
            self.make_room()
        else:
            loop.default_exception_handler(context)


class Connection(H11Protocol):
    """One connection.

    Attributes:
        heard: when its last bytes came.
    """

    def __init__(self, all_: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._all = all_
        self._refused = self._half_closed = False
        self.heard = self._since = self.loop.time()
        self._phase: Any = h11.IDLE  # what the client is about
        self._received = 0  # bytes, in this phase
        self._untaken = 0  # bytes that wait for the client
        self._untaken_since = 0.0

    # -- uvicorn's -------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        if self._all.admit(self):
            super().connection_made(transport)
            return
        self._refused = True
        transport.write(_raw(unavailable("All connections are taken.", "too_many_connections", 1)))
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.open.discard(self)
        if not self._refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        now = self.heard = self.loop.time()
        self._note(now)
        if not self._received:
            self._since = now
        self._received += len(data)
        super().data_received(data)
        self._note(now)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Of a client that has asked and now only listens, or of one that is gone: both look alike.
        What is written to it tells. HTTP/1.0 has nothing that could be written before an answer."""
        if self._refused or self._half_closed or not self._answering:
            return self._half_closed and not self._refused
        if self.scope["http_version"] == "1.0":
            return None
        self._half_closed = True
        self.cycle.keep_alive = False
        self._probe(_FIRST_PROBE)
        return True

    # -- deadlines -------------------------------------------------------------------------------

    @property
    def is_waited_for(self) -> bool:
        """Nothing goes on here before the client does something."""
        if self.transport.get_write_buffer_size():
            return self._untaken > 0 and self.loop.time() - self._untaken_since > _STUCK
        return not self._answering and not self.flow.read_paused

    def overdue(self, now: float) -> str | None:
        """What it is late with."""
        self._note(now)
        limits = self._all.deadlines
        untaken = self.transport.get_write_buffer_size()
        if not untaken or untaken < self._untaken or not self._untaken:
            self._untaken_since = now
        self._untaken = untaken
        if untaken and now - self._untaken_since > limits.taking:
            return "answer not taken"
        if self.transport.is_closing() or not self.is_waited_for:
            return None
        if self._phase is h11.IDLE:
            return "slow head" if now - self._since > limits.head else None
        allowed = limits.silence + self._received / limits.slowest
        if now - self.heard > limits.silence or now - self._since > allowed:
            return "slow body"
        return None

    def end(self, late: str) -> None:
        if late == "answer not taken":
            self.transport.abort()
            return
        begun = self._received > 0
        if self._phase is not h11.IDLE:
            cycle: Any = self.cycle
            begun = not cycle.response_started
        if begun:
            message = "The request did not come in time: send it faster."
            self.transport.write(_raw(ApiError(408, message, code="request_timeout")))
        self.transport.close()

    @property
    def _answering(self) -> bool:
        """A whole request is there, and its answer is not."""
        cycle: Any = self.cycle  # uvicorn declares no None
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _note(self, now: float) -> None:
        phase = self.conn.their_state
        if phase is not self._phase:
            self._phase, self._since, self._received = phase, now, 0

    def _probe(self, wait: float) -> None:
        """Write what means nothing: the system of a client that is gone answers with a reset, the
        next write finds that, and uvicorn hears that the connection is lost."""
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        nothing: h11.Event | None = None
        if not self.cycle.response_started:
            nothing = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
        elif self.scope["state"].get("events"):
            nothing = h11.Data(data=b":\n\n")
        if nothing is not None and not self.transport.get_write_buffer_size():
            self.transport.write(self.conn.send(nothing) or b"")
        self.loop.call_later(wait, self._probe, min(2 * wait, _LAST_PROBE))


def _raw(error: ApiError) -> bytes:
    """An answer outside of any request."""
    body = json.dumps(error.body).encode()
    headers = {
        **error.headers,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    reason = {408: "Request Timeout", 503: "Service Unavailable"}[error.status]
    lines = [f"HTTP/1.1 {error.status} {reason}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
