"""What a request's documents cost it, for its usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DocumentsAsked:
    """
    Attributes:
        tokens: of the prompt, up to the end of the last document.
        request_length: what the temperature is taken from; None: the engine decides.
        why: what keeps keys from being reused, where something does.
    """

    tokens: int
    request_length: int | None
    why: str | None

    def usage(self, cached: int) -> dict[str, Any]:
        """For `prompt_tokens_details`."""
        again = max(0, self.tokens - cached)
        told: dict[str, Any] = {"document_tokens": self.tokens, "recomputed_tokens": again}
        if again:
            told["recomputed_why"] = self.why or "not_computed_before"
        return told
