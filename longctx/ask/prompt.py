"""Documents and a question as a conversation: documents first, in one system turn.

    system   <document name="a.txt">…</document>  what the model is told
    user     the question

So every question on the same documents begins with the same tokens, those that a server makes of
them too. Several files are one document, in which each stands under its name. No text of a document
can open or end a turn: `longctx.chat.renderer` encodes it apart from the template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from longctx.chat.documents import APART, joined_documents, name_of_file, part_of
from longctx.reading import ReadDocument


def one_document(documents: Sequence[ReadDocument]) -> tuple[str, str]:
    """Name and text of what the model reads: the file's own name, wherever it lies, so that it is
    the same document; the whole path where two have the same name."""
    names = [name_of_file(document.name) for document in documents]
    often = Counter(names)
    return joined_documents(
        [
            (name if often[name] == 1 else document.name, document.text)
            for name, document in zip(names, documents, strict=True)
        ]
    )


def turns(question: str, system: str) -> list[dict[str, str]]:
    """Without the documents, which go before them."""
    told = [{"role": "system", "content": system}] if system else []
    return [*told, {"role": "user", "content": question}]


def messages(documents: Sequence[ReadDocument], question: str, system: str) -> list[dict[str, str]]:
    """As text, for a server that keeps no documents."""
    part = part_of(*one_document(documents))
    content = APART.join([part, system] if system else [part])
    return [{"role": "system", "content": content}, {"role": "user", "content": question}]
