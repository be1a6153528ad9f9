"""The server's life: load, serve, drain.

SIGTERM or SIGINT: no new requests (503, and /ready says so), what runs is finished, then the end; a
second signal, or --drain-timeout, ends what runs within a step, with the same 503. A thread that
does not come to its end in time, in a step or in a library, ends with the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn

from longctx.serve.app import create_app
from longctx.serve.service import Loaded, Service

# What the end may take once nothing is waited for any more.
_END_SECONDS = 1.8


class Server(uvicorn.Server):
    """uvicorn's, with a drain in front of its end.

    Args:
        owns_process: end the process, where the server alone does not end in time.
    """

    def __init__(self, service: Service, *, owns_process: bool = False) -> None:
        settings = service.settings
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
        )
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None
        self._hurried = False
        self._owns_process = owns_process

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        drains = self._service.state == "ready"
        if self._owns_process:
            drain = self._service.settings.drain_timeout if drains else 0.0
            last = threading.Timer(drain + _END_SECONDS, _end_process)
            last.daemon = True
            last.start()
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


def _end_process() -> None:
    """Python's own end waits for threads."""
    print(
        "error: the server did not end by itself in time, and was ended: what still ran is lost",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def serve(
    service: Service,
    bound: socket.socket,
    on_ready: Callable[[Loaded, str], None],
    on_bound: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal.

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
        service.close()
    if service.failure is not None:
        raise service.failure
