"""A document as one process knows it, and what is wrong with one that is asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

from longctx.documents.keys_file import StoredKeys
from longctx.documents.manifest import DocumentRecord
from longctx.documents.prefill import Prefill
from longctx.engine.prefix import Tokens
from longctx.errors import UserError

State = Literal["stored", "queued", "prefill", "ready", "failed"]


class NoDocumentError(UserError):
    """There is no document of that id."""


class DocumentDamagedError(UserError):
    """Its text is not what was added; it has to be added again."""


@dataclass
class LiveDocument:
    """What this process knows of a document.

    Attributes:
        text: where it is in no store.
        part_N: its own ids; prefix_N: what prompts with it begin with.
        bucket: what its keys' temperature is taken at.
        stored: keys that are on the disk, offered to the engine.
        computed: tokens so far.
        reason: why it is not kept beyond this process, or failed.
    """

    record: DocumentRecord
    text: str | None = None
    part_N: Tokens | None = None
    prefix_N: Tokens | None = None
    bucket: int = 0
    state: State = "stored"
    stored: StoredKeys | None = None
    computed: int = 0
    reason: str | None = None
    prefill: Prefill | None = None
    removed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    guard: threading.RLock = field(default_factory=threading.RLock)
