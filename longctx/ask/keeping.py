"""The document store of a process that asks: the one that servers have, where it is free.

It has one writer. Where that is somebody else, what is stored is read all the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from longctx.documents.store import DocumentStore, StoreTakenError, default_directory
from longctx.errors import UserError
from longctx.options.ask import AskOptions

STORE = "LONGCTX_DOCUMENT_STORE"


class FoundStore(NamedTuple):
    """`note` says what people should know of it."""

    store: DocumentStore | None
    note: str | None = None


def directory_of(options: AskOptions, environment: Mapping[str, str] = os.environ) -> Path:
    named = environment.get(STORE) or None
    return options.document_store or (Path(named) if named else default_directory())


def open_store(options: AskOptions, environment: Mapping[str, str] = os.environ) -> FoundStore:
    """Never in the way of an answer: without a store it takes longer."""
    if options.no_document_store:
        return FoundStore(None)
    directory = directory_of(options, environment)
    try:
        return FoundStore(DocumentStore(directory, options.document_budget))
    except StoreTakenError:
        note = f"another process has the document store {directory}: read from it, nothing added"
    except UserError as error:
        return FoundStore(None, f"nothing is kept: {error}")
    try:
        store = DocumentStore(directory, options.document_budget, reads_only=True)
    except UserError as error:
        return FoundStore(None, f"nothing is kept: {error}")
    return FoundStore(store, note)
