"""The documents of a question at a server that keeps documents: handed over once, then named.

/v1/documents/preview   what they would be, before anything is read or kept
/v1/documents           read and kept; watched until that is done
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from longctx.ask.answer import Listener, PromptProgress

_WATCHED_EVERY_S = 0.2
# Of a server without these routes, or that keeps nothing now (its memory is full, as said).
_KEEPS_NONE = (404, 405, 501)
_TOO_LONG = ("context_length_exceeded", "insufficient_memory")


class NotTakenError(Exception):
    """What a server answered instead of a result."""

    def __init__(self, told: dict[str, Any], status: int) -> None:
        super().__init__(str(status))
        self.told, self.status = told, status


@dataclass(frozen=True)
class Previewed:
    """Tokens of the documents, and of the longest that fit; and how long they may take."""

    tokens: int
    most: int
    seconds: float | None


@dataclass
class Handed:
    """One that is kept there.

    Attributes:
        computed: tokens that were computed when it was handed over.
        persistent: whether it is there after a restart of the server.
        reason: why it is not.
    """

    id: str
    tokens: int
    computed: int
    persistent: bool
    reason: str | None


def preview(client: httpx.Client, name: str, text: str) -> Previewed | None:
    """None where the server keeps no documents.

    Raises:
        NotTakenError: they can never be asked there.
        httpx.HTTPError.
    """
    found = client.post("/documents/preview", json={"name": name, "text": text})
    if found.status_code in _KEEPS_NONE:
        return None
    told = _told(found)
    return Previewed(int(told["tokens"]), int(told["max_tokens"]), told.get("seconds"))


def question_tokens(client: httpx.Client, base: str, messages: list[dict[str, str]]) -> int:
    """Of a conversation by itself.

    Args:
        base: with /v1, where the route is not.

    Raises:
        NotTakenError, httpx.HTTPError.
    """
    return int(
        _told(client.post(f"{base.removesuffix('/v1')}/tokenize", json={"messages": messages}))[
            "count"
        ]
    )


def hand_over(client: httpx.Client, name: str, text: str) -> Handed | str:
    """Keep them there; or why that was refused, though they could be asked.

    Raises:
        NotTakenError, httpx.HTTPError.
    """
    try:
        told = _told(client.post("/documents", json={"name": name, "text": text}))
    except NotTakenError as error:
        about = error.told.get("error")
        about = about if isinstance(about, dict) else {}
        if error.status == 400 and about.get("code") not in _TOO_LONG:
            return str(about.get("message") or f"status {error.status}")
        raise
    computed = int((told.get("progress") or {}).get("processed") or 0)
    return Handed(told["id"], int(told["tokens"]), computed, bool(told["persistent"]), None)


def watch(client: httpx.Client, handed: Handed, listener: Listener) -> None:
    """Until they are read.

    Raises:
        NotTakenError: they could not be read, or were removed meanwhile.
        httpx.HTTPError.
    """
    while True:
        told = _told(client.get(f"/documents/{handed.id}"))
        if told["state"] == "failed":
            raise NotTakenError({"error": {"message": told["reason"]}}, 200)
        handed.persistent, handed.reason = bool(told["persistent"]), told["reason"]
        done = int(told["progress"]["processed"] or 0)
        if told["state"] not in ("queued", "prefill"):
            return
        listener.progress(PromptProgress(handed.tokens, handed.computed, done))
        time.sleep(_WATCHED_EVERY_S)


def _told(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {"error": {"message": answer.text[:200]}}
    if answer.status_code != 200 or "error" in told:
        raise NotTakenError(told, answer.status_code)
    return told
