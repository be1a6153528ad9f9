"""Who may ask, and how much: checked before any route, for every method and path.

    request -> id -> Host -> API key -> content type -> size -> routes -> log line

Pure ASGI, because a body has to be refused while it is being read. Errors have OpenAI's shape.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longctx.serve.errors import ApiError
from longctx.serve.settings import ServeSettings, is_loopback

OPEN_PATHS = ("/health", "/ready")
PAGE = "/"  # asks for the key by itself
FILES = ("/v1/documents", "/v1/documents/preview")  # taken there alone
_FORM = "multipart/form-data"
REQUEST_ID = "x-request-id"
_log = logging.getLogger("longctx.serve")


class Guard:
    """Wraps the application.

    Args:
        done: told of every answered request: (path, status, seconds).
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, done: Callable[[str, int, float], None]
    ) -> None:
        self._app, self._settings, self._done = app, settings, done
        key = settings.api_key
        self._key = None if key is None else _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # the client went away unanswered
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get(REQUEST_ID))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"], state["log"] = request_id, {}

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            try:
                self._check(scope, headers)
            except ApiError as error:
                await error.response()(scope, receive, send_marked)
            else:
                await self._app(scope, self._counted(receive), send_marked)
        finally:
            seconds = time.perf_counter() - began
            self._done(scope["path"], status, seconds)
            quiet = scope["path"] in (*OPEN_PATHS, "/metrics") and status < 400
            _log.log(
                logging.DEBUG if quiet else logging.INFO,
                "request",
                extra={
                    "fields": {
                        "id": request_id,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "ms": round(1e3 * seconds, 1),
                        **state["log"],
                    }
                },
            )

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_host(headers.get("host", ""))
        if scope["path"] not in (*OPEN_PATHS, PAGE):
            self._check_key(headers.get("authorization", ""))
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            if kind == _FORM and scope["path"] in FILES:
                self._check_origin(headers)
            elif kind != "application/json":
                # Pages of other sites can post forms and text without asking, but not JSON.
                raise ApiError(
                    415,
                    f"Content-Type {kind or '(none)'}: send application/json.",
                    code="unsupported_media_type",
                )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_body:
            raise self._too_large()

    def _check_origin(self, headers: Headers) -> None:
        """Browsers say where a form comes from; what says nothing is no browser."""
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers.get("host", ""):
            return
        raise ApiError(
            403,
            f"Origin {origin[:80]!r}: files are taken from this server's own page: send JSON.",
            code="origin_not_allowed",
        )

    def _check_host(self, host: str) -> None:
        """A page in a browser reaches a loopback server under its own name, by DNS rebinding."""
        if not self._settings.on_loopback:
            return
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if is_loopback(name) or name in self._settings.allowed_hosts:
            return
        raise ApiError(
            403,
            f"Host {host[:80]!r} is not this server's: ask for {self._settings.url}, or start it "
            "with --allowed-host.",
            code="host_not_allowed",
        )

    def _check_key(self, authorization: str) -> None:
        if self._key is None:
            return
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._key):
            return
        message = (
            "The API key is wrong." if given else "An API key is needed: Authorization: Bearer …"
        )
        raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        most = self._settings.max_body
        return ApiError(
            413,
            f"The body is larger than {most} bytes: shorten it, or start the server with a larger "
            "--max-body.",
            code="body_too_large",
            headers={"Connection": "close"},
            max_body_bytes=most,
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _request_id(wanted: str | None) -> str:
    """The client's own, where it is a plain word, so that it can ask how its request is doing."""
    if wanted and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", wanted):
        return wanted
    return f"req-{secrets.token_hex(12)}"
