"""A document through the model once, and its keys into the store as they come.

The engine's thread copies what a step has computed, this one writes it; where the disk is slower
than the model, what was not copied is read afterwards, out of the prefix that the engine keeps.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator

from longctx.documents.keys_file import CHUNK
from longctx.engine import (
    Engine,
    EngineRequest,
    Event,
    Failed,
    Finished,
    Generation,
    Progress,
    QueueFullError,
)
from longctx.engine.kept import KeptPiece
from longctx.engine.serving import ServingEngine

# Copies that may wait to be written.
_MOST_WAITING = 256 << 20
_RETRY_S = 0.2


class Prefill:
    """One pass of a document through the engine.

    Args:
        stored: tokens, whole chunks, that are on the disk.
        exports: whether what is computed is wanted.
        told: called with the tokens that are computed so far.
    """

    def __init__(
        self,
        engine: ServingEngine,
        request: EngineRequest,
        stored: int,
        told: Callable[[int], None],
        *,
        exports: bool,
    ) -> None:
        self._engine = engine
        self._request = request
        self._copied = stored
        self._told = told
        self._exports = exports and isinstance(engine, Engine)
        self._queue: queue.SimpleQueue[KeptPiece | Event] = queue.SimpleQueue()
        self._waiting = 0  # bytes; of two threads, each of which only adds or only takes
        self._taken = 0
        self._handle = _submitted(engine, request, self._listen)

    def cancel(self) -> None:
        self._handle.cancel()

    def pieces(self) -> Iterator[KeptPiece]:
        """Whole chunks, in order, as they are computed.

        Raises:
            Exception: what the engine failed with.
        """
        while True:
            found = self._queue.get()
            if isinstance(found, KeptPiece):
                self._taken += _size(found)
                yield found
            elif isinstance(found, Failed):
                raise found.error
            elif isinstance(found, Finished):
                return

    @property
    def copied(self) -> int:
        """Tokens that were handed out, and those that were stored before."""
        return self._copied

    def _listen(self, event: Event) -> None:
        """In the engine's thread."""
        if isinstance(event, Progress):
            self._told(event.processed)
            if self._exports:
                self._copy(event.processed, last=event.processed == event.total)
        else:
            self._queue.put(event)

    def _copy(self, computed: int, *, last: bool) -> None:
        assert isinstance(self._engine, Engine)
        while self._waiting - self._taken < _MOST_WAITING:
            stop = self._copied + CHUNK
            if stop > computed:
                if not last or self._copied == computed:
                    return
                stop = computed
            piece = self._engine.computed(self._request, self._copied, stop)
            if piece is None:
                return
            self._copied = stop
            self._waiting += _size(piece)
            self._queue.put(piece)


def _size(piece: KeptPiece) -> int:
    return piece.keys_NKLD.nbytes + piece.values_NKLD.nbytes


def _submitted(
    engine: ServingEngine, request: EngineRequest, listen: Callable[[Event], None]
) -> Generation:
    while True:
        try:
            return engine.submit(request, listen)
        except QueueFullError:
            time.sleep(_RETRY_S)
