"""What a prompt is a function of, as run folders keep it. Knows no model and builds nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from longctx.eval.needle.needle import LANGUAGE, TASK, WORDING_SHA256
from longctx.eval.texts.text import Boundary


@dataclass(frozen=True)
class PromptSpec:
    """Everything that a prompt is a function of. Equal recipes give equal bytes."""

    length: int
    depth: float | None
    seed: int
    repeat: int
    answer_tokens: int
    answer_prefix: str
    system: str | None
    exact: bool
    allow_repeat: bool
    haystack_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    task: str = TASK
    language: str = LANGUAGE
    wording_sha256: str = WORDING_SHA256
    options: dict[str, Any] = field(default_factory=dict)
    boundary: Boundary = "sentence"

    def to_dict(self) -> dict[str, Any]:
        """Without options where there are none, and without the usual boundary: recipes from
        before them keep their keys."""
        found = asdict(self)
        if not self.options:
            del found["options"]
        if self.boundary == "sentence":
            del found["boundary"]
        return found
