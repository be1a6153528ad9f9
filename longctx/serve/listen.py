"""The address, taken before anything heavy is imported: one in use is told at once."""

from __future__ import annotations

import socket

from longctx.errors import UserError
from longctx.serve.settings import ServeSettings

# Clients that the system keeps until they are taken.
WAITING = 2048


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
        found.listen(WAITING)
    except OSError as error:
        found.close()
        raise UserError(
            f"--host {settings.host} --port {settings.port}: cannot be bound "
            f"({error.strerror}): choose another port, or stop what uses it"
        ) from error
    return found
