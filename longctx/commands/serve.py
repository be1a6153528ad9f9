"""`longctx serve`: flags, environment and one TOML file become a server."""

from __future__ import annotations

import errno
import socket

from longctx.commands.command import command
from longctx.errors import UserError
from longctx.serve.settings import ServeSettings


@command
def serve(settings: ServeSettings) -> int | None:
    """Serve a model to OpenAI clients, long prompts included."""
    return run(settings)


def run(settings: ServeSettings) -> int | None:
    """Serve until a signal; stderr says at once what is loaded, and the banner that it answers."""
    from longctx.serve.listen import listening_socket

    with listening_socket(settings) as bound:
        try:
            return _serve(settings, bound)
        except (MemoryError, ImportError, OSError) as error:
            if not _is_no_memory(error):
                raise
            raise UserError(
                f"MODEL {settings.model}: there is not enough memory to load it, or a library: "
                "free some, or raise the limit of this process (ulimit -v)"
            ) from error


def _is_no_memory(error: Exception) -> bool:
    """Also of a library that the system's loader has no room for."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    words = ("failed to map segment", "annot allocate memory", "cannot create shared object")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def _serve(settings: ServeSettings, bound: socket.socket) -> int | None:
    from longctx.serve import loading, logs
    from longctx.serve.run import serve as serve_until_signal
    from longctx.serve.service import Loaded, Service

    prepared = loading.prepare(settings)
    logs.configure(settings.log_format)
    service = Service(settings, prepared.name, prepared.load, about=prepared.about())

    def tell(loaded: Loaded, url: str) -> None:
        for line in loading.banner(prepared, loaded, url):
            logs.say(line)

    def tell_loading(url: str) -> None:
        logs.say(f"loading {prepared.name}, for {url}")

    return serve_until_signal(service, bound, tell, tell_loading)
