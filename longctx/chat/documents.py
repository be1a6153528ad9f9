"""How a document stands in a prompt, wherever it is asked about: named, in the system turn's text.

<document name="a.txt">…</document>  <document …>…</document>  what the model is told
"""

from __future__ import annotations

import unicodedata

APART = "\n\n"  # between documents, and what the model is told
# Of a question: YaRN's temperature is taken with so many tokens of head-room, so that questions of
# several lengths find the same keys.
HEAD_ROOM = 1024
_MOST_NAME = 200


def plain_name(name: str) -> str:
    """A name that stands in one line and in quotes."""
    plain = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in name)
    return " ".join(plain.replace('"', "'").split())[:_MOST_NAME] or "document"


def part_of(name: str, text: str) -> str:
    """What stands in the prompt for a document."""
    return f'<document name="{plain_name(name)}">\n{text}\n</document>'
