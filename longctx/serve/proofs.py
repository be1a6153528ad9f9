"""Schemas of requests, proven before they reach the engine: verdicts become errors of this API.

The work is in processes of its own (`longctx.grammar.prover`), so that nothing in a schema can hold
up the server, its memory or its end. Knows no routes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from longctx.engine import ConstraintError
from longctx.grammar.compiler import vocabulary_of
from longctx.grammar.forms import Grammar, name_of
from longctx.grammar.process import CompileLimits
from longctx.grammar.prover import Prover, ProverFullError
from longctx.serve.errors import overloaded, unavailable
from longctx.serve.settings import Limits


class Proofs:
    """One server's. Nothing is started before `begin`."""

    def __init__(self, limits: Limits, seconds: float) -> None:
        """
        Args:
            seconds: that one schema may take.
        """
        self._limits, self._seconds = limits, seconds
        self._prover: Prover | None = None

    def begin(self, tokenizer: Any, rows: int) -> None:
        """Once the model is there; returns at once, and a process starts meanwhile.

        Args:
            rows: of the model's logits.
        """
        limits = self._limits
        self._prover = Prover(
            lambda: vocabulary_of(tokenizer, rows),
            CompileLimits(self._seconds, limits.schema_memory),
            waiting=limits.max_schemas_waiting,
        )
        self._prover.warm()

    @property
    def prover(self) -> Prover:
        """Of a server that has begun."""
        assert self._prover is not None
        return self._prover

    async def prove(self, schema: dict[str, Any] | Grammar, answers: int = 1) -> float:
        """The seconds that compiling takes, once it is known that the schema can be compiled for
        each of so many answers. Cancelled, its work ends.

        Raises:
            ConstraintError: it cannot, or not in the time and memory that there is for it.
            ApiError: 429 where too many wait, 503 where it cannot be found out.
        """
        name = name_of(schema)
        if not schema or self._prover is None:  # any object: our own
            return 0.0
        try:
            proof = self._prover.submit(json.dumps(schema))
        except ProverFullError as error:
            message = f"{error.waiting} JSON schemas are waiting to be compiled: try again later."
            raise overloaded(message, "queue_full", error.wait_s) from error
        try:
            # Others may wait for the same: only `leave` may end it.
            verdict = await asyncio.shield(asyncio.wrap_future(proof.done))
        except asyncio.CancelledError:
            self._prover.leave(proof)
            raise
        if verdict.kind == "refused":
            raise ConstraintError(f"{name} cannot be compiled: {verdict.reason}")
        if answers > 1 and verdict.seconds * answers > self._seconds:
            raise ConstraintError(
                f"{name} takes {verdict.seconds:.1f} seconds to compile, and is compiled for "
                f"each of {answers} answers: make it simpler, or ask for fewer"
            )
        if verdict.kind == "missing":
            raise ConstraintError(
                f"{name} needs the package llguidance ({verdict.reason}): install it, or "
                f"leave {name} out"
            )
        if verdict.kind == "closed":
            raise unavailable("The server is shutting down.", "shutting_down")
        if verdict.kind == "failed":
            raise unavailable(
                "JSON schemas cannot be compiled at the moment: try again later.",
                "schema_compiler_failed",
            )
        return verdict.seconds

    def close(self) -> None:
        """End the processes; who waits gets a 503."""
        if self._prover is not None:
            self._prover.close()
