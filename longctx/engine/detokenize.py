"""Text of an answer as it grows: nothing is shown that a later token could change.

Held back: the beginning of a character whose bytes have not all come, and whatever may turn out to
be the beginning of a stop string. Knows one function, tokens to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"  # what decoders write for bytes that are no character (yet)
# A character has four bytes at most: what is still broken after more tokens than that is broken.
_MAX_HELD = 8


class Detokenizer:
    """Feed tokens, get text.

    Args:
        decode: tokens to text; called on a few tokens at a time.
        stop: strings that end the text; `stopped` names the one that did.
        stops_after: tokens; what begins in their text ends nothing.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: Sequence[str] = (),
        *,
        stops_after: int = 0,
    ) -> None:
        self._decode = decode
        self._unstopped = stops_after
        self._stop = tuple(stop)
        self._ids: list[int] = []  # from a few tokens before the first undecided one
        self._decided = 0  # of these, tokens whose text is out
        self._pending = ""  # decoded, but may begin a stop string
        self.stopped: str | None = None

    def push(self, token: int) -> str:
        """Text that has become certain. After a stop string, all that is left before it."""
        self._ids.append(token)
        free = self._unstopped > 0
        self._unstopped -= free
        # Decoded together with tokens before it: a token alone may lose its leading space.
        before = self._decode(self._ids[: self._decided])
        text = self._decode(self._ids)
        held = len(self._ids) - self._decided
        if text.endswith(_UNFINISHED) and held < _MAX_HELD:
            return ""
        if len(text) <= len(before):
            return ""
        self._ids = self._ids[self._decided :]
        self._decided = len(self._ids)
        new = text[len(before) :]
        return new if free else self._filter(new)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        if self.stopped is not None:
            return ""
        before = self._decode(self._ids[: self._decided])
        tail = self._decode(self._ids)[len(before) :]
        self._ids, self._decided = [], 0
        text = self._filter(tail)
        if self.stopped is None:
            text, self._pending = text + self._pending, ""
        return text

    def _filter(self, text: str) -> str:
        text = self._pending + text
        found = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            at, self.stopped = min(found)
            self._pending = ""
            return text[:at]
        kept = max((_overlap(text, s) for s in self._stop), default=0)
        self._pending = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0
    )
