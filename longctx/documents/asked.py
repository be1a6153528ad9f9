"""A document in a process that is there for a question: its keys come from the question's prompt.

No thread and no pass of its own: what the request computes of the document is stored while it is
computed, chunk by chunk, so that what was read before an interrupt is there afterwards.
"""

from __future__ import annotations

import logging

from longctx.chat.documents import HEAD_ROOM
from longctx.documents.keys import DocumentKeys
from longctx.documents.keys_file import CHUNK, StoredKeys
from longctx.documents.manifest import DocumentRecord
from longctx.documents.store import DocumentStore
from longctx.engine import Engine, EngineRequest
from longctx.engine.prefix import Tokens
from longctx.errors import UserError

_log = logging.getLogger(__name__)


class AskedDocument:
    """
    Args:
        prefix_N: what every prompt with it begins with.

    Attributes:
        stored_tokens: of `prefix_N`, from the first on, on the disk.
        reason: why nothing more of it is stored, where that is so.
    """

    def __init__(
        self,
        engine: Engine,
        keys: DocumentKeys,
        store: DocumentStore,
        name: str,
        text: str,
        prefix_N: Tokens,
    ) -> None:
        self._engine, self._keys, self._store = engine, keys, store
        self._prefix_N = prefix_N
        self._bucket = engine.bucket(len(prefix_N) + HEAD_ROOM)
        self._offered: StoredKeys | None = None
        self.stored_tokens = 0
        self.reason: str | None = "another process has the store" if store.reads_only else None
        self.id = DocumentRecord.of(name, text, 0).id
        if self.reason is None:
            try:
                store.add(name, text)
            except (OSError, UserError) as error:
                self._failed(error)

    def offer(self) -> None:
        """Let the engine take what is stored. Before every question."""
        had = 0 if self._offered is None else len(self._offered.tokens_N)
        if (had and had == self.stored_tokens) or self._store.get(self.id) is None:
            return
        try:
            found = self._keys.find(self._store, self.id, self._prefix_N, self._bucket)
        except OSError as error:
            self.reason = f"the model's weights cannot be read again ({error.strerror})"
            return
        self.withdraw()
        self.stored_tokens = 0 if found is None else len(found.tokens_N)
        if found is not None:
            self._engine.offer(found)
            self._offered = found

    def withdraw(self) -> None:
        """What is on the disk is looked at anew before the next question."""
        if self._offered is not None:
            self._engine.withdraw(self._offered)
            self._offered = None

    def keep(self, request: EngineRequest, computed: int) -> None:
        """Store what a running request has computed of it. For the request's listener.

        Args:
            computed: tokens of its prompt.
        """
        length = request.request_length or len(request.prompt_ids)
        if self.reason is not None or self._engine.bucket(length) != self._bucket:
            return
        total = len(self._prefix_N)
        while self.stored_tokens < total:
            stop = min(self.stored_tokens + CHUNK, total)
            piece = None
            if stop <= computed:
                piece = self._engine.computed(request, self.stored_tokens, stop)
            if piece is None:
                return
            try:
                self._keys.write(self._store, self.id, self._prefix_N, self._bucket, piece)
            except (OSError, UserError, KeyError) as error:
                self._failed(error)
                return
            self.stored_tokens = stop

    def _failed(self, error: Exception) -> None:
        """Half of its keys would be no use, and take room: they go."""
        self.reason = str(getattr(error, "strerror", None) or error)
        _log.info("document %s is not kept: %s", self.id, self.reason)
        self.withdraw()
        self._store.drop_keys(self.id)
        self.stored_tokens = 0
