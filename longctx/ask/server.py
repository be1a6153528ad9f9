"""A running server, asked over its OpenAI-compatible routes.

Documents go only to a server that was named, or to one on this machine that says that it is
longctx's. Its progress comes in the stream; closing the stream ends the work there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from longctx.ask import handed as handed_over
from longctx.ask import prompt
from longctx.ask.answer import AskedAnswer, AskTimings, Listener, PromptProgress, too_long
from longctx.ask.handed import Handed, NotTakenError
from longctx.errors import UserError
from longctx.options.ask import AskOptions
from longctx.options.shared import PLAIN
from longctx.reading import ReadDocument

DEFAULT = "http://127.0.0.1:8000"
PROBE_S = 0.2
_CONNECT_S, _LIST_S = 10.0, 30.0
# A server that is longctx's sends something every 15 seconds; others may think for minutes.
_SILENCE_S = 900.0
# A turn's marks, counted with the documents and with the question.
_IN_BOTH = 16
_OVERFLOW = "context_length_exceeded"


class ServedModel(NamedTuple):
    """One that a server has. `about` is what longctx adds of it."""

    id: str
    owner: str
    about: dict[str, Any]

    @property
    def by_longctx(self) -> bool:
        return self.owner == "longctx"


class NotThereError(Exception):
    """No server answers there as one would; the message says how."""


class KeyWantedError(NotThereError):
    """One does, and wants another key, or one at all."""


def base_of(address: str, flag: str) -> str:
    """`http://host:port/v1` of what was said, with or without /v1.

    Raises:
        UserError: no address.
    """
    shown = "…" if "@" in address else address  # a password may stand before it
    bad = UserError(f"{flag} {shown}: not an address: write http://127.0.0.1:8000")
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        httpx.URL(text)
        port = parts.port
    except (ValueError, httpx.InvalidURL):
        raise bad from None
    wrong = parts.username or parts.password or parts.query or parts.fragment or port == 0
    if parts.scheme not in ("http", "https") or not parts.hostname or wrong:
        raise bad
    base = text.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def models_at(base: str, key: str | None, seconds: float | None = None) -> list[ServedModel]:
    """What a server has.

    Args:
        seconds: for all of it; None: as long as a busy server may take.

    Raises:
        NotThereError: nobody there, or no such server.
    """
    timeout = httpx.Timeout(_LIST_S, connect=_CONNECT_S) if seconds is None else seconds
    try:
        with client_of(base, key, timeout) as client:
            answer = client.get("/models")
    except httpx.HTTPError as error:
        raise NotThereError(f"no answer ({str(error) or type(error).__name__})") from error
    if answer.status_code in (401, 403):
        raise KeyWantedError("it wants an API key: set LONGCTX_API_KEY")
    try:
        listed = answer.json()["data"] if answer.status_code == 200 else None
        found = [
            ServedModel(str(each["id"]), str(each.get("owned_by", "")), dict(each))
            for each in listed or ()
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        found = []
    if not found:
        raise NotThereError(f"status {answer.status_code} and no list of models at /v1/models")
    return found


def same_model(asked: str, served: str) -> bool:
    """A server calls a model by the last part of its path or hub id."""
    return served in (asked, Path(asked.rstrip("/")).name)


def client_of(base: str, key: str | None, timeout: httpx.Timeout | float) -> httpx.Client:
    """For paths below `base`."""
    host = urlsplit(base).hostname or ""
    return httpx.Client(
        base_url=base,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=timeout,
        # A proxy would be asked for 127.0.0.1 of its own.
        trust_env=host not in ("127.0.0.1", "localhost", "::1"),
    )


class ServerAnswering:
    """
    Args:
        base: with /v1.
        flag: what errors name.
    """

    def __init__(
        self, options: AskOptions, base: str, served: ServedModel, key: str | None, flag: str
    ) -> None:
        self._options, self._base, self._served = options, base, served
        self._flag, self._key = flag, key
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        self._client = client_of(base, key, timeout)

    @property
    def about(self) -> dict[str, Any]:
        about = self._served.about
        return {
            "model": self._served.id,
            "method": about.get("method"),
            "dtype": about.get("dtype"),
            "quantize": about.get("quantize"),
            "kv_dtype": about.get("kv_dtype"),
            "context": about.get("max_model_len"),
            "answered_by": self._base,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        about, notes = self._served.about, []
        form = about.get("quantize", PLAIN)
        if form not in (PLAIN, self._options.quantize):
            notes.append(f"its weights are {form}")
        if about.get("kv_dtype") == "int8" != self._options.kv_dtype:
            notes.append("its keys and values are int8")
        return tuple(notes)

    @property
    def loaded(self) -> bool:
        return True

    def check(self, documents: Sequence[ReadDocument], question: str) -> None:
        """The server counts."""

    def load(self) -> None:
        """It is there."""

    def close(self) -> None:
        self._client.close()

    def ask(
        self, documents: Sequence[ReadDocument], question: str, listener: Listener
    ) -> AskedAnswer:
        """Documents are handed to a server of longctx, which keeps them, and named; any other
        server has them in the question."""
        stream = _Stream(listener)
        handed: Handed | None = None
        notes: tuple[str, ...] = ()
        try:
            if self._served.by_longctx and not self._options.no_document_store:
                handed, notes = self._hand_over(documents, question, listener)
            self._talk(self._body(documents, question, handed), stream)
        except NotTakenError as error:
            raise self._refused(documents, error.told, error.status) from None
        except httpx.HTTPError as error:
            raise self._error(f"the connection broke ({str(error) or type(error).__name__})") from (
                error
            )
        if stream.finish_reason is None:
            raise self._error("the answer broke off")
        return replace(stream.answer(None if handed is None else handed.computed), notes=notes)

    def _hand_over(
        self, documents: Sequence[ReadDocument], question: str, listener: Listener
    ) -> tuple[Handed | None, tuple[str, ...]]:
        """Refused before anything is read where question and answer do not fit too."""
        name, text = prompt.one_document(documents)
        seen = handed_over.preview(self._client, name, text)
        if seen is None:
            return None, ()
        told = prompt.turns(question, self._options.system)
        tokens = seen.tokens + handed_over.question_tokens(self._client, self._base, told)
        if tokens - _IN_BOTH + self._options.max_tokens > seen.most + 1:
            raise self._too_long(documents, tokens, seen.most + 1)
        handed = handed_over.hand_over(self._client, name, text)
        if isinstance(handed, str):
            return None, (f"not kept for later questions: {handed}",)
        if seen.seconds is not None and handed.computed < handed.tokens:
            left = handed.tokens - handed.computed
            listener.expects(left, seen.seconds * left / handed.tokens)
        try:
            handed_over.watch(self._client, handed, listener)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the server reads on, and keeps it; to end that: longctx documents remove "
                f"{handed.id} --server {self._base.removesuffix('/v1')}"
            ) from None
        if not handed.persistent and handed.reason is not None:
            return handed, (f"kept until the server ends: {handed.reason}",)
        return handed, ()

    def _body(
        self, documents: Sequence[ReadDocument], question: str, handed: Handed | None
    ) -> dict[str, Any]:
        options, stream_options = self._options, {"include_usage": True}
        if self._served.by_longctx:
            stream_options["include_progress"] = True
        body = {
            "model": self._served.id,
            "messages": prompt.messages(documents, question, options.system),
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "stream": True,
            "stream_options": stream_options,
        }
        if handed is not None:
            body["messages"] = prompt.turns(question, options.system)
            body["document_ids"] = [handed.id]
        return body

    def _talk(self, body: dict[str, Any], stream: _Stream) -> None:
        with self._client.stream("POST", "/chat/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise NotTakenError(_json_of(response.text), response.status_code)
            for event in _events(response.iter_lines()):
                if "error" in event:
                    raise NotTakenError(event, 200)
                stream.hear(event)

    def _error(self, why: str) -> UserError:
        shown = why.replace(self._key, "***") if self._key else why
        return UserError(
            f"{self._flag} {self._base}: {shown}: see its log, or ask here with --local"
        )

    def _refused(
        self, documents: Sequence[ReadDocument], told: dict[str, Any], status: int
    ) -> UserError:
        error = told.get("error")
        error = error if isinstance(error, dict) else {"message": error or told.get("detail")}
        if error.get("code") == _OVERFLOW and {"max_context", "prompt_tokens"} <= error.keys():
            with suppress(TypeError, ValueError):
                return self._too_long(
                    documents,
                    int(error["prompt_tokens"]),
                    int(error["max_context"]),
                    at_least=bool(error.get("at_least")),
                )
        message = " ".join(str(error.get("message") or f"status {status}").split())
        return self._error(f"it refuses: {message[:500]}")

    def _too_long(
        self, documents: Sequence[ReadDocument], tokens: int, context: int, at_least: bool = False
    ) -> UserError:
        who, remedy = f"{self._served.id} at {self._base}", "or serve it with a longer --context"
        most = self._options.max_tokens
        return too_long(documents, tokens, most, context, who, remedy, at_least)


class _Stream:
    """What the events of one answer say."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began = time.perf_counter()
        self._first: float | None = None
        self._text: list[str] = []
        self._usage: dict[str, Any] = {}
        self.finish_reason: str | None = None

    def hear(self, event: dict[str, Any]) -> None:
        if isinstance(progress := event.get("prompt_progress"), dict):
            names = ("total", "cached", "processed")
            numbers = [number for name in names if isinstance(number := progress.get(name), int)]
            if len(numbers) == len(names):
                self._listener.progress(PromptProgress(*numbers))
        if isinstance(usage := event.get("usage"), dict):
            self._usage = usage
        for choice in event.get("choices") or ():
            text = (choice.get("delta") or {}).get("content")
            if text:
                self._first = self._first or time.perf_counter()
                self._text.append(text)
                self._listener.text(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def answer(self, computed: int | None) -> AskedAnswer:
        """
        Args:
            computed: of the documents, before they were handed over for this question.
        """
        total = time.perf_counter() - self._began
        details = self._usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        if computed is not None and cached is not None:
            cached = min(cached, computed)
        return AskedAnswer(
            "".join(self._text),
            "length" if self.finish_reason == "length" else "stop",
            self._usage.get("prompt_tokens"),
            cached,
            self._usage.get("completion_tokens"),
            AskTimings(total if self._first is None else self._first - self._began, total),
        )


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield _json_of(data)


def _json_of(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": {"message": text[:200]}}
