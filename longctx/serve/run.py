"""The server's life: load, serve, drain.

SIGTERM or SIGINT: no new requests (503, and /ready says so), what runs is finished, then the end; a
second signal, or --drain-timeout, ends what runs within a step, with the same 503. A thread that
does not come to its end in time, in a step or in a library, ends with the process. A device that
fails every step, or does not end one, ends the server too: nothing but a new process can help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn

from longctx.engine import EngineBrokenError
from longctx.serve import logs
from longctx.serve.app import create_app
from longctx.serve.connections import Connections, descriptors
from longctx.serve.listen import WAITING
from longctx.serve.service import Loaded, Service

# Of a process whose device failed; the system's "try again" (EX_TEMPFAIL).
DEVICE_FAILED = 75
# What the end may take once nothing is waited for any more.
_END_SECONDS = 1.8
_TOLD_SECONDS = 0.5
# Connections taken at once: where descriptors run out, asyncio complains of each.
_ACCEPTED = 16
_log = logging.getLogger("longctx.serve")


class Server(uvicorn.Server):
    """uvicorn's, with a drain in front of its end.

    Args:
        owns_process: end the process, where the server alone does not end in time.
        most_connections: at once; None: what the limit of descriptors allows.
    """

    def __init__(
        self,
        service: Service,
        *,
        owns_process: bool = False,
        most_connections: int | None = None,
    ) -> None:
        settings = service.settings
        self.connections = Connections(most_connections or descriptors(), settings.deadlines)
        service.metrics.watch(self.connections)
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=65536,
            http=self.connections.protocol(),
            ws="none",
            backlog=_ACCEPTED,
        )
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None
        self._hurried = False
        self._owns_process = owns_process
        self._broken = self._stalled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(WAITING)
        asyncio.get_running_loop().set_exception_handler(self.connections.unhandled)

    async def on_tick(self, counter: int) -> bool:
        self._watch()
        if counter % 10 == 0:
            self.connections.sweep(asyncio.get_running_loop().time())
            self._service.tidy()
        return await super().on_tick(counter)

    def _watch(self) -> None:
        """Ten times a second: whether the device still computes."""
        service = self._service
        service.end_stalled()
        if service.broken is not None and not self._broken:
            self._broken = True
            _log.error("%s; exit code %d", EngineBrokenError(service.broken), DEVICE_FAILED)
            self._end_within(_END_SECONDS, DEVICE_FAILED)
            # Clients are told, and whoever asks /ready, before the end.
            asyncio.get_running_loop().call_later(_TOLD_SECONDS, self._exit)
        stalled = service.stalled_s
        if (stalled is not None) != self._stalled and not self._broken:
            self._stalled = stalled is not None
            if stalled is not None:
                _log.error("no step has ended for %.0f s: not ready until one does", stalled)
            else:
                _log.warning("a step has ended: ready again")

    def _exit(self) -> None:
        self.should_exit = True

    def _end_within(self, seconds: float, code: int) -> None:
        if self._owns_process:
            last = threading.Timer(seconds, _end_process, (code,))
            last.daemon = True
            last.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        drains = self._service.state == "ready"
        drain = self._service.settings.drain_timeout if drains else 0.0
        self._end_within(drain + _END_SECONDS, 1)
        if drains:
            self._service.draining = True
            # Signals arrive in the thread of the loop.
            self._drain = asyncio.get_running_loop().create_task(self._finish())
        elif self._drain is not None and not self._hurried:
            self._hurried = True
        else:
            super().handle_exit(sig, frame)

    async def _finish(self) -> None:
        """End when nothing runs any more, or when it has to."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._service.settings.drain_timeout
        while self._service.registry.active and loop.time() < end and not self._hurried:
            await asyncio.sleep(0.05)
        # While the loop runs: clients of what is left are told, instead of cut off.
        await asyncio.to_thread(self._service.close)
        self.should_exit = True


def _end_process(code: int) -> None:
    """Python's own end waits for threads."""
    logs.say(
        "error: the server did not end by itself in time, and was ended: what still ran is lost"
    )
    os._exit(code)


def serve(
    service: Service,
    bound: socket.socket,
    on_ready: Callable[[Loaded, str], None],
    on_bound: Callable[[str], None] = lambda url: None,
) -> int | None:
    """Serve until a signal; the exit code, where it is not 0.

    Args:
        bound: what it listens on, closed at the end.
        on_ready: told the URL once the model answers.
        on_bound: told the URL before the model is loaded.

    Raises:
        UserError: the model cannot be served.
    """
    service.settings = replace(service.settings, port=bound.getsockname()[1])  # 0 was any
    server = Server(service, owns_process=True)
    url = service.settings.url

    def ended() -> None:
        if service.failure is not None:
            server.should_exit = True
        elif service.state == "ready":
            on_ready(service.ready(), url)

    on_bound(url)
    service.start(ended)
    try:
        server.run(sockets=[bound])
    finally:
        bound.close()
        # What is broken may fail once more, and it is the process's end.
        with contextlib.suppress(Exception) if service.broken else contextlib.nullcontext():
            service.close()
        logs.end()
    if service.broken is not None:
        return DEVICE_FAILED
    if service.failure is not None:
        raise service.failure
    return None
