"""The documents of one machine in a directory, for one process at a time.

    .lock              locked as long as a process writes
    ID.json            the manifest: written last, and all that counts
    ID.txt             the text
    ID.safetensors     keys and values, of one model under one scheme
    weights.json       checksums of weights files that were read before

The byte budget is kept by giving up the keys of the documents that were used longest ago; texts
stay until somebody deletes them. Safe from any thread. Knows no model.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

import filelock
import numpy as np

from longctx.documents import disk, manifest
from longctx.documents.keys_file import (
    DamagedError,
    KeysLayout,
    StoredKeys,
    create,
    write_chunk,
)
from longctx.documents.manifest import DocumentRecord, KeysState
from longctx.engine.kept import KeptPiece
from longctx.engine.prefix import Tokens
from longctx.errors import UserError

_log = logging.getLogger(__name__)

DEFAULT_BUDGET = 20 << 30
_TEXT, _KEYS, _MANIFEST = ".txt", ".safetensors", ".json"
_WEIGHTS = "weights.json"


class StoreFullError(UserError):
    """The budget has no room, whatever is given up."""


class StoreTakenError(UserError):
    """Another process has it."""


def default_directory() -> Path:
    """`documents` in the user's data folder: XDG's on Linux, what the system has on others."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support")
    else:
        data = os.environ.get("XDG_DATA_HOME") or ""
        base = Path(data if os.path.isabs(data) else "~/.local/share")
    return base.expanduser() / "longctx" / "documents"


class DocumentStore:
    """
    Args:
        budget: bytes of all texts, keys and values.
        reads_only: takes no lock and changes nothing; another process may write meanwhile.

    Raises:
        StoreTakenError: another process has it.
        UserError: it cannot be made; the message names the directory.
    """

    def __init__(
        self, directory: Path, budget: int = DEFAULT_BUDGET, *, reads_only: bool = False
    ) -> None:
        self.directory, self.budget = directory, budget
        self.damaged: dict[str, str] = {}  # manifests that cannot be read, and why
        self._records: dict[str, DocumentRecord] = {}
        self._used: dict[str, int] = {}  # in nanoseconds
        self._guard = threading.RLock()
        self._lock: filelock.BaseFileLock | None = None
        if not reads_only:
            self._take()
        elif directory.exists() and not directory.is_dir():
            raise _unusable(directory, NotADirectoryError(errno.ENOTDIR, "no directory"))
        try:
            self._load(clean=not reads_only)
        except OSError as error:
            self.close()
            raise _unusable(directory, error) from error

    def close(self) -> None:
        """Give the lock back. Harmless when repeated."""
        with self._guard:
            lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def reads_only(self) -> bool:
        """Whether nothing can be added, as another process has it, or as it is closed."""
        return self._lock is None

    @property
    def weights_cache(self) -> Path:
        """Where checksums of weights files may be kept."""
        return self.directory / _WEIGHTS

    @property
    def used_bytes(self) -> int:
        with self._guard:
            return sum(record.bytes for record in self._records.values())

    # -- documents --------------------------------------------------------------------------------

    def records(self) -> list[DocumentRecord]:
        """All of them, the one that was used last first."""
        with self._guard:
            return sorted(self._records.values(), key=lambda each: -self._used[each.id])

    def get(self, id: str) -> DocumentRecord | None:
        return self._records.get(id)

    def add(self, name: str, text: str) -> DocumentRecord:
        """Keep a text; the same one again changes nothing.

        Raises:
            StoreFullError: the budget has no room for it.
            OSError: it could not be written; nothing of it is there then.
        """
        made = DocumentRecord.of(name, text, int(time.time()))
        with self._guard:
            known = self._records.get(made.id)
            if known is not None and self._is_whole(known):
                self.touch(made.id)
                return known
            self._make_room(made.text_bytes)
            disk.replace_file(self._path(made.id, _TEXT), text.encode())
            self._keep(known or made)
            self.damaged.pop(made.id, None)
            return self._records[made.id]

    def text(self, id: str) -> str:
        """
        Raises:
            DamagedError: it is not what was added.
        """
        record = self._records[id]
        try:
            raw = self._path(id, _TEXT).read_bytes()
        except OSError as error:
            raise DamagedError(f"the text of {id} cannot be read ({error.strerror})") from error
        if hashlib.sha256(raw).hexdigest() != record.text_sha256:
            raise DamagedError(f"the text of {id} is not what was added")
        return raw.decode()

    def remove(self, id: str) -> bool:
        """Whether it was there. Its manifest goes first: what is left without one is removed when
        the store is opened."""
        with self._guard:
            known = self._records.pop(id, None) is not None or id in self.damaged
            if known:
                self.damaged.pop(id, None)
                self._used.pop(id, None)
                for kind in (_MANIFEST, _KEYS, _TEXT):
                    disk.remove(self._path(id, kind))
            return known

    def touch(self, id: str) -> None:
        """It was used now: others make way before it, also after a restart."""
        now = time.time_ns()
        with self._guard:
            if id not in self._records:
                return
            self._used[id] = now
        try:
            os.utime(self._path(id, _MANIFEST), ns=(now, now))
        except OSError as error:
            _log.warning("that a document was used cannot be noted (%s)", error)

    # -- keys and values --------------------------------------------------------------------------

    def keys(self, id: str, fingerprint: str | None = None) -> StoredKeys | None:
        """What is stored and can be used; None where nothing is, or where all of it was computed
        otherwise. What is damaged is given up, from the first wrong chunk on.

        Args:
            fingerprint: of what is asked for; None: whatever is there.
        """
        record = self._records.get(id)
        state = None if record is None else record.keys
        if state is None or (fingerprint is not None and state.fingerprint != fingerprint):
            return None
        try:
            tokens_N = self._tokens(id, state)
            path = self._path(id, _KEYS)
            found = StoredKeys(path, state.layout, state.checksums, tokens_N, state.bucket)
            whole = found.proved()
        except (DamagedError, OSError) as error:
            _log.warning("keys of document %s cannot be used: %s", id, error)
            if self._lock is not None:
                self.drop_keys(id)
            return None
        if whole == len(state.checksums):
            return found
        _log.warning("chunk %d of document %s is damaged: computed again from there on", whole, id)
        state = replace(state, checksums=state.checksums[:whole])
        with self._guard:
            if self._lock is not None and record is not None:
                self._keep(replace(record, keys=state))
        found = StoredKeys(path, state.layout, state.checksums, tokens_N, state.bucket)
        found.proved()
        return found

    def begin_keys(
        self, id: str, fingerprint: str, bucket: int, layout: KeysLayout, tokens_N: Tokens
    ) -> list[str]:
        """Make room and a file for a document's keys, in the place of what it had.

        Returns:
            the documents whose keys were given up for it.

        Raises:
            StoreFullError: there is no room, whatever is given up.
            OSError: it could not be written, or the document was removed meanwhile.
        """
        with self._guard:
            if id not in self._records:
                raise OSError(0, "the document was removed meanwhile")
            self.drop_keys(id)
            given_up = self._make_room(layout.size, spared=id)
            try:
                create(self._path(id, _KEYS), layout, tokens_N)
                state = KeysState(fingerprint, bucket, _sha256(tokens_N), layout)
                self._keep(replace(self._records[id], keys=state))
            except OSError:
                disk.remove(self._path(id, _KEYS))
                raise
            return given_up

    def add_chunks(self, id: str, pieces: list[KeptPiece]) -> KeysState:
        """Store the next chunks; when this returns, they survive whatever happens.

        Raises:
            OSError: they could not be written; those before are as they were.
        """
        record = self._records[id]
        state = record.keys
        if state is None or self._lock is None:
            raise OSError(0, "its keys made way, or the document store is closed")
        checksums = list(state.checksums)
        with self._path(id, _KEYS).open("r+b", buffering=0) as file:
            for piece in pieces:
                if piece.start != len(checksums) * state.layout.chunk:
                    raise OSError(0, "the document was begun anew meanwhile")
                checksums.append(write_chunk(file, state.layout, len(checksums), piece))
            disk.sync(file.fileno())
        with self._guard:
            if self._records.get(id) is not record:
                raise OSError(0, "the document was removed meanwhile")
            state = replace(state, checksums=tuple(checksums))
            self._keep(replace(record, keys=state))
        return state

    def drop_keys(self, id: str) -> None:
        """The text stays. The file goes first, which gives room on a full disk: a manifest that
        names what is not there is as good as one that names nothing."""
        with self._guard:
            record = self._records.get(id)
            if record is None or record.keys is None or self._lock is None:
                return
            self._records[id] = bare = replace(record, keys=None)
            try:
                disk.remove(self._path(id, _KEYS))
                manifest.write(self._path(id, _MANIFEST), bare)
                os.utime(self._path(id, _MANIFEST), ns=(self._used[id],) * 2)
            except OSError as error:
                _log.warning("keys of document %s could not be given up (%s)", id, error)

    def faults(self, id: str) -> list[str]:
        """What of a document is not as it was written, in words; changes nothing."""
        if id in self.damaged:
            return [self.damaged[id]]
        found, record = [], self._records[id]
        try:
            self.text(id)
        except DamagedError as error:
            found.append(str(error))
        state = record.keys
        if state is not None:
            try:
                path, tokens_N = self._path(id, _KEYS), self._tokens(id, state)
                keys = StoredKeys(path, state.layout, state.checksums, tokens_N, state.bucket)
                if (whole := keys.proved()) < len(state.checksums):
                    found.append(f"its keys are damaged from token {whole * state.layout.chunk} on")
            except (DamagedError, OSError) as error:
                found.append(f"its keys cannot be used: {error}")
        return found

    # -- within -----------------------------------------------------------------------------------

    def _path(self, id: str, kind: str) -> Path:
        return self.directory / f"{id}{kind}"

    def _take(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Taken in one thread, given back in another.
            lock = filelock.FileLock(self.directory / ".lock", timeout=0, thread_local=False)
            lock.acquire()
        except filelock.Timeout:
            raise StoreTakenError(
                f"--document-store {self.directory}: another process has it: stop that one, ask it "
                "(--server), or name another directory"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise _unusable(self.directory, error) from error
        self._lock = lock

    def _load(self, *, clean: bool) -> None:
        if not self.directory.is_dir():
            return
        names = {path.name: path for path in self.directory.iterdir()}
        for name, path in names.items():
            if path.suffix == disk.TEMPORARY and clean:
                disk.remove(path)
            if path.suffix != _MANIFEST or name == _WEIGHTS:
                continue
            try:
                record = manifest.read(path)
                self._used[record.id] = path.stat().st_mtime_ns
                self._records[record.id] = record
            except DamagedError as error:
                self.damaged[path.stem] = str(error)
                _log.warning("document store: %s", error)
            except FileNotFoundError:  # removed by whom the lock belongs to
                continue
        for path in names.values() if clean else ():
            if path.suffix not in (_KEYS, _TEXT) or path.stem in self.damaged:
                continue
            record_ = self._records.get(path.stem)
            if record_ is None or (path.suffix == _KEYS and record_.keys is None):
                disk.remove(path)

    def _keep(self, record: DocumentRecord) -> None:
        if self._lock is None:
            raise OSError(0, "the document store is closed")
        manifest.write(self._path(record.id, _MANIFEST), record)
        self._records[record.id] = record
        self._used[record.id] = time.time_ns()

    def _is_whole(self, record: DocumentRecord) -> bool:
        try:
            self.text(record.id)
        except DamagedError:
            return False
        return True

    def _make_room(self, size: int, spared: str | None = None) -> list[str]:
        """Give up keys until `size` more bytes fit; the documents that lost theirs."""
        given_up: list[str] = []
        texts = sum(record.text_bytes for record in self._records.values())
        if texts + size > self.budget:
            raise StoreFullError(
                f"--document-budget {self.budget}: {size} bytes more do not fit beside "
                f"{texts} bytes of texts: raise it, or remove documents"
            )
        for record in reversed(self.records()):
            if self.used_bytes + size <= self.budget:
                break
            if record.keys is not None and record.id != spared:
                self.drop_keys(record.id)
                given_up.append(record.id)
        return given_up

    def _tokens(self, id: str, state: KeysState) -> Tokens:
        with self._path(id, _KEYS).open("rb") as file:
            file.seek(max(0, state.layout.size - 4 * state.layout.tokens))
            raw = file.read()
        if len(raw) != 4 * state.layout.tokens:
            raise DamagedError("the file is not as long as it was written")
        tokens_N = np.frombuffer(raw, "<i4").astype(np.int64)
        if _sha256(tokens_N) != state.tokens_sha256:
            raise DamagedError("the tokens in it are not what was written")
        return tokens_N


def _sha256(tokens_N: Tokens) -> str:
    return hashlib.sha256(tokens_N.astype("<i4").tobytes()).hexdigest()


def _unusable(directory: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"--document-store {directory}: cannot be used ({why}): name a directory that can be "
        "written to"
    )
