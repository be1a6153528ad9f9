"""How the prose generator's word lists are written down. Knows no language."""

from __future__ import annotations


def split(text: str) -> tuple[str, ...]:
    """Entries stand between bars; a line may break at any space."""
    return tuple(" ".join(part.split()) for part in text.split("|"))


def split_wide(text: str) -> tuple[str, ...]:
    """The same where no word has a space beside it: a line may break anywhere."""
    return tuple("".join(part.split()) for part in text.split("|"))
