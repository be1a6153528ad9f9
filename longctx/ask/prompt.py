"""Documents and a question as a conversation: documents first, in one system turn.

    system   <document name="a.txt">…</document>  <document …>…</document>  what the model is told
    user     the question

So every question on the same documents begins with the same tokens. No text of a document can open
or end a turn: `longctx.chat.renderer` encodes it apart from the template, here as in the server.
"""

from __future__ import annotations

from collections.abc import Sequence

from longctx.chat.documents import APART, HEAD_ROOM, part_of
from longctx.reading import ReadDocument


def messages(documents: Sequence[ReadDocument], question: str, system: str) -> list[dict[str, str]]:
    parts = [part_of(document.name, document.text) for document in documents]
    content = APART.join([*parts, system] if system else parts)
    return [{"role": "system", "content": content}, {"role": "user", "content": question}]


def temperature_length(shortest: int, tokens: int) -> int:
    """Tokens at which a prompt's temperature is taken.

    Args:
        shortest: of a prompt with these documents and a question of one token.
        tokens: of this one.
    """
    return max(tokens, shortest + HEAD_ROOM)
