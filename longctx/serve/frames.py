"""What the chunks of chat and text completions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longctx.serve.errors import ApiError
from longctx.serve.jobs import Job
from longctx.serve.sse import DONE


class Frames:
    """Chunks of one job under the model's name.

    Args:
        kind: of a chunk, its `object`.
    """

    def __init__(self, job: Job, model: str, kind: str) -> None:
        self._job, self._model, self._kind = job, model, kind

    def frame(self) -> dict[str, Any]:
        """A chunk without choices."""
        return {
            "id": self._job.id,
            "object": self._kind,
            "created": int(self._job.created),
            "model": self._model,
            "choices": [],
        }

    def progress(self, progress: dict[str, Any]) -> Sequence[dict[str, Any]]:
        return [{**self.frame(), "prompt_progress": progress}]

    def last(self, usage: dict[str, Any], wanted: bool) -> Sequence[dict[str, Any] | str]:
        return [{**self.frame(), "usage": usage}, DONE] if wanted else [DONE]

    def failed(self, error: ApiError) -> Sequence[dict[str, Any] | str]:
        return [error.body, DONE]
