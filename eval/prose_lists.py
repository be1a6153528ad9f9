"""How the prose generator's word lists are written down. Knows no language."""

from __future__ import annotations


def split(text: str) -> tuple[str, ...]:
    """Entries stand between bars; a line may break at any space."""
    return tuple(" ".join(part.split()) for part in text.split("|"))
