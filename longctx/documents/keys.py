"""Keys of documents between a model and the store: found where they are those of now, and written.

What is stored is used where it was computed as it would be now: of the same fingerprint, and of the
same tokens. Anything else is computed again, and takes its place.
"""

from __future__ import annotations

import numpy as np

from longctx.documents.fingerprint import ModelFacts
from longctx.documents.keys_file import KeysLayout, StoredKeys
from longctx.documents.store import DocumentStore
from longctx.engine.kept import KeptPiece
from longctx.engine.prefix import Tokens


class DocumentKeys:
    """
    Args:
        facts: what the model was made of; None: nothing of it can be stored.
    """

    def __init__(self, facts: ModelFacts | None) -> None:
        self._facts = facts
        self._fingerprints: dict[int, str] = {}

    def known(self, bucket: int) -> str | None:
        """The fingerprint, where it has been asked for before."""
        return self._fingerprints.get(bucket)

    def fingerprint(self, store: DocumentStore | None, bucket: int) -> str:
        """Of this model at a temperature.

        Raises:
            OSError: weights cannot be read.
        """
        if bucket not in self._fingerprints:
            if self._facts is None:
                raise OSError(0, "nothing is known of them")
            cache = None if store is None else store.weights_cache
            self._fingerprints[bucket] = self._facts.fingerprint(bucket, cache)
        return self._fingerprints[bucket]

    def find(
        self, store: DocumentStore, id: str, prefix_N: Tokens, bucket: int
    ) -> StoredKeys | None:
        """What is stored of these tokens, from the first on; None where nothing can be used.

        Raises:
            OSError: weights cannot be read.
        """
        found = store.keys(id, self.fingerprint(store, bucket))
        if found is None or len(found.tokens_N) == 0:
            return None
        # Name and text may be the same, and tokens not: never to be mixed.
        same = np.array_equal(found.tokens_N, prefix_N[: len(found.tokens_N)])
        return found if same else None

    def write(
        self, store: DocumentStore, id: str, prefix_N: Tokens, bucket: int, piece: KeptPiece
    ) -> list[str]:
        """Store the next chunk; it is on the disk when this returns. The first one takes the place
        of whatever was there.

        Returns:
            documents whose keys made way.

        Raises:
            OSError, UserError, KeyError: it could not be stored, or the document is gone.
        """
        given_up: list[str] = []
        if piece.start == 0:
            layout = KeysLayout.of(len(prefix_N), piece)
            fingerprint = self.fingerprint(store, bucket)
            given_up = store.begin_keys(id, fingerprint, bucket, layout, prefix_N)
        store.add_chunks(id, [piece])
        return given_up
