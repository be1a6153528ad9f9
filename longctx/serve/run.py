"""The server's life: bind, load, serve, drain.

SIGTERM or SIGINT: no new requests (503, and /ready says so), what runs is finished, then the end; a
second signal, or --drain-timeout, ends what runs within a step, with the same 503.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn

from longctx.errors import UserError
from longctx.serve.app import create_app
from longctx.serve.service import Loaded, Service
from longctx.serve.settings import ServeSettings


class Server(uvicorn.Server):
    """uvicorn's, with a drain in front of its end."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=65536,
        )
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None
        self._hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.state == "ready":
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


def listening_socket(settings: ServeSettings) -> socket.socket:
    """Bound now, so that a port in use is one line and not a traceback. Clients may connect: they
    wait until the server takes them.

    Raises:
        UserError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
        found.listen(2048)
    except OSError as error:
        found.close()
        raise UserError(
            f"--host {settings.host} --port {settings.port}: cannot be bound "
            f"({error.strerror}): choose another port, or stop what uses it"
        ) from error
    return found


def serve(
    service: Service,
    on_ready: Callable[[Loaded, str], None],
    on_bound: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal.

    Args:
        on_ready: told the URL once the model answers.
        on_bound: told the URL before the model is loaded.

    Raises:
        UserError: the address is taken, or the model cannot be served.
    """
    bound = listening_socket(service.settings)
    service.settings = replace(service.settings, port=bound.getsockname()[1])  # 0 was any
    server = Server(service)
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
