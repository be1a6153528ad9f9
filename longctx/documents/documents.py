"""The documents of one model: added, computed, kept, and placed in prompts. Safe from any thread.

    queued -> prefill -> ready        failed: what is wrong is said

A thread of its own brings documents through the model, one after the other. What is stored is
offered to the engine, which takes it where a request waits for it. Where the store cannot be used
documents are kept in memory, and are told not to be persistent.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longctx.chat.documents import HEAD_ROOM, part_of, plain_name
from longctx.chat.renderer import ChatRenderer
from longctx.documents.fingerprint import ModelFacts
from longctx.documents.keys import DocumentKeys
from longctx.documents.keys_file import DamagedError
from longctx.documents.live import DocumentDamagedError, LiveDocument, NoDocumentError
from longctx.documents.manifest import DocumentRecord
from longctx.documents.prefill import Prefill
from longctx.documents.prompt import StandIns, prefix_of
from longctx.documents.store import DEFAULT_BUDGET, DocumentStore
from longctx.engine import Engine, EngineClosedError, EngineRequest
from longctx.engine.prefix import Tokens
from longctx.engine.serving import ServingEngine
from longctx.errors import UserError

_log = logging.getLogger(__name__)

# Characters of texts that are kept in memory, where there is no store.
_MOST_IN_MEMORY = 64 << 20


class PlacedDocuments(NamedTuple):
    """For one prompt.

    Attributes:
        live: in their order.
    """

    placement: StandIns
    live: tuple[LiveDocument, ...]


class Documents:
    """
    Args:
        facts: what the model was made of; None: nothing of it can be stored.
        store: closed with this; or its directory, which is taken when it is first needed; None:
            documents are kept in memory.
        budget: bytes on the disk, of a store that is opened here.
    """

    def __init__(
        self,
        engine: ServingEngine,
        renderer: ChatRenderer,
        facts: ModelFacts | None,
        store: DocumentStore | Path | None,
        budget: int = DEFAULT_BUDGET,
    ) -> None:
        self._engine, self._renderer = engine, renderer
        self._keys = DocumentKeys(facts)
        self._store = store if isinstance(store, DocumentStore) else None
        self._directory = store if isinstance(store, Path) else None
        self._budget = budget
        self._no_store = "there is no document store"
        self._opened = False
        self._live: dict[str, LiveDocument] = {}
        self._guard = threading.RLock()
        self._queue: queue.SimpleQueue[LiveDocument | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._closed = False

    def close(self) -> None:
        """End what is being computed; what is stored of it stays. Before the engine's close()."""
        self._closed = True
        self._queue.put(None)
        with self._guard:
            live, worker = list(self._live.values()), self._worker
        for each in live:
            if (prefill := each.prefill) is not None:
                prefill.cancel()
        if worker is not None:
            worker.join(1)  # what it still holds is not stored: the store is closed
        if self._store is not None:
            self._store.close()

    # -- what is asked ----------------------------------------------------------------------------

    def add(self, name: str, text: str) -> LiveDocument:
        """Keep a document, and have it computed. The same one again is the same document.

        Raises:
            UserError: it can never be asked here, with the numbers; or there is no room for it.
        """
        name = plain_name(name)
        part_N, prefix_N = self._encode(name, text)
        self._engine.check(EngineRequest(prefix_N.tolist(), max_new_tokens=1))
        record, reason = self._recorded(name, text)
        with self._guard:
            live = self._live.get(record.id)
            if live is None:
                live = self._live[record.id] = LiveDocument(record, reason=reason)
        with live.guard:
            live.part_N, live.prefix_N = part_N, prefix_N
            live.text = text if reason is not None else None
        self._settle(live)
        return live

    def get(self, id: str) -> LiveDocument:
        """
        Raises:
            NoDocumentError.
        """
        with self._guard:
            if id in self._live:
                return self._live[id]
            store = self._open_store()
            record = None if store is None else store.get(id)
            if record is None:
                if store is not None and id in store.damaged:
                    raise _damaged(id)
                raise NoDocumentError(f"there is no document {id[:80]!r} here: add it")
            live = self._live[id] = LiveDocument(record)
            return live

    def all(self) -> list[LiveDocument]:
        """The one that was used last first."""
        with self._guard:
            store = self._open_store()
            stored = [] if store is None else [record.id for record in store.records()]
            ids = dict.fromkeys([*stored, *self._live])
            return [self.get(id) for id in ids]

    def text(self, id: str) -> str:
        """
        Raises:
            NoDocumentError, DocumentDamagedError.
        """
        return self._text(self.get(id))

    def count(self, name: str, text: str) -> int:
        """Tokens that a document would have, what stands around it included."""
        return len(self._encode(plain_name(name), text)[1])

    def remove(self, id: str) -> None:
        """
        Raises:
            NoDocumentError.
        """
        with self._guard:
            store = self._open_store()
            live = self._live.pop(id, None)
            there = store is not None and store.remove(id)
        if live is None and not there:
            raise NoDocumentError(f"there is no document {id[:80]!r} here")
        if live is not None:
            live.removed = True
            self._withdraw(live)
            if (prefill := live.prefill) is not None:
                prefill.cancel()

    def place(self, ids: Sequence[str]) -> PlacedDocuments:
        """For a prompt that begins with these; their keys are brought on their way.

        Raises:
            NoDocumentError, DocumentDamagedError.
        """
        live = tuple(self.get(id) for id in ids)
        for each in live:
            self._settle(each)
            if self._store is not None and each.text is None:
                self._store.touch(each.record.id)
        parts = [each.part_N for each in live if each.part_N is not None]
        return PlacedDocuments(StandIns(parts), live)

    def wait(self, live: LiveDocument, timeout: float | None = None) -> bool:
        """Until it is computed, or failed; False where the time is over."""
        return live.ended.wait(timeout)

    def told(self, live: LiveDocument) -> dict[str, Any]:
        """As clients see it."""
        record = live.record
        if self._store is not None and live.text is None:
            record = self._store.get(record.id) or record
        keys = record.keys
        total = len(live.prefix_N) if live.prefix_N is not None else None
        if total is None and keys is not None:
            total = keys.layout.tokens
        stored = 0
        # Before it is used here, nobody knows whether what is there was computed as it would be.
        if keys is not None and (
            live.prefix_N is None or keys.fingerprint == self._keys.known(live.bucket)
        ):
            stored = keys.stored_tokens
        return {
            **record.to_dict(),
            "tokens": total,
            "bytes": record.bytes if live.text is None else 0,
            "state": live.state,
            "progress": {"total": total, "processed": max(live.computed, stored)},
            "stored_tokens": stored,
            "persistent": total is not None and stored == total and live.text is None,
            "reason": live.reason,
        }

    # -- its ids and keys -------------------------------------------------------------------------

    def _encode(self, name: str, text: str) -> tuple[Tokens, Tokens]:
        part_N = np.asarray(self._renderer.encode_text(part_of(name, text)), dtype=np.int64)
        return part_N, np.asarray(prefix_of(self._renderer, part_N), dtype=np.int64)

    def _settle(self, live: LiveDocument) -> None:
        """Know its ids, offer what is stored of it, and have the rest computed."""
        with live.guard:
            if live.state in ("queued", "prefill", "ready"):
                return
            if live.part_N is None:
                live.part_N, live.prefix_N = self._encode(live.record.name, self._text(live))
            if live.text is None:
                live.reason = None
            self._find_stored(live)
            live.ended.clear()
            if live.stored is not None and live.stored.complete:
                live.state = "ready"
                live.ended.set()
                return
            live.state = "queued"
        with self._guard:
            if self._worker is None and not self._closed:
                self._worker = threading.Thread(
                    target=self._work, name="longctx-documents", daemon=True
                )
                self._worker.start()
        self._queue.put(live)

    def _find_stored(self, live: LiveDocument) -> None:
        assert live.prefix_N is not None
        engine, store = self._engine, self._open_store()
        if not isinstance(engine, Engine):
            live.reason = "this engine keeps keys to itself"
            return
        live.bucket = engine.bucket(len(live.prefix_N) + HEAD_ROOM)
        if store is None or live.text is not None:
            live.reason = live.reason or self._no_store
            return
        try:
            found = self._keys.find(store, live.record.id, live.prefix_N, live.bucket)
        except OSError as error:
            live.reason = f"the model's weights cannot be read again ({error.strerror})"
            return
        if found is not None:
            live.stored, live.computed = found, len(found.tokens_N)
            engine.offer(found)

    def _withdraw(self, live: LiveDocument) -> None:
        stored, live.stored = live.stored, None
        if stored is not None and isinstance(self._engine, Engine):
            self._engine.withdraw(stored)

    # -- the thread that computes -----------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed and (live := self._queue.get()) is not None:
            if live.removed:
                continue
            live.state = "prefill"
            try:
                self._compute(live)
                live.state = "ready"
            except EngineClosedError:
                live.state = "stored"
            except Exception as error:
                if not isinstance(error, UserError):
                    _log.exception("a document could not be computed")
                live.state, live.reason = "failed", f"it could not be computed: {error}"
            finally:
                live.prefill = None
                live.ended.set()

    def _compute(self, live: LiveDocument) -> None:
        """All of it, however many passes that takes."""
        assert live.prefix_N is not None
        total = len(live.prefix_N)
        stored = 0 if live.stored is None else len(live.stored.tokens_N)
        while not self._unwanted(live):
            exports = live.reason is None
            request = self._request(live.prefix_N)

            def told(tokens: int) -> None:
                live.computed = tokens

            live.prefill = Prefill(self._engine, request, stored, told, exports=exports)
            if self._unwanted(live):
                live.prefill.cancel()
            for piece in live.prefill.pieces():
                if live.reason is None and not live.removed:
                    self._store_piece(live, piece)
            copied = live.prefill.copied
            if not exports or live.reason is not None or copied == total:
                break
            if copied == stored and not self._closed:
                raise RuntimeError("the engine gave none of its keys")
            stored = copied
        if self._closed and live.computed < total:
            raise EngineClosedError("the server ends")
        self._offer_new(live)

    def _unwanted(self, live: LiveDocument) -> bool:
        return live.removed or self._closed

    def _request(self, prefix_N: Tokens) -> EngineRequest:
        ids = prefix_N.tolist()
        if not isinstance(self._engine, Engine):  # takes the temperature from the ids' own length
            return EngineRequest(ids, max_new_tokens=1)
        return EngineRequest(ids, max_new_tokens=0, request_length=len(ids) + HEAD_ROOM)

    def _store_piece(self, live: LiveDocument, piece: Any) -> None:
        """On the disk; where that fails the document is computed all the same."""
        store, id = self._store, live.record.id
        assert store is not None and live.prefix_N is not None
        try:
            for other in self._keys.write(store, id, live.prefix_N, live.bucket, piece):
                self._lost(other)
        except (OSError, UserError, KeyError) as error:
            if live.removed:
                return
            why = getattr(error, "strerror", None) or str(error)
            live.reason = f"its keys could not be stored: {why}"
            _log.warning("document %s: %s", id, live.reason)
            self._withdraw(live)
            store.drop_keys(id)

    def _lost(self, id: str) -> None:
        """Its keys made way for another's."""
        with self._guard:
            other = self._live.get(id)
        if other is not None and other.state == "ready":
            with other.guard:
                self._withdraw(other)
                other.state = "stored"

    def _offer_new(self, live: LiveDocument) -> None:
        """What was written in this process is read as it will be in the next."""
        if live.reason is None and not live.removed and self._store is not None:
            self._withdraw(live)
            with live.guard:
                self._find_stored(live)

    # -- texts ------------------------------------------------------------------------------------

    def _open_store(self) -> DocumentStore | None:
        with self._guard:
            if not self._opened and self._directory is not None and not self._closed:
                self._opened = True
                try:
                    self._store = DocumentStore(self._directory, self._budget)
                except UserError as error:
                    self._no_store = str(error)
                    _log.warning("%s; documents are kept in memory alone", error)
            return self._store

    def _recorded(self, name: str, text: str) -> tuple[DocumentRecord, str | None]:
        """Its record, and why it is in memory alone where that is so."""
        store = self._open_store()
        reason = self._no_store
        if store is not None:
            try:
                return store.add(name, text), None
            except OSError as error:
                reason = f"its text could not be stored: {error.strerror or error}"
                _log.warning("a document: %s", reason)
        record = DocumentRecord.of(name, text, int(time.time()))
        with self._guard:
            held = sum(each.record.characters for each in self._live.values() if each.text)
        if held + len(text) > _MOST_IN_MEMORY:
            raise UserError(
                f"{reason}; and in memory there is room for {_MOST_IN_MEMORY} characters of "
                "documents: remove some"
            )
        return record, reason

    def _text(self, live: LiveDocument) -> str:
        if live.text is not None:
            return live.text
        assert self._store is not None
        try:
            return self._store.text(live.record.id)
        except (DamagedError, KeyError) as error:
            _log.warning("document %s: %s", live.record.id, error)
            raise _damaged(live.record.id) from error


def _damaged(id: str) -> DocumentDamagedError:
    return DocumentDamagedError(f"document {id[:80]} is damaged on the disk: add it again")
