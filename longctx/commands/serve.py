"""`longctx serve`: flags, environment and one TOML file become a server."""

from __future__ import annotations

import socket

from longctx.commands.command import command
from longctx.serve.settings import ServeSettings


@command
def serve(settings: ServeSettings) -> int | None:
    """Serve a model to OpenAI clients, long prompts included."""
    return run(settings)


def run(settings: ServeSettings) -> int | None:
    """Serve until a signal; stderr says at once what is loaded, and the banner that it answers."""
    from longctx.serve.listen import listening_socket

    with listening_socket(settings) as bound:
        return _serve(settings, bound)


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
