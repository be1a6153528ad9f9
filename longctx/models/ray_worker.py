"""What runs in a Ray worker: a local model, loaded once, and its sessions.

Requests come without their truth, and answers go back as a session gives them. Imports nothing of
Ray, so that it can be run without.
"""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from longctx.errors import UserError
from longctx.eval.protocol import Outcome, Request, Session
from longctx.models.base import LoadedModels
from longctx.models.local import LocalSettings, local_model


@dataclass(frozen=True)
class WorkerArm:
    """A method in a worker, as a session says it."""

    scheme: Mapping[str, Any]
    backend: str
    proof: Mapping[str, Any]


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker has loaded, and its rate."""

    arms: Mapping[str, WorkerArm]
    notes: tuple[str, ...]
    pid: int


class RayWorker:
    """Answers one batch after the other."""

    def __init__(self) -> None:
        self._loaded = LoadedModels()
        self._sessions: dict[str, Session] = {}
        self._open: str | None = None
        self._stack = ExitStack()

    def ready(self, settings: LocalSettings, fingerprint: str) -> WorkerFacts:
        """Load the model, where it is not, and prove its methods.

        Raises:
            UserError: this machine has not the model that the driver has, or cannot run it.
        """
        self._close()
        model = local_model(settings)
        if model.fingerprint != fingerprint:
            raise UserError(
                f"MODEL {settings.model}: {platform.node()} has other weights than the driver: "
                "give all machines the same"
            )
        self._sessions = model.sessions(self._loaded)
        arms = {
            method: WorkerArm(dict(each.scheme), each.backend, dict(each.proof))
            for method, each in self._sessions.items()
        }
        return WorkerFacts(arms, tuple(model.notes()), os.getpid())

    def answers(self, method: str, requests: Sequence[Request]) -> list[Outcome]:
        """In the order of the requests."""
        session = self._entered(method)
        found = {id(each): outcome for each, outcome in session.answers(requests)}
        return [portable(found[id(each)]) for each in requests]

    def _entered(self, method: str) -> Session:
        """One method's session is open at a time: each holds memory for keys and values."""
        if self._open != method:
            self._close()
            self._stack.enter_context(self._sessions[method])
            self._open = method
        return self._sessions[method]

    def _close(self) -> None:
        self._open = None
        self._stack.close()


def bare(request: Request) -> Request:
    """What a model needs of a request; the truth stays with the driver."""
    return replace(request, ids=list(request.ids), conversation=None, truth=None)


def portable(outcome: Outcome) -> Outcome:
    """An answer, or an error that another process can read."""
    if isinstance(outcome, Exception):
        try:
            pickle.loads(pickle.dumps(outcome))
        except Exception:
            return RuntimeError(f"{type(outcome).__name__}: {outcome}")
    return outcome
