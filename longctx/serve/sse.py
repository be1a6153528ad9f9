"""Server-sent events: data lines, keep-alives while there is nothing to say, an end on disconnect.

A client that goes away is noticed at once, also in the middle of a long prefill when nothing is
being sent: the iterator is closed, and with it the request in the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from longctx.serve.errors import INTERNAL, ApiError, from_engine

T = TypeVar("T")
DONE = "[DONE]"


class SseResponse(Response):
    """Sends what `chunks` yields, each as one event; an exception becomes an error event.

    Args:
        keep_alive: seconds of silence after which a comment is sent, so that proxies stay.
        closed: called at the end, whatever happened: an iterator that was never begun cannot
            clean up after itself.
        failed: the last events of a stream that ends by an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncIterator[dict[str, Any] | str],
        *,
        keep_alive: float,
        closed: Callable[[], None],
        failed: Callable[[ApiError], Sequence[dict[str, Any] | str]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._chunks, self._keep_alive, self._closed = chunks, keep_alive, closed
        self._failed = failed
        self.init_headers(
            {**(headers or {}), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers(headers)
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["events"] = True  # a comment may be put between them
        gone = asyncio.ensure_future(disconnected(receive))
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            await send(start)
            await self._send_all(send, gone)
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
            await self._chunks.aclose()  # type: ignore[attr-defined]
            self._closed()

    async def _send_all(self, send: Send, gone: asyncio.Future[None]) -> None:
        chunk = asyncio.ensure_future(_next(self._chunks))
        try:
            while True:
                done, _ = await asyncio.wait(
                    {chunk, gone},
                    timeout=self._keep_alive,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if gone in done:
                    return
                if not done:
                    await _write(send, ": keep-alive\n\n")
                    continue
                try:
                    value = chunk.result()
                except StopAsyncIteration:
                    await _write(send, "", more=False)
                    return
                except Exception as error:
                    told = from_engine(error)
                    await _write(send, "".join(map(_data, self._failed(told))), more=False)
                    if told.code == INTERNAL:
                        raise  # a defect, to be logged
                    return
                await _write(send, _data(value))
                chunk = asyncio.ensure_future(_next(self._chunks))
        except OSError:
            return  # the client is gone in the middle of a write
        finally:
            if not chunk.done():
                chunk.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await chunk


async def _next(chunks: AsyncIterator[Any]) -> Any:
    return await anext(chunks)


def _data(value: dict[str, Any] | str) -> str:
    """One event; its type is said beside it, where it has one."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    kind = value.get("type") if isinstance(value, dict) else None
    named = f"event: {kind}\n" if isinstance(kind, str) else ""
    return f"{named}data: {text}\n\n"


async def _write(send: Send, text: str, more: bool = True) -> None:
    # A lone surrogate cannot be sent; it cannot come from a tokenizer either.
    body = text.encode("utf-8", "replace")
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone. The body must have been read."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


class ClientGoneError(Exception):
    """Nobody is there to answer."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects.

    Raises:
        ClientGoneError: it did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        raise ClientGoneError
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
