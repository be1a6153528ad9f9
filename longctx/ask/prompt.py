"""Documents and a question as a conversation: documents first, in one system turn.

    system   <document name="a.txt">…</document>  <document …>…</document>  what the model is told
    user     the question

So every question on the same documents begins with the same tokens. No text of a document can open
or end a turn: `longctx.chat.renderer` encodes it apart from the template, here as in the server.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from longctx.reading import ReadDocument

_APART = "\n\n"
_MOST_NAME = 200
# Of a question: YaRN's temperature is taken with so many tokens of head-room, so that questions of
# several lengths find the same keys.
HEAD_ROOM = 1024


def messages(documents: Sequence[ReadDocument], question: str, system: str) -> list[dict[str, str]]:
    parts = [_part(document.name, document.text) for document in documents]
    content = _APART.join([*parts, system] if system else parts)
    return [{"role": "system", "content": content}, {"role": "user", "content": question}]


def _part(name: str, text: str) -> str:
    return f'<document name="{plain_name(name)}">\n{text}\n</document>'


def plain_name(name: str) -> str:
    """A name that stands in one line and in quotes."""
    plain = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in name)
    return " ".join(plain.replace('"', "'").split())[:_MOST_NAME] or "document"
