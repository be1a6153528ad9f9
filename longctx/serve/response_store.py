"""Responses that can be gone on from, in memory: the oldest make way for the newest."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple


class StoredResponse(NamedTuple):
    """A response and the whole conversation behind it, its own output last."""

    response: dict[str, Any]
    items: tuple[dict[str, Any], ...]
    size: int


class ResponseStore:
    """Bounded by number and by characters; safe from any thread.

    Args:
        most: responses.
        characters: of JSON in all. A conversation counts with every response that it is part of.
    """

    def __init__(self, most: int, characters: int) -> None:
        self._most, self._characters = most, characters
        self._held: OrderedDict[str, StoredResponse] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Characters held."""
        return self._size

    def put(self, response: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
        """Keep one, unless it is larger than the store."""
        size = len(json.dumps(response)) + len(json.dumps(items))
        if size > self._characters:
            return
        with self._lock:
            self._drop(response["id"])
            self._held[response["id"]] = StoredResponse(response, tuple(items), size)
            self._size += size
            while len(self._held) > self._most or self._size > self._characters:
                self._drop(next(iter(self._held)))

    def get(self, id: str) -> StoredResponse | None:
        with self._lock:
            found = self._held.get(id)
            if found is not None:
                self._held.move_to_end(id)
            return found

    def delete(self, id: str) -> bool:
        with self._lock:
            return self._drop(id)

    def _drop(self, id: str) -> bool:
        found = self._held.pop(id, None)
        self._size -= 0 if found is None else found.size
        return found is not None
