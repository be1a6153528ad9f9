"""What the store knows of a document, as one small JSON file that says whether it is whole.

A manifest names what belongs to it by checksum: the text, and every chunk of keys and values that
is on the disk. It is written last, so what it names is there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longctx.documents import disk
from longctx.documents.keys_file import DamagedError, KeysLayout

FORMAT = 1


@dataclass(frozen=True)
class KeysState:
    """What is stored of keys and values, and of what they depend on.

    Attributes:
        fingerprint: of model, scheme, bucket, tokenizer and template.
        checksums: of the chunks that are on the disk, from the first on.
    """

    fingerprint: str
    bucket: int
    tokens_sha256: str
    layout: KeysLayout
    checksums: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return len(self.checksums) == self.layout.chunks

    @property
    def stored_tokens(self) -> int:
        return min(len(self.checksums) * self.layout.chunk, self.layout.tokens)


@dataclass(frozen=True)
class DocumentRecord:
    """One document. Its id is a hash of name and text: the same document has the same id, wherever
    it was added."""

    id: str
    name: str
    created: int
    characters: int
    text_bytes: int
    text_sha256: str
    keys: KeysState | None = field(default=None)

    @classmethod
    def of(cls, name: str, text: str, created: int) -> DocumentRecord:
        raw = text.encode()
        named = json.dumps([name, hashlib.sha256(raw).hexdigest()]).encode()
        return cls(
            f"doc_{hashlib.sha256(named).hexdigest()[:32]}",
            name,
            created,
            len(text),
            len(raw),
            hashlib.sha256(raw).hexdigest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """As clients see it, whatever model asks; the tokens are those of the stored keys."""
        keys = self.keys
        return {
            "id": self.id,
            "object": "document",
            "name": self.name,
            "created": self.created,
            "characters": self.characters,
            "bytes": self.bytes,
            "tokens": None if keys is None else keys.layout.tokens,
            "stored_tokens": 0 if keys is None else keys.stored_tokens,
        }

    @property
    def bytes(self) -> int:
        """On the disk, its manifest aside."""
        return self.text_bytes + (0 if self.keys is None else self.keys.layout.size)


def write(path: Path, record: DocumentRecord) -> None:
    """Raises: OSError; what was there is as it was."""
    told = {"format": FORMAT, **asdict(record)}
    disk.replace_file(path, json.dumps({"sha256": _digest(told), **told}).encode())


def read(path: Path) -> DocumentRecord:
    """
    Raises:
        DamagedError: it is not what was written, or was written by another version.
        OSError: it cannot be read.
    """
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        if told.pop("sha256") != _digest(told):
            raise ValueError("its checksum is another")
        if (version := told.pop("format")) != FORMAT:
            raise ValueError(f"it has format {version}, this version writes {FORMAT}")
        if (keys := told.pop("keys")) is not None:
            layout = KeysLayout(**keys.pop("layout"))
            keys = KeysState(**{**keys, "checksums": tuple(keys["checksums"])}, layout=layout)
        record = DocumentRecord(**told, keys=keys)
        if record.id != path.stem:
            raise ValueError("it is another document's")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path.name} is damaged: {error}") from error
    return record


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
