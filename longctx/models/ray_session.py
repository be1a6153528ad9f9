"""A local model in Ray workers, asked as if it were one: `--ray`.

The driver builds prompts and writes records; workers compute. Knows no task.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longctx.errors import UserError
from longctx.eval.protocol import Completion, Outcome, Request, Session
from longctx.models.base import LoadedModels
from longctx.models.local import LocalModel
from longctx.models.ray_pool import Batch, RayPool, check_ray
from longctx.models.ray_worker import WorkerArm

# Tokens that are handed to a worker at once: short prompts are decoded together.
_BATCH_TOKENS = 2048
_POOL = "ray"  # among what is loaded


class RaySession(Session):
    """One method, on all workers."""

    def __init__(self, method: str, arm: WorkerArm, pool: RayPool) -> None:
        super().__init__(method, arm.scheme, arm.backend, arm.proof, max(2, pool.size))
        self._pool = pool

    def generate(self, request: Request) -> Completion:
        ((_, outcome),) = self.answers([request])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        yield from self._pool.answers(batches_of(self.method, requests))


def batches_of(method: str, requests: Iterable[Request]) -> Iterator[Batch]:
    """Whole texts, since those who ask about one share what is computed; several short ones."""
    batch: list[Request] = []
    tokens, last = 0, ""
    for request in requests:
        text = "" if request.truth is None else request.truth.text
        if batch and text != last and tokens + len(request.ids) > _BATCH_TOKENS:
            yield Batch(method, batch)
            batch, tokens = [], 0
        batch.append(request)
        tokens, last = tokens + len(request.ids), text
    if batch:
        yield Batch(method, batch)


@dataclass(frozen=True, kw_only=True)
class RayModel(LocalModel):
    """A local model that workers load; the driver never does."""

    workers: int | None = None

    def session_record(self) -> dict[str, Any]:
        return super().session_record() | {"ray_workers": self.workers}

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        model = self.settings.model
        settings = replace(
            self.settings,
            # A worker's directory is another one, and so may be what it would choose.
            model=os.path.abspath(model) if Path(model).exists() else model,
            dtype=self.dtype,
            output=None,
            weights=True,
        )
        loaded = LoadedModels() if loaded is None else loaded
        pool = loaded.get(_POOL)
        if pool is None:
            pool = loaded[_POOL] = RayPool(settings, self.fingerprint, self.workers)
        else:
            pool.prepare(settings, self.fingerprint)
        self.engine_notes[:] = [*pool.facts.notes, f"{pool.size} Ray worker(s)"]
        return {method: RaySession(method, arm, pool) for method, arm in pool.facts.arms.items()}

    def notes(self) -> list[str]:
        return list(self.engine_notes)


def ray_model(local: LocalModel, workers: int | None) -> RayModel:
    """The same model in Ray workers; its records are those of one process.

    Raises:
        UserError: Ray is not there, or no number of workers.
    """
    check_ray()
    if workers is not None and workers < 1:
        raise UserError(f"--ray-workers {workers}: must be at least 1")
    told = {"concurrency": workers or 1, "workers": workers}
    return RayModel(**(vars(local) | told))
