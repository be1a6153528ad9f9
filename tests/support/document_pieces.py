"""Documents of small, known keys for the store's tests, and what must never come out of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from longctx.documents.keys_file import KeysLayout, StoredKeys
from longctx.documents.store import DocumentStore
from longctx.engine.kept import KeptPiece
from longctx.engine.prefix import Tokens

LAYERS, HEADS, DIM = 2, 2, 4
TOKENS = 1300  # two chunks of 512 and a shorter one
PRINT = "fingerprint"


def tokens_of(seed: int, tokens: int = TOKENS) -> Tokens:
    return np.random.default_rng(seed).integers(0, 1000, tokens)


def keys_of(seed: int, tokens: int = TOKENS) -> torch.Tensor:
    """Keys and values [2, N, K, L, D]."""
    drawn = np.random.default_rng(seed).standard_normal((2, LAYERS, HEADS, tokens, DIM))
    return torch.from_numpy(drawn.astype(np.float32))


def pieces_of(seed: int, tokens: int = TOKENS, chunk: int = 512) -> Iterator[KeptPiece]:
    keys, values = keys_of(seed, tokens)
    for at in range(0, tokens, chunk):
        yield KeptPiece(at, keys[:, :, at : at + chunk], values[:, :, at : at + chunk])


def layout_of(tokens: int = TOKENS) -> KeysLayout:
    return KeysLayout(tokens, LAYERS, HEADS, DIM, DIM, "float32")


def store_keys(store: DocumentStore, id: str, seed: int, chunks: int = 3) -> list[str]:
    """As many chunks as asked; the documents that made way."""
    given_up = store.begin_keys(id, PRINT, 7, layout_of(), tokens_of(seed))
    for piece in list(pieces_of(seed))[:chunks]:
        store.add_chunks(id, [piece])
    return given_up


def assert_right(found: StoredKeys | None, seed: int) -> int:
    """What is given is what was computed, whatever happened to the file; how many tokens."""
    if found is None:
        return 0
    count = len(found.tokens_N)
    assert found.bucket == 7
    assert np.array_equal(found.tokens_N, tokens_of(seed)[:count])
    want, at = keys_of(seed), 0
    for start, keys, values in found.pieces(count):
        assert start == at
        stop = at + keys.shape[2]
        assert torch.equal(keys, want[0][:, :, at:stop])
        assert torch.equal(values, want[1][:, :, at:stop])
        at = stop
    assert at == count
    return count
