"""An OpenAI-compatible server as a session of the harness.

    a request      sent; busy or broken: sent again after a growing pause, or the server's own
    a failed cell  five attempts failed (two where the time ran out): the cell is an error
    a lost server  three cells in a row failed, or it refuses for good: the run ends, resumable

Decoding is greedy as far as the server listens. What it does with positions nobody can see from
here: its method is recorded as unverified. The API key comes from the environment and is neither
stored nor shown.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from longctx.errors import UserError
from longctx.eval.protocol import (
    Completion,
    ContextOverflowError,
    Request,
    Session,
    TargetLostError,
)
from longctx.models.openai_wire import (
    PATHS,
    Api,
    Dialect,
    EndpointAnswer,
    FieldRefusedError,
    RefusedError,
    TransientError,
    body_of,
    filtered,
    read_stream,
    read_whole,
    refusal,
)

METHOD = "unverified"  # nobody sees from here what a server does with positions
KEY_VARIABLES = ("LONGCTX_API_KEY", "OPENAI_API_KEY")
ATTEMPTS, SLOW_ATTEMPTS = 5, 2
LOST_AFTER = 3  # failed cells in a row
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_PATIENCE_S = 600.0  # a Retry-After beyond it ends the run: come back later
_CONNECT_S = 10.0
# A server that reads this much less than it was sent has cut the prompt.
_READ_AT_LEAST, _READ_SLACK = 0.9, 64


class EndpointError(Exception):
    """A request failed as often as it may. The cell has no answer."""


def api_key() -> str | None:
    """
    Raises:
        UserError: what is no header's value; libraries would show it in their own complaint.
    """
    for name in KEY_VARIABLES:
        # Files of secrets end in a line end.
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise UserError(
                    f"{name}: holds characters that no API key has (its value is not shown): "
                    "set it anew"
                )
            return key
    return None


class EndpointSession(Session):
    """Thread-safe: `concurrency` requests may be on their way at once.

    The block holds the connections; it may be entered again: what was learnt of the server stays,
    and so does the count of failures in a row.

    Args:
        timeout: seconds for one request as a whole.
        pause: waits so many seconds; tests have no time.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api: Api,
        scheme: Mapping[str, Any],
        *,
        key: str | None,
        timeout: float,
        concurrency: int = 1,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._model, self._api, self._timeout, self._key = model, api, timeout, key
        super().__init__(METHOD, scheme, f"endpoint {api}", concurrency=concurrency)
        self._base_url, self._pause = base_url, pause
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self.dialect = Dialect()

    def __enter__(self) -> EndpointSession:
        self._client = httpx.Client(
            base_url=self._base_url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(self._timeout, connect=min(_CONNECT_S, self._timeout)),
            limits=httpx.Limits(max_connections=self.concurrency),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def generate(self, request: Request) -> Completion:
        """
        Raises:
            ContextOverflowError: the server's context is shorter than the prompt.
            EndpointError: no answer after all attempts.
            TargetLostError: none to be hoped for.
        """
        began = time.perf_counter()
        try:
            answer = self._answer(request)
        except EndpointError as error:
            with self._lock:
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= LOST_AFTER:
                    raise TargetLostError(f"{error}; {LOST_AFTER} cells in a row failed") from error
            raise
        with self._lock:
            self._failed_in_a_row = 0
        _check_read(len(request.ids), answer.prompt_tokens)
        total = time.perf_counter() - began
        return Completion(
            text=answer.whole_text(),
            finish_reason=answer.finish_reason or "stop",
            ttft_s=total if answer.first_token_s is None else answer.first_token_s,
            total_s=total,
            prompt_tokens=answer.prompt_tokens,
        )

    def _answer(self, request: Request) -> EndpointAnswer:
        attempt = slow = 0
        while True:
            dialect = self.dialect
            try:
                return self._send(body_of(request, self._api, self._model, dialect))
            except FieldRefusedError as error:
                if error.name in dialect.left_out:
                    raise EndpointError(self._shown(error)) from error
                self.dialect = dialect.without(error.name)
            except RefusedError as error:
                raise EndpointError(self._shown(error)) from error
            except TransientError as error:
                attempt, slow = attempt + 1, slow + error.slow
                if attempt >= ATTEMPTS or slow >= SLOW_ATTEMPTS:
                    raise EndpointError(f"{self._shown(error)} ({attempt} attempts)") from error
                self._pause(self._pause_before(attempt, error))
            except (ContextOverflowError, TargetLostError) as error:
                if isinstance(error, ContextOverflowError):
                    with self._lock:
                        self._failed_in_a_row = 0
                raise type(error)(self._shown(error)) from None

    def _pause_before(self, attempt: int, error: TransientError) -> float:
        if error.retry_after is None:
            longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
            return random.uniform(longest / 2, longest)  # so that threads do not come back together
        if error.retry_after > _PATIENCE_S:
            raise TargetLostError(
                f"{self._shown(error)}: it asks to come back in {error.retry_after:.0f} s"
            )
        # Just after it, and not all threads at once.
        return error.retry_after + random.uniform(0, 0.1 * error.retry_after)

    def _send(self, body: dict[str, Any]) -> EndpointAnswer:
        began = time.perf_counter()

        def clock() -> float:
            seconds = time.perf_counter() - began
            if seconds > self._timeout:
                raise TransientError(f"no whole answer within {self._timeout:g} s", slow=True)
            return seconds

        def timed(lines: Iterator[str]) -> Iterator[str]:
            for line in lines:
                clock()
                yield line

        try:
            with self._client.stream("POST", PATHS[self._api], json=body) as response:
                kind = response.headers.get("content-type", "")
                if response.status_code == 200 and kind.startswith("text/event-stream"):
                    return read_stream(timed(response.iter_lines()), clock)
                data = response.read()
        except httpx.TimeoutException as error:
            slow = not isinstance(error, httpx.ConnectTimeout)
            raise TransientError(f"no answer within {self._timeout:g} s", slow=slow) from error
        except httpx.TransportError as error:
            raise TransientError(f"connection: {str(error) or type(error).__name__}") from error
        if response.status_code == 200:
            return read_whole(data, clock())
        return self._refused(response, data)

    def _refused(self, response: httpx.Response, data: bytes) -> EndpointAnswer:
        try:
            content = response.json()
        except ValueError:
            content = data.decode(errors="replace")
        if filtered(response.status_code, content):
            return EndpointAnswer("", finish_reason="content_filter")
        raise refusal(response.status_code, content, response.headers.get("retry-after"))

    def _shown(self, error: Exception) -> str:
        """A server may quote what it was sent."""
        text = str(error)
        return text.replace(self._key, "***") if self._key else text


def _check_read(sent: int, read: int | None) -> None:
    """
    Raises:
        ContextOverflowError: the server cut the prompt without saying so.
    """
    if read is not None and read < min(sent * _READ_AT_LEAST, sent - _READ_SLACK):
        raise ContextOverflowError(
            f"the server read {read} of {sent} tokens: it cuts prompts to its context, or "
            "--tokenizer is not this model's"
        )
