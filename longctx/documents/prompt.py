"""Documents at the beginning of a conversation: one system turn, in which the own text follows.

    <system turn> <document name="a">…</document> <document name="b">…</document> own system text

A document's ids are the same in whatever conversation it stands: it is encoded by itself, none of
its tokens a special one, and put in where a stand-in was rendered. No template ever sees its text.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longctx.chat.documents import APART
from longctx.chat.renderer import ChatRenderer
from longctx.engine.prefix import Tokens

_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class PlacedIds:
    """A prompt with its documents.

    Attributes:
        ends: of each document, the number of tokens up to its end.
    """

    ids: list[int]
    ends: tuple[int, ...]


class StandIns:
    """Where the documents of one prompt stand.

    Args:
        parts: ids of each, as `ChatRenderer.encode_text` gives them of `part_of`.
    """

    def __init__(self, parts: Sequence[Tokens]) -> None:
        self._parts = parts
        # No text of the conversation has them.
        names = [f"document-{secrets.token_hex(16)}" for _ in parts]
        self._stand_ins = APART.join(names)
        # Ids below 0 are no tokens: they are found again when all else is encoded.
        self.inserted = {name: (-1 - at,) for at, name in enumerate(names)}

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The conversation with stand-ins in its first turn, a system turn."""
        first = messages[0] if messages else None
        if not isinstance(first, dict) or first.get("role") not in _SYSTEM:
            return [{"role": "system", "content": self._stand_ins}, *messages]
        content = first.get("content")
        if isinstance(content, str):
            content = f"{self._stand_ins}{APART}{content}" if content else self._stand_ins
        elif isinstance(content, list):  # parts are joined by a line end
            content = [{"type": "text", "text": self._stand_ins + "\n"}, *content]
        return [{**first, "content": content}, *messages[1:]]

    def placed(self, ids: Sequence[int]) -> PlacedIds:
        """With the documents' own ids.

        Args:
            ids: of the conversation, encoded with `inserted`.
        """
        found: list[int] = []
        ends: list[int] = []
        at = 0
        given = np.asarray(ids, dtype=np.int64)
        for place in np.flatnonzero(given < 0).tolist():
            found += ids[at:place]
            found += self._parts[-1 - int(given[place])].tolist()
            ends.append(len(found))
            at = place + 1
        found += ids[at:]
        return PlacedIds(found, tuple(ends))


def prefix_of(renderer: ChatRenderer, part_N: Tokens) -> list[int]:
    """The ids that every prompt begins with whose first document this is.

    Raises:
        UserError: the template has no system turn.
    """
    place = StandIns([part_N])
    messages = place.messages([{"role": "user", "content": "?"}])
    made = place.placed(renderer.encode(messages, inserted=place.inserted))
    return made.ids[: made.ends[0]]
