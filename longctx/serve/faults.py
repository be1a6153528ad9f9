"""The last resort: an exception that no route expected becomes a 500 in OpenAI's shape.

Stands inside the guard, which so gives it an id, counts it and logs it as what it is. The
framework's own place for such handlers is outside of everything.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longctx.serve.errors import INTERNAL, ApiError

_log = logging.getLogger("longctx.serve")


class Faults:
    """Wraps the routes. Logs each defect once, with its traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = ended = False

        async def send_watched(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception as error:
            _log.error(
                "unhandled %s", type(error).__name__, exc_info=error,
                extra={"fields": {"id": scope["state"]["request_id"]}},
            )  # fmt: skip
            if not begun:
                text = "The request failed in the server; its log says why."
                response = ApiError(500, text, code=INTERNAL).response()
                await response(scope, receive, send)
            elif not ended:
                raise  # half an answer: the connection must break, or it would look whole
