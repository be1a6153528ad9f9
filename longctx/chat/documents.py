"""How a document stands in a prompt, wherever it is asked about: named, in the system turn's text.

<document name="a.txt">…</document>  <document …>…</document>  what the model is told
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

APART = "\n\n"  # between documents, and what the model is told
# YaRN's temperature is taken with so many tokens of head-room, so that questions of several lengths
# find the same keys: 1,024 of a question, the rest of turns and of what the model is told.
HEAD_ROOM = 1024 + 128
_MOST_NAME = 200


def plain_name(name: str) -> str:
    """A name that stands in one line and in quotes."""
    plain = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in name)
    return " ".join(plain.replace('"', "'").split())[:_MOST_NAME] or "document"


def part_of(name: str, text: str) -> str:
    """What stands in the prompt for a document."""
    return f'<document name="{plain_name(name)}">\n{text}\n</document>'


def name_of_file(path: str) -> str:
    """What a file or folder is called as a document: its own name, wherever it lies."""
    return plain_name(Path(path).name or Path(path).resolve().name)


def joined_documents(documents: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Several as one document, each in it under its name: keys depend on what stands before, so it
    is the whole of them, in their order, whose keys can be used again.

    Args:
        documents: name and text of each.
    """
    if len(documents) == 1:
        return documents[0]
    text = APART.join(part_of(name, text) for name, text in documents)
    return plain_name(", ".join(plain_name(name) for name, _ in documents)), text
