"""A document's keys and values in one safetensors file, written by chunks, mapped to be read.

    header    keys.0  values.0  keys.1  values.1  …  tokens

The header says where every chunk will stand, so a file of which only some chunks are written is a
safetensors file all the same; which ones are, and their checksums, is in the manifest. Knows no
store and no engine.

Shape legend: N layers, K key/value heads, L tokens, D head dimension.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from longctx.documents import disk
from longctx.engine.kept import KeptPiece
from longctx.engine.prefix import Tokens

CHUNK = 512  # tokens; what is lost of a prefill by a kill
_ALIGN = 64
_DTYPES = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
    "float64": ("F64", torch.float64),
    "int8": ("I8", torch.int8),  # rows of attention/int8_keys.py: numbers, and their scale
}


class DamagedError(Exception):
    """What is on the disk is not what was written."""


@dataclass(frozen=True)
class KeysLayout:
    """The shape of all keys and values, and with it every place in the file.

    Attributes:
        dtype: as torch prints it, without `torch.`.
    """

    tokens: int
    layers: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: str
    chunk: int = CHUNK

    @classmethod
    def of(cls, tokens: int, piece: KeptPiece) -> KeysLayout:
        layers, heads, _, key_dim = piece.keys_NKLD.shape
        dtype = str(piece.keys_NKLD.dtype).removeprefix("torch.")
        return cls(tokens, layers, heads, key_dim, piece.values_NKLD.shape[3], dtype)

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.chunk)

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values: 2 * layers * heads * head_dim * bytes, where both dims are equal."""
        values = self.layers * self.heads * (self.key_dim + self.value_dim)
        return values * _DTYPES[self.dtype][1].itemsize

    @cached_property
    def header(self) -> bytes:
        entries: dict[str, Any] = {}
        at = 0

        def add(name: str, dtype: str, shape: list[int], itemsize: int) -> None:
            nonlocal at
            end = at + math.prod(shape) * itemsize
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end

        name, torch_dtype = _DTYPES[self.dtype]
        for index in range(self.chunks):
            tokens = self.length(index)
            for what, dim in (("keys", self.key_dim), ("values", self.value_dim)):
                shape = [self.layers, self.heads, tokens, dim]
                add(f"{what}.{index}", name, shape, torch_dtype.itemsize)
        add("tokens", "I32", [self.tokens], 4)
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGN)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Of the file."""
        return len(self.header) + self.tokens * (self.bytes_per_token + 4)

    def start(self, index: int) -> int:
        """Of a chunk, the first byte in the file."""
        return len(self.header) + index * self.chunk * self.bytes_per_token

    def length(self, index: int) -> int:
        """Of a chunk, in tokens."""
        return min(self.chunk, self.tokens - index * self.chunk)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def create(path: Path, layout: KeysLayout, tokens_N: Tokens) -> None:
    """A file without any chunk.

    Raises:
        OSError: it could not be written.
    """
    ids = tokens_N.astype("<i4").tobytes()
    disk.replace_file(path, layout.header, size=layout.size)
    with path.open("r+b", buffering=0) as file:
        file.seek(layout.size - len(ids))
        disk.write(file, ids)
        disk.sync(file.fileno())


def write_chunk(file: BinaryIO, layout: KeysLayout, index: int, piece: KeptPiece) -> str:
    """Write one; on the disk once the file is synced.

    Returns:
        its checksum.
    """
    digest = hashlib.sha256()
    file.seek(layout.start(index))
    for part in (piece.keys_NKLD, piece.values_NKLD):
        flat: Any = part.contiguous().view(torch.uint8).numpy().reshape(-1)
        raw = memoryview(flat)
        digest.update(raw)
        disk.write(file, raw)
    return digest.hexdigest()


class StoredKeys:
    """What is stored of one document, mapped when it is read. Nothing of it changes.

    Args:
        checksums: of the chunks that are written.
    """

    def __init__(
        self,
        path: Path,
        layout: KeysLayout,
        checksums: Sequence[str],
        tokens_N: Tokens,
        bucket: int,
    ) -> None:
        self.layout, self.bucket = layout, bucket
        self.complete = len(checksums) == layout.chunks
        self.tokens_N = tokens_N[: min(len(checksums) * layout.chunk, layout.tokens)]
        self._path, self._checksums = path, tuple(checksums)
        self._proved: tuple[int, ...] | None = None  # of the file whose chunks were right

    def proved(self) -> int:
        """How many chunks from the first on are what was written; each is read once for that.

        Raises:
            DamagedError, OSError: nothing of it can be used.
        """
        with self._path.open("rb") as file:
            state, mapped = _state(file), self._mapped(file)
            for index, checksum in enumerate(self._checksums):
                start, end = self.layout.start(index), self.layout.start(index)
                end += self.layout.length(index) * self.layout.bytes_per_token
                if hashlib.sha256(mapped[start:end]).hexdigest() != checksum:
                    return index
        self._proved = state
        return len(self._checksums)

    def pieces(self, stop: int) -> Iterator[KeptPiece]:
        """Of the tokens [0, stop), as they lie in the mapped file.

        Raises:
            DamagedError, OSError: they are not what was written.
        """
        with self._path.open("rb") as file:
            if self._proved != _state(file) and self.proved() < len(self._checksums):
                raise DamagedError(f"{self._path} is damaged")
            mapped = self._mapped(file)
        layout = self.layout
        for index in range(-(-stop // layout.chunk)):
            tokens = min(layout.length(index), stop - index * layout.chunk)
            at, found = layout.start(index), []
            for dim in (layout.key_dim, layout.value_dim):
                shape = (layout.layers, layout.heads, layout.length(index), dim)
                dtype = _DTYPES[layout.dtype][1]
                end = at + math.prod(shape) * dtype.itemsize
                part = torch.from_numpy(mapped[at:end]).view(dtype).view(shape)
                found.append(part[:, :, :tokens])
                at = end
            yield KeptPiece(index * layout.chunk, *found)

    def _mapped(self, file: BinaryIO) -> Any:
        """The file's bytes, private to this process: nothing is copied that is only read."""
        layout = self.layout
        if _state(file)[0] != layout.size:  # what lies behind a file's end cannot even be looked at
            raise DamagedError(f"{self._path} is not as long as it was written")
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        if mapped[: len(layout.header)].tobytes() != layout.header:
            raise DamagedError(f"{self._path} has another header than was written")
        return mapped


def _state(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino
