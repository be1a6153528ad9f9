"""The texts whose tokens are predicted: documents of one length, from files or generated.

Documents come from the beginning of every text first, then from what follows, so that few long
books and many short ones both serve. Knows files and token counts; no model and no metric.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from longctx.errors import UserError
from longctx.eval.texts import prose
from longctx.eval.texts.files import ReadFiles, Reading, find, read

# Token ids of a text, and the characters (start, end) that each stands for.
Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]

_CHARACTERS_PER_TOKEN = 5  # a first guess for prose; doubled until it is enough


@dataclass(frozen=True)
class Document:
    """`bytes[i]` is how many bytes of UTF-8 the text grows by with token i."""

    id: str
    ids: list[int]
    bytes: list[int]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(array("q", self.ids).tobytes()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """Documents of one length. `left_out` counts the texts that are shorter than it."""

    id: str
    documents: tuple[Document, ...]
    sources: ReadFiles = field(default_factory=lambda: ReadFiles([]))
    left_out: int = 0

    def describe(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "id": self.id,
            **self.sources.describe(),
            "left_out": self.left_out,
            "documents": [
                {"id": document.id, "sha256": document.sha256, "bytes": sum(document.bytes)}
                for document in self.documents
            ],
        }


class _Text(NamedTuple):
    name: str
    ids: list[int]
    bytes: list[int]


def load(
    pattern: str, tokens: int, count: int, encode: Encode, reading: Reading | None = None
) -> Corpus:
    """At most `count` documents of `tokens` tokens from a file, a directory or a glob."""
    reading = reading or Reading("--text")
    found = find(pattern, reading.flag)
    sources = read(found.files, reading)
    texts = [_encoded(file.name, text.strip(), encode) for file, text in sources.texts]
    longest = max(len(text.ids) for text in texts)
    if longest < tokens:
        which = "it has" if len(texts) == 1 else "its longest file has"
        raise UserError(
            f"--text {found.name}: {which} {longest} of {tokens} tokens that the longest length "
            "needs: add text, or lower --lengths"
        )
    documents: list[Document] = []
    for turn in range(longest // tokens):
        part = slice(turn * tokens, (turn + 1) * tokens)
        for text in texts:
            if len(text.ids) >= part.stop and len(documents) < count:
                name = text.name if turn == 0 else f"{text.name} from token {part.start}"
                documents.append(Document(name, text.ids[part], text.bytes[part]))
    return Corpus(
        found.name,
        tuple(documents),
        sources,
        sum(len(text.ids) < tokens for text in texts),
    )


def generate(tokens: int, count: int, seed: int, encode: Encode) -> Corpus:
    """`count` documents of generated prose, each of its own seed; no two seeds share one."""
    seeds = range(seed * count + 1, (seed + 1) * count + 1)
    documents = tuple(_generated(tokens, each, encode) for each in seeds)
    kind = prose.name_of(seeds[0]).rpartition(" ")[0]
    named = f"{kind} {seeds[0]}" if count == 1 else f"{kind}s {seeds[0]} to {seeds[-1]}"
    return Corpus(named, documents)


def _generated(tokens: int, seed: int, encode: Encode) -> Document:
    paragraphs = prose.paragraphs(seed)
    parts: list[str] = []
    length, wanted = 0, tokens * _CHARACTERS_PER_TOKEN
    while True:
        while length < wanted:
            parts.append(next(paragraphs))
            length += len(parts[-1]) + 2
        name, ids, sizes = _encoded(prose.name_of(seed), "\n\n".join(parts), encode)
        # The last token could be another one if the text went on.
        if len(ids) > tokens:
            return Document(name, ids[:tokens], sizes[:tokens])
        wanted = 2 * length


def _encoded(name: str, text: str, encode: Encode) -> _Text:
    ids, offsets = encode(text)
    sizes, done = [], 0
    for _, end in offsets:
        # Of a character that takes several tokens the first one brings all bytes.
        sizes.append(len(text[done:end].encode()) if end > done else 0)
        done = max(done, end)
    return _Text(name, ids, sizes)
